// y = f(x) and dx = dy f'(x) for every activation of the list.
#include "bindings/activation.h"

#include "bindings/device.h"
#include "bindings/map.h"

namespace hotloop {

namespace {

struct Activated {
  const char* name;
  const char* saved_name;                    // what backward reads: "x" or "y"
  const char *forward_name, *backward_name;  // of the kernels
  Kernel<MapArgs> forward, backward;
  double cost;
};

py::object forward(const Activated& function, py::handle x_object, double parameter,
                   py::handle out_object) {
  if (py::object done = run_flat(function.forward, {x_object}, out_object, parameter)) return done;
  const Call call(function.name);
  const Array x = input(function.name, "x", x_object);
  Output out = map_output(function.name, out_object, x.dtype, x.shape_vector(), {&x});
  no_overlap(function.name, out, "x", x, Overlap::same_allowed);
  MapArgs args = plan_map(out.array, {&x});
  args.scalar = parameter;
  call.run(function.forward_name, function.forward, args,
           map_split(args, function.cost, out.is_fresh));
  return out.finish();
}

py::object backward(const Activated& function, py::handle dy_object, py::handle saved_object,
                    double parameter, py::handle out_object) {
  if (py::object done =
          run_flat(function.backward, {dy_object, saved_object}, out_object, parameter))
    return done;
  const std::string op = std::string(function.name) + "_backward";
  const char* saved_name = function.saved_name;
  const Call call(op.c_str());
  const Array dy = input(op.c_str(), "dy", dy_object);
  const Array saved = input(op.c_str(), saved_name, saved_object);
  same_dtype(op.c_str(), "dy", dy, saved_name, saved);
  require_shape(op.c_str(), saved_name, saved, dy.shape_vector());
  Output out = map_output(op.c_str(), out_object, dy.dtype, dy.shape_vector(), {&dy, &saved});
  no_overlap(op.c_str(), out, "dy", dy, Overlap::same_allowed);
  no_overlap(op.c_str(), out, saved_name, saved, Overlap::same_allowed);
  MapArgs args = plan_map(out.array, {&dy, &saved});
  args.scalar = parameter;
  call.run(function.backward_name, function.backward, args,
           map_split(args, function.cost, out.is_fresh));
  return out.finish();
}

double checked_parameter(const char* name, double value) {
  const std::string_view op = name;
  if (op == "leaky_relu" && !(value >= 0)) {
    throw std::invalid_argument("leaky_relu: negative_slope must be at least 0, got " +
                                std::to_string(value) + "; below, y no longer tells the sign of x");
  }
  if (op == "elu" && !(value >= 0)) {
    throw std::invalid_argument("elu: alpha must be at least 0, got " + std::to_string(value) +
                                "; below, y no longer tells the sign of x");
  }
  if (op == "softplus" && !(value > 0)) {
    throw std::invalid_argument("softplus: beta must be positive, got " + std::to_string(value));
  }
  return value;
}

template <bool HasParameter, class Lookup>
void bind_one(py::module_& m, const char* name, Lookup lookup) {
  const std::string backward_name = std::string(name) + "_backward";
  if constexpr (HasParameter) {
    m.def(name, [=](py::handle x, double parameter, py::handle out) {
      return forward(lookup(), x, checked_parameter(name, parameter), out);
    });
    m.def(backward_name.c_str(),
          [=](py::handle dy, py::handle saved, double parameter, py::handle out) {
            return backward(lookup(), dy, saved, checked_parameter(name, parameter), out);
          });
  } else {
    m.def(name, [=](py::handle x, py::handle out) { return forward(lookup(), x, 0.0, out); });
    m.def(backward_name.c_str(), [=](py::handle dy, py::handle saved, py::handle out) {
      return backward(lookup(), dy, saved, 0.0, out);
    });
  }
}

}  // namespace

void bind_activation(py::module_& m) {
#define HOTLOOP_X(name, parameter, saved, cost) \
  bind_one<(parameter != 0.0)>(m, #name, [] {   \
    return Activated{#name,                     \
                     #saved,                    \
                     #name "_forward",          \
                     #name "_backward",         \
                     name##_forward_kernel(),   \
                     name##_backward_kernel(),  \
                     cost};                     \
  });
  HOTLOOP_ACTIVATIONS(HOTLOOP_X)
#undef HOTLOOP_X
  py::list names;
#define HOTLOOP_X(name, parameter, saved, cost) \
  names.append(py::make_tuple(#name, parameter, #saved));
  HOTLOOP_ACTIVATIONS(HOTLOOP_X)
#undef HOTLOOP_X
  m.attr("activations") = py::tuple(names);
}

}  // namespace hotloop
