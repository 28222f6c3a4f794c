// Element-wise calls: broadcasting, the memory order of fresh results, and the plan of the loop.
//
//   Output out = map_output("relu", out_object, x.dtype, {&x});
//   MapArgs args = plan_map(out.array, {&x});
//   run(relu_forward_kernel(), args, map_split(args, nanoseconds_per_element));
//   return out.finish();
#pragma once

#include <initializer_list>

#include "bindings/array.h"
#include "kernels/map.h"

namespace hotloop {

using Operands = std::initializer_list<const Array*>;

// The shape that the operands broadcast to; ShapeError naming both shapes where they do not.
Shape broadcast_shape(const char* op, const char* name_a, const Array& a, const char* name_b,
                      const Array& b);

// The destination: `out`, checked, or a fresh array whose axes lie in memory as those of the
// operands do (NumPy's order "K"), so that a channels-last view gives a channels-last view.
Output map_output(const char* op, py::handle out, DType dtype, const Shape& shape,
                  Operands operands);

// The same for a result of bool.
Output map_flags(const char* op, py::handle out, const Shape& shape, Operands operands);

// Merges the axes and orders them by the output's memory. The operands broadcast to out's shape.
MapArgs plan_map(const Array& out, Operands operands);

// Pieces worth about 5 microseconds, from the time of one float32 element in cache. In-place calls
// run to their end.
Split map_split(const MapArgs& args, double nanoseconds, bool is_fresh);

// The shortest way, for what most calls bring: arrays of one dtype and shape, dense in C order, out
// None or apart from the inputs or one of them, too little work for two threads. Runs the kernel
// and returns the result, or returns null having done nothing. Saves 60 ns a call with out, 250
// without.
py::object run_flat(Kernel<MapArgs> kernel, std::initializer_list<py::handle> inputs,
                    py::handle out, double scalar);

// A Python or NumPy scalar (no bool, no array): true and its value.
bool scalar_value(py::handle object, double* value);

}  // namespace hotloop
