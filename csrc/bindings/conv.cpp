// conv2d and its two gradients: infers and checks shapes, allocates channels-last results.
#include <cstdint>
#include <string>
#include <utility>

#include "bindings/activation.h"
#include "bindings/array.h"
#include "bindings/device.h"
#include "bindings/gil.h"
#include "bindings/params.h"
#include "kernels/conv.h"

namespace hotloop {
namespace {

constexpr double kReleaseWork = 4e6;  // products and sums: some 20 microseconds

// The caller's names of the axes, and ours: n c d h w, o i d h w. -1 where there is none.
struct Axes {
  int c, d, h, w;
  int weight_o, weight_i, weight_d, weight_h, weight_w;
};

// How signals, images and volumes are called, channels first and channels last.
struct Naming {
  const char *first, *last;
  const char *first_image, *last_image, *first_weight, *last_weight;
  Axes first_axes, last_axes;
};
constexpr Naming kNaming[] = {
    {"NCL",
     "NLC",
     "(n, c, l)",
     "(n, l, c)",
     "(o, c / groups, kl)",
     "(kl, c / groups, o)",
     {1, -1, -1, 2, 0, 1, -1, -1, 2},
     {2, -1, -1, 1, 2, 1, -1, -1, 0}},
    {"NCHW",
     "NHWC",
     "(n, c, h, w)",
     "(n, h, w, c)",
     "(o, c / groups, kh, kw)",
     "(kh, kw, c / groups, o)",
     {1, -1, 2, 3, 0, 1, -1, 2, 3},
     {3, -1, 1, 2, 3, 2, -1, 0, 1}},
    {"NCDHW",
     "NDHWC",
     "(n, c, d, h, w)",
     "(n, d, h, w, c)",
     "(o, c / groups, kd, kh, kw)",
     "(kd, kh, kw, c / groups, o)",
     {1, 2, 3, 4, 0, 1, 2, 3, 4},
     {4, 1, 2, 3, 4, 3, 0, 1, 2}},
};

// A number along each of d, h, w.
struct Triple {
  std::int64_t d, h, w;
};

Triple parse_triple(const char* op, const char* name, py::handle object, int dims,
                    std::int64_t least) {
  const std::int64_t idle = least == 1 ? 1 : 0;  // of an axis that is not there
  const bool many = PyTuple_Check(object.ptr()) || PyList_Check(object.ptr());
  if (dims == 2) {
    const Pair pair = parse_pair(op, name, object, least);
    return {idle, pair.h, pair.w};
  }
  if (!many) {
    const std::int64_t value = parse_pair(op, name, object, least).h;
    return dims == 1 ? Triple{idle, idle, value} : Triple{value, value, value};
  }
  const auto items = py::reinterpret_borrow<py::sequence>(object);
  if (static_cast<int>(items.size()) != dims) {
    throw ShapeError(std::string(op) + ": " + name + " must be an integer or " +
                     std::to_string(dims) + " of them, got " + std::to_string(items.size()) +
                     " values");
  }
  std::int64_t values[3] = {idle, idle, idle};
  for (int i = 0; i < dims; ++i) {
    const py::object item = items[static_cast<std::size_t>(i)];
    if (PyTuple_Check(item.ptr()) || PyList_Check(item.ptr())) {
      throw DTypeError(std::string(op) + ": " + name + " must hold integers, got " +
                       type_text(item));
    }
    values[3 - dims + i] = parse_pair(op, name, item, least).h;
  }
  return {values[0], values[1], values[2]};
}

struct Settings {
  int dims;
  bool first;  // channels first
  Axes axes;
  Triple stride, padding, dilation;
  std::int64_t groups;

