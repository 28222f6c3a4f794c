// Layer norm and RMS norm: checks, finds the rows, allocates, launches.
#include <cfloat>

#include "bindings/activation.h"
#include "bindings/device.h"
#include "bindings/dims.h"
#include "bindings/norm.h"
#include "bindings/params.h"
#include "kernels/norm.h"

namespace hotloop {

namespace {

// The trailing axes from `first` on are a row. Packs where rows are not dense or do not lie at one
// distance.
Array rows_of(const Array& array, int first, std::int64_t* stride) {
  bool fits = true;
  std::int64_t expected = 1;
  for (int axis = array.ndim - 1; axis >= first; --axis) {
    fits = fits && (array.shape(axis) == 1 || array.stride(axis) == expected);
    expected *= array.shape(axis);
  }
  *stride = expected;
  std::int64_t inner = 1;
  for (int axis = first - 1; axis >= 0; --axis) {
    const std::int64_t size = array.shape(axis);
    if (size == 1) continue;
    if (inner == 1) *stride = array.stride(axis);
    fits = fits && array.stride(axis) == *stride * inner;
    inner *= size;
  }
  if (fits) return array;
  *stride = expected;
  return packed(array);
}

Shape part(const Array& x, int begin, int end) {
  return Shape(x.shapes.begin() + begin, x.shapes.begin() + end);
}
std::int64_t product(const Shape& shape) {
  std::int64_t total = 1;
  for (const std::int64_t size : shape) total *= size;
  return total;
}
// The axis where rows begin.
int first_axis(const char* op, const Array& x, const Shape& normalized) {
  const int first = x.ndim - static_cast<int>(normalized.size());
  if (normalized.empty() || first < 0 || part(x, first, x.ndim) != normalized) {
    throw ShapeError(std::string(op) + ": normalized_shape must be the last sizes of x, got " +
                     shape_text(normalized) + " for shape " + shape_text(x.shape_vector()));
  }
  return first;
}

py::object row_forward(const char* op, bool rms, py::handle x_object, py::handle normalized_shape,
                       py::handle weight_object, py::handle bias_object, py::handle eps_object,
                       py::handle residual_object, py::handle activation, bool return_stats,
                       py::handle out_object) {
  const Call call(op);
  const Array x = input(op, "x", x_object);
  const Shape normalized = parse_shape(op, "normalized_shape", normalized_shape);
  const int first = first_axis(op, x, normalized);
  RowNormArgs args{};
  args.dtype = x.dtype;
  args.rms = rms;
  args.rows = product(part(x, 0, first));
  args.n = product(normalized);
  args.eps = given(eps_object)       ? parse_eps(op, eps_object.cast<double>())
             : x.dtype == DType::f32 ? static_cast<double>(FLT_EPSILON)
                                     : DBL_EPSILON;
  const FusedActivation fused = parse_activation(op, activation);
  args.activation = fused.kind;
  args.alpha = fused.alpha;
  const Array weight = vector(op, "weight", weight_object, x, normalized);
  const Array bias = vector(op, "bias", bias_object, x, normalized);
  const Array walked = rows_of(x, first, &args.x_stride);
  Array residual, total;
  if (given(residual_object)) {
    residual = input(op, "residual", residual_object);
    same_dtype(op, "x", x, "residual", residual);
    require_shape(op, "residual", residual, x.shape_vector());
  }
  Output out(op, out_object, x.dtype, x.shape_vector(), row_major(x.shape_vector()));
  no_overlap(op, out, "x", x, Overlap::same_allowed);
  if (residual.data) no_overlap(op, out, "residual", residual, Overlap::same_allowed);
  apart(op, out, "weight", weight);
  apart(op, out, "bias", bias);
  if (residual.data) {
    residual = rows_of(residual, first, &args.other_stride);
    total = dense(op, x.dtype, x.shape_vector());
  }
  const Shape leading = part(x, 0, first);
  const Array rstd = dense(op, x.dtype, leading);
  const Array mean = rms ? Array{} : dense(op, x.dtype, leading);
  args.x = walked.data;
  args.other = residual.data;
  args.total = total.data;
  args.out = out.data;
  args.out_stride = args.n;
  args.weight = weight.data;
  args.bias = bias.data;
  args.mean = mean.data;
  args.rstd = rstd.data;
  if (call.on_gpu()) {
    call.run_gpu("row_norm", args, x.size > 0 ? args.rows : 0, &RowNormArgs::scratch);
  } else if (x.size > 0) {
    compute_norm(x.size, [&] { row_norm_forward(args, out.is_fresh); });
  }
  if (!return_stats && !total.data) return out.finish();
  py::list result;
  result.append(out.finish());
  if (total.data) result.append(total.owner);
  if (return_stats && !rms) result.append(mean.owner);
  if (return_stats) result.append(rstd.owner);
  return py::tuple(result);
}

py::object row_backward(const char* op, bool rms, py::handle dy_object, py::handle x_object,
                        py::handle weight_object, py::handle mean_object, py::handle rstd_object,
                        py::handle out_object) {
  const Call call(op);
  const Array x = input(op, "x", x_object);
  const Array dy = input(op, "dy", dy_object);
  same_dtype(op, "x", x, "dy", dy);
  require_shape(op, "dy", dy, x.shape_vector());
  const Array rstd = input(op, "rstd", rstd_object);
  const int first = rstd.ndim;
  if (first >= x.ndim) {
    throw ShapeError(std::string(op) + ": rstd must have fewer axes than x, got shapes " +
                     shape_text(rstd.shape_vector()) + " and " + shape_text(x.shape_vector()));
  }
  const Shape leading = part(x, 0, first), normalized = part(x, first, x.ndim);
  const Array its_rstd = vector(op, "rstd", rstd_object, x, leading);
  const Array mean = rms ? Array{} : vector(op, "mean", mean_object, x, leading);
  if (!rms && !mean.data) {
    throw std::invalid_argument(std::string(op) + ": mean must be that of layer_norm(..., " +
                                "return_stats=True), got None");
  }
  const Array weight = vector(op, "weight", weight_object, x, normalized);
  RowNormArgs args{};
  args.dtype = x.dtype;
  args.rms = rms;
  args.rows = product(leading);
  args.n = product(normalized);
  const Array walked = rows_of(x, first, &args.x_stride);
  const Array incoming = rows_of(dy, first, &args.other_stride);
  Output out(op, out_object, x.dtype, x.shape_vector(), row_major(x.shape_vector()));
  no_overlap(op, out, "dy", dy, Overlap::same_allowed);
  no_overlap(op, out, "x", x, Overlap::same_allowed);
  apart(op, out, "weight", weight);
  apart(op, out, "mean", mean);
  apart(op, out, "rstd", its_rstd);
  const Array dweight = dense(op, x.dtype, normalized);
  const Array dbias = rms ? Array{} : dense(op, x.dtype, normalized);
  args.x = walked.data;
  args.other = incoming.data;
  args.out = out.data;
  args.out_stride = args.n;
  args.weight = weight.data;
  args.mean = mean.data;
  args.rstd = its_rstd.data;
  args.dweight = dweight.data;
  args.dbias = dbias.data;
  if (call.on_gpu()) {  // without rows the gradients of the weights are zeros
    call.run_gpu("row_norm_backward", args, args.rows + 1, &RowNormArgs::scratch);
  } else {
    const Scratch workspace(row_norm_workspace(args));
    compute_norm(x.size, [&] { row_norm_backward_all(args, workspace.get(), out.is_fresh); });
  }
  if (rms) return py::make_tuple(out.finish(), dweight.owner);
  return py::make_tuple(out.finish(), dweight.owner, dbias.owner);
}

}  // namespace

void bind_norm_rows(py::module_& module) {
  module.def("layer_norm", [](py::handle x, py::handle normalized_shape, py::handle weight,
                              py::handle bias, py::handle eps, py::handle residual,
                              py::handle activation, bool return_stats, py::handle out) {
    return row_forward("layer_norm", false, x, normalized_shape, weight, bias, eps, residual,
                       activation, return_stats, out);
  });
  module.def("layer_norm_backward", [](py::handle dy, py::handle x, py::handle weight,
                                       py::handle mean, py::handle rstd, py::handle out) {
    return row_backward("layer_norm_backward", false, dy, x, weight, mean, rstd, out);
  });
  module.def("rms_norm",
             [](py::handle x, py::handle normalized_shape, py::handle weight, py::handle eps,
                py::handle residual, py::handle activation, bool return_stats, py::handle out) {
               return row_forward("rms_norm", true, x, normalized_shape, weight, py::none(), eps,
                                  residual, activation, return_stats, out);
             });
  module.def("rms_norm_backward",
             [](py::handle dy, py::handle x, py::handle weight, py::handle rstd, py::handle out) {
               return row_backward("rms_norm_backward", true, dy, x, weight, py::none(), rstd, out);
             });
}

}  // namespace hotloop
