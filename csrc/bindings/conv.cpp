// conv2d and its two gradients: infers and checks shapes, allocates channels-last results.
#include "bindings/conv.h"

#include <cstdint>
#include <string>

#include "bindings/device.h"
#include "bindings/dot.h"
#include "kernels/conv_winograd.h"

namespace hotloop {
namespace {

using namespace conv;

constexpr const char* kForward[] = {"conv1d", "conv2d", "conv3d"};
constexpr const char* kBackwardInput[] = {"conv1d_backward_input", "conv2d_backward_input",
                                          "conv3d_backward_input"};
constexpr const char* kBackwardWeight[] = {"conv1d_backward_weight", "conv2d_backward_weight",
                                           "conv3d_backward_weight"};
constexpr const char* kTranspose[] = {"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"};

// A pass: on the CPU by `run`, on a GPU by the kernel of that name.
template <class Run>
void run_pass(const char* name, const ConvPassArgs& pass, Run run) {
  const Call* const call = Call::current();
  if (call && call->on_gpu()) {
    ConvPassArgs args = pass;
    call->run_gpu(name, args, 1, &ConvPassArgs::scratch);
  } else {
    run_conv(pass.problem, [&] { run(pass); });
  }
}
void run_forward(const ConvPassArgs& pass) {
  run_pass("conv_forward", pass, [](const ConvPassArgs& args) {
    conv_forward(args.problem, args.x, args.w, args.epilogue, args.y);
  });
}
void run_backward_input(const ConvPassArgs& pass) {
  run_pass("conv_backward_input", pass, [](const ConvPassArgs& args) {
    conv_backward_input(args.problem, args.y, args.w, args.epilogue, args.x);
  });
}
void run_backward_weight(const ConvPassArgs& pass) {
  run_pass("conv_backward_weight", pass, [](const ConvPassArgs& args) {
    conv_backward_weight(args.problem, args.y, args.x, args.w);
  });
}

std::string pair_text(std::int64_t h, std::int64_t w) {
  return std::to_string(h) + "x" + std::to_string(w);
}

// Whether Winograd's algorithm is asked for, which takes some convolutions only.
bool parse_winograd(const char* op, py::handle algorithm, const ConvProblem& p) {
  const std::string name = py::isinstance<py::str>(algorithm) ? algorithm.cast<std::string>() : "";
  if (name == "direct") return false;
  if (name != "winograd") {
    throw std::invalid_argument(std::string(op) +
                                ": algorithm must be \"direct\" or \"winograd\", got " +
                                py::repr(algorithm).cast<std::string>());
  }
  const std::string remedy = "; use algorithm=\"direct\"";
  if (p.dtype != DType::f32) {
    throw DTypeError(std::string(op) + ": algorithm=\"winograd\" takes float32, got " +
                     dtype_name(p.dtype) + remedy);
  }
  if (p.kh != 3 || p.kw != 3 || p.stride_h != 1 || p.stride_w != 1 || p.dilation_h != 1 ||
      p.dilation_w != 1 || p.groups != 1) {
    fail(op,
         "algorithm=\"winograd\" takes 3x3 kernels with stride 1, dilation 1 and 1 group, got " +
             pair_text(p.kh, p.kw) + " kernels with stride " + pair_text(p.stride_h, p.stride_w) +
             ", dilation " + pair_text(p.dilation_h, p.dilation_w) + " and " +
             std::to_string(p.groups) + (p.groups == 1 ? " group" : " groups") + remedy);
  }
  if (p.packed) {
    throw std::invalid_argument(std::string(op) + ": w must be an array where algorithm is " +
                                "\"winograd\", got a ConvPack" + remedy);
  }
  return true;
}

template <int dims>
py::object forward(py::handle x_object, py::handle w_object, py::handle b_object, py::handle stride,
                   py::handle padding, py::handle dilation, py::handle groups, py::handle layout,
                   py::handle activation, py::handle residual, py::handle algorithm,
                   py::handle out_object) {
  constexpr const char* op = kForward[dims - 1];
  if (dims == 2 && is_bf16(x_object)) {
    const Settings s = parse_settings(op, dims, stride, padding, dilation, groups, layout);
    return forward_bf16(x_object, w_object, b_object, s, activation, residual, algorithm,
                        out_object);
  }
  const Call call(op);
  const Array x = input(op, "x", x_object);
  const Weights w = read_weights(op, x, w_object);
  const Settings s = parse_settings(op, dims, stride, padding, dilation, groups, layout);
  ConvProblem problem = infer_forward(op, x, s, w);
  const bool winograd = given(algorithm) && parse_winograd(op, algorithm, problem);
  if (call.on_gpu() && (winograd || w.pack)) {
    throw std::invalid_argument(std::string(op) +
                                ": algorithm and packed weights are for arrays on the CPU, got x "
                                "on a GPU; leave them out");
  }
  Epilogue epilogue = parse_epilogue(op, x, b_object, problem.o, activation);
  const Shape shape = result_shape(s, problem);
  checked_image(op, shape, x.dtype);
  add_residual(op, s, x, shape, residual, epilogue);
  Output out(op, out_object, x.dtype, shape,
             image_strides(s, problem.o, problem.out_d, problem.out_h, problem.out_w));
  no_overlap(op, out, "x", x);
  if (!w.pack) no_overlap(op, out, "w", w.array);
  if (given(b_object)) no_overlap(op, out, "b", epilogue.bias);
  if (given(residual)) no_overlap(op, out, "residual", input(op, "residual", residual));
  problem.interruptible = out.is_fresh;
  if (out.array.size == 0) return out.finish();
  if (winograd) {
    run_conv(problem, [&] {
      conv_forward_winograd(problem, image_of(x, s.axes), w.kernel(s), epilogue.values,
                            image_of(out.array, s.axes));
    });
    return out.finish();
  }
  run_forward({problem, image_of(x, s.axes), image_of(out.array, s.axes), w.kernel(s),
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
  const Epilogue epilogue = parse_epilogue(op, x, b_object, channels, activation);
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
  bind_pack(module);
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
