// Pooling: infers the output's size, checks, allocates channels-last results.
#include "kernels/pool.h"

#include <algorithm>
#include <vector>

#include "bindings/array.h"
#include "bindings/device.h"
#include "bindings/params.h"
#include "core/threads.h"

namespace hotloop {

namespace {

constexpr double kGrainTaps = 65536;  // elements read in about 10 microseconds

// Where n, h, w, c are among the caller's axes.
struct ImageAxes {
  std::size_t n, h, w, c;
};
ImageAxes axes_of(Layout layout) {
  return layout == Layout::nchw ? ImageAxes{0, 2, 3, 1} : ImageAxes{0, 1, 2, 3};
}

// The tables of one axis (kernels/pool.h), in one piece of memory.
struct AxisTables {
  std::vector<std::int64_t> values;
  PoolAxis axis{};

  AxisTables() = default;
  AxisTables(std::int64_t size, std::int64_t out, std::int64_t kernel, std::int64_t dilation)
      : values(static_cast<std::size_t>(4 * out + 2 * size)) {
    std::int64_t* at = values.data();
    axis.size = size, axis.out = out, axis.kernel = kernel, axis.dilation = dilation;
    axis.start = at, axis.first_tap = at + out, axis.last_tap = at + 2 * out;
    axis.count = at + 3 * out;
    axis.first_window = at + 4 * out, axis.last_window = at + 4 * out + size;
  }
  std::int64_t* table(const std::int64_t* of) { return values.data() + (of - values.data()); }

