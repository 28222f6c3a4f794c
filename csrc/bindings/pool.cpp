// Pooling: infers the output's size, checks, allocates channels-last results.
#include "kernels/pool.h"

#include "bindings/array.h"
#include "bindings/params.h"

namespace hotloop {

namespace {

constexpr std::int64_t kGrainTaps = 65536;  // elements read in about 10 microseconds

// Where n, h, w, c are among the caller's axes.
struct ImageAxes {
  std::size_t n, h, w, c;
};
ImageAxes axes_of(Layout layout) {
  return layout == Layout::nchw ? ImageAxes{0, 2, 3, 1} : ImageAxes{0, 1, 2, 3};
}

struct Problem {
  const char* op;
  ImageAxes axes;
  Shape x_shape, y_shape;  // as the caller names the axes
  PoolArgs args{};
};

std::int64_t out_size(const char* op, const char* axis, std::int64_t size, std::int64_t kernel,
                      std::int64_t stride, std::int64_t padding) {
  if (2 * padding > kernel) {
    throw ShapeError(std::string(op) + ": padding must be at most half the kernel, got padding " +
                     std::to_string(padding) + " for kernel " + std::to_string(kernel) + " along " +
                     axis + "; a window must touch the image");
  }
  const std::int64_t padded = size + 2 * padding;
  if (padded < kernel) {
    throw ShapeError(std::string(op) + ": the kernel must fit the padded image, got kernel " +
                     std::to_string(kernel) + " for size " + std::to_string(size) +
                     " with padding " + std::to_string(padding) + " along " + axis +
                     "; use a smaller kernel");
  }
  return (padded - kernel) / stride + 1;
}

Problem make_problem(const char* op, const char* name, const Shape& x_shape, py::handle kernel_size,
                     py::handle stride, py::handle padding, py::handle layout_object) {
  Problem problem{op, {}, x_shape, {}, {}};
  const Layout layout = parse_layout(op, layout_object);
  problem.axes = axes_of(layout);
  const char* axis_names = layout == Layout::nchw ? "(n, c, h, w)" : "(n, h, w, c)";
  if (x_shape.size() != 4) {
    throw ShapeError(std::string(op) + ": " + name + " must have 4 axes " + axis_names + ", got " +
                     std::to_string(x_shape.size()) + " (shape " + shape_text(x_shape) + ")");
  }
  for (const std::int64_t size : x_shape) {
    if (size == 0) {
      throw ShapeError(std::string(op) + ": " + name + " " + axis_names +
                       " must not be empty, got shape " + shape_text(x_shape) +
                       "; leave empty batches out");
    }
  }
  checked_product(op, x_shape.data(), 4, 8);
  const Pair kernel = parse_pair(op, "kernel_size", kernel_size, 1);
  const Pair step = given(stride) ? parse_pair(op, "stride", stride, 1) : kernel;
  const Pair pad = parse_pair(op, "padding", padding, 0);
  PoolArgs& args = problem.args;
  args.n = x_shape[problem.axes.n];
  args.c = x_shape[problem.axes.c];
  args.h = x_shape[problem.axes.h];
  args.w = x_shape[problem.axes.w];
  args.kernel_h = kernel.h;
  args.kernel_w = kernel.w;
  args.stride_h = step.h;
  args.stride_w = step.w;
  args.padding_h = pad.h;
  args.padding_w = pad.w;
  if (kernel.h * kernel.w > (std::int64_t{1} << 31) - 1) {
    throw ShapeError(std::string(op) + ": kernel_size must have less than 2**31 taps, got (" +
                     std::to_string(kernel.h) + ", " + std::to_string(kernel.w) + ")");
  }
  const std::int64_t taps = kernel.h * kernel.w;
  args.tap_bytes = taps <= 256 ? 1 : taps <= 65536 ? 2 : 4;
  args.out_h = out_size(op, "h", args.h, kernel.h, step.h, pad.h);
  args.out_w = out_size(op, "w", args.w, kernel.w, step.w, pad.w);
  problem.y_shape = x_shape;
  problem.y_shape[problem.axes.h] = args.out_h;
  problem.y_shape[problem.axes.w] = args.out_w;
  return problem;
}

// Dense, channels last in memory, in the caller's order of the axes.
Shape channels_last(const ImageAxes& axes, const Shape& shape) {
  Shape strides(4);
  strides[axes.c] = 1;
  strides[axes.w] = shape[axes.c];
  strides[axes.h] = shape[axes.w] * strides[axes.w];
  strides[axes.n] = shape[axes.h] * strides[axes.h];
  return strides;
}

PoolImage strides_of(const Problem& problem, const Array& array) {
  const ImageAxes& axes = problem.axes;
  // One channel lies wherever; then the dense loops serve.
  const std::int64_t c = array.shapes[axes.c] == 1 ? 1 : array.strides[axes.c];
  return {array.strides[axes.n], array.strides[axes.h], array.strides[axes.w], c};
}

py::dtype tap_dtype(const PoolArgs& args) {
  if (args.tap_bytes == 1) return py::dtype::of<std::uint8_t>();
  if (args.tap_bytes == 2) return py::dtype::of<std::uint16_t>();
  return py::dtype::of<std::int32_t>();
}

// Shape and strides of an array of taps; strides in elements.
Array tap_array(py::array owner) {
  Array array;
  const std::int64_t item = owner.itemsize();
  array.data = const_cast<void*>(owner.data());
  array.ndim = static_cast<int>(owner.ndim());
  array.size = owner.size();
  for (py::ssize_t d = 0; d < owner.ndim(); ++d) {
    array.shapes[static_cast<std::size_t>(d)] = owner.shape(d);
    array.strides[static_cast<std::size_t>(d)] = owner.shape(d) == 1 ? 0 : owner.strides(d) / item;
  }
  array.owner = std::move(owner);
  return array;
}

Split split_of(const PoolArgs& args, bool backward, bool fresh) {
  const std::int64_t rows = args.n * (backward ? args.h : args.out_h);
  const std::int64_t covered =
      backward ? args.w * ((args.kernel_h + args.stride_h - 1) / args.stride_h) *
                     ((args.kernel_w + args.stride_w - 1) / args.stride_w)
               : args.out_w * args.kernel_h * args.kernel_w;
  const std::int64_t per_row = covered * args.c;
  return {.units = rows,
          .grain = per_row >= kGrainTaps ? 1 : kGrainTaps / per_row,
          .interruptible = fresh};
}

py::object max_pool2d(py::handle x_object, py::handle kernel_size, py::handle stride,
                      py::handle padding, py::handle layout, bool return_indices,
                      py::handle out_object) {
  const char* op = "max_pool2d";
  const Array x = input(op, "x", x_object);
  Problem problem = make_problem(op, "x", x.shape_vector(), kernel_size, stride, padding, layout);
  const Shape strides = channels_last(problem.axes, problem.y_shape);
  Output out(op, out_object, x.dtype, problem.y_shape, strides);
  no_overlap(op, out, "x", x);
  PoolArgs& args = problem.args;
  args.dtype = x.dtype;
  args.source = x.data;
  args.source_strides = strides_of(problem, x);
  args.result = out.data;
  args.result_strides = strides_of(problem, out.array);
  py::object indices = py::none();
  if (return_indices) {
    const Array taps = tap_array(new_array(op, tap_dtype(args), problem.y_shape, strides));
    args.taps = taps.data;
    args.tap_strides = strides_of(problem, taps);
    indices = taps.owner;
  }
  run(max_pool_kernel(), args, split_of(args, false, out.is_fresh));
  if (!return_indices) return out.finish();
  return py::make_tuple(out.finish(), indices);
}

py::object max_pool2d_backward(py::handle dy_object, py::handle indices, py::handle x_shape,
                               py::handle kernel_size, py::handle stride, py::handle padding,
                               py::handle layout, py::handle out_object) {
  const char* op = "max_pool2d_backward";
  const Array dy = input(op, "dy", dy_object);
  Problem problem = make_problem(op, "x_shape", parse_shape(op, "x_shape", x_shape), kernel_size,
                                 stride, padding, layout);
  PoolArgs& args = problem.args;
  require_shape(op, "dy", dy, problem.y_shape);
  if (!py::isinstance<py::array>(indices) ||
      !py::reinterpret_borrow<py::array>(indices).dtype().equal(tap_dtype(args))) {
    const std::string got =
        py::isinstance<py::array>(indices)
            ? py::str(py::reinterpret_borrow<py::array>(indices).dtype()).cast<std::string>()
            : type_text(indices);
    throw DTypeError(std::string(op) + ": indices must be the " +
                     py::str(tap_dtype(args)).cast<std::string>() + " taps of max_pool2d(..., " +
                     "return_indices=True) with the same kernel_size, got " + got);
  }
  Array taps = tap_array(py::reinterpret_borrow<py::array>(indices));
  require_shape(op, "indices", taps, problem.y_shape);
  const Array given_taps = taps;
  if (strides_of(problem, taps).c != 1) {
    // Channels last, then back under the caller's names of the axes.
    py::object moved = py::module_::import("numpy").attr("moveaxis")(taps.owner, problem.axes.c, 3);
    moved = moved.attr("copy")("C");
    moved = py::module_::import("numpy").attr("moveaxis")(moved, 3, problem.axes.c);
    taps = tap_array(moved.cast<py::array>());
  }
  Output out(op, out_object, dy.dtype, problem.x_shape,
             channels_last(problem.axes, problem.x_shape));
  no_overlap(op, out, "dy", dy);
  no_overlap(op, out, "indices", given_taps);
  args.dtype = dy.dtype;
  args.source = dy.data;
  args.source_strides = strides_of(problem, dy);
  args.result = out.data;
  args.result_strides = strides_of(problem, out.array);
  args.taps = taps.data;
  args.tap_strides = strides_of(problem, taps);
  run(max_pool_backward_kernel(), args, split_of(args, true, out.is_fresh));
  return out.finish();
}

py::object avg_pool2d(py::handle x_object, py::handle kernel_size, py::handle stride,
                      py::handle padding, bool count_include_pad, py::handle layout,
                      py::handle out_object) {
  const char* op = "avg_pool2d";
  const Array x = input(op, "x", x_object);
  Problem problem = make_problem(op, "x", x.shape_vector(), kernel_size, stride, padding, layout);
  Output out(op, out_object, x.dtype, problem.y_shape,
             channels_last(problem.axes, problem.y_shape));
  no_overlap(op, out, "x", x);
  PoolArgs& args = problem.args;
  args.dtype = x.dtype;
  args.count_include_pad = count_include_pad;
  args.source = x.data;
  args.source_strides = strides_of(problem, x);
  args.result = out.data;
  args.result_strides = strides_of(problem, out.array);
  run(avg_pool_kernel(), args, split_of(args, false, out.is_fresh));
  return out.finish();
}

py::object avg_pool2d_backward(py::handle dy_object, py::handle x_shape, py::handle kernel_size,
                               py::handle stride, py::handle padding, bool count_include_pad,
                               py::handle layout, py::handle out_object) {
  const char* op = "avg_pool2d_backward";
  const Array dy = input(op, "dy", dy_object);
  Problem problem = make_problem(op, "x_shape", parse_shape(op, "x_shape", x_shape), kernel_size,
                                 stride, padding, layout);
  PoolArgs& args = problem.args;
  require_shape(op, "dy", dy, problem.y_shape);
  Output out(op, out_object, dy.dtype, problem.x_shape,
             channels_last(problem.axes, problem.x_shape));
  no_overlap(op, out, "dy", dy);
  args.dtype = dy.dtype;
  args.count_include_pad = count_include_pad;
  args.source = dy.data;
  args.source_strides = strides_of(problem, dy);
  args.result = out.data;
  args.result_strides = strides_of(problem, out.array);
  run(avg_pool_backward_kernel(), args, split_of(args, true, out.is_fresh));
  return out.finish();
}

}  // namespace

void bind_pool(py::module_& module) {
  module.def("max_pool2d", max_pool2d);
  module.def("max_pool2d_backward", max_pool2d_backward);
  module.def("avg_pool2d", avg_pool2d);
  module.def("avg_pool2d_backward", avg_pool2d_backward);
}

}  // namespace hotloop
