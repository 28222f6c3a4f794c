// The wall between NumPy and the kernels: reads an argument once, says what is wrong with it,
// allocates or validates `out`, launches. Only bindings include this; below it nobody knows Python.
//
//   py::object softmax(py::handle x_object, std::int64_t axis, py::handle out_object) {
//     const Array x = input("softmax", "x", x_object);
//     Output out("softmax", out_object, x.dtype, x.shape_vector());  // any strides
//     no_overlap("softmax", out, "x", x, Overlap::same_allowed);
//     SoftmaxArgs args{x.data, out.data, ...};
//     run(softmax_forward_kernel(), args, {.units = rows, .grain = ...});
//     return out.finish();
//   }
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "bindings/gil.h"
#include "core/arena.h"
#include "core/dispatch.h"
#include "core/errors.h"
#include "core/launch.h"

namespace hotloop {

namespace py = pybind11;

using Shape = std::vector<std::int64_t>;
inline constexpr int kMaxDims = 16;

inline std::int64_t item_size(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return 8;
    case DType::bf16:
      return 2;
    case DType::s8:
    case DType::u8:
      return 1;
    default:
      return 4;
  }
}
// A set of dtypes: what an argument may be.
using DTypes = unsigned;
template <class... Each>
constexpr DTypes dtypes(Each... each) {
  return (0u | ... | (1u << static_cast<unsigned>(each)));
}
inline constexpr DTypes kFloats = dtypes(DType::f32, DType::f64);
const char* dtype_name(DType dtype);
std::string dtype_names(DTypes set);  // "float32 or float64"
py::dtype numpy_dtype(DType dtype);   // bf16: ml_dtypes', seen in an argument before
// The dtype of an ndarray that some kernel takes; false for other dtypes and other objects.
bool find_dtype(py::handle object, DType* dtype);
std::string shape_text(const Shape& shape);

// What a kernel needs to know of one array argument. Strides are in elements. Holds a reference.
struct Array {
  void* data = nullptr;
  DType dtype = DType::f32;
  bool is_flags = false;  // bool elements, one byte each; dtype means nothing then
  int device = -1;        // on a GPU: its number (bindings/device.h)
  int ndim = 0;
  std::int64_t size = 0;
  std::array<std::int64_t, kMaxDims> shapes;   // the first ndim are set
  std::array<std::int64_t, kMaxDims> strides;  // the first ndim are set
  py::object owner;                            // the array, or the packed copy made of it

  std::int64_t item() const { return is_flags ? 1 : item_size(dtype); }
  std::int64_t shape(int axis) const { return shapes[static_cast<std::size_t>(axis)]; }
  std::int64_t stride(int axis) const { return strides[static_cast<std::size_t>(axis)]; }
  Shape shape_vector() const { return Shape(shapes.begin(), shapes.begin() + ndim); }
  bool contiguous() const;  // C order; axes of size 1 do not count
  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

// An input: an ndarray of float32 or float64 (or of the dtypes named) in native byte order, any
// strides. Arrays whose memory a kernel cannot address (misaligned, strides that are no multiple of
// the item) come as packed copies.
Array input(const char* op, const char* name, py::handle object, DTypes allowed = kFloats);
// An input of bool, any strides.
Array flags_input(const char* op, const char* name, py::handle object);
inline bool given(py::handle object) {
  return object && !object.is_none();
}

// Two arrays that must have the same dtype; the error names both.
void same_dtype(const char* op, const char* name_a, const Array& a, const char* name_b,
                const Array& b);
// Exact shape: "linear: b must have shape (10,), got (9,)".
void require_shape(const char* op, const char* name, const Array& array, const Shape& expected);
void require_ndim(const char* op, const char* name, const Array& array, int ndim);
// A C-contiguous twin: the array itself, or a packed copy.
Array packed(const Array& array);

// A fresh ndarray over arena memory, freed with it; strides in elements, empty for C order.
py::array new_array(const char* op, const py::dtype& dtype, const Shape& shape,
                    const Shape& strides = {});
// Reads what an ndarray of one of our dtypes says of itself; no checks.
Array describe(py::handle object);

// The destination of a call. With `wanted` strides (elements) the kernel gets memory of just these:
// an `out` of other strides is written through scratch by finish(). Without, the kernel writes the
// caller's strides, whatever they are.
class Output {
 public:
  Output(const char* op, py::handle out, DType dtype, const Shape& shape);
  Output(const char* op, py::handle out, DType dtype, const Shape& shape, const Shape& wanted);
  // Of bool; `strides` (elements) for a fresh one, empty for C order.
  static Output flags(const char* op, py::handle out, const Shape& shape, const Shape& strides);
  // Copies scratch to the caller's array where there was scratch; returns what the caller gets.
  py::object finish();

  Array array;           // what the kernel writes
  void* data = nullptr;  // == array.data
  bool is_fresh = true;  // allocated by us: an interrupted call loses nothing
  py::object target;     // the caller's out, or the fresh array

 private:
  Output() = default;
  void take(const char* op, py::handle out, DType dtype, const Shape& shape);
};

// The dtype of a given out; DTypeError where it is none of those allowed.
DType output_dtype(const char* op, py::handle out, DTypes allowed);

enum class Overlap { forbidden, same_allowed };
// Raises OutputError when out shares memory with an input; same_allowed: being the same view is
// fine.
void no_overlap(const char* op, const Output& out, const char* name, const Array& x,
                Overlap rule = Overlap::forbidden);
void no_overlap(const char* op, const char* out_name, py::handle out, const char* name,
                const Array& x, Overlap rule = Overlap::forbidden);
// An array that a kernel changes in place (optimizer parameters): writable, addressable as it is.
Array in_place(const char* op, const char* name, py::handle object);

// Launches with the GIL released when there is enough work for two threads.
template <class Args>
void run(Kernel<Args> kernel, const Args& args, const Split& split) {
  if (is_parallel(split)) {
    const GilReleased released;
    launch(kernel, args, split);
  } else {
    launch(kernel, args, split);
  }
}

}  // namespace hotloop
