// sum, mean, max, min: sorts the axes into kept and reduced ones, and runs the driver.
#include "kernels/reduce.h"

#include "bindings/array.h"
#include "bindings/dims.h"
#include "bindings/gil.h"
#include "bindings/params.h"

namespace hotloop {

namespace {

static_assert(kReduceDims == kMaxDims);

constexpr std::int64_t kReleaseTerms = 131072;  // elements worth giving the GIL away for

struct Plan {
  Shape shape;      // of the result
  Dims<2> kept;     // x, out
  Dims<1> reduced;  // x
  std::int64_t terms = 1;
};

bool named(const std::vector<int>& axes, int axis) {
  for (const int candidate : axes) {
    if (candidate == axis) return true;
  }
  return false;
}

// Lanes across the outputs, unless the terms of an output lie side by side in long enough runs.
bool prefer_columns(const Plan& plan) {
  if (plan.kept.product() <= 1) return false;
  if (plan.terms <= 1) return true;
  const std::int64_t across = plan.kept.strides[0][plan.kept.count - 1];
  const std::int64_t along = plan.reduced.strides[0][plan.reduced.count - 1];
  const std::int64_t columns = plan.kept.sizes[plan.kept.count - 1];
  const std::int64_t run = plan.reduced.sizes[plan.reduced.count - 1];
  if (along == 1 && (run >= 16 || columns < 8)) return false;
  return across <= along || columns >= 8;
}

py::object reduce_any(const char* op_name, ReduceOp op, bool mean, py::handle x_object,
                      py::handle axis, bool keepdims, py::handle out_object) {
  const Array x = input(op_name, "x", x_object);
  const std::vector<int> axes = parse_axes(op_name, axis, x.ndim);
  Plan plan;
  for (int d = 0; d < x.ndim; ++d) {
    if (named(axes, d)) {
      plan.terms *= x.shape(d);
      plan.reduced.add(x.shape(d), {x.stride(d)});
      if (keepdims) plan.shape.push_back(1);
    } else {
      plan.shape.push_back(x.shape(d));
    }
  }
  if (op != ReduceOp::sum && plan.terms == 0) {
    throw ShapeError(
        std::string(op_name) + ": x must have an element along the reduced axes, got shape " +
        shape_text(x.shape_vector()) + "; the " + op_name + " of nothing is not defined");
  }
  Output out(op_name, out_object, x.dtype, plan.shape);
  no_overlap(op_name, out, "x", x);
  for (int d = 0, to = 0; d < x.ndim; ++d) {
    const bool gone = named(axes, d);
    if (!gone) plan.kept.add(x.shape(d), {x.stride(d), out.array.stride(to)});
    if (!gone || keepdims) ++to;
  }
  plan.kept.simplify();
  plan.reduced.simplify();

  ReduceArgs args{};
  args.dtype = x.dtype;
  args.op = op;
  const std::int64_t item = item_size(x.dtype);
  args.x = x.as<char>() + (plan.kept.offsets[0] + plan.reduced.offsets[0]) * item;
  args.out = static_cast<char*>(out.data) + plan.kept.offsets[1] * item;
  args.divisor = mean ? static_cast<double>(plan.terms) : 1.0;
  args.columns = prefer_columns(plan);
  args.reduced = plan.terms;
  args.outputs = plan.kept.product();
  args.kept_dims = plan.kept.count;
  args.reduced_dims = plan.reduced.count;
  for (int d = 0; d < plan.kept.count; ++d) {
    args.kept_sizes[d] = plan.kept.sizes[d];
    args.kept_strides[d] = plan.kept.strides[0][d];
    args.out_strides[d] = plan.kept.strides[1][d];
  }
  for (int d = 0; d < plan.reduced.count; ++d) {
    args.reduced_sizes[d] = plan.reduced.sizes[d];
    args.reduced_strides[d] = plan.reduced.strides[0][d];
  }
  if (x.size >= kReleaseTerms) {
    const GilReleased released;
    run_reduce(args);
  } else {
    run_reduce(args);
  }
  return out.finish();
}

template <ReduceOp op, bool mean>
void bind(py::module_& module, const char* name) {
  static const char* const kName = name;
  module.def(name, [](py::handle x, py::handle axis, bool keepdims, py::handle out) {
    return reduce_any(kName, op, mean, x, axis, keepdims, out);
  });
}

}  // namespace

void bind_reduce(py::module_& module) {
  bind<ReduceOp::sum, false>(module, "sum");
  bind<ReduceOp::sum, true>(module, "mean");
  bind<ReduceOp::max, false>(module, "max");
  bind<ReduceOp::min, false>(module, "min");
}

}  // namespace hotloop