  // Window o begins at start and has `taps` taps, some of them perhaps outside.
  void set(std::int64_t o, std::int64_t start, std::int64_t taps, std::int64_t count) {
    const std::int64_t step = axis.dilation;
    const std::int64_t first = start < 0 ? (-start + step - 1) / step : 0;
    const std::int64_t inside =
        start < axis.size ? (axis.size - start + step - 1) / step : std::int64_t{0};
    table(axis.start)[o] = start;
    table(axis.first_tap)[o] = std::min(first, taps);
    table(axis.last_tap)[o] = std::min(inside, taps);
    table(axis.count)[o] = count;
  }
  // For backward passes, when all windows are set; their first and last taps never fall. `taps(o)`
  // is the number of taps of window o.
  template <class Taps>
  void find_windows(Taps taps) {
    std::int64_t first = 0, last = 0;
    for (std::int64_t i = 0; i < axis.size; ++i) {
      while (first < axis.out && axis.start[first] + (taps(first) - 1) * axis.dilation < i) ++first;
      while (last < axis.out && axis.start[last] <= i) ++last;
      table(axis.first_window)[i] = first;
      table(axis.last_window)[i] = std::max(first, last);
    }
  }
};

struct Problem {
  const char* op;
  ImageAxes axes;
  Shape x_shape, y_shape;  // as the caller names the axes
  AxisTables h, w;
  PoolArgs args{};
};

// The window along one axis, as the caller asks for it.
struct Window {
  std::int64_t kernel, stride, padding, dilation;
  bool ceil_mode;
};

std::int64_t out_size(const char* op, const char* axis, std::int64_t size, const Window& window) {
  const std::int64_t kernel = window.dilation * (window.kernel - 1) + 1;
  const std::int64_t padding = window.padding;
  if (2 * padding > kernel) {
    throw ShapeError(std::string(op) + ": padding must be at most half the kernel, got padding " +
                     std::to_string(padding) + " for kernel " + std::to_string(kernel) + " along " +
                     axis + "; a window must touch the image");
  }
  const std::int64_t padded = size + 2 * padding;
  if (padded < kernel && !(window.ceil_mode && padded + window.stride > kernel)) {
    throw ShapeError(std::string(op) + ": the kernel must fit the padded image, got kernel " +
                     std::to_string(kernel) + " for size " + std::to_string(size) +
                     " with padding " + std::to_string(padding) + " along " + axis +
                     "; use a smaller kernel");
  }
  if (padded < kernel) return 1;
  if (!window.ceil_mode) return (padded - kernel) / window.stride + 1;
  const std::int64_t out = (padded - kernel + window.stride - 1) / window.stride + 1;
  // The last window must begin inside the image or its padding on the left.
  return (out - 1) * window.stride >= size + padding ? out - 1 : out;
}

AxisTables window_tables(const char* op, const char* name, std::int64_t size, const Window& window,
                         bool count_include_pad, bool backward) {
  AxisTables tables(size, out_size(op, name, size, window), window.kernel, window.dilation);
  tables.axis.stride = window.stride, tables.axis.padding = window.padding;
  tables.axis.count_padding = count_include_pad;
  for (std::int64_t o = 0; o < tables.axis.out; ++o) {
    const std::int64_t start = o * window.stride - window.padding;
    // Zeros of the padding count, what a window has beyond them does not.
    std::int64_t count = std::min(start + window.kernel, size + window.padding) - start;
    tables.set(o, start, window.kernel, count);
    if (!count_include_pad) {
      count = std::max<std::int64_t>(tables.axis.last_tap[o] - tables.axis.first_tap[o], 1);
      tables.table(tables.axis.count)[o] = count;
    }
  }
  if (backward) tables.find_windows([&](std::int64_t) { return window.kernel; });
  return tables;
}

// Window o covers the pixels [floor(o * size / out), ceil((o + 1) * size / out)).
AxisTables adaptive_tables(std::int64_t size, std::int64_t out, bool backward) {
  const auto start = [&](std::int64_t o) { return o / out * size + o % out * size / out; };
  const auto taps = [&](std::int64_t o) { return ((o + 1) * size + out - 1) / out - start(o); };
  std::int64_t most = 1;
  for (std::int64_t o = 0; o < out; ++o) most = std::max(most, taps(o));
  AxisTables tables(size, out, most, 1);
  for (std::int64_t o = 0; o < out; ++o) tables.set(o, start(o), taps(o), taps(o));
  if (backward) tables.find_windows(taps);
  return tables;
}

bool is_uniform(const PoolAxis& axis) {
  for (std::int64_t o = 1; o < axis.out; ++o) {
    if (axis.count[o] != axis.count[0]) return false;
  }
  return true;
}

Problem begin_problem(const char* op, const char* name, const Shape& x_shape,
                      py::handle layout_object) {
  Problem problem{op, {}, x_shape, {}, {}, {}, {}};
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
  problem.args.n = x_shape[problem.axes.n];
  problem.args.c = x_shape[problem.axes.c];
  return problem;
}

// Takes the tables into the arguments.
void finish_problem(Problem& problem) {
  PoolArgs& args = problem.args;
  args.h = problem.h.axis;
  args.w = problem.w.axis;
  args.one_count = is_uniform(args.h) && is_uniform(args.w);
  const std::int64_t most = (std::int64_t{1} << 31) - 1;
  if (args.h.kernel > most / args.w.kernel) {
    throw ShapeError(std::string(problem.op) + ": kernel_size must have less than 2**31 taps, got" +
                     " (" + std::to_string(args.h.kernel) + ", " + std::to_string(args.w.kernel) +
                     ")");
  }
  const std::int64_t taps = args.h.kernel * args.w.kernel;
  args.tap_bytes = taps <= 256 ? 1 : taps <= 65536 ? 2 : 4;
  problem.y_shape = problem.x_shape;
  problem.y_shape[problem.axes.h] = args.h.out;
  problem.y_shape[problem.axes.w] = args.w.out;
}

// What the caller says of the windows.
struct Windows {
  py::handle kernel_size, stride, padding;
  py::handle dilation = py::handle();
  bool ceil_mode = false, count_include_pad = true;
};

Problem make_problem(const char* op, const char* name, const Shape& x_shape, const Windows& how,
                     py::handle layout, bool backward) {
  Problem problem = begin_problem(op, name, x_shape, layout);
  const Pair kernel = parse_pair(op, "kernel_size", how.kernel_size, 1);
  const Pair step = given(how.stride) ? parse_pair(op, "stride", how.stride, 1) : kernel;
  const Pair pad = parse_pair(op, "padding", how.padding, 0);
  const Pair apart = how.dilation ? parse_pair(op, "dilation", how.dilation, 1) : Pair{1, 1};
  const Window h{kernel.h, step.h, pad.h, apart.h, how.ceil_mode};
  const Window w{kernel.w, step.w, pad.w, apart.w, how.ceil_mode};
  const bool include = how.count_include_pad;
  problem.h = window_tables(op, "h", x_shape[problem.axes.h], h, include, backward);
  problem.w = window_tables(op, "w", x_shape[problem.axes.w], w, include, backward);
  finish_problem(problem);
  return problem;
}

Problem make_adaptive(const char* op, const char* name, const Shape& x_shape, py::handle output,
                      py::handle layout, bool backward) {
  Problem problem = begin_problem(op, name, x_shape, layout);
  const Pair size = parse_pair(op, "output_size", output, 1);
  const std::int64_t out_sizes[] = {size.h, size.w, problem.args.n, problem.args.c};
  checked_product(op, out_sizes, 4, 64);
  problem.h = adaptive_tables(x_shape[problem.axes.h], size.h, backward);
  problem.w = adaptive_tables(x_shape[problem.axes.w], size.w, backward);
  finish_problem(problem);
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
Array tap_array(py::object object) {
  Array array;
  if (const DeviceArray* const from = as_device_array(object)) {
    array.data = from->data;
    array.device = from->device;
    array.ndim = static_cast<int>(from->shape.size());
    array.size = from->size();
    for (std::size_t d = 0; d < from->shape.size(); ++d) {
      array.shapes[d] = from->shape[d];
      array.strides[d] = from->shape[d] == 1 ? 0 : from->strides[d] / from->item();
    }
    array.owner = std::move(object);
    return array;
  }
  py::array owner = py::reinterpret_borrow<py::array>(object);
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

constexpr std::int64_t kBorderBytes = 256 << 10;

// Splits the rows of the result over the threads and starts the kernel.
void run_pool(const char* name, Kernel<PoolArgs> kernel, PoolArgs args, bool backward, bool fresh) {
  const PoolAxis &h = args.h, &w = args.w;
  const std::int64_t rows = backward ? h.size : h.out;
  // Elements read for a row: as many as its windows have taps.
  const double taps = static_cast<double>(h.kernel) * static_cast<double>(w.kernel);
  const double pixels = taps * static_cast<double>(w.out) * static_cast<double>(h.out) /
                            static_cast<double>(std::max(h.size, h.out)) +
                        static_cast<double>(std::max(w.size, w.out));
  const double per_row = pixels * static_cast<double>(args.c);
  Split split{.units = args.n * rows,
              .grain = std::max<std::int64_t>(1, static_cast<std::int64_t>(kGrainTaps / per_row)),
              .interruptible = fresh};
  const Call* const call = Call::current();
  if (call && call->on_gpu()) return call->run(name, kernel, args, split);
  if (args.source_strides.c == 1) {
    run(kernel, args, split);
    return;
  }
  // As many rows as fit the border, as long as every thread gets some.
  const std::int64_t row_bytes = (backward ? w.out : w.size) * kPoolChannelBytes;
  const std::int64_t reach = (h.kernel - 1) * h.dilation + 1;
  std::int64_t step = 1, needed = 0;
  for (std::int64_t band = 1; band <= rows; band *= 2) {
    std::int64_t largest = 0;
    for (std::int64_t first = 0; first < rows; ++first) {
      const std::int64_t last = std::min(first + band, rows) - 1;
      const std::int64_t read = backward ? h.last_window[last] - h.first_window[first]
                                         : std::min(h.start[last] - h.start[first] + reach, h.size);
      largest = std::max(largest, read);
    }
    if (band > 1 && largest * row_bytes > kBorderBytes) break;
    step = band, needed = largest;
  }
  args.band = step;
  const bool parallel = is_parallel(split);
  const int threads = parallel ? num_threads() : 1;
  const std::int64_t sizes[] = {std::max<std::int64_t>(needed, 1), row_bytes};
  args.border_stride = checked_product("pool", sizes, 2, 2 * threads) + kPoolChannelBytes;
  const Scratch border(static_cast<std::size_t>(args.border_stride * threads));
  args.border = border.as<char>();
  args.thread = thread_index;
  split.max_threads = threads;
  split.grain = std::max(split.grain, std::min(step, split.units));
  run(kernel, args, split);
}

// Arrays into the arguments.
void set_arrays(Problem& problem, const Array& source, const Output& out) {
  PoolArgs& args = problem.args;
  args.dtype = source.dtype;
  args.source = source.data;
  args.source_strides = strides_of(problem, source);
  args.result = out.data;
  args.result_strides = strides_of(problem, out.array);
}

py::object max_forward(Problem& problem, const Array& x, bool return_indices,
                       py::handle out_object) {
  const Shape strides = channels_last(problem.axes, problem.y_shape);
  Output out(problem.op, out_object, x.dtype, problem.y_shape, strides);
  no_overlap(problem.op, out, "x", x);
  set_arrays(problem, x, out);
  PoolArgs& args = problem.args;
  py::object indices = py::none();
  if (return_indices) {
    const Array taps =
        tap_array(fresh_array(problem.op, tap_dtype(args), problem.y_shape, strides));
    args.taps = taps.data;
    args.tap_strides = strides_of(problem, taps);
    indices = taps.owner;
  }
  run_pool("max_pool", max_pool_kernel(), args, false, out.is_fresh);
  if (!return_indices) return out.finish();
  return py::make_tuple(out.finish(), indices);
}

py::object max_backward(Problem& problem, const Array& dy, py::handle indices,
                        py::handle out_object) {
  const char* op = problem.op;
  PoolArgs& args = problem.args;
  require_shape(op, "dy", dy, problem.y_shape);
  const DeviceArray* const on_gpu = as_device_array(indices);
  const bool is_array = on_gpu || py::isinstance<py::array>(indices);
  const py::dtype dtype = on_gpu     ? on_gpu->dtype
                          : is_array ? py::reinterpret_borrow<py::array>(indices).dtype()
                                     : py::dtype();
  if (!is_array || !dtype.equal(tap_dtype(args))) {
    const std::string got = is_array ? py::str(dtype).cast<std::string>() : type_text(indices);
    throw DTypeError(
        std::string(op) + ": indices must be the " + py::str(tap_dtype(args)).cast<std::string>() +
        " taps of the forward call with return_indices=True and the same windows, " + "got " + got);
  }
  Call::current()->meet("indices", on_gpu ? on_gpu->device : kCpu);
  Array taps = tap_array(py::reinterpret_borrow<py::object>(indices));
  require_shape(op, "indices", taps, problem.y_shape);
  const Array given_taps = taps;
  if (strides_of(problem, taps).c != 1 && on_gpu) {
    const py::object moved = fresh_array(op, tap_dtype(args), problem.y_shape,
                                         channels_last(problem.axes, problem.y_shape));
    copy_on_device(op, *as_device_array(moved), *on_gpu);
    taps = tap_array(moved);
  } else if (strides_of(problem, taps).c != 1) {
    // Channels last, then back under the caller's names of the axes.
    py::object moved = py::module_::import("numpy").attr("moveaxis")(taps.owner, problem.axes.c, 3);
    moved = moved.attr("copy")("C");
    moved = py::module_::import("numpy").attr("moveaxis")(moved, 3, problem.axes.c);
    taps = tap_array(moved);
  }
  Output out(op, out_object, dy.dtype, problem.x_shape,
             channels_last(problem.axes, problem.x_shape));
  no_overlap(op, out, "dy", dy);
  no_overlap(op, out, "indices", given_taps);
  set_arrays(problem, dy, out);
  args.taps = taps.data;
  args.tap_strides = strides_of(problem, taps);
  run_pool("max_pool_backward", max_pool_backward_kernel(), args, true, out.is_fresh);
  return out.finish();
}

py::object avg_forward(Problem& problem, const Array& x, py::handle out_object) {
  Output out(problem.op, out_object, x.dtype, problem.y_shape,
             channels_last(problem.axes, problem.y_shape));
  no_overlap(problem.op, out, "x", x);
  set_arrays(problem, x, out);
  run_pool("avg_pool", avg_pool_kernel(), problem.args, false, out.is_fresh);
  return out.finish();
}

py::object avg_backward(Problem& problem, const Array& dy, py::handle out_object) {
  require_shape(problem.op, "dy", dy, problem.y_shape);
  Output out(problem.op, out_object, dy.dtype, problem.x_shape,
             channels_last(problem.axes, problem.x_shape));
  no_overlap(problem.op, out, "dy", dy);
  set_arrays(problem, dy, out);
  run_pool("avg_pool_backward", avg_pool_backward_kernel(), problem.args, true, out.is_fresh);
  return out.finish();
}

py::object max_pool2d(py::handle x_object, py::handle kernel_size, py::handle stride,
                      py::handle padding, py::handle dilation, bool ceil_mode, py::handle layout,
                      bool return_indices, py::handle out) {
  const char* op = "max_pool2d";
  const Call call(op);
  const Array x = input(op, "x", x_object);
  Problem problem =
      make_problem(op, "x", x.shape_vector(), {kernel_size, stride, padding, dilation, ceil_mode},
                   layout, false);
  return max_forward(problem, x, return_indices, out);
}

py::object max_pool2d_backward(py::handle dy_object, py::handle indices, py::handle x_shape,
                               py::handle kernel_size, py::handle stride, py::handle padding,
                               py::handle dilation, bool ceil_mode, py::handle layout,
                               py::handle out) {
  const char* op = "max_pool2d_backward";
  const Call call(op);
  const Array dy = input(op, "dy", dy_object);
  Problem problem = make_problem(op, "x_shape", parse_shape(op, "x_shape", x_shape),
                                 {kernel_size, stride, padding, dilation, ceil_mode}, layout, true);
  return max_backward(problem, dy, indices, out);
}

py::object avg_pool2d(py::handle x_object, py::handle kernel_size, py::handle stride,
                      py::handle padding, bool ceil_mode, bool count_include_pad, py::handle layout,
                      py::handle out) {
  const char* op = "avg_pool2d";
  const Call call(op);
  const Array x = input(op, "x", x_object);
  Problem problem =
      make_problem(op, "x", x.shape_vector(),
                   {kernel_size, stride, padding, {}, ceil_mode, count_include_pad}, layout, false);
  return avg_forward(problem, x, out);
}

py::object avg_pool2d_backward(py::handle dy_object, py::handle x_shape, py::handle kernel_size,
                               py::handle stride, py::handle padding, bool ceil_mode,
                               bool count_include_pad, py::handle layout, py::handle out) {
  const char* op = "avg_pool2d_backward";
  const Call call(op);
  const Array dy = input(op, "dy", dy_object);
  Problem problem =
      make_problem(op, "x_shape", parse_shape(op, "x_shape", x_shape),
                   {kernel_size, stride, padding, {}, ceil_mode, count_include_pad}, layout, true);
  return avg_backward(problem, dy, out);
}

py::object adaptive_max_pool2d(py::handle x_object, py::handle output_size, py::handle layout,
                               bool return_indices, py::handle out) {
  const char* op = "adaptive_max_pool2d";
  const Call call(op);
  const Array x = input(op, "x", x_object);
  Problem problem = make_adaptive(op, "x", x.shape_vector(), output_size, layout, false);
  return max_forward(problem, x, return_indices, out);
}

py::object adaptive_max_pool2d_backward(py::handle dy_object, py::handle indices,
                                        py::handle x_shape, py::handle output_size,
                                        py::handle layout, py::handle out) {
  const char* op = "adaptive_max_pool2d_backward";
  const Call call(op);
  const Array dy = input(op, "dy", dy_object);
  Problem problem =
      make_adaptive(op, "x_shape", parse_shape(op, "x_shape", x_shape), output_size, layout, true);
  return max_backward(problem, dy, indices, out);
}

py::object adaptive_avg_pool2d(py::handle x_object, py::handle output_size, py::handle layout,
                               py::handle out) {
  const char* op = "adaptive_avg_pool2d";
  const Call call(op);
  const Array x = input(op, "x", x_object);
  Problem problem = make_adaptive(op, "x", x.shape_vector(), output_size, layout, false);
  return avg_forward(problem, x, out);
}

py::object adaptive_avg_pool2d_backward(py::handle dy_object, py::handle x_shape,
                                        py::handle output_size, py::handle layout, py::handle out) {
  const char* op = "adaptive_avg_pool2d_backward";
  const Call call(op);
  const Array dy = input(op, "dy", dy_object);
  Problem problem =
      make_adaptive(op, "x_shape", parse_shape(op, "x_shape", x_shape), output_size, layout, true);
  return avg_backward(problem, dy, out);
}

}  // namespace

void bind_pool(py::module_& module) {
  module.def("max_pool2d", max_pool2d);
  module.def("max_pool2d_backward", max_pool2d_backward);
  module.def("avg_pool2d", avg_pool2d);
  module.def("avg_pool2d_backward", avg_pool2d_backward);
  module.def("adaptive_max_pool2d", adaptive_max_pool2d);
  module.def("adaptive_max_pool2d_backward", adaptive_max_pool2d_backward);
  module.def("adaptive_avg_pool2d", adaptive_avg_pool2d);
  module.def("adaptive_avg_pool2d_backward", adaptive_avg_pool2d_backward);
}

}  // namespace hotloop
