// The driver of the gradient of convolution weights: cuts the sum over pixels into chunks whose
// number depends on shapes alone, launches, and adds the chunks in order.
#include <algorithm>

#include "core/errors.h"
#include "kernels/driver/conv_plan.h"

namespace hotloop {
namespace {

// Elements of a partial that may stay in L2 beside a slab, and of all partials together.
constexpr std::int64_t kPartialBytes = 192 << 10;
constexpr std::int64_t kAllPartialBytes = 8 << 20;
constexpr std::int64_t kDirectOutputs = 256;  // more lie too far apart to be read in place
constexpr std::int64_t kDirectOutputsOfOneTap = 1024;
// The next slab comes in meanwhile, and runs of channels a power of two apart have half of L2: 512
// to 128 channels at 28 by 28 take 0.95 of the time.
constexpr std::int64_t kSlabBytesOfOneTap = 160 << 10;
constexpr std::int64_t kSpreadOutputs = 64;  // fewer do not pay for the copy
// Sums so long at least, and images no wider, pay for leaving out what only meets the padding.
constexpr std::int64_t kTermsWorthSkipping = 12;
constexpr std::int64_t kChannelsWorthSkipping = 32;
constexpr std::int64_t kWidthWorthSkipping = 14;

// Output positions along an axis that meet the image, of each tap.
struct Outputs {
  Table first, last;
  bool padded = false;
};
Outputs outputs_inside(const AxisPlan& axis, std::int64_t size) {
  Outputs outputs;
  for (const std::int64_t shift : axis.shift) {
    const std::int64_t at = axis.first + shift;
    const std::int64_t first = at < 0 ? std::min(ceil_div(-at, axis.step), axis.count) : 0;
    const std::int64_t last = at >= size ? 0 : std::min(ceil_div(size - at, axis.step), axis.count);
    outputs.first.push_back(first);
    outputs.last.push_back(std::max(first, last));
    outputs.padded = outputs.padded || first > 0 || last < axis.count;
  }
  return outputs;
}

// What the pieces of a gradient share: how it is cut into units and chunks.
struct WeightPlan {
  Source source;
  ConvColumns columns;
  bool depthwise;
  std::int64_t channels, outputs, groups, pitch, taps;  // groups of the loops: 1 for depthwise ones
  std::int64_t runs = 1, parts = 1, run, copied_channels;
  double pixel_work;
  bool spread;
  ConvRowTaps row_taps;
  SlabCut cut;
  std::int64_t chunks = 1, chunk_bytes;

