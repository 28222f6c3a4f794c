// The driver of convolutions: turns strides, padding, dilation and layout into tables of offsets,
// cuts the work into slabs, packs weights and launches.
#include "kernels/conv.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/arena.h"
#include "core/errors.h"
#include "core/launch.h"
#include "core/threads.h"

namespace hotloop {
namespace {

using Table = std::vector<std::int64_t>;

std::int64_t up(std::int64_t value, std::int64_t divisor) {
  return (value + divisor - 1) / divisor;
}
std::int64_t floor_mod(std::int64_t value, std::int64_t divisor) {
  const std::int64_t rest = value % divisor;
  return rest < 0 ? rest + divisor : rest;
}

// One axis of one pass: output position t reads source positions step * t + first + shift of each
// tap.
struct AxisPlan {
  Table tap;    // index in the weights
  Table shift;  // >= 0
  std::int64_t step = 1, first = 0, span = 1, count = 0;
  std::int64_t out_first = 0, out_step = 1;  // where position t is written
};

AxisPlan forward_axis(std::int64_t taps, std::int64_t stride, std::int64_t padding,
                      std::int64_t dilation, std::int64_t count) {
  AxisPlan axis;
  for (std::int64_t tap = 0; tap < taps; ++tap) {
    axis.tap.push_back(tap);
    axis.shift.push_back(tap * dilation);
  }
  axis.step = stride;
  axis.first = -padding;
  axis.span = (taps - 1) * dilation + 1;
  axis.count = count;
  return axis;
}

// Backward to the input: position i = stride * t + phase - padding took part in output position
// t + (phase - tap * dilation) / stride for those taps where this is whole.
AxisPlan backward_axis(std::int64_t taps, std::int64_t stride, std::int64_t padding,
                       std::int64_t dilation, std::int64_t size, std::int64_t phase) {
  AxisPlan axis;
  std::int64_t least = 0, most = 0;
  for (std::int64_t tap = taps - 1; tap >= 0; --tap) {
    const std::int64_t distance = phase - tap * dilation;
    if (floor_mod(distance, stride) != 0) continue;
    const std::int64_t shift = distance / stride;
    if (axis.tap.empty()) least = most = shift;
    least = std::min(least, shift);
    most = std::max(most, shift);
    axis.tap.push_back(tap);
    axis.shift.push_back(shift);
  }
  for (std::int64_t& shift : axis.shift) shift -= least;
  const std::int64_t start = padding > phase ? up(padding - phase, stride) : 0;
  axis.out_first = stride * start + phase - padding;
  axis.out_step = stride;
  axis.count = axis.out_first < size ? up(size - axis.out_first, stride) : 0;
  axis.first = start + least;
  axis.span = most - least + 1;
  return axis;
}

struct Source {
  const void* data;
  std::int64_t n, channels, h, w;
  std::int64_t stride_n, stride_c, stride_h, stride_w;
};

ConvColumns columns_of(DType dtype, std::int64_t columns, bool one_panel) {
  const std::int64_t blocks = up(columns, kBlockBytes / (dtype == DType::f32 ? 4 : 8));
  return {columns, blocks, one_panel ? 1 : up(blocks, kPanelBlocks)};
}
std::int64_t bytes_of(DType dtype) {
  return dtype == DType::f32 ? 4 : 8;
}

// Pixels whose operands (source and result) share L2, rows of them when an image is larger; several
// images when it is smaller. Enough slabs for every thread when there is enough work. Shapes alone
// decide.
struct SlabPlan {
  ConvSlab slab;
  Table pixel;
};

constexpr std::int64_t kSlabBytes = 192 << 10;
constexpr std::int64_t kSlabPixels = 1024;
constexpr std::int64_t kSlabsWanted = 8;
constexpr double kWorkWorthSplitting = 2e6;  // products and sums
constexpr double kWorkOfAGrain = 1e6;

SlabPlan plan_slabs(DType dtype, const Source& source, const AxisPlan& rows, const AxisPlan& cols,
                    std::int64_t copied_channels, std::int64_t out_channels, double pixel_work,
                    std::int64_t splits) {
  SlabPlan plan;
  ConvSlab& slab = plan.slab;
  slab = {};
  slab.data = source.data;
  slab.stride_n = source.stride_n, slab.stride_h = source.stride_h;
  slab.stride_w = source.stride_w, slab.stride_c = source.stride_c;
  slab.n = source.n, slab.h = source.h, slab.w = source.w, slab.channels = source.channels;
  slab.out_h = rows.count, slab.out_w = cols.count;
  slab.step_h = rows.step;
  slab.top = rows.first, slab.left = cols.first;
  slab.span_h = rows.span;
  slab.width = (cols.count - 1) * cols.step + cols.span;
  const bool no_taps = rows.tap.empty() || cols.tap.empty();
  if (no_taps) slab.top = slab.left = 0;
  const auto inside = [](const AxisPlan& axis, std::int64_t size) {
    return axis.first >= 0 && axis.first + (axis.count - 1) * axis.step + axis.span <= size;
  };
  slab.direct = no_taps || ((source.stride_c == 1 || source.channels == 1) &&
                            inside(rows, source.h) && inside(cols, source.w));

  const std::int64_t image_pixels = slab.out_h * slab.out_w;
  const std::int64_t row_bytes =
      bytes_of(dtype) * std::max(slab.out_w * out_channels,
                                 slab.width * copied_channels * std::min(slab.step_h, slab.span_h));
  const std::int64_t rows_that_fit = std::max<std::int64_t>(
      1, std::min(kSlabBytes / std::max<std::int64_t>(row_bytes, 1), kSlabPixels / slab.out_w));
  slab.images = 1;
  slab.rows = slab.out_h;
  const double work = pixel_work * static_cast<double>(image_pixels * slab.n);
  if (rows_that_fit >= 2 * slab.out_h) {
    slab.images = std::min(slab.n, rows_that_fit / slab.out_h);
    if (work >= kWorkWorthSplitting) {
      slab.images = std::max<std::int64_t>(1, std::min(slab.images, slab.n / kSlabsWanted));
    }
  }
  if (slab.images == 1) {
    std::int64_t pieces = up(slab.out_h, rows_that_fit);
    if (work >= kWorkWorthSplitting && slab.n * splits * pieces < kSlabsWanted) {
      pieces = std::max(pieces, up(kSlabsWanted, slab.n * splits));
    }
    slab.rows = up(slab.out_h, std::min(pieces, slab.out_h));
  }
  slab.per_image = up(slab.out_h, slab.rows);
  slab.count = up(slab.n, slab.images) * slab.per_image;
  const std::int64_t height = (slab.rows - 1) * slab.step_h + slab.span_h;
  if (!slab.direct) {
    const std::int64_t sizes[] = {slab.images, height, slab.width, copied_channels};
    slab.size = checked_product("conv2d", sizes, 4, 16);
  }

  const std::int64_t pixel_step = slab.direct ? slab.stride_w : copied_channels;
  const std::int64_t row_step = slab.direct ? slab.stride_h : slab.width * copied_channels;
  const std::int64_t image_step = slab.direct ? slab.stride_n : height * row_step;
  plan.pixel.reserve(static_cast<std::size_t>(slab.images * slab.rows * slab.out_w));
  for (std::int64_t image = 0; image < slab.images; ++image) {
    for (std::int64_t row = 0; row < slab.rows; ++row) {
      std::int64_t at = image * image_step + row * slab.step_h * row_step;
      for (std::int64_t col = 0; col < slab.out_w; ++col, at += cols.step * pixel_step) {
        plan.pixel.push_back(at);
      }
    }
  }
  slab.pixel = plan.pixel.data();
  return plan;
}

// Offsets of the taps from a slab's pixel: [rows.tap][cols.tap].
Table tap_offsets(const ConvSlab& slab, const AxisPlan& rows, const AxisPlan& cols,
                  std::int64_t copied_channels) {
  const std::int64_t pixel_step = slab.direct ? slab.stride_w : copied_channels;
  const std::int64_t row_step = slab.direct ? slab.stride_h : slab.width * copied_channels;
  Table offsets;
  for (const std::int64_t row : rows.shift) {
    for (const std::int64_t col : cols.shift) {
      offsets.push_back(row * row_step + col * pixel_step);
    }
  }
  return offsets;
}

std::int64_t grain_for(double unit_work) {
  return std::max<std::int64_t>(1, static_cast<std::int64_t>(kWorkOfAGrain / (unit_work + 1.0)));
}

// Scratch for every thread that may take part, and the split that keeps to their number.
struct ThreadScratch {
  std::int64_t stride;
  int threads;
  Scratch memory;
  ThreadScratch(std::int64_t bytes, bool parallel)
      : stride(up(bytes + kBlockBytes, 256) * 256),
        threads(parallel ? num_threads() : 1),
        memory(bytes ? static_cast<std::size_t>(stride * threads) : 0) {}
  ConvScratch view() const { return {memory.as<char>(), memory.get() ? stride : 0, thread_index}; }
};

Split split_for(std::int64_t units, double unit_work, bool interruptible) {
  return {.units = units, .grain = grain_for(unit_work), .interruptible = interruptible};
}

// Weights as seen by one pass: from the channels it reads to the columns it writes.
struct PassWeights {
  const void* data;
  std::int64_t stride_row, stride_col, stride_channel, stride_column, stride_group;
};

// How many terms after one another, in that order, are neighbours in memory: in every run of so
// many.
std::int64_t dense_run(const Table& term, const Table& order) {
  const auto at = [&](std::size_t step) { return term[static_cast<std::size_t>(order[step])]; };
  std::size_t run = 1;
  while (run < order.size() && at(run) == at(run - 1) + 1) ++run;
  if (order.size() % run != 0) return 1;
  for (std::size_t step = 1; step < order.size(); ++step) {
    if (step % run != 0 && at(step) != at(step - 1) + 1) return 1;
  }
  return static_cast<std::int64_t>(run);
}

void pack_weights(DType dtype, const PassWeights& w, const AxisPlan& rows, const AxisPlan& cols,
                  std::int64_t channels, std::int64_t groups, const ConvColumns& columns,
                  void* packed) {
  Table term;
  for (const std::int64_t row : rows.tap) {
    for (const std::int64_t col : cols.tap) {
      for (std::int64_t channel = 0; channel < channels; ++channel) {
        term.push_back(row * w.stride_row + col * w.stride_col + channel * w.stride_channel);
      }
    }
  }
  const std::int64_t depth = static_cast<std::int64_t>(term.size());
  if (depth == 0) return;
  // Reading w as it lies keeps its cache lines: the taps of a channel one after the other where
  // they are closer than the channels; backwards where the taps are turned.
  const std::int64_t taps = depth / channels;
  const bool backwards = term[0] > term[static_cast<std::size_t>(depth - channels)];
  Table order;
  order.reserve(term.size());
  const auto tap_at = [&](std::int64_t tap) { return backwards ? taps - 1 - tap : tap; };
  if (w.stride_channel > w.stride_col) {
    for (std::int64_t channel = 0; channel < channels; ++channel) {
      for (std::int64_t tap = 0; tap < taps; ++tap) {
        order.push_back(tap_at(tap) * channels + channel);
      }
    }
  } else {
    for (std::int64_t tap = 0; tap < taps; ++tap) {
      for (std::int64_t channel = 0; channel < channels; ++channel) {
        order.push_back(tap_at(tap) * channels + channel);
      }
    }
  }
  const ConvPackArgs args{dtype, w.data, term.data(),    order.data(),    dense_run(term, order),
                          depth, groups, w.stride_group, w.stride_column, columns,
                          packed};
  const std::int64_t units = groups * columns.panels * up(depth, kPackRun);
  launch(conv_pack_kernel(), args, {.units = units, .grain = 2});
}

// Bias into whole blocks per group, zeros behind it; all zeros without one.
void pack_bias(DType dtype, const ConvEpilogue& epilogue, std::int64_t groups,
               const ConvColumns& columns, char* packed) {
  const std::int64_t item = bytes_of(dtype);
  std::memset(packed, 0, static_cast<std::size_t>(groups * columns.blocks * kBlockBytes));
  if (!epilogue.bias) return;
  const char* from = static_cast<const char*>(epilogue.bias);
  for (std::int64_t group = 0; group < groups; ++group) {
    char* to = packed + group * columns.blocks * kBlockBytes;
    for (std::int64_t column = 0; column < columns.columns; ++column, to += item) {
      std::memcpy(to, from, static_cast<std::size_t>(item));
      from += epilogue.bias_stride * item;
    }
  }
}

struct Destination {
  void* data;
  std::int64_t stride_n, stride_h, stride_w;
};

// One pass: forward, or one phase of backward to the input.
void run_pass(const ConvProblem& problem, const Source& source, const AxisPlan& rows,
              const AxisPlan& cols, std::int64_t groups, std::int64_t group_columns,
              const PassWeights& weights, const ConvEpilogue& epilogue, const Destination& y) {
  if (rows.count <= 0 || cols.count <= 0) return;
  const DType dtype = problem.dtype;
  const std::int64_t channels = source.channels / groups;
  const bool depthwise = groups > 1 && channels == 1 && group_columns == 1;
  const ConvColumns columns = columns_of(dtype, depthwise ? groups : group_columns, depthwise);
  const std::int64_t pack_groups = depthwise ? 1 : groups;
  const std::int64_t taps = static_cast<std::int64_t>(rows.tap.size() * cols.tap.size());
  const std::int64_t depth = taps * channels;
  const double pixel_work = 2.0 * static_cast<double>(depth * group_columns * groups + groups);
  const SlabPlan plan =
      plan_slabs(dtype, source, rows, cols, source.channels, group_columns * groups, pixel_work,
                 pack_groups * columns.panels);
  const ConvSlab& slab = plan.slab;

  const std::int64_t sizes[] = {pack_groups, columns.blocks, depth + 1};
  checked_product("conv2d", sizes, 3, kBlockBytes);
  const std::int64_t bias_bytes = pack_groups * columns.blocks * kBlockBytes;
  const Scratch packed(static_cast<std::size_t>(bias_bytes * (depth + 1)));
  char* const packed_bias = packed.as<char>();
  char* const packed_weights = packed_bias + bias_bytes;
  pack_bias(dtype, epilogue, pack_groups, columns, packed_bias);
  PassWeights w = weights;
  if (depthwise) w.stride_column = weights.stride_group;
  pack_weights(dtype, w, rows, cols, channels, pack_groups, columns, packed_weights);

  const Table offsets = tap_offsets(slab, rows, cols, source.channels);
  Table tap;
  tap.reserve(static_cast<std::size_t>(depth));
  for (const std::int64_t offset : offsets) {
    for (std::int64_t channel = 0; channel < channels; ++channel) tap.push_back(offset + channel);
  }
  Table first_taps, last_taps;
  for (std::int64_t row = 0; row < rows.count; ++row) {
    const std::int64_t at = rows.first + row * rows.step;
    std::int64_t first = 0, last = static_cast<std::int64_t>(rows.shift.size());
    while (first < last && at + rows.shift[static_cast<std::size_t>(first)] < 0) ++first;
    while (last > first && at + rows.shift[static_cast<std::size_t>(last - 1)] >= source.h) --last;
    first_taps.push_back(first);
    last_taps.push_back(last);
  }
  Table y_pixel;
  y_pixel.reserve(plan.pixel.size());
  for (std::int64_t image = 0; image < slab.images; ++image) {
    for (std::int64_t row = 0; row < slab.rows; ++row) {
      std::int64_t at = image * y.stride_n + row * rows.out_step * y.stride_h;
      for (std::int64_t col = 0; col < slab.out_w; ++col, at += cols.out_step * y.stride_w) {
        y_pixel.push_back(at);
      }
    }
  }

  const double work = pixel_work * static_cast<double>(slab.n * slab.out_h * slab.out_w);
  const std::int64_t panels = pack_groups * columns.panels;
  std::int64_t splits = 1;
  if (!depthwise && work >= kWorkWorthSplitting && slab.count < kSlabsWanted) {
    splits = std::min(panels, up(kSlabsWanted, slab.count));
  }
  const std::int64_t units = slab.count * splits;
  Split split = split_for(units, work / static_cast<double>(units), problem.interruptible);
  const std::int64_t item = bytes_of(dtype);
  const ThreadScratch scratch(slab.direct ? 0 : slab.size * item, is_parallel(split));
  split.max_threads = scratch.threads;

  ConvTilesArgs args{};
  args.dtype = dtype;
  args.slab = slab;
  args.tap = tap.data();
  args.depth = depth;
  args.groups = pack_groups;
  args.stride_group = channels;
  args.first_taps = first_taps.data();
  args.last_taps = last_taps.data();
  args.taps_depth = static_cast<std::int64_t>(cols.tap.size()) * channels;
  args.columns = columns;
  args.splits = splits;
  args.weights = packed_weights;
  args.bias = packed_bias;
  args.y = static_cast<char*>(y.data) +
           item * (rows.out_first * y.stride_h + cols.out_first * y.stride_w);
  args.y_stride_n = y.stride_n;
  args.y_stride_h = rows.out_step * y.stride_h;
  args.y_pixel = y_pixel.data();
  args.activation = epilogue.activation;
  args.activation_alpha = epilogue.activation_alpha;
  args.scratch = scratch.view();
  launch(depthwise ? conv_depthwise_kernel() : conv_tiles_kernel(), args, split);
}

Source source_of(const ConvImage& image, std::int64_t n, std::int64_t channels, std::int64_t h,
                 std::int64_t w) {
  return {image.data,    n, channels, h, w, image.stride_n, image.stride_c, image.stride_h,
          image.stride_w};
}

}  // namespace

double conv_work(const ConvProblem& p) {
  return 2.0 * static_cast<double>(p.n * p.out_h * p.out_w) *
         static_cast<double>(p.o * (p.c / p.groups) * p.kh * p.kw);
}

void conv_forward(const ConvProblem& p, const ConvImage& x, const ConvKernel& w,
                  const ConvEpilogue& epilogue, const ConvImage& y) {
  const AxisPlan rows = forward_axis(p.kh, p.stride_h, p.padding_h, p.dilation_h, p.out_h);
  const AxisPlan cols = forward_axis(p.kw, p.stride_w, p.padding_w, p.dilation_w, p.out_w);
  const std::int64_t group_columns = p.o / p.groups;
  const PassWeights weights{w.data,     w.stride_h, w.stride_w,
                            w.stride_i, w.stride_o, group_columns * w.stride_o};
  run_pass(p, source_of(x, p.n, p.c, p.h, p.w), rows, cols, p.groups, group_columns, weights,
           epilogue, {y.data, y.stride_n, y.stride_h, y.stride_w});
}

void conv_backward_input(const ConvProblem& p, const ConvImage& dy, const ConvKernel& w,
                         const ConvImage& dx) {
  const PassWeights weights{w.data,     w.stride_h, w.stride_w,
                            w.stride_o, w.stride_i, p.o / p.groups * w.stride_o};
  const Source source = source_of(dy, p.n, p.o, p.out_h, p.out_w);
  // Every phase that has a pixel: a stride beyond the image has no more than the image has pixels.
  for (std::int64_t i = 0; i < std::min(p.stride_h, p.h); ++i) {
    const std::int64_t phase_h = (i + p.padding_h) % p.stride_h;
    const AxisPlan rows = backward_axis(p.kh, p.stride_h, p.padding_h, p.dilation_h, p.h, phase_h);
    for (std::int64_t j = 0; j < std::min(p.stride_w, p.w); ++j) {
      const std::int64_t phase_w = (j + p.padding_w) % p.stride_w;
      const AxisPlan cols =
          backward_axis(p.kw, p.stride_w, p.padding_w, p.dilation_w, p.w, phase_w);
      run_pass(p, source, rows, cols, p.groups, p.c / p.groups, weights, {},
               {dx.data, dx.stride_n, dx.stride_h, dx.stride_w});
    }
  }
}

namespace {

// Elements of a partial that may stay in L2 beside a slab, and of all partials together.
constexpr std::int64_t kPartialBytes = 192 << 10;
constexpr std::int64_t kAllPartialBytes = 8 << 20;

}  // namespace

void conv_backward_weight(const ConvProblem& p, const ConvImage& dy, const ConvImage& x,
                          const ConvKernel& dw) {
  const AxisPlan rows = forward_axis(p.kh, p.stride_h, p.padding_h, p.dilation_h, p.out_h);
  const AxisPlan cols = forward_axis(p.kw, p.stride_w, p.padding_w, p.dilation_w, p.out_w);
  const std::int64_t item = bytes_of(p.dtype);
  const std::int64_t channels = p.c / p.groups, outputs = p.o / p.groups;
  const bool depthwise = p.groups > 1 && channels == 1 && outputs == 1;
  const ConvColumns columns = columns_of(p.dtype, depthwise ? p.groups : outputs, depthwise);
  const std::int64_t groups = depthwise ? 1 : p.groups;
  const std::int64_t pitch = columns.blocks * kBlockBytes / item;
  const std::int64_t taps = p.kh * p.kw;

  // Runs of input channels, each a divisor of them, until a partial fits the cache.
  std::int64_t runs = 1;
  if (groups == 1 && !depthwise) {
    while (channels % (2 * runs) == 0 && channels / runs >= 16 &&
           taps * (channels / runs) * columns.blocks * kBlockBytes > kPartialBytes) {
      runs *= 2;
    }
  }
  const std::int64_t run = channels / runs;
  const std::int64_t copied_channels = runs == 1 ? p.c : run;
  const double pixel_work = 2.0 * static_cast<double>(taps * channels * p.o);
  const SlabPlan plan = plan_slabs(p.dtype, source_of(x, p.n, p.c, p.h, p.w), rows, cols,
                                   copied_channels, p.o, pixel_work, runs);
  const ConvSlab& slab = plan.slab;
  const Table tap = tap_offsets(slab, rows, cols, copied_channels);

  // Chunks: enough units for the threads, as long as adding partials stays small beside the work.
  const std::int64_t sizes[] = {groups, taps, channels, columns.blocks};
  const std::int64_t chunk_bytes =
      checked_product("conv2d_backward_weight", sizes, 4, kBlockBytes) * kBlockBytes;
  const double work = pixel_work * static_cast<double>(p.n * p.out_h * p.out_w);
  std::int64_t chunks = 1;
  if (work >= kWorkWorthSplitting) {
    const std::int64_t pixels = p.n * p.out_h * p.out_w;
    chunks = std::min({slab.count, up(2 * kSlabsWanted, runs),
                       std::max<std::int64_t>(kAllPartialBytes / chunk_bytes, 1),
                       std::max<std::int64_t>(pixels / 256, 1)});
  }
  const std::int64_t chunk_slabs = up(slab.count, chunks);
  chunks = up(slab.count, chunk_slabs);

  // Output rows that meet the image, of each row of taps. Worth while where a tile is filled by
  // them.
  Table first_rows, last_rows;
  bool padded = false;
  for (const std::int64_t shift : rows.shift) {
    const std::int64_t at = rows.first + shift;
    const std::int64_t first = at < 0 ? std::min(up(-at, rows.step), rows.count) : 0;
    const std::int64_t last = at >= p.h ? 0 : std::min(up(p.h - at, rows.step), rows.count);
    first_rows.push_back(first);
    last_rows.push_back(std::max(first, last));
    padded = padded || first > 0 || last < rows.count;
  }
  padded = padded && !depthwise && p.kw * run >= 12;
  const bool by_rows = padded && slab.images > 1;

  const std::int64_t dy_pixels = slab.images * slab.rows * slab.out_w;
  const bool dy_direct = !by_rows && dy.stride_c == 1 && dy.stride_w >= 0 &&
                         outputs % (kBlockBytes / item) == 0 && (p.o <= 128 || depthwise) &&
                         (p.out_h == 1 || dy.stride_h == p.out_w * dy.stride_w) &&
                         (p.n == 1 || dy.stride_n == p.out_h * p.out_w * dy.stride_w);
  const std::int64_t dy_sizes[] = {dy_pixels, groups, pitch};
  const std::int64_t dy_bytes =
      dy_direct ? 0 : checked_product("conv2d_backward_weight", dy_sizes, 3, item) * item;
  const std::int64_t units = chunks * runs;
  Split split = split_for(units, work / static_cast<double>(units), p.interruptible);
  const ThreadScratch scratch((slab.direct ? 0 : slab.size * item) + dy_bytes, is_parallel(split));
  const ThreadScratch orders(by_rows ? dy_pixels * 8 : 0, is_parallel(split));
  split.max_threads = std::min(scratch.threads, orders.threads);
  const Scratch partial(static_cast<std::size_t>(chunks * chunk_bytes));

  ConvWeightArgs args{};
  args.dtype = p.dtype;
  args.slab = slab;
  args.tap = tap.data();
  args.taps = taps;
  args.groups = groups;
  args.group_channels = channels;
  args.run = run;
  args.runs = runs;
  args.columns = columns;
  args.dy = dy.data;
  args.dy_stride_n = dy.stride_n, args.dy_stride_h = dy.stride_h;
  args.dy_stride_w = dy.stride_w, args.dy_stride_c = dy.stride_c;
  args.dy_direct = dy_direct;
  args.chunks = chunks;
  args.chunk_slabs = chunk_slabs;
  args.partial = partial.get();
  args.first_rows = padded ? first_rows.data() : nullptr;
  args.last_rows = last_rows.data();
  args.taps_w = p.kw;
  args.by_rows = by_rows;
  args.scratch = scratch.view();
  args.orders = orders.view();
  launch(depthwise ? conv_depthwise_weight_kernel() : conv_weight_kernel(), args, split);

  Table term;
  for (std::int64_t first = 0; first < channels; first += run) {
    for (std::int64_t row = 0; row < p.kh; ++row) {
      for (std::int64_t col = 0; col < p.kw; ++col) {
        for (std::int64_t channel = first; channel < first + run; ++channel) {
          term.push_back(row * dw.stride_h + col * dw.stride_w + channel * dw.stride_i);
        }
      }
    }
  }
  const std::int64_t depth = static_cast<std::int64_t>(term.size());
  Table order;
  order.reserve(term.size());
  if (dw.stride_i > dw.stride_w) {
    for (std::int64_t channel = 0; channel < channels; ++channel) {
      for (std::int64_t tap = 0; tap < taps; ++tap) {
        order.push_back((channel / run * taps + tap) * run + channel % run);
      }
    }
  } else {
    for (std::int64_t k = 0; k < depth; ++k) order.push_back(k);
  }
  const ConvWeightSumArgs sum{p.dtype,
                              partial.get(),
                              chunks,
                              chunk_bytes / item,
                              depth,
                              groups,
                              columns,
                              dw.data,
                              term.data(),
                              order.data(),
                              dense_run(term, order),
                              outputs * dw.stride_o,
                              dw.stride_o};
  const std::int64_t sum_work = chunks * pitch * kPackRun;
  launch(conv_weight_sum_kernel(), sum,
         {.units = groups * up(depth, kPackRun),
          .grain = std::max<std::int64_t>(1, 65536 / sum_work),
          .interruptible = p.interruptible});
}

}  // namespace hotloop
