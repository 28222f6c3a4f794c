// Reductions over axes: sorts the axes into kept and reduced ones, and runs the driver.
#include "kernels/reduce.h"

#include "bindings/array.h"
#include "bindings/device.h"
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

// The divisor of the totals: of so many terms, for mean and var.
using Divisor = double (*)(double terms, double correction);
double by_one(double, double) {
  return 1;
}
double by_terms(double terms, double) {
  return terms;
}
double by_freedom(double terms, double correction) {
  return terms > correction ? terms - correction : 0;
}

py::object reduce_any(const char* op_name, ReduceOp op, Divisor divisor, double correction,
                      py::handle x_object, py::handle axis, bool keepdims, py::handle out_object) {
  const Call call(op_name);
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
  if ((op == ReduceOp::max || op == ReduceOp::min) && plan.terms == 0) {
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
  args.divisor = divisor(static_cast<double>(plan.terms), correction);
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
  const bool pairs = op == ReduceOp::var || op == ReduceOp::logsumexp;
  const auto driver = pairs ? run_pair_reduce : run_reduce;
  if (call.on_gpu()) {
    call.run_gpu(pairs ? "pair_reduce" : "reduce", args, args.outputs, &ReduceArgs::scratch);
  } else if (x.size >= kReleaseTerms) {
    const GilReleased released;
    driver(args);
  } else {
    driver(args);
  }
  return out.finish();
}

// The axes but one, and that one.
AlongArgs plan_along(const Array& x, int axis, const Array* out) {
  AlongArgs args{};
  args.dtype = x.dtype;
  args.x = x.data;
  args.size = axis < x.ndim ? x.shape(axis) : 1;
  args.stride = axis < x.ndim ? x.stride(axis) : 1;
  if (out) args.out_stride = axis < x.ndim ? out->stride(axis) : 1;
  for (int d = 0; d < x.ndim; ++d) {
    if (d == axis) continue;
    args.kept_sizes[args.kept_dims] = x.shape(d);
    args.kept_strides[args.kept_dims] = x.stride(d);
    if (out) args.out_strides[args.kept_dims] = out->stride(d);
    ++args.kept_dims;
  }
  if (args.kept_dims == 0) args.kept_sizes[args.kept_dims++] = 1;
  const int inner = args.kept_dims - 1;
  args.columns = args.kept_sizes[inner] > 1 && args.kept_strides[inner] == 1 &&
                 (!out || args.out_strides[inner] == 1);
  return args;
}

py::object index_of(const char* op, bool smallest, py::handle x_object, py::handle axis_object,
                    bool keepdims, py::handle out_object) {
  const Call call(op);
  Array x = input(op, "x", x_object);
  const bool flat = axis_object.is_none();
  const int axis = flat ? 0 : parse_axis(op, axis_object, x.ndim);
  Shape shape;
  for (int d = 0; d < x.ndim; ++d) {
    if (!flat && d != axis) {
      shape.push_back(x.shape(d));
    } else if (keepdims) {
      shape.push_back(1);
    }
  }
  if ((flat ? x.size : x.shape(axis)) == 0) {
    throw ShapeError(std::string(op) + ": x must have an element along the axis, got shape " +
                     shape_text(x.shape_vector()) + "; nothing has no " + op);
  }
  if (flat) {
    x = packed(x);
    x.ndim = 1;
    x.shapes[0] = x.size;
    x.strides[0] = 1;
  }
  const py::dtype int64("int64");
  AlongArgs args = plan_along(x, axis, nullptr);
  args.smallest = smallest;
  args.columns = args.columns && args.size < (std::int64_t{1} << 31);
  if (call.on_gpu()) {
    py::object found = new_device_array(op, call.device(), int64, shape);
    args.out = as_device_array(found)->data;
    call.run("index_along", index_along_kernel(), args, {.units = x.size});
    if (!given(out_object)) return found;
    const DeviceArray* const to = as_device_array(out_object);
    if (!to || to->shape != shape || !to->dtype.equal(int64) || to->read_only) {
      throw OutputError(std::string(op) + ": out must be a writable array of int64 and shape " +
                        shape_text(shape) + " on " + device_text(call.device()) + ", got another");
    }
    copy_on_device(op, *to, *as_device_array(found));
    return py::reinterpret_borrow<py::object>(out_object);
  }
  py::object result = new_array(op, int64, shape);
  args.out = py::cast<py::array>(result).mutable_data();
  if (x.size >= kReleaseTerms) {
    const GilReleased released;
    run_index_along(args);
  } else if (x.size > 0) {
    run_index_along(args);
  }
  if (!given(out_object)) return result;
  if (!py::isinstance<py::array>(out_object) ||
      !py::cast<py::array>(out_object).dtype().equal(int64)) {
    throw DTypeError(std::string(op) + ": out must be an ndarray of int64, got " +
                     type_text(out_object));
  }
  const auto target = py::cast<py::array>(out_object);
  const Shape got(target.shape(), target.shape() + target.ndim());
  if (got != shape) {
    throw ShapeError(std::string(op) + ": out must have shape " + shape_text(shape) + ", got " +
                     shape_text(got));
  }
  if (!target.writeable()) {
    throw OutputError(std::string(op) + ": out must be writable, got a read-only array");
  }
  if (PyObject_SetItem(target.ptr(), py::ellipsis().ptr(), result.ptr()) != 0) {
    throw py::error_already_set();
  }
  return target;
}

py::object cumsum(py::handle x_object, py::handle axis_object, py::handle out_object) {
  const Call call("cumsum");
  const Array x = input("cumsum", "x", x_object);
  const int axis = x.ndim == 0 ? 0 : parse_axis("cumsum", axis_object, x.ndim);
  Output out("cumsum", out_object, x.dtype, x.shape_vector());
  no_overlap("cumsum", out, "x", x, Overlap::same_allowed);
  AlongArgs args = plan_along(x, axis, &out.array);
  args.out = out.data;
  const std::int64_t terms = args.size * (args.columns ? kReduceColumns : 1);
  call.run("running_sum", running_sum_kernel(), args,
           {.units = x.size == 0 ? 0 : units_along(args),
            .grain = 16384 / (terms + 1) + 1,
            .interruptible = out.is_fresh});
  return out.finish();
}

template <ReduceOp op, Divisor divisor>
void bind(py::module_& module, const char* name) {
  static const char* const kName = name;
  module.def(name, [](py::handle x, py::handle axis, bool keepdims, py::handle out) {
    return reduce_any(kName, op, divisor, 0, x, axis, keepdims, out);
  });
}

}  // namespace

void bind_reduce(py::module_& module) {
  bind<ReduceOp::sum, by_one>(module, "sum");
  bind<ReduceOp::sum, by_terms>(module, "mean");
  bind<ReduceOp::max, by_one>(module, "max");
  bind<ReduceOp::min, by_one>(module, "min");
  bind<ReduceOp::prod, by_one>(module, "prod");
  bind<ReduceOp::squares, by_one>(module, "sum_of_squares");
  bind<ReduceOp::logsumexp, by_one>(module, "logsumexp");
  module.def(
      "var", [](py::handle x, py::handle axis, double correction, bool keepdims, py::handle out) {
        return reduce_any("var", ReduceOp::var, by_freedom, correction, x, axis, keepdims, out);
      });
  module.def("argmax", [](py::handle x, py::handle axis, bool keepdims, py::handle out) {
    return index_of("argmax", false, x, axis, keepdims, out);
  });
  module.def("argmin", [](py::handle x, py::handle axis, bool keepdims, py::handle out) {
    return index_of("argmin", true, x, axis, keepdims, out);
  });
  module.def("cumsum", &cumsum);
}

}  // namespace hotloop
