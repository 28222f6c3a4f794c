// Arithmetic with broadcasting (one operand may be a Python number) and elementary functions.
#include "kernels/elementwise.h"

#include "bindings/device.h"
#include "bindings/map.h"
#include "bindings/params.h"

namespace hotloop {

namespace {

py::object unary(const char* op, const char* name, Kernel<MapArgs> kernel, double cost,
                 py::handle x_object, py::handle out_object) {
  if (py::object done = run_flat(kernel, {x_object}, out_object, 0.0)) return done;
  const Call call(op);
  const Array x = input(op, "x", x_object);
  Output out = map_output(op, out_object, x.dtype, x.shape_vector(), {&x});
  no_overlap(op, out, "x", x, Overlap::same_allowed);
  const MapArgs args = plan_map(out.array, {&x});
  call.run(name, kernel, args, map_split(args, cost, out.is_fresh));
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

// Operands of one dtype, of which some may be numbers; those take the dtype of the arrays. On a GPU
// one number travels as the argument's scalar, in the place of no data; others fill an array.
template <int Count>
struct Mixed {
  double storage[Count];
  double scalar = 0;
  Array arrays[Count];

  Mixed(const char* op, const char* const (&names)[Count], const py::handle (&objects)[Count]) {
    double values[Count];
    bool is_number[Count];
    int first = -1;
    for (int k = 0; k < Count; ++k) {
      const bool is_array = py::isinstance<py::array>(objects[k]) || as_device_array(objects[k]);
      is_number[k] = !is_array && scalar_value(objects[k], &values[k]);
      if (is_array && first < 0) first = k;
    }
    for (int k = 0; k < Count; ++k) {
      if (is_number[k] && first >= 0) continue;
      arrays[k] = input(op, names[k], objects[k]);
      if (k != first) same_dtype(op, names[first], arrays[first], names[k], arrays[k]);
    }
    bool scalar_taken = false;
    for (int k = 0; k < Count; ++k) {
      if (!is_number[k]) continue;
      arrays[k] = constant(values[k], arrays[first].dtype, &storage[k]);
      if (arrays[first].device < 0) continue;
      if (scalar_taken) {
        const py::object made =
            new_device_array(op, arrays[first].device, numpy_dtype(arrays[first].dtype), {});
        fill_on_device(op, *as_device_array(made), values[k]);
        arrays[k] = describe(made);
      } else {
        arrays[k].data = nullptr;
        scalar = values[k];
        scalar_taken = true;
      }
    }
  }
};

// The operands' shapes broadcast one after the other.
Shape common_shape(const char* op, const char* name_a, const Array& a, const char* name_b,
                   const Array& b, const char* name_c, const Array& c) {
  Array both;
  const Shape shape = broadcast_shape(op, name_a, a, name_b, b);
  both.ndim = static_cast<int>(shape.size());
  for (std::size_t axis = 0; axis < shape.size(); ++axis) both.shapes[axis] = shape[axis];
  const std::string names = std::string(name_a) + " with " + name_b;
  return broadcast_shape(op, names.c_str(), both, name_c, c);
}

void separate(const char* op, const Output& out, const char* name, const Array& x) {
  if (x.owner) no_overlap(op, out, name, x, Overlap::same_allowed);
}

py::object binary(const char* op, const char* name, Kernel<MapArgs> kernel, double cost,
                  py::handle a_object, py::handle b_object, py::handle out_object) {
  if (py::object done = run_flat(kernel, {a_object, b_object}, out_object, 0.0)) return done;
  const Call call(op);
  const Mixed<2> mixed(op, {"a", "b"}, {a_object, b_object});
  const Array &a = mixed.arrays[0], &b = mixed.arrays[1];
  Output out = map_output(op, out_object, a.dtype, broadcast_shape(op, "a", a, "b", b), {&a, &b});
  separate(op, out, "a", a);
  separate(op, out, "b", b);
  MapArgs args = plan_map(out.array, {&a, &b});
  args.scalar = mixed.scalar;
  call.run(name, kernel, args, map_split(args, cost, out.is_fresh));
  return out.finish();
}

py::object compare(const char* op, const char* name, Kernel<MapArgs> kernel, py::handle a_object,
                   py::handle b_object, py::handle out_object) {
  const Call call(op);
  const Mixed<2> mixed(op, {"a", "b"}, {a_object, b_object});
  const Array &a = mixed.arrays[0], &b = mixed.arrays[1];
  Output out = map_flags(op, out_object, broadcast_shape(op, "a", a, "b", b), {&a, &b});
  if (a.owner) no_overlap(op, out, "a", a);
  if (b.owner) no_overlap(op, out, "b", b);
  MapArgs args = plan_map(out.array, {&a, &b});
  args.scalar = mixed.scalar;
  call.run(name, kernel, args, map_split(args, 0.12, out.is_fresh));
  return out.finish();
}

py::object where(py::handle condition_object, py::handle a_object, py::handle b_object,
                 py::handle out_object) {
  const Call call("where");
  const Array condition = flags_input("where", "condition", condition_object);
  const Mixed<2> mixed("where", {"a", "b"}, {a_object, b_object});
  const Array &a = mixed.arrays[0], &b = mixed.arrays[1];
  const Shape shape = common_shape("where", "condition", condition, "a", a, "b", b);
  Output out = map_output("where", out_object, a.dtype, shape, {&a, &b});
  no_overlap("where", out, "condition", condition);
  separate("where", out, "a", a);
  separate("where", out, "b", b);
  MapArgs args = plan_map(out.array, {&condition, &a, &b});
  args.scalar = mixed.scalar;
  call.run("elementwise_where", elementwise_where_kernel(), args,
           map_split(args, 0.15, out.is_fresh));
  return out.finish();
}

py::object clip(py::handle x_object, py::handle low_object, py::handle high_object,
                py::handle out_object) {
  const Call call("clip");
  const Mixed<3> mixed("clip", {"x", "low", "high"}, {x_object, low_object, high_object});
  const Array &x = mixed.arrays[0], &low = mixed.arrays[1], &high = mixed.arrays[2];
  const Shape shape = common_shape("clip", "x", x, "low", low, "high", high);
  Output out = map_output("clip", out_object, x.dtype, shape, {&x, &low, &high});
  separate("clip", out, "x", x);
  separate("clip", out, "low", low);
  separate("clip", out, "high", high);
  MapArgs args = plan_map(out.array, {&x, &low, &high});
  args.scalar = mixed.scalar;
  call.run("elementwise_clip", elementwise_clip_kernel(), args,
           map_split(args, 0.15, out.is_fresh));
  return out.finish();
}

}  // namespace

void bind_elementwise(py::module_& m) {
#define HOTLOOP_X(name, value, cost)                                                        \
  m.def(#name, [](py::handle x, py::handle out) {                                           \
    return unary(#name, "elementwise_" #name, elementwise_##name##_kernel(), cost, x, out); \
  });
  HOTLOOP_UNARY(HOTLOOP_X)
#undef HOTLOOP_X
#define HOTLOOP_X(name, value, cost)                                                            \
  m.def(#name, [](py::handle a, py::handle b, py::handle out) {                                 \
    return binary(#name, "elementwise_" #name, elementwise_##name##_kernel(), cost, a, b, out); \
  });
  HOTLOOP_BINARY(HOTLOOP_X)
#undef HOTLOOP_X
#define HOTLOOP_X(name, value)                                                             \
  m.def(#name, [](py::handle a, py::handle b, py::handle out) {                            \
    return compare(#name, "elementwise_" #name, elementwise_##name##_kernel(), a, b, out); \
  });
  HOTLOOP_COMPARE(HOTLOOP_X)
#undef HOTLOOP_X
  m.def("where", &where);
  m.def("clip", &clip);
#define HOTLOOP_X(name, ...) names.append(#name);
  py::list names;
  HOTLOOP_UNARY(HOTLOOP_X)
  m.attr("unary_functions") = py::tuple(names);
  names = py::list();
  HOTLOOP_BINARY(HOTLOOP_X)
  m.attr("binary_functions") = py::tuple(names);
  names = py::list();
  HOTLOOP_COMPARE(HOTLOOP_X)
  m.attr("comparisons") = py::tuple(names);
#undef HOTLOOP_X
}

}  // namespace hotloop
