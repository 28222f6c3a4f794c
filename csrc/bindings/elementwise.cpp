// Arithmetic with broadcasting (one operand may be a Python number) and elementary functions.
#include "kernels/elementwise.h"

#include "bindings/map.h"
#include "bindings/params.h"

namespace hotloop {

namespace {

py::object unary(const char* op, Kernel<MapArgs> kernel, double cost, py::handle x_object,
                 py::handle out_object) {
  if (run_flat(kernel, {x_object}, out_object, 0.0)) {
    return py::reinterpret_borrow<py::object>(out_object);
  }
  const Array x = input(op, "x", x_object);
  Output out = map_output(op, out_object, x.dtype, x.shape_vector(), {&x});
  no_overlap(op, out, "x", x, Overlap::same_allowed);
  const MapArgs args = plan_map(out.array, {&x});
  run(kernel, args, map_split(args, cost, out.is_fresh));
  return out.finish();
}

// A number as an operand: an array of no axes over `storage`, which outlives the call.
Array constant(double value, DType dtype, double* storage) {
  Array array;
  array.dtype = dtype;
  array.ndim = 0;
  array.size = 1;
  array.data = storage;
  if (dtype == DType::f32) {
    *reinterpret_cast<float*>(storage) = static_cast<float>(value);
  } else {
    *storage = value;
  }
  return array;
}

py::object binary(const char* op, Kernel<MapArgs> kernel, py::handle a_object, py::handle b_object,
                  py::handle out_object) {
  if (run_flat(kernel, {a_object, b_object}, out_object, 0.0)) {
    return py::reinterpret_borrow<py::object>(out_object);
  }
  double value, storage;
  const bool b_is_array = py::isinstance<py::array>(b_object);
  const bool a_is_array = py::isinstance<py::array>(a_object);
  Array a, b;
  if (b_is_array && !a_is_array && scalar_value(a_object, &value)) {
    b = input(op, "b", b_object);
    a = constant(value, b.dtype, &storage);
  } else if (a_is_array && !b_is_array && scalar_value(b_object, &value)) {
    a = input(op, "a", a_object);
    b = constant(value, a.dtype, &storage);
  } else {
    a = input(op, "a", a_object);
    b = input(op, "b", b_object);
    same_dtype(op, "a", a, "b", b);
  }
  Output out = map_output(op, out_object, a.dtype, broadcast_shape(op, "a", a, "b", b), {&a, &b});
  if (a.owner) no_overlap(op, out, "a", a, Overlap::same_allowed);
  if (b.owner) no_overlap(op, out, "b", b, Overlap::same_allowed);
  const MapArgs args = plan_map(out.array, {&a, &b});
  run(kernel, args, map_split(args, 0.12, out.is_fresh));
  return out.finish();
}

}  // namespace

void bind_elementwise(py::module_& m) {
#define HOTLOOP_X(name, value, cost)                                  \
  m.def(#name, [](py::handle x, py::handle out) {                     \
    return unary(#name, elementwise_##name##_kernel(), cost, x, out); \
  });
  HOTLOOP_UNARY(HOTLOOP_X)
#undef HOTLOOP_X
#define HOTLOOP_X(name, value)                                      \
  m.def(#name, [](py::handle a, py::handle b, py::handle out) {     \
    return binary(#name, elementwise_##name##_kernel(), a, b, out); \
  });
  HOTLOOP_BINARY(HOTLOOP_X)
#undef HOTLOOP_X
}

}  // namespace hotloop
