// conv2d and its two gradients: infers and checks shapes, allocates channels-last results.
#include <cstdint>
#include <string>
#include <utility>

#include "bindings/activation.h"
#include "bindings/array.h"
#include "bindings/gil.h"
#include "bindings/params.h"
#include "kernels/conv.h"

namespace hotloop {
namespace {

constexpr double kReleaseWork = 4e6;  // products and sums: some 20 microseconds

// The caller's names of the axes, and ours: n c h w, o i h w.
struct Axes {
  int c, h, w;
  int weight_o, weight_i, weight_h, weight_w;
};
constexpr Axes kNchw = {1, 2, 3, 0, 1, 2, 3};
constexpr Axes kNhwc = {3, 1, 2, 3, 2, 0, 1};

const char* image_text(Layout layout) {
  return layout == Layout::nchw ? "(n, c, h, w)" : "(n, h, w, c)";
}
const char* weight_text(Layout layout) {
  return layout == Layout::nchw ? "(o, c / groups, kh, kw)" : "(kh, kw, c / groups, o)";
}

struct Settings {
  Layout layout;
  Axes axes;
  Pair stride, padding, dilation;
  std::int64_t groups;
};

Settings parse_settings(const char* op, py::handle stride, py::handle padding, py::handle dilation,
                        py::handle groups, py::handle layout) {
  Settings settings;
  settings.layout = parse_layout(op, layout);
  settings.axes = settings.layout == Layout::nchw ? kNchw : kNhwc;
  settings.stride = parse_pair(op, "stride", stride, 1);
  settings.padding = parse_pair(op, "padding", padding, 0);
  settings.dilation = parse_pair(op, "dilation", dilation, 1);
  if (PyTuple_Check(groups.ptr()) || PyList_Check(groups.ptr())) {
    throw DTypeError(std::string(op) + ": groups must be an integer, got " + type_text(groups));
  }
  settings.groups = parse_pair(op, "groups", groups, 1).h;
  return settings;
}

std::int64_t at(const Shape& shape, int axis) {
  return shape[static_cast<std::size_t>(axis)];
}

[[noreturn]] void fail(const char* op, const std::string& text) {
  throw ShapeError(std::string(op) + ": " + text);
}

void require_sizes(const char* op, const char* name, const Shape& shape, const char* axes) {
  if (shape.size() != 4) {
    fail(op, std::string(name) + " must have 4 axes " + axes + ", got " +
                 std::to_string(shape.size()) + " (shape " + shape_text(shape) + ")");
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
  require_sizes(op, x_name, x, image_text(s.layout));
  require_sizes(op, w_name, w, weight_text(s.layout));
  ConvProblem p{};
  p.dtype = dtype;
  p.n = x[0], p.c = at(x, s.axes.c), p.h = at(x, s.axes.h), p.w = at(x, s.axes.w);
  p.o = at(w, s.axes.weight_o), p.kh = at(w, s.axes.weight_h), p.kw = at(w, s.axes.weight_w);
  p.stride_h = s.stride.h, p.stride_w = s.stride.w;
  p.padding_h = s.padding.h, p.padding_w = s.padding.w;
  p.dilation_h = s.dilation.h, p.dilation_w = s.dilation.w;
  p.groups = s.groups;
  if (p.c % p.groups != 0 || p.o % p.groups != 0) {
    fail(op, "groups must divide the channels of " + std::string(x_name) + " and " + w_name +
                 ", got " + std::to_string(p.groups) + " groups for " + std::to_string(p.c) +
                 " input and " + std::to_string(p.o) + " output channels");
  }
  if (at(w, s.axes.weight_i) != p.c / p.groups) {
    fail(op, std::string(w_name) + " " + weight_text(s.layout) + " must have " +
                 std::to_string(p.c / p.groups) + " input channels (" + std::to_string(p.c) +
                 " of " + x_name + " in " + std::to_string(p.groups) + " groups), got shapes " +
                 shape_text(x) + " and " + shape_text(w) + "; is layout=\"" +
                 (s.layout == Layout::nchw ? "NCHW" : "NHWC") + "\" meant?");
  }
  p.out_h = output_size(op, "h", p.h, p.kh, p.stride_h, p.padding_h, p.dilation_h);
  p.out_w = output_size(op, "w", p.w, p.kw, p.stride_w, p.padding_w, p.dilation_w);
  return p;
}

Shape image_shape(Layout layout, std::int64_t n, std::int64_t c, std::int64_t h, std::int64_t w) {
  return layout == Layout::nchw ? Shape{n, c, h, w} : Shape{n, h, w, c};
}
// Channels last in memory, whatever the axes are called.
Shape image_strides(Layout layout, std::int64_t c, std::int64_t h, std::int64_t w) {
  return layout == Layout::nchw ? Shape{h * w * c, 1, w * c, c} : Shape{h * w * c, w * c, c, 1};
}

ConvImage image_of(const Array& array, const Axes& axes) {
  return {array.data, array.stride(0), array.stride(axes.c), array.stride(axes.h),
          array.stride(axes.w)};
}
ConvKernel kernel_of(const Array& array, const Axes& axes) {
  return {array.data, array.stride(axes.weight_o), array.stride(axes.weight_i),
          array.stride(axes.weight_h), array.stride(axes.weight_w)};
}

template <class Call>
void run_conv(const ConvProblem& problem, Call call) {
  if (conv_work(problem) >= kReleaseWork) {
    const GilReleased released;
    call();
  } else {
    call();
  }
}

py::object conv2d(py::handle x_object, py::handle w_object, py::handle b_object, py::handle stride,
                  py::handle padding, py::handle dilation, py::handle groups, py::handle layout,
                  py::handle activation, py::handle out_object) {
  constexpr const char* op = "conv2d";
  const Array x = input(op, "x", x_object);
  const Array w = input(op, "w", w_object);
  same_dtype(op, "x", x, "w", w);
  const Settings s = parse_settings(op, stride, padding, dilation, groups, layout);
  ConvProblem problem = infer(op, x.dtype, s, "x", x.shape_vector(), "w", w.shape_vector());
  ConvEpilogue epilogue;
  Array b;
  if (given(b_object)) {
    b = input(op, "b", b_object);
    same_dtype(op, "x", x, "b", b);
    require_shape(op, "b", b, {problem.o});
    epilogue.bias = b.data;
    epilogue.bias_stride = b.stride(0);
  }
  const FusedActivation fused = parse_activation(op, activation);
  epilogue.activation = fused.kind;
  epilogue.activation_alpha = fused.alpha;

  const Shape shape = image_shape(s.layout, problem.n, problem.o, problem.out_h, problem.out_w);
  checked_product(op, shape.data(), 4, item_size(x.dtype));
  Output out(op, out_object, x.dtype, shape,
             image_strides(s.layout, problem.o, problem.out_h, problem.out_w));
  no_overlap(op, out, "x", x);
  no_overlap(op, out, "w", w);
  if (given(b_object)) no_overlap(op, out, "b", b);
  problem.interruptible = out.is_fresh;
  run_conv(problem, [&] {
    conv_forward(problem, image_of(x, s.axes), kernel_of(w, s.axes), epilogue,
                 image_of(out.array, s.axes));
  });
  return out.finish();
}

py::object conv2d_backward_input(py::handle dy_object, py::handle w_object, py::handle x_shape,
                                 py::handle stride, py::handle padding, py::handle dilation,
                                 py::handle groups, py::handle layout, py::handle out_object) {
  constexpr const char* op = "conv2d_backward_input";
  const Array dy = input(op, "dy", dy_object);
  const Array w = input(op, "w", w_object);
  same_dtype(op, "dy", dy, "w", w);
  const Settings s = parse_settings(op, stride, padding, dilation, groups, layout);
  const Shape shape = parse_shape(op, "x_shape", x_shape);
  ConvProblem problem = infer(op, dy.dtype, s, "x_shape", shape, "w", w.shape_vector());
  require_shape(op, "dy", dy,
                image_shape(s.layout, problem.n, problem.o, problem.out_h, problem.out_w));
  checked_product(op, shape.data(), 4, item_size(dy.dtype));
  Output out(op, out_object, dy.dtype, shape,
             image_strides(s.layout, problem.c, problem.h, problem.w));
  no_overlap(op, out, "dy", dy);
  no_overlap(op, out, "w", w);
  problem.interruptible = out.is_fresh;
  run_conv(problem, [&] {
    conv_backward_input(problem, image_of(dy, s.axes), kernel_of(w, s.axes),
                        image_of(out.array, s.axes));
  });
  return out.finish();
}

py::object conv2d_backward_weight(py::handle dy_object, py::handle x_object, py::handle w_shape,
                                  py::handle stride, py::handle padding, py::handle dilation,
                                  py::handle groups, py::handle layout, py::handle out_object) {
  constexpr const char* op = "conv2d_backward_weight";
  const Array dy = input(op, "dy", dy_object);
  const Array x = input(op, "x", x_object);
  same_dtype(op, "dy", dy, "x", x);
  const Settings s = parse_settings(op, stride, padding, dilation, groups, layout);
  const Shape shape = parse_shape(op, "w_shape", w_shape);
  ConvProblem problem = infer(op, x.dtype, s, "x", x.shape_vector(), "w_shape", shape);
  require_shape(op, "dy", dy,
                image_shape(s.layout, problem.n, problem.o, problem.out_h, problem.out_w));
  checked_product(op, shape.data(), 4, item_size(dy.dtype));
  Output out(op, out_object, dy.dtype, shape);
  no_overlap(op, out, "dy", dy);
  no_overlap(op, out, "x", x);
  problem.interruptible = out.is_fresh;
  run_conv(problem, [&] {
    conv_backward_weight(problem, image_of(dy, s.axes), image_of(x, s.axes),
                         kernel_of(out.array, s.axes));
  });
  return out.finish();
}

}  // namespace

void bind_conv(py::module_& module) {
  module.def("conv2d", conv2d);
  module.def("conv2d_backward_input", conv2d_backward_input);
  module.def("conv2d_backward_weight", conv2d_backward_weight);
}

}  // namespace hotloop