  const char* layout() const { return first ? naming().first : naming().last; }
  const char* image_text() const { return first ? naming().first_image : naming().last_image; }
  const char* weight_text() const { return first ? naming().first_weight : naming().last_weight; }
  const Naming& naming() const { return kNaming[dims - 1]; }
};

bool parse_channels_first(const char* op, int dims, py::handle layout) {
  if (dims == 2) return parse_layout(op, layout) == Layout::nchw;
  const Naming& naming = kNaming[dims - 1];
  const std::string text = py::isinstance<py::str>(layout) ? layout.cast<std::string>() : "";
  if (text != naming.first && text != naming.last) {
    throw std::invalid_argument(std::string(op) + ": layout must be \"" + naming.first +
                                "\" or \"" + naming.last + "\", got " +
                                py::repr(layout).cast<std::string>());
  }
  return text == naming.first;
}

Settings parse_settings(const char* op, int dims, py::handle stride, py::handle padding,
                        py::handle dilation, py::handle groups, py::handle layout) {
  Settings settings;
  settings.dims = dims;
  settings.first = parse_channels_first(op, dims, layout);
  settings.axes = settings.first ? kNaming[dims - 1].first_axes : kNaming[dims - 1].last_axes;
  settings.stride = parse_triple(op, "stride", stride, dims, 1);
  settings.padding = parse_triple(op, "padding", padding, dims, 0);
  settings.dilation = parse_triple(op, "dilation", dilation, dims, 1);
  if (PyTuple_Check(groups.ptr()) || PyList_Check(groups.ptr())) {
    throw DTypeError(std::string(op) + ": groups must be an integer, got " + type_text(groups));
  }
  settings.groups = parse_pair(op, "groups", groups, 1).h;
  return settings;
}

std::int64_t at(const Shape& shape, int axis) {
  return axis < 0 ? 1 : shape[static_cast<std::size_t>(axis)];
}

[[noreturn]] void fail(const char* op, const std::string& text) {
  throw ShapeError(std::string(op) + ": " + text);
}

void require_sizes(const char* op, const char* name, const Shape& shape, int dims,
                   const char* axes) {
  if (static_cast<int>(shape.size()) != dims + 2) {
    fail(op, std::string(name) + " must have " + std::to_string(dims + 2) + " axes " + axes +
                 ", got " + std::to_string(shape.size()) + " (shape " + shape_text(shape) + ")");
  }
  for (const std::int64_t size : shape) {
    if (size == 0) {
      fail(op, std::string(name) + " " + axes + " must not be empty, got shape " +
                   shape_text(shape) + "; leave empty batches out");
    }
  }
}

// Output positions along one axis.
std::int64_t output_size(const char* op, const char* axis, std::int64_t size, std::int64_t taps,
                         std::int64_t stride, std::int64_t padding, std::int64_t dilation) {
  const std::int64_t limit = std::int64_t{1} << 40;
  if (taps > limit / dilation || size > limit) {
    fail(op, std::string("sizes along ") + axis + " must stay below 2**40, got size " +
                 std::to_string(size) + ", " + std::to_string(taps) + " taps with dilation " +
                 std::to_string(dilation));
  }
  const std::int64_t reach = dilation * (taps - 1) + 1, padded = size + 2 * padding;
  if (reach > padded) {
    fail(op, std::string("the kernel must fit the padded input along ") + axis + ", got " +
                 std::to_string(reach) + " (" + std::to_string(taps) + " taps, dilation " +
                 std::to_string(dilation) + ") over " + std::to_string(padded) + " (size " +
                 std::to_string(size) + ", padding " + std::to_string(padding) +
                 "); use more padding, a smaller kernel or a larger input");
  }
  return (padded - reach) / stride + 1;
}

ConvProblem infer(const char* op, DType dtype, const Settings& s, const char* x_name,
                  const Shape& x, const char* w_name, const Shape& w) {
  require_sizes(op, x_name, x, s.dims, s.image_text());
  require_sizes(op, w_name, w, s.dims, s.weight_text());
  const Axes& axes = s.axes;
  ConvProblem p{};
  p.dtype = dtype;
  p.n = x[0], p.c = at(x, axes.c);
  p.d = at(x, axes.d), p.h = at(x, axes.h), p.w = at(x, axes.w);
  p.o = at(w, axes.weight_o);
  p.kd = at(w, axes.weight_d), p.kh = at(w, axes.weight_h), p.kw = at(w, axes.weight_w);
  p.stride_d = s.stride.d, p.stride_h = s.stride.h, p.stride_w = s.stride.w;
  p.padding_d = s.padding.d, p.padding_h = s.padding.h, p.padding_w = s.padding.w;
  p.dilation_d = s.dilation.d, p.dilation_h = s.dilation.h, p.dilation_w = s.dilation.w;
  p.groups = s.groups;
  if (p.c % p.groups != 0 || p.o % p.groups != 0) {
    fail(op, "groups must divide the channels of " + std::string(x_name) + " and " + w_name +
                 ", got " + std::to_string(p.groups) + " groups for " + std::to_string(p.c) +
                 " input and " + std::to_string(p.o) + " output channels");
  }
  if (at(w, axes.weight_i) != p.c / p.groups) {
    fail(op, std::string(w_name) + " " + s.weight_text() + " must have " +
                 std::to_string(p.c / p.groups) + " input channels (" + std::to_string(p.c) +
                 " of " + x_name + " in " + std::to_string(p.groups) + " groups), got shapes " +
                 shape_text(x) + " and " + shape_text(w) + "; is layout=\"" + s.layout() +
                 "\" meant?");
  }
  p.out_d = output_size(op, "d", p.d, p.kd, p.stride_d, p.padding_d, p.dilation_d);
  p.out_h = output_size(op, "h", p.h, p.kh, p.stride_h, p.padding_h, p.dilation_h);
  p.out_w =
      output_size(op, s.dims == 1 ? "l" : "w", p.w, p.kw, p.stride_w, p.padding_w, p.dilation_w);
  return p;
}

// Shape under the caller's names, and strides that are channels last whatever they are.
Shape image_shape(const Settings& s, std::int64_t n, std::int64_t c, std::int64_t d, std::int64_t h,
                  std::int64_t w) {
  Shape shape;
  shape.push_back(n);
  if (s.first) shape.push_back(c);
  if (s.dims > 2) shape.push_back(d);
  if (s.dims > 1) shape.push_back(h);
  shape.push_back(w);
  if (!s.first) shape.push_back(c);
  return shape;
}
Shape image_strides(const Settings& s, std::int64_t c, std::int64_t d, std::int64_t h,
                    std::int64_t w) {
  return image_shape(s, d * h * w * c, 1, h * w * c, w * c, c);
}
Shape result_shape(const Settings& s, const ConvProblem& p) {
  return image_shape(s, p.n, p.o, p.out_d, p.out_h, p.out_w);
}

ConvImage image_of(const Array& array, const Axes& axes) {
  const auto stride = [&](int axis) { return axis < 0 ? 0 : array.stride(axis); };
  return {array.data,     array.stride(0), stride(axes.c),
          stride(axes.d), stride(axes.h),  stride(axes.w)};
}
ConvKernel kernel_of(const Array& array, const Axes& axes) {
  const auto stride = [&](int axis) { return axis < 0 ? 0 : array.stride(axis); };
  return {array.data,
          stride(axes.weight_o),
          stride(axes.weight_i),
          stride(axes.weight_d),
          stride(axes.weight_h),
          stride(axes.weight_w)};
}

// A pass: on the CPU by `run`, on a GPU by the kernel of that name.
template <class Run>
void run_conv(const char* name, const ConvPassArgs& pass, Run run) {
  const Call* const call = Call::current();
  if (call && call->on_gpu()) {
    ConvPassArgs args = pass;
    call->run_gpu(name, args, 1, &ConvPassArgs::scratch);
  } else if (conv_work(pass.problem) >= kReleaseWork) {
    const GilReleased released;
    run(pass);
  } else {
    run(pass);
  }
}
void run_forward(const ConvPassArgs& pass) {
  run_conv("conv_forward", pass, [](const ConvPassArgs& args) {
    conv_forward(args.problem, args.x, args.w, args.epilogue, args.y);
  });
}
void run_backward_input(const ConvPassArgs& pass) {
  run_conv("conv_backward_input", pass, [](const ConvPassArgs& args) {
    conv_backward_input(args.problem, args.y, args.w, args.epilogue, args.x);
  });
}
void run_backward_weight(const ConvPassArgs& pass) {
  run_conv("conv_backward_weight", pass, [](const ConvPassArgs& args) {
    conv_backward_weight(args.problem, args.y, args.x, args.w);
  });
}

void checked_image(const char* op, const Shape& shape, DType dtype) {
  checked_product(op, shape.data(), static_cast<int>(shape.size()), item_size(dtype));
}

// Bias of `channels` values and the activation, checked.
struct BiasAndActivation {
  Array bias;
  ConvEpilogue values;
};
BiasAndActivation parse_epilogue(const char* op, const Array& x, py::handle b_object,
                                 std::int64_t channels, py::handle activation) {
  BiasAndActivation epilogue;
  if (given(b_object)) {
    epilogue.bias = input(op, "b", b_object);
    same_dtype(op, "x", x, "b", epilogue.bias);
    require_shape(op, "b", epilogue.bias, {channels});
    epilogue.values.bias = epilogue.bias.data;
    epilogue.values.bias_stride = epilogue.bias.stride(0);
  }
  const FusedActivation fused = parse_activation(op, activation);
  epilogue.values.activation = fused.kind;
  epilogue.values.activation_alpha = fused.alpha;
  return epilogue;
}

constexpr const char* kForward[] = {"conv1d", "conv2d", "conv3d"};
constexpr const char* kBackwardInput[] = {"conv1d_backward_input", "conv2d_backward_input",
                                          "conv3d_backward_input"};
constexpr const char* kBackwardWeight[] = {"conv1d_backward_weight", "conv2d_backward_weight",
                                           "conv3d_backward_weight"};
constexpr const char* kTranspose[] = {"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"};

template <int dims>
py::object forward(py::handle x_object, py::handle w_object, py::handle b_object, py::handle stride,
                   py::handle padding, py::handle dilation, py::handle groups, py::handle layout,
                   py::handle activation, py::handle out_object) {
  constexpr const char* op = kForward[dims - 1];
  const Call call(op);
  const Array x = input(op, "x", x_object);
  const Array w = input(op, "w", w_object);
  same_dtype(op, "x", x, "w", w);
  const Settings s = parse_settings(op, dims, stride, padding, dilation, groups, layout);
  ConvProblem problem = infer(op, x.dtype, s, "x", x.shape_vector(), "w", w.shape_vector());
  const BiasAndActivation epilogue = parse_epilogue(op, x, b_object, problem.o, activation);
  const Shape shape = result_shape(s, problem);
  checked_image(op, shape, x.dtype);
  Output out(op, out_object, x.dtype, shape,
             image_strides(s, problem.o, problem.out_d, problem.out_h, problem.out_w));
  no_overlap(op, out, "x", x);
  no_overlap(op, out, "w", w);
  if (given(b_object)) no_overlap(op, out, "b", epilogue.bias);
  problem.interruptible = out.is_fresh;
  if (out.array.size == 0) return out.finish();
  run_forward({problem, image_of(x, s.axes), image_of(out.array, s.axes), kernel_of(w, s.axes),
               epilogue.values, nullptr});
  return out.finish();
}

// What both backward passes are given: dy and the other operand, and the shape of the result.
struct Backward {
  Array dy, other;
  Settings settings;
  Shape shape;
};
Backward parse_backward(const char* op, int dims, py::handle dy, const char* other_name,
                        py::handle other, const char* shape_name, py::handle shape,
                        py::handle stride, py::handle padding, py::handle dilation,
                        py::handle groups, py::handle layout) {
  Backward call{input(op, "dy", dy), input(op, other_name, other), {}, {}};
  same_dtype(op, "dy", call.dy, other_name, call.other);
  call.settings = parse_settings(op, dims, stride, padding, dilation, groups, layout);
  call.shape = parse_shape(op, shape_name, shape);
  return call;
}

template <int dims>
py::object backward_input(py::handle dy_object, py::handle w_object, py::handle x_shape,
                          py::handle stride, py::handle padding, py::handle dilation,
                          py::handle groups, py::handle layout, py::handle out_object) {
  constexpr const char* op = kBackwardInput[dims - 1];
  const Call call(op);
  const auto [dy, w, s, shape] = parse_backward(op, dims, dy_object, "w", w_object, "x_shape",
                                                x_shape, stride, padding, dilation, groups, layout);
  ConvProblem problem = infer(op, dy.dtype, s, "x_shape", shape, "w", w.shape_vector());
  require_shape(op, "dy", dy, result_shape(s, problem));
  checked_image(op, shape, dy.dtype);
  Output out(op, out_object, dy.dtype, shape,
             image_strides(s, problem.c, problem.d, problem.h, problem.w));
  no_overlap(op, out, "dy", dy);
  no_overlap(op, out, "w", w);
  problem.interruptible = out.is_fresh;
  const ConvImage from = image_of(dy, s.axes), to = image_of(out.array, s.axes);
  const ConvKernel kernel = kernel_of(w, s.axes);
  if (out.array.size == 0) return out.finish();
  run_backward_input({problem, to, from, kernel, {}, nullptr});
  return out.finish();
}

template <int dims>
py::object backward_weight(py::handle dy_object, py::handle x_object, py::handle w_shape,
                           py::handle stride, py::handle padding, py::handle dilation,
                           py::handle groups, py::handle layout, py::handle out_object) {
  constexpr const char* op = kBackwardWeight[dims - 1];
  const Call call(op);
  const auto [dy, x, s, shape] = parse_backward(op, dims, dy_object, "x", x_object, "w_shape",
                                                w_shape, stride, padding, dilation, groups, layout);
  ConvProblem problem = infer(op, x.dtype, s, "x", x.shape_vector(), "w_shape", shape);
  require_shape(op, "dy", dy, result_shape(s, problem));
  checked_image(op, shape, dy.dtype);
  Output out(op, out_object, dy.dtype, shape);
  no_overlap(op, out, "dy", dy);
  no_overlap(op, out, "x", x);
  problem.interruptible = out.is_fresh;
  const ConvImage from = image_of(dy, s.axes), image = image_of(x, s.axes);
  const ConvKernel kernel = kernel_of(out.array, s.axes);
  if (out.array.size == 0) return out.finish();
  run_backward_weight({problem, image, from, kernel, {}, nullptr});
  return out.finish();
}

// Sizes of a transposed convolution's result: the smallest that a convolution turns into x's, plus
// output_padding.
std::int64_t transposed_size(const char* op, const char* axis, std::int64_t size, std::int64_t taps,
                             std::int64_t stride, std::int64_t padding, std::int64_t dilation,
                             std::int64_t extra) {
  constexpr std::int64_t limit = std::int64_t{1} << 40;
  if (extra >= stride && extra >= dilation) {
    fail(op, std::string("output_padding must be less than stride or dilation, got ") +
                 std::to_string(extra) + " for stride " + std::to_string(stride) +
                 " and dilation " + std::to_string(dilation) + " along " + axis);
  }
  if (size > limit / stride || taps > limit / dilation) {
    fail(op, std::string("sizes along ") + axis + " must stay below 2**40, got size " +
                 std::to_string(size) + " with stride " + std::to_string(stride));
  }
  const std::int64_t full = (size - 1) * stride + dilation * (taps - 1) + 1 + extra;
  if (full - 2 * padding < 1) {
    fail(op, "padding must leave a pixel, got " + std::to_string(padding) + " on both sides of " +
                 std::to_string(full) + " along " + axis);
  }
  return full - 2 * padding;
}

template <int dims>
py::object transpose(py::handle x_object, py::handle w_object, py::handle b_object,
                     py::handle stride, py::handle padding, py::handle output_padding,
                     py::handle dilation, py::handle groups, py::handle layout,
                     py::handle activation, py::handle out_object) {
  constexpr const char* op = kTranspose[dims - 1];
  const Call call(op);
  const Array x = input(op, "x", x_object);
  const Array w = input(op, "w", w_object);
  same_dtype(op, "x", x, "w", w);
  const Settings s = parse_settings(op, dims, stride, padding, dilation, groups, layout);
  const Triple extra = parse_triple(op, "output_padding", output_padding, dims, 0);
  const Shape from = x.shape_vector(), kernel = w.shape_vector();
  require_sizes(op, "x", from, dims, s.image_text());
  require_sizes(op, "w", kernel, dims, s.weight_text());
  const Axes& axes = s.axes;
  if (at(kernel, axes.weight_o) != at(from, axes.c)) {
    fail(op, std::string("the output channels of w must be the channels of x (w is that of the ") +
                 "convolution turned round), got shapes " + shape_text(from) + " and " +
                 shape_text(kernel) + "; is layout=\"" + s.layout() + "\" meant?");
  }
  const auto size = [&](const char* name, int axis, int taps, std::int64_t step, std::int64_t pad,
                        std::int64_t apart, std::int64_t more) {
    return transposed_size(op, name, at(from, axis), at(kernel, taps), step, pad, apart, more);
  };
  const std::int64_t d =
      size("d", axes.d, axes.weight_d, s.stride.d, s.padding.d, s.dilation.d, extra.d);
  const std::int64_t h =
      size("h", axes.h, axes.weight_h, s.stride.h, s.padding.h, s.dilation.h, extra.h);
  const std::int64_t width = size(dims == 1 ? "l" : "w", axes.w, axes.weight_w, s.stride.w,
                                  s.padding.w, s.dilation.w, extra.w);
  const std::int64_t channel_sizes[] = {at(kernel, axes.weight_i), s.groups};
  const std::int64_t channels = checked_product(op, channel_sizes, 2, 8);
  const Shape shape = image_shape(s, from[0], channels, d, h, width);
  checked_image(op, shape, x.dtype);
  ConvProblem problem = infer(op, x.dtype, s, "the result", shape, "w", kernel);
  // More output_padding than stride gives pixels whose window no x has: they are zeros or bias.
  problem.out_d = at(from, axes.d), problem.out_h = at(from, axes.h);
  problem.out_w = at(from, axes.w);
  const BiasAndActivation epilogue = parse_epilogue(op, x, b_object, channels, activation);
  Output out(op, out_object, x.dtype, shape, image_strides(s, channels, d, h, width));
  no_overlap(op, out, "x", x);
  no_overlap(op, out, "w", w);
  if (given(b_object)) no_overlap(op, out, "b", epilogue.bias);
  problem.interruptible = out.is_fresh;
  if (out.array.size == 0) return out.finish();
  run_backward_input({problem, image_of(out.array, axes), image_of(x, axes), kernel_of(w, axes),
                      epilogue.values, nullptr});
  return out.finish();
}

}  // namespace

void bind_conv(py::module_& module) {
  module.def("conv1d", forward<1>);
  module.def("conv2d", forward<2>);
  module.def("conv3d", forward<3>);
  module.def("conv1d_backward_input", backward_input<1>);
  module.def("conv2d_backward_input", backward_input<2>);
  module.def("conv3d_backward_input", backward_input<3>);
  module.def("conv1d_backward_weight", backward_weight<1>);
  module.def("conv2d_backward_weight", backward_weight<2>);
  module.def("conv3d_backward_weight", backward_weight<3>);
  module.def("conv_transpose1d", transpose<1>);
  module.def("conv_transpose2d", transpose<2>);
  module.def("conv_transpose3d", transpose<3>);
}

}  // namespace hotloop