  bool strips() const { return row_taps.strip > 0; }
  bool rows_in_place() const { return row_taps.count > 0 && !strips(); }
  std::int64_t dy_columns() const { return strips() ? row_taps.strip : pitch / parts; }
};

// Runs of input channels and parts of the columns, each a divisor of them, until a partial fits the
// cache. Every run copies dy and every part copies x: the longer side is cut.
void cut_partials(std::int64_t item, WeightPlan& plan) {
  while (plan.groups == 1 && !plan.depthwise) {
    const std::int64_t run = plan.channels / plan.runs, blocks = plan.columns.blocks / plan.parts;
    if (plan.taps * run * blocks * kBlockBytes <= kPartialBytes) break;
    const bool run_splits = plan.channels % (2 * plan.runs) == 0 && run >= 16;
    const bool part_splits =
        plan.columns.panels % (2 * plan.parts) == 0 && plan.columns.blocks % (2 * plan.parts) == 0;
    if (!run_splits && !part_splits) break;
    if (part_splits && (!run_splits || blocks * kBlockBytes >= run * item)) {
      plan.parts *= 2;
    } else {
      plan.runs *= 2;
    }
  }
}

// `axes`: the widest piece of those of the pass.
void cut_chunks(const ConvProblem& p, const PassAxes& axes, WeightPlan& plan) {
  const std::int64_t unit_outputs = plan.strips()     ? plan.row_taps.strip
                                    : plan.parts == 1 ? p.o
                                                      : plan.pitch / plan.parts;
  const SlabPlan slabs =
      plan_slabs(p.dtype, plan.source, axes, plan.copied_channels, unit_outputs, plan.pixel_work,
                 plan.runs * plan.parts, plan.spread || plan.strips(), 1,
                 plan.taps == 1 && !plan.depthwise ? kSlabBytesOfOneTap : kSlabBytes);
  plan.cut = {slabs.slab.images, slabs.slab.rows};
  // Enough units for the threads, as long as adding partials stays small beside the work.
  const std::int64_t sizes[] = {plan.groups, plan.taps, plan.channels, plan.columns.blocks};
  plan.chunk_bytes = checked_product("conv2d_backward_weight", sizes, 4, kBlockBytes) * kBlockBytes;
  const std::int64_t pixels = p.n * p.out_d * p.out_h * p.out_w;
  if (plan.pixel_work * static_cast<double>(pixels) >= kWorkWorthSplitting) {
    plan.chunks = std::min({slabs.slab.count, ceil_div(2 * kSlabsWanted, plan.runs * plan.parts),
                            std::max<std::int64_t>(kAllPartialBytes / plan.chunk_bytes, 1),
                            std::max<std::int64_t>(pixels / 256, 1)});
  }
}

WeightPlan plan_weight(const ConvProblem& p, const ConvImage& dy, const Source& source,
                       const PassAxes& axes) {
  WeightPlan plan{};
  const std::int64_t item = bytes_of(p.dtype);
  plan.source = source;
  plan.channels = p.c / p.groups, plan.outputs = p.o / p.groups;
  plan.depthwise = p.groups > 1 && plan.channels == 1 && plan.outputs == 1;
  plan.columns = columns_of(p.dtype, plan.depthwise ? p.groups : plan.outputs, plan.depthwise);
  plan.groups = plan.depthwise ? 1 : p.groups;
  plan.pitch = plan.columns.blocks * kBlockBytes / item;
  plan.taps = axes.taps();
  cut_partials(item, plan);
  plan.run = plan.channels / plan.runs;
  plan.pixel_work = 2.0 * static_cast<double>(plan.taps * plan.channels * p.o);
  // One tap reads each pixel once: a copy cost 7 % of 256 to 64 channels at 56 by 56.
  plan.spread = plan.groups == 1 && !plan.depthwise && plan.taps > 1 && p.o >= kSpreadOutputs;
  if (plan.depthwise && dy.stride_c == 1) plan.row_taps = plan_row_taps(p.dtype, source, axes, 0);
  plan.copied_channels = plan.strips() ? plan.row_taps.strip : plan.runs == 1 ? p.c : plan.run;
  return plan;
}

// Adds the columns [first, first + axes.cols.count) of the outputs to the partials, or, for the
// only chunk, to dw.
void add_columns(const ConvProblem& p, const ConvImage& dy, const PassAxes& axes,
                 const WeightPlan& plan, std::int64_t first, bool at_once,
                 const ConvWeightSumArgs& sum, void* partial) {
  const std::int64_t item = bytes_of(p.dtype), run = plan.run, outputs = plan.outputs;
  const SlabPlan slabs = plan_slabs_of(p.dtype, plan.source, axes, plan.copied_channels,
                                       plan.spread || plan.strips(), plan.cut);
  const ConvSlab& slab = slabs.slab;
  const Table tap = tap_offsets(slab, axes);
  const Outputs of_rows = outputs_inside(axes.rows, plan.source.h);
  const Outputs of_cols = outputs_inside(axes.cols, plan.source.w);
  const bool skips = !plan.depthwise && p.kd == 1 && p.kw * run >= kTermsWorthSkipping;
  // A row of pixels without its first or last one is a segment of a sum: not too short.
  const bool skip_cols = skips && of_cols.padded && run >= kChannelsWorthSkipping &&
                         slab.out_w <= kWidthWorthSkipping &&
                         slab.out_w * slab.images >= kTermsWorthSkipping;
  const bool padded = (skips && of_rows.padded) || skip_cols;
  const bool by_rows = padded && slab.images > 1;

  const std::int64_t dy_pixels = slab.images * slab.rows * slab.out_w;
  const bool dy_direct =
      !by_rows && dy.stride_c == 1 && dy.stride_w >= 0 && outputs % (kBlockBytes / item) == 0 &&
      (p.o <= (plan.taps == 1 ? kDirectOutputsOfOneTap : kDirectOutputs) || plan.depthwise) &&
      (p.out_h == 1 || dy.stride_h == slab.out_w * dy.stride_w) &&
      (slab.images == 1 || dy.stride_n == p.out_h * slab.out_w * dy.stride_w);
  const std::int64_t dy_sizes[] = {dy_pixels, plan.groups, plan.dy_columns()};
  const std::int64_t dy_bytes =
      !plan.strips() && (dy_direct || plan.rows_in_place())
          ? 0
          : checked_product("conv2d_backward_weight", dy_sizes, 3, item) * item;
  const std::int64_t units = plan.chunks * plan.parts * plan.runs;
  const double work =
      plan.pixel_work * static_cast<double>(p.n * p.out_d * p.out_h * axes.cols.count);
  Split split = split_for(units, work / static_cast<double>(units), p.interruptible);
  const bool in_place = slab.direct || plan.rows_in_place();
  const std::int64_t partial_at =
      ceil_div((in_place ? 0 : slab.size * item) + dy_bytes, kBlockBytes) * kBlockBytes;
  const std::int64_t partial_bytes =
      at_once ? plan.taps * run * (plan.pitch / plan.parts) * item : 0;
  const ThreadScratch scratch(partial_at + partial_bytes, is_parallel(split));
  const ThreadScratch orders(by_rows ? dy_pixels * 8 : 0, is_parallel(split));
  split.max_threads = std::min(scratch.threads, orders.threads);

  ConvWeightArgs args{};
  args.dtype = p.dtype;
  args.slab = slab;
  args.tap = tap.data();
  args.taps = plan.taps;
  args.groups = plan.groups;
  args.group_channels = plan.channels;
  args.run = run;
  args.runs = plan.runs;
  args.parts = plan.parts;
  args.columns = plan.columns;
  args.dy = static_cast<const char*>(dy.data) + first * dy.stride_w * item;
  args.dy_stride_n = dy.stride_n, args.dy_stride_d = dy.stride_d, args.dy_stride_h = dy.stride_h;
  args.dy_stride_w = dy.stride_w, args.dy_stride_c = dy.stride_c;
  args.dy_direct = dy_direct;
  args.chunks = plan.chunks;
  args.partial = partial;
  args.sum = at_once ? &sum : nullptr;
  args.partial_at = partial_at;
  args.adds = first > 0;
  args.first_rows = padded ? of_rows.first.data() : nullptr;
  args.last_rows = of_rows.last.data();
  args.first_cols = skip_cols ? of_cols.first.data() : nullptr;
  args.last_cols = of_cols.last.data();
  args.taps_w = p.kw;
  args.by_rows = by_rows;
  args.scratch = scratch.view();
  args.orders = orders.view();
  args.row_taps = plan.row_taps;
  if (plan.row_taps.count > 0) {
    launch(conv_depthwise_rows_weight_kernel(), args, split);
  } else {
    launch(plan.depthwise ? conv_depthwise_weight_kernel() : conv_weight_kernel(), args, split);
  }
}

// How many terms after one another in dw are neighbours, in every run of so many.
std::int64_t dense_terms(const Table& place, std::int64_t run, std::int64_t runs,
                         std::int64_t stride_channel, bool by_channel) {
  const auto taps = static_cast<std::int64_t>(place.size());
  Table order(place.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::int64_t>(i);
  if (by_channel) {
    const std::int64_t dense = dense_run(place, order);
    return dense == taps && stride_channel == taps ? taps * run * runs : dense;
  }
  if (stride_channel != 1) return 1;
  for (std::size_t i = 1; i < place.size(); ++i) {
    if (place[i] != place[i - 1] + run) return run;
  }
  return runs == 1 ? taps * run : run;
}

}  // namespace

void conv_backward_weight(const ConvProblem& p, const ConvImage& dy, const ConvImage& x,
                          const ConvKernel& dw) {
  if (conv_pointwise_weight(p, dy, x, dw)) return;
  PassAxes axes = forward_axes(p);
  Source source = source_of(x, p.n, p.c, p.d, p.h, p.w);
  skip_unread(p.dtype, source, axes);
  WeightPlan plan = plan_weight(p, dy, source, axes);
  const std::int64_t item = bytes_of(p.dtype);
  const bool copies =
      !plan.rows_in_place() && (plan.strips() || plan.spread || !reads_in_place(source, axes));
  const std::int64_t some_cols =
      columns_at_once(axes, copies ? plan.copied_channels * item : 0,
                      plan.rows_in_place() ? 0 : plan.groups * plan.dy_columns() * item);
  const auto piece_at = [&](std::int64_t first) {
    return PassAxes{axes.planes, axes.rows,
                    piece_of(axes.cols, first, std::min(some_cols, axes.cols.count - first))};
  };
  cut_chunks(p, piece_at(0), plan);

  // The only chunk of the only piece: each unit puts its part of dw where it belongs, while it is
  // in cache.
  const bool at_once = plan.chunks == 1 && plan.groups == 1 && !plan.depthwise &&
                       plan.runs * plan.parts > 1 && some_cols == axes.cols.count;
  const Scratch partial(static_cast<std::size_t>(at_once ? 0 : plan.chunks * plan.chunk_bytes));
  Table place;
  for (std::int64_t tap = 0; tap < plan.taps; ++tap) {
    const std::int64_t plane = tap / (p.kh * p.kw), row = tap / p.kw % p.kh;
    place.push_back(plane * dw.stride_d + row * dw.stride_h + tap % p.kw * dw.stride_w);
  }
  const bool by_channel = dw.stride_i > dw.stride_w;
  const std::int64_t depth = plan.taps * plan.channels;
  const ConvWeightSumArgs sum{
      p.dtype,
      partial.get(),
      plan.chunks,
      plan.chunk_bytes / item,
      depth,
      plan.groups,
      plan.parts,
      plan.columns,
      dw.data,
      place.data(),
      plan.taps,
      plan.run,
      dw.stride_i,
      by_channel,
      depth > 0 ? dense_terms(place, plan.run, plan.runs, dw.stride_i, by_channel) : 1,
      plan.outputs * dw.stride_o,
      dw.stride_o};
  for (std::int64_t first = 0; first < axes.cols.count; first += some_cols) {
    add_columns(p, dy, piece_at(first), plan, first, at_once, sum, partial.get());
  }
  if (at_once) return;
  const std::int64_t sum_work = plan.chunks * plan.pitch * kPackRun;
  launch(conv_weight_sum_kernel(), sum,
         {.units = plan.groups * ceil_div(depth, kPackRun),
          .grain = std::max<std::int64_t>(1, 65536 / sum_work),
          .interruptible = p.interruptible});
}

}  // namespace hotloop
