// The driver of convolutions: what runs a pass, and forward.
#include "kernels/conv.h"

#include <algorithm>
#include <cstring>

#include "core/errors.h"
#include "kernels/driver/conv_pass.h"

namespace hotloop {
namespace {

constexpr std::int64_t kSlabsPackedLate = 2;
// Results that no cache holds until they are read.
constexpr std::int64_t kStreamBytes = 64ll << 20;

// Whether y is whole lines, so many that they go around the caches.
bool streams(const ConvSlab& slab, const PassAxes& axes, std::int64_t columns, std::int64_t groups,
             std::int64_t item, const ConvEpilogue& epilogue, const Destination& y) {
  const std::int64_t bytes =
      slab.n * slab.out_d * slab.out_h * slab.out_w * columns * groups * item;
  if (bytes < kStreamBytes || epilogue.activation != Activation::none || epilogue.residual.data) {
    return false;
  }
  const std::int64_t steps = columns | y.stride_n | y.stride_d | y.stride_h | y.stride_w;
  const std::int64_t first = axes.planes.out_first * y.stride_d + axes.rows.out_first * y.stride_h +
                             axes.cols.out_first * y.stride_w;
  const auto address = reinterpret_cast<std::uintptr_t>(y.data);
  return address % kBlockBytes == 0 && steps * item % kBlockBytes == 0 &&
         first * item % kBlockBytes == 0;
}

// How a pass reads its source: where it lies, or so many channels of a slab copied at a time.
struct Reading {
  ConvRowTaps row_taps;  // of a depthwise pass, its count 0 where there is none
  std::int64_t copied;
  bool in_place;
};
Reading reading_of(DType dtype, const Source& source, const PassAxes& axes, bool depthwise,
                   const Destination& y) {
  if (!depthwise) return {{}, source.channels, reads_in_place(source, axes)};
  const ConvRowTaps taps = plan_row_taps(dtype, source, axes, axes.cols.out_step * y.stride_w);
  if (taps.strip > 0) return {taps, taps.strip, false};
  return {taps, source.channels, taps.count > 0 || reads_in_place(source, axes)};
}

// An image of results in pieces, where scratch for a row, or the list of its pixels, would be too
// long; none: it stays whole.
std::vector<PassAxes> pieces_of(const PassAxes& axes, const Reading& reading, std::int64_t item,
                                bool pools) {
  const auto& [planes, rows, cols] = axes;
  const std::int64_t most_rows = std::min(rows.count, kListedPixels);
  const std::int64_t most_cols = columns_at_once(axes, reading.in_place ? 0 : reading.copied * item,
                                                 pools ? 2 * kPanelBlocks * kBlockBytes : 0);
  std::vector<PassAxes> pieces;
  if (most_rows >= rows.count && most_cols >= cols.count) return pieces;
  for (std::int64_t row = 0; row < rows.count; row += most_rows) {
    for (std::int64_t col = 0; col < cols.count; col += most_cols) {
      pieces.push_back({planes, piece_of(rows, row, std::min(most_rows, rows.count - row)),
                        piece_of(cols, col, std::min(most_cols, cols.count - col))});
    }
  }
  return pieces;
}

// Among how many units the panels of a slab are shared.
std::int64_t splits_of(const PackShape& shape, const ConvSlab& slab, double work) {
  if (shape.depthwise || work < kWorkWorthSplitting || slab.count >= kSlabsWanted) return 1;
  return std::min(shape.groups * shape.columns.panels, ceil_div(kSlabsWanted, slab.count));
}

// Where a pass that pools writes: its strips of scratch lie at `strip_at`, pixels `pitch` apart.
ConvPoolTarget pool_target(const Destination& y, const ConvImage& taps, const PassAxes& axes,
                           std::int64_t item, std::int64_t strip_at, std::int64_t pitch) {
  const std::int64_t row = axes.rows.out_first / 2, col = axes.cols.out_first / 2;
  auto* const all_taps = static_cast<std::uint8_t*>(taps.data);
  return {static_cast<char*>(y.data) + item * (row * y.stride_h + col * y.stride_w),
          y.stride_n,
          y.stride_h,
          y.stride_w,
          all_taps ? all_taps + row * taps.stride_h + col * taps.stride_w : nullptr,
          taps.stride_n,
          taps.stride_h,
          taps.stride_w,
          strip_at,
          pitch};
}

}  // namespace

void pack_bias(DType dtype, const ConvEpilogue& epilogue, const PackShape& shape, char* packed) {
  const std::int64_t item = bytes_of(dtype);
  std::memset(packed, 0, static_cast<std::size_t>(shape.bias_bytes()));
  if (!epilogue.bias) return;
  const char* from = static_cast<const char*>(epilogue.bias);
  for (std::int64_t group = 0; group < shape.groups; ++group) {
    char* to = packed + group * shape.columns.blocks * kBlockBytes;
    for (std::int64_t column = 0; column < shape.columns.columns; ++column, to += item) {
      std::memcpy(to, from, static_cast<std::size_t>(item));
      from += epilogue.bias_stride * item;
    }
  }
}

void run_pass(const ConvProblem& problem, const Source& source, const PassAxes& axes,
              std::int64_t groups, std::int64_t group_columns, const PassWeights& weights,
              const ConvEpilogue& epilogue, const Destination& y, const PackedWeights& packed,
              const ConvImage* taps) {
  const auto& [planes, rows, cols] = axes;
  const bool pools = taps != nullptr;
  if (planes.count <= 0 || rows.count <= 0 || cols.count <= 0) return;
  const DType dtype = problem.dtype;
  const std::int64_t channels = source.channels / groups;
  const PackShape shape = pack_shape(dtype, channels, groups, group_columns, axes.taps(), pools);
  const auto& [depthwise, columns, pack_groups, depth, run_channels] = shape;
  const double pixel_work = 2.0 * static_cast<double>(depth * group_columns * groups + groups);
  const std::int64_t item = bytes_of(dtype);
  const Reading reading = reading_of(dtype, source, axes, depthwise, y);
  const std::vector<PassAxes> pieces = pieces_of(axes, reading, item, pools);
  for (const PassAxes& piece : pieces) {
    run_pass(problem, source, piece, groups, group_columns, weights, epilogue, y, packed, taps);
  }
  if (!pieces.empty()) return;
  const std::int64_t panel_bytes = ceil_div(columns.blocks, columns.panels) * kBlockBytes;
  const std::int64_t pitch = panel_bytes / item;
  const std::shared_ptr<const PassTables> tables =
      pass_tables(problem, source, axes, shape, group_columns, reading.copied, epilogue.residual, y,
                  pools ? pitch : 0);
  const SlabPlan& plan = tables->plan;
  const ConvSlab& slab = plan.slab;

  // Where a panel is read by a slab or two only, it is packed run by run into the cache of the one
  // who reads it: packing it all first costs a trip through memory.
  const bool pack_late = !packed.data && !depthwise && depth > 0 && slab.count <= kSlabsPackedLate;

  const std::int64_t sizes[] = {pack_groups, columns.blocks, depth + 1};
  checked_product("conv2d", sizes, 3, kBlockBytes);
  const std::int64_t bias_bytes = shape.bias_bytes();
  const bool pack_now = !packed.data && !pack_late;
  const Scratch scratch_weights(static_cast<std::size_t>(bias_bytes * (pack_now ? depth + 1 : 1)));
  char* const packed_bias = scratch_weights.as<char>();
  char* const packed_weights = packed_bias + bias_bytes;
  pack_bias(dtype, epilogue, shape, packed_bias);
  PackPlan pack;
  if (!packed.data) plan_pack(dtype, weights, axes, channels, shape, packed_weights, pack);
  if (pack_now) run_pack(shape, pack.args);

  ConvTilesArgs args = pass_tiles(problem, source, axes, shape, epilogue, y, *tables);
  const double work =
      pixel_work * static_cast<double>(slab.n * slab.out_d * slab.out_h * slab.out_w);
  args.splits = splits_of(shape, slab, work);
  const std::int64_t units = slab.count * args.splits;
  Split split = split_for(units, work / static_cast<double>(units), problem.interruptible);
  const std::int64_t slab_bytes =
      reading.in_place ? 0 : ceil_div(slab.size * item, kBlockBytes) * kBlockBytes;
  const std::int64_t run_bytes = pack_late ? axes.taps() * run_channels * panel_bytes : 0;
  const std::int64_t strip_bytes =
      pools ? static_cast<std::int64_t>(plan.pixel.size()) * panel_bytes : 0;
  const ThreadScratch scratch(slab_bytes + run_bytes + strip_bytes, is_parallel(split));
  split.max_threads = scratch.threads;

  args.pack = pack_late ? &pack.args : nullptr;
  args.pack_at = slab_bytes;
  args.weights = packed.data ? packed.data : packed_weights;
  args.first_term = packed.first;
  args.pack_depth = packed.data ? packed.depth : depth;
  args.bias = packed_bias;
  args.stream = !pools && streams(slab, axes, group_columns, groups, item, epilogue, y);
  args.row_taps = reading.row_taps;
  ConvPoolTarget pool{};
  if (pools) {
    pool = pool_target(y, *taps, axes, item, slab_bytes + run_bytes, pitch);
    args.pool = &pool;
    args.y = nullptr;
    args.y_stride_n = args.y_stride_d = args.y_stride_h = 0;
  }
  args.scratch = scratch.view();
  const auto kernel = reading.row_taps.count > 0 ? conv_depthwise_rows_kernel()
                      : depthwise                ? conv_depthwise_kernel()
                                                 : conv_tiles_kernel();
  launch(kernel, args, split);
}

double conv_work(const ConvProblem& p) {
  return 2.0 * static_cast<double>(p.n * p.out_d * p.out_h * p.out_w) *
         static_cast<double>(p.o * (p.c / p.groups) * p.kd * p.kh * p.kw);
}

namespace {

PassWeights forward_weights(const ConvProblem& p, const ConvKernel& w) {
  return {w.data,
          w.stride_d,
          w.stride_h,
          w.stride_w,
          w.stride_i,
          w.stride_o,
          p.o / p.groups * w.stride_o};
}

PackedWeights packed_by_caller(const ConvProblem& p) {
  return {p.packed, 0, p.kd * p.kh * p.kw * (p.c / p.groups)};
}

}  // namespace

void conv_forward(const ConvProblem& p, const ConvImage& x, const ConvKernel& w,
                  const ConvEpilogue& epilogue, const ConvImage& y) {
  if (!p.packed && conv_few_pixels(p, x, w, epilogue, y)) return;
  if (!p.packed && conv_pointwise(p, x, w, epilogue, y)) return;
  const Source source = source_of(x, p.n, p.c, p.d, p.h, p.w);
  const Destination to{y.data, y.stride_n, y.stride_d, y.stride_h, y.stride_w};
  const PassWeights weights = forward_weights(p, w);
  const PassAxes axes = forward_axes(p);
  const std::int64_t columns = p.o / p.groups;
  if (run_panels(p, source, {axes}, p.groups, columns, weights, epilogue, to, p.packed)) return;
  run_pass(p, source, axes, p.groups, columns, weights, epilogue, to, packed_by_caller(p));
}

void conv_forward_pool(const ConvProblem& problem, const ConvImage& x, const ConvKernel& w,
                       const ConvEpilogue& epilogue, const ConvImage& y, const ConvImage& taps) {
  if (!problem.packed && conv_few_pixels(problem, x, w, epilogue, y, &taps)) return;
  ConvProblem p = problem;  // the last row or column of an odd number is in no window
  p.out_h = problem.out_h / 2 * 2, p.out_w = problem.out_w / 2 * 2;
  run_pass(p, source_of(x, p.n, p.c, p.d, p.h, p.w), forward_axes(p), p.groups, p.o / p.groups,
           forward_weights(p, w), epilogue,
           {y.data, y.stride_n, y.stride_d, y.stride_h, y.stride_w}, packed_by_caller(p), &taps);
}

std::int64_t conv_packed_bytes(const ConvProblem& p) {
  const std::int64_t channels = p.c / p.groups, taps = p.kd * p.kh * p.kw;
  const PackShape shape = pack_shape(p.dtype, channels, p.groups, p.o / p.groups, taps, false);
  const std::int64_t sizes[] = {shape.groups, shape.columns.blocks, shape.depth};
  return checked_product("conv_pack", sizes, 3, kBlockBytes) * kBlockBytes;
}

void conv_pack_weights(const ConvProblem& p, const ConvKernel& w, void* packed) {
  const PassAxes axes = forward_axes(p);
  const std::int64_t channels = p.c / p.groups;
  const PackShape shape =
      pack_shape(p.dtype, channels, p.groups, p.o / p.groups, axes.taps(), false);
  PackPlan pack;
  plan_pack(p.dtype, forward_weights(p, w), axes, channels, shape, packed, pack);
  run_pack(shape, pack.args);
}

}  // namespace hotloop
