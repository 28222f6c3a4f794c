// conv2d, relu and 2x2 max pooling as one call, and the gradient of the last two.
#include <algorithm>
#include <cstdint>
#include <string>

#include "bindings/conv.h"
#include "core/threads.h"

namespace hotloop {
namespace {

using namespace conv;

py::object pooled_forward(py::handle x_object, py::handle w_object, py::handle b_object,
                          py::handle stride, py::handle padding, py::handle dilation,
                          py::handle groups, py::handle layout, bool return_indices,
                          py::handle out_object) {
  const char* op = "conv2d_relu_max_pool2d";
  const Array x = input(op, "x", x_object);
  const Weights w = read_weights(op, x, w_object);
  const Settings s = parse_settings(op, 2, stride, padding, dilation, groups, layout);
  ConvProblem problem = infer_forward(op, x, s, w);
  if (problem.out_h < 2 || problem.out_w < 2) {
    fail(op, "the convolution must leave a window of 2x2 pixels, got " +
                 std::to_string(problem.out_h) + " by " + std::to_string(problem.out_w));
  }
  if (w.pack && s.groups > 1 && s.groups == problem.c && s.groups == problem.o) {
    fail(op, "w of one channel per group must be an array, got a pack with groups=" +
                 std::to_string(s.groups) + "; pass the array that was packed");
  }
  const Epilogue epilogue = parse_epilogue(op, x, b_object, problem.o, py::none());
  const std::int64_t h = problem.out_h / 2, width = problem.out_w / 2;
  const Shape shape = image_shape(s, problem.n, problem.o, 1, h, width);
  const Shape strides = image_strides(s, problem.o, 1, h, width);
  checked_image(op, shape, x.dtype);
  Output out(op, out_object, x.dtype, shape, strides);
  no_overlap(op, out, "x", x);
  if (!w.pack) no_overlap(op, out, "w", w.array);
  if (given(b_object)) no_overlap(op, out, "b", epilogue.bias);
  problem.interruptible = out.is_fresh;
  py::object indices = py::none();
  ConvImage taps{};
  if (return_indices) {
    py::array made = new_array(op, py::dtype("uint8"), shape, strides);
    const auto stride_of = [&](int axis) { return made.strides(axis); };
    taps = {made.mutable_data(), stride_of(0), 1, 0, stride_of(s.axes.h), stride_of(s.axes.w)};
    indices = made;
  }
  run_conv(problem, [&] {
    conv_forward_pool(problem, image_of(x, s.axes), w.kernel(s), epilogue.values,
                      image_of(out.array, s.axes), taps);
  });
  if (!return_indices) return out.finish();
  return py::make_tuple(out.finish(), indices);
}

py::object pooled_backward(py::handle dy_object, py::handle indices, py::handle x_shape,
                           py::handle layout, py::handle out_object) {
  const char* op = "relu_max_pool2d_backward";
  const Array dy = input(op, "dy", dy_object);
  const py::int_ one(1), zero(0);
  const Settings s = parse_settings(op, 2, one, zero, one, one, layout);
  const Shape shape = parse_shape(op, "x_shape", x_shape);
  require_sizes(op, "x_shape", shape, 2, s.image_text());
  const std::int64_t c = at(shape, s.axes.c), h = at(shape, s.axes.h), w = at(shape, s.axes.w);
  if (h < 2 || w < 2) {
    fail(op, "x_shape must hold a window of 2x2 pixels, got shape " + shape_text(shape));
  }
  const Shape pooled = image_shape(s, shape[0], c, 1, h / 2, w / 2);
  require_shape(op, "dy", dy, pooled);
  checked_image(op, shape, dy.dtype);
  const Array taps = input(op, "indices", indices, dtypes(DType::u8));
  require_shape(op, "indices", taps, pooled);
  const Array taps_dense = with_dense_channels(s, taps);
  Output out(op, out_object, dy.dtype, shape, image_strides(s, c, 1, h, w));
  no_overlap(op, out, "dy", dy);
  no_overlap(op, out, "indices", taps);

  const ConvImage from = image_of(dy, s.axes);
  const ConvImage which = image_of(taps_dense, s.axes), to = image_of(out.array, s.axes);
  ConvPoolBackwardArgs args{};
  args.dtype = dy.dtype;
  args.dy = from.data, args.dx = to.data;
  args.taps = static_cast<const std::uint8_t*>(which.data);
  args.h = h / 2, args.w = w / 2, args.c = c, args.dx_h = h, args.dx_w = w;
  args.dy_stride_n = from.stride_n, args.dy_stride_h = from.stride_h;
  args.dy_stride_w = from.stride_w, args.dy_stride_c = c == 1 ? 1 : from.stride_c;
  args.tap_stride_n = which.stride_n, args.tap_stride_h = which.stride_h;
  args.tap_stride_w = which.stride_w;
  args.dx_stride_n = to.stride_n, args.dx_stride_h = to.stride_h, args.dx_stride_w = to.stride_w;
  // About 16 bytes in and out per pixel of dx and channel; 10 microseconds are some 64 KB.
  const std::int64_t unit_elements = std::max<std::int64_t>(2 * w * c, 1);
  Split split{.units = shape[0] * ((h + 1) / 2),
              .grain = std::max<std::int64_t>(1, 32768 / unit_elements),
              .interruptible = out.is_fresh};
  const std::int64_t row_bytes =
      args.dy_stride_c == 1 ? 0 : (args.w * c * item_size(dy.dtype) + 255) / 256 * 256;
  const int threads = is_parallel(split) ? num_threads() : 1;
  const Scratch rows(static_cast<std::size_t>(row_bytes * threads));
  args.scratch = {rows.as<char>(), row_bytes, thread_index};
  split.max_threads = threads;
  run(conv_pool_backward_kernel(), args, split);
  return out.finish();
}

}  // namespace

void bind_conv_pool(py::module_& module) {
  module.def("conv2d_relu_max_pool2d", pooled_forward);
  module.def("relu_max_pool2d_backward", pooled_backward);
}

}  // namespace hotloop
