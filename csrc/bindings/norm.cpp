// Normalizations: finds the samples, positions and channels of an array whatever its axes are
// called, checks, allocates results in the memory order of x, keeps running statistics.
#include "kernels/norm.h"

#include <cmath>

#include "bindings/activation.h"
#include "bindings/device.h"
#include "bindings/norm.h"
#include "bindings/params.h"

namespace hotloop {

namespace {

void fill(const Array& array, double value) {
  if (array.device >= 0) return fill_on_device("fill", *as_device_array(array.owner), value);
  for (std::int64_t i = 0; i < array.size; ++i) {
    if (array.dtype == DType::f32) {
      array.as<float>()[i] = static_cast<float>(value);
    } else {
      array.as<double>()[i] = value;
    }
  }
}

// ---- samples, positions, channels --------------------------------------------------------------

struct Image {
  int channel;  // which axis
  std::int64_t n = 1, s = 1, c = 1;
  bool last = false;  // lanes run over the channels
};

Image image_of(const char* op, const Array& x, py::handle layout_object) {
  const Layout layout = parse_layout(op, layout_object);
  if (x.ndim < 2) {
    throw ShapeError(std::string(op) + ": x must have at least 2 axes, " +
                     (layout == Layout::nchw ? "(n, c, ...)" : "(n, ..., c)") + ", got shape " +
                     shape_text(x.shape_vector()));
  }
  Image image{.channel = layout == Layout::nchw ? 1 : x.ndim - 1};
  image.n = x.shape(0);
  image.c = x.shape(image.channel);
  for (int axis = 1; axis < x.ndim; ++axis) {
    if (axis != image.channel) image.s *= x.shape(axis);
  }
  return image;
}

// Strides of the array as (n, s, c); false where the kernels cannot walk it: positions that are no
// single axis, or lanes that are not dense.
bool strides_as(const Image& image, const Array& array, NormStrides* strides) {
  *strides = {image.n > 1 ? array.stride(0) : 0, 0, image.c > 1 ? array.stride(image.channel) : 0};
  std::int64_t inner = 1;
  for (int axis = array.ndim - 1; axis > 0; --axis) {
    const std::int64_t size = array.shape(axis);
    if (axis == image.channel || size == 1) continue;
    if (inner == 1) strides->s = array.stride(axis);
    if (array.stride(axis) != strides->s * inner) return false;
    inner *= size;
  }
  return image.last ? image.c == 1 || strides->c == 1 : image.s == 1 || strides->s == 1;
}

// Dense strides in the order of memory that the image has.
Shape memory_order(const Image& image, const Array& x) {
  Shape strides(static_cast<std::size_t>(x.ndim));
  std::int64_t step = 1;
  const auto take = [&](int axis) {
    strides[static_cast<std::size_t>(axis)] = step;
    step *= x.shape(axis);
  };
  if (image.last) take(image.channel);
  for (int axis = x.ndim - 1; axis > 0; --axis) {
    if (axis != image.channel) take(axis);
  }
  if (!image.last) take(image.channel);
  take(0);
  return strides;
}

// Decides how x is walked; packs it where neither way serves.
Array settle(Image& image, const Array& x, NormStrides* strides) {
  image.last = image.s == 1 || image.c > 1;
  if (strides_as(image, x, strides)) return x;
  image.last = false;
  if (image.s > 1 && strides_as(image, x, strides)) return x;
  const Array copy = packed(x);
  image.last = image.s == 1 || (image.c > 1 && image.channel == x.ndim - 1);
  strides_as(image, copy, strides);
  return copy;
}

// The array as the kernels walk x, copied where its memory has another order.
Array like(const char* op, const Image& image, const Array& x, const Array& array,
           NormStrides* strides) {
  if (strides_as(image, array, strides)) return array;
  const py::object copy =
      fresh_array(op, numpy_dtype(array.dtype), x.shape_vector(), memory_order(image, x));
  if (const DeviceArray* from = as_device_array(array.owner)) {
    copy_on_device(op, *as_device_array(copy), *from);
  } else if (PyObject_SetItem(copy.ptr(), py::ellipsis().ptr(), array.owner.ptr()) != 0) {
    throw py::error_already_set();
  }
  const Array result = describe(copy);
  strides_as(image, result, strides);
  return result;
}

// One set of statistics for all samples: they are positions too, where memory allows it.
void merge_samples(NormArgs& args) {
  if (args.sets != 1 || !(args.channels_last || args.c == 1)) return;
  NormStrides* all[] = {&args.x_strides, &args.other_strides, &args.out_strides};
  const void* used[] = {args.x, args.other, args.out};
  for (int k = 0; k < 3; ++k) {
    if (used[k] && args.n > 1 && args.s > 1 && all[k]->n != args.s * all[k]->s) return;
  }
  for (NormStrides* strides : all) {
    if (args.s == 1) strides->s = strides->n;
    strides->n = 0;
  }
  args.s *= args.n;
  args.n = 1;
}

// ---- batch, instance and group norm ------------------------------------------------------------

struct Running {
  Array mean, var;
};

// running = (1 - momentum) running + momentum (mean over the sets), the variance unbiased.
template <class T>
void update(const Array& running, const double* found, std::int64_t sets, double momentum,
            double factor) {
  const std::int64_t c = running.size;
  for (std::int64_t i = 0; i < c; ++i) {
    double total = 0.0;
    for (std::int64_t set = 0; set < sets; ++set) total += found[set * c + i];
    T& value = running.as<T>()[i * running.stride(0)];
    const double fresh = factor * total / static_cast<double>(sets);
    value = static_cast<T>((1.0 - momentum) * static_cast<double>(value) + momentum * fresh);
  }
}

Running running_of(const char* op, py::handle mean, py::handle var, const Array& x, std::int64_t c,
                   bool changes) {
  Running running;
  if (given(mean) != given(var)) {
    throw std::invalid_argument(std::string(op) +
                                ": running_mean and running_var must come together, got one");
  }
  if (!given(mean)) return running;
  const auto read = [&](const char* name, py::handle object) {
    const Array array = changes ? in_place(op, name, object) : input(op, name, object);
    same_dtype(op, "x", x, name, array);
    require_shape(op, name, array, {c});
    return array;
  };
  running.mean = read("running_mean", mean);
  running.var = read("running_var", var);
  return running;
}

template <class T>
void from_running(const Running& running, double eps, const Array& mean, const Array& rstd) {
  for (std::int64_t i = 0; i < mean.size; ++i) {
    mean.as<T>()[i] = running.mean.as<T>()[i * running.mean.stride(0)];
    const double variance = static_cast<double>(running.var.as<T>()[i * running.var.stride(0)]);
    rstd.as<T>()[i] = static_cast<T>(1.0 / std::sqrt(variance + eps));
  }
}

std::int64_t channels_of_group(const char* op, std::int64_t channels, std::int64_t groups) {
  if (groups > 0 && channels % groups == 0) return channels / groups;
  throw ShapeError(std::string(op) + ": num_groups must divide the channels, got " +
                   std::to_string(groups) + " groups for " + std::to_string(channels) +
                   " channels");
}

enum class Kind { batch, instance, group };

struct Setting {
  const char* op;
  Kind kind;
  std::int64_t groups;  // group norm
  bool from_input;      // statistics of x, not the running ones
};

// Sizes, weights and statistics' shape; what both directions begin with.
NormArgs begin(const Setting& setting, const Image& image, const Array& x, Shape* statistics) {
  NormArgs args{};
  args.dtype = x.dtype;
  args.channels_last = image.last;
  args.n = image.n;
  args.s = image.s;
  args.c = image.c;
  const bool per_sample = setting.kind != Kind::batch;
  args.sets = per_sample ? image.n : 1;
  args.per_group =
      setting.kind == Kind::group ? channels_of_group(setting.op, image.c, setting.groups) : 1;
  *statistics = {image.c / (image.c ? args.per_group : 1)};
  if (per_sample) statistics->insert(statistics->begin(), image.n);
  return args;
}

void require_values(const Setting& setting, const Image& image, const Array& x) {
  if (setting.kind == Kind::group || !setting.from_input) return;
  const std::int64_t values = setting.kind == Kind::batch ? image.n * image.s : image.s;
  if (values > 1 || (setting.kind == Kind::instance && image.n == 0)) return;
  throw ShapeError(std::string(setting.op) +
                   ": statistics must come from more than 1 value per channel" +
                   (setting.kind == Kind::batch ? "" : " and sample") + ", got " +
                   std::to_string(values) + " (shape " + shape_text(x.shape_vector()) +
                   "); use larger batches or the running statistics (eval mode)");
}

py::object forward(const Setting& setting, py::handle x_object, py::handle weight_object,
                   py::handle bias_object, py::handle running_mean, py::handle running_var,
                   double momentum, double eps, py::handle residual_object, py::handle activation,
                   py::handle layout, bool return_stats, py::handle out_object) {
  const char* op = setting.op;
  const Call call(op);
  const Array x = input(op, "x", x_object);
  Image image = image_of(op, x, layout);
  require_values(setting, image, x);
  const Array weight = vector(op, "weight", weight_object, x, {image.c});
  const Array bias = vector(op, "bias", bias_object, x, {image.c});
  const Running running = running_of(op, running_mean, running_var, x, image.c, setting.from_input);
  if (!setting.from_input && !running.mean.data) {
    throw std::invalid_argument(std::string(op) +
                                ": running_mean and running_var must be given where the " +
                                "statistics are not x's own, got None");
  }
  NormStrides x_strides{};
  const Array walked = settle(image, x, &x_strides);
  Shape statistics;
  NormArgs args = begin(setting, image, x, &statistics);
  args.eps = parse_eps(op, eps);
  const FusedActivation fused = parse_activation(op, activation);
  args.activation = fused.kind;
  args.alpha = fused.alpha;
  Array residual;
  if (given(residual_object)) {
    residual = input(op, "residual", residual_object);
    same_dtype(op, "x", x, "residual", residual);
    require_shape(op, "residual", residual, x.shape_vector());
  }
  Output out(op, out_object, x.dtype, x.shape_vector(), memory_order(image, x));
  no_overlap(op, out, "x", x, Overlap::same_allowed);
  if (residual.data) no_overlap(op, out, "residual", residual, Overlap::same_allowed);
  apart(op, out, "weight", weight);
  apart(op, out, "bias", bias);
  apart(op, out, "running_mean", running.mean);
  apart(op, out, "running_var", running.var);

  const Array mean = dense(op, x.dtype, statistics), rstd = dense(op, x.dtype, statistics);
  const std::int64_t moment_bytes = 2 * mean.size * 8;
  const Scratch host_moments(call.on_gpu() ? 0 : static_cast<std::size_t>(moment_bytes));
  const DeviceScratch device_moments(op, call.device(), call.on_gpu() ? moment_bytes : 0);
  auto* const moments =
      static_cast<double*>(call.on_gpu() ? device_moments.get() : host_moments.get());
  NormRunningArgs on_device{};
  if (call.on_gpu() && running.mean.data) {
    on_device.dtype = x.dtype;
    on_device.c = image.c;
    on_device.sets = args.sets;
    on_device.running_mean = running.mean.data;
    on_device.running_var = running.var.data;
    on_device.mean_stride = running.mean.stride(0);
    on_device.var_stride = running.var.stride(0);
    on_device.moments = moments;
    on_device.momentum = momentum;
    on_device.mean = mean.data;
    on_device.rstd = rstd.data;
    on_device.eps = eps;
  }
  if (!setting.from_input && call.on_gpu()) {
    launch_cuda(op, "norm_settle", &on_device, image.c, call.device());
  } else if (!setting.from_input) {
    x.dtype == DType::f32 ? from_running<float>(running, eps, mean, rstd)
                          : from_running<double>(running, eps, mean, rstd);
  }
  if (x.size > 0) {
    args.x = walked.data;
    args.x_strides = x_strides;
    if (residual.data) residual = like(op, image, x, residual, &args.other_strides);
    args.other = residual.data;
    args.out = out.data;
    strides_as(image, out.array, &args.out_strides);
    args.weight = weight.data;
    args.bias = bias.data;
    args.mean = mean.data;
    args.rstd = rstd.data;
    args.moments = setting.from_input ? moments : nullptr;
    merge_samples(args);
    if (call.on_gpu()) {
      call.run_gpu("norm_forward", args, x.size, &NormArgs::scratch);
    } else {
      const Scratch workspace(norm_workspace(args, false));
      compute_norm(x.size, [&] { norm_forward(args, workspace.get(), out.is_fresh); });
    }
  }
  if (setting.from_input && running.mean.data && x.size > 0) {
    const double count =
        static_cast<double>(setting.kind == Kind::batch ? image.n * image.s : image.s);
    const double factor = count / (count - 1.0);
    const auto both = [&](auto type) {
      using T = decltype(type);
      update<T>(running.mean, moments, args.sets, momentum, 1.0);
      update<T>(running.var, moments + mean.size, args.sets, momentum, factor);
    };
    if (call.on_gpu()) {
      on_device.factor = factor;
      launch_cuda(op, "norm_update", &on_device, image.c, call.device());
    } else {
      x.dtype == DType::f32 ? both(0.0f) : both(0.0);
    }
  }
  if (!return_stats) return out.finish();
  return py::make_tuple(out.finish(), mean.owner, rstd.owner);
}

py::object backward(const Setting& setting, py::handle dy_object, py::handle x_object,
                    py::handle weight_object, py::handle mean_object, py::handle rstd_object,
                    py::handle layout, py::handle out_object, py::handle activation = py::none(),
                    py::handle bias_object = py::none()) {
  const char* op = setting.op;
  const Call call(op);
  const Array x = input(op, "x", x_object);
  const Array dy = input(op, "dy", dy_object);
  same_dtype(op, "x", x, "dy", dy);
  require_shape(op, "dy", dy, x.shape_vector());
  Image image = image_of(op, x, layout);
  NormStrides x_strides{};
  const Array walked = settle(image, x, &x_strides);
  Shape statistics;
  NormArgs args = begin(setting, image, x, &statistics);
  const Array weight = vector(op, "weight", weight_object, x, {image.c});
  const FusedActivation fused = parse_activation(op, activation);
  if (fused.kind != Activation::none && (fused.kind != Activation::relu || call.on_gpu())) {
    throw std::invalid_argument(
        std::string(op) + ": activation must be None, or \"relu\" on the CPU, got " +
        py::repr(activation).cast<std::string>() + "; call its backward kernel first");
  }
  const bool masked = fused.kind == Activation::relu;
  const Array bias = vector(op, "bias", masked ? bias_object : py::handle(Py_None), x, {image.c});
  const Array mean = vector(op, "mean", mean_object, x, statistics);
  const Array rstd = vector(op, "rstd", rstd_object, x, statistics);
  if (!mean.data || !rstd.data) {
    throw std::invalid_argument(std::string(op) + ": mean and rstd must be those that the " +
                                "forward kernel gave (return_stats=True), got None");
  }
  Output out(op, out_object, x.dtype, x.shape_vector(), memory_order(image, x));
  no_overlap(op, out, "dy", dy, Overlap::same_allowed);
  no_overlap(op, out, "x", x, Overlap::same_allowed);
  apart(op, out, "weight", weight);
  apart(op, out, "bias", bias);
  apart(op, out, "mean", mean);
  apart(op, out, "rstd", rstd);
  const Array dweight = dense(op, x.dtype, {image.c}), dbias = dense(op, x.dtype, {image.c});
  if (x.size == 0) {
    fill(dweight, 0.0);
    fill(dbias, 0.0);
    return py::make_tuple(out.finish(), dweight.owner, dbias.owner);
  }
  args.x = walked.data;
  args.x_strides = x_strides;
  const Array incoming = like(op, image, x, dy, &args.other_strides);
  args.other = incoming.data;
  args.out = out.data;
  strides_as(image, out.array, &args.out_strides);
  args.weight = weight.data;
  args.mean = mean.data;
  args.rstd = rstd.data;
  args.moments = nullptr;
  args.activation = fused.kind;
  args.bias = bias.data;
  args.constant = !setting.from_input;
  args.dweight = dweight.data;
  args.dbias = dbias.data;
  merge_samples(args);
  if (call.on_gpu()) {
    call.run_gpu("norm_backward", args, x.size, &NormArgs::scratch);
  } else {
    const Scratch workspace(norm_workspace(args, true));
    compute_norm(x.size, [&] { norm_backward(args, workspace.get(), out.is_fresh); });
  }
  return py::make_tuple(out.finish(), dweight.owner, dbias.owner);
}

}  // namespace

void bind_norm(py::module_& module) {
  module.def("batch_norm",
             [](py::handle x, py::handle weight, py::handle bias, py::handle mean, py::handle var,
                bool training, double momentum, double eps, py::handle residual,
                py::handle activation, py::handle layout, bool return_stats, py::handle out) {
               return forward({"batch_norm", Kind::batch, 0, training}, x, weight, bias, mean, var,
                              momentum, eps, residual, activation, layout, return_stats, out);
             });
  module.def(
      "batch_norm_backward",
      [](py::handle dy, py::handle x, py::handle weight, py::handle mean, py::handle rstd,
         bool training, py::handle activation, py::handle bias, py::handle layout, py::handle out) {
        return backward({"batch_norm_backward", Kind::batch, 0, training}, dy, x, weight, mean,
                        rstd, layout, out, activation, bias);
      });
  module.def("instance_norm",
             [](py::handle x, py::handle weight, py::handle bias, py::handle mean, py::handle var,
                double momentum, double eps, py::handle residual, py::handle activation,
                py::handle layout, bool return_stats, py::handle out) {
               return forward({"instance_norm", Kind::instance, 0, true}, x, weight, bias, mean,
                              var, momentum, eps, residual, activation, layout, return_stats, out);
             });
  module.def("instance_norm_backward",
             [](py::handle dy, py::handle x, py::handle weight, py::handle mean, py::handle rstd,
                py::handle layout, py::handle out) {
               return backward({"instance_norm_backward", Kind::instance, 0, true}, dy, x, weight,
                               mean, rstd, layout, out);
             });
  module.def("group_norm", [](py::handle x, std::int64_t groups, py::handle weight, py::handle bias,
                              double eps, py::handle residual, py::handle activation,
                              py::handle layout, bool return_stats, py::handle out) {
    return forward({"group_norm", Kind::group, groups, true}, x, weight, bias, py::none(),
                   py::none(), 0.0, eps, residual, activation, layout, return_stats, out);
  });
  module.def("group_norm_backward",
             [](py::handle dy, py::handle x, std::int64_t groups, py::handle weight,
                py::handle mean, py::handle rstd, py::handle layout, py::handle out) {
               return backward({"group_norm_backward", Kind::group, groups, true}, dy, x, weight,
                               mean, rstd, layout, out);
             });
}

}  // namespace hotloop
