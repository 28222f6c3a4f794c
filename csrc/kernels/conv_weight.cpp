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

}  // namespace

void conv_backward_weight(const ConvProblem& p, const ConvImage& dy, const ConvImage& x,
                          const ConvKernel& dw) {
  if (conv_pointwise_weight(p, dy, x, dw)) return;
  PassAxes axes = forward_axes(p);
  Source source = source_of(x, p.n, p.c, p.d, p.h, p.w);
  skip_unread(p.dtype, source, axes);
  const AxisPlan& rows = axes.rows;
  const std::int64_t item = bytes_of(p.dtype);
  const std::int64_t channels = p.c / p.groups, outputs = p.o / p.groups;
  const bool depthwise = p.groups > 1 && channels == 1 && outputs == 1;
  const ConvColumns columns = columns_of(p.dtype, depthwise ? p.groups : outputs, depthwise);
  const std::int64_t groups = depthwise ? 1 : p.groups;
  const std::int64_t pitch = columns.blocks * kBlockBytes / item;
  const std::int64_t taps = axes.taps();

  // Runs of input channels and parts of the columns, each a divisor of them, until a partial fits
  // the cache. Every run copies dy and every part copies x: the longer side is cut.
  std::int64_t runs = 1, parts = 1;
  while (groups == 1 && !depthwise) {
    const std::int64_t run = channels / runs, blocks = columns.blocks / parts;
    if (taps * run * blocks * kBlockBytes <= kPartialBytes) break;
    const bool run_splits = channels % (2 * runs) == 0 && run >= 16;
    const bool part_splits = columns.panels % (2 * parts) == 0 && columns.blocks % (2 * parts) == 0;
    if (!run_splits && !part_splits) break;
    if (part_splits && (!run_splits || blocks * kBlockBytes >= run * item)) {
      parts *= 2;
    } else {
      runs *= 2;
    }
  }
  const std::int64_t run = channels / runs;
  const std::int64_t copied_channels = runs == 1 ? p.c : run;
  const std::int64_t unit_outputs = parts == 1 ? p.o : pitch / parts;
  const double pixel_work = 2.0 * static_cast<double>(taps * channels * p.o);
  // One tap reads each pixel once: a copy cost 7 % of 256 to 64 channels at 56 by 56.
  const bool spread = groups == 1 && !depthwise && taps > 1 && p.o >= kSpreadOutputs;
  const ConvRowTaps row_taps =
      depthwise && dy.stride_c == 1 ? plan_row_taps(p.dtype, source, axes, 0) : ConvRowTaps{};
  const bool strips = row_taps.strip > 0;
  const SlabPlan plan = plan_slabs(p.dtype, source, axes, strips ? row_taps.strip : copied_channels,
                                   strips ? row_taps.strip : unit_outputs, pixel_work, runs * parts,
                                   spread || strips);
  const ConvSlab& slab = plan.slab;
  const Table tap = tap_offsets(slab, axes);

  // Chunks: enough units for the threads, as long as adding partials stays small beside the work.
  const std::int64_t sizes[] = {groups, taps, channels, columns.blocks};
  const std::int64_t chunk_bytes =
      checked_product("conv2d_backward_weight", sizes, 4, kBlockBytes) * kBlockBytes;
  const double work = pixel_work * static_cast<double>(p.n * p.out_d * p.out_h * p.out_w);
  std::int64_t chunks = 1;
  if (work >= kWorkWorthSplitting) {
    const std::int64_t pixels = p.n * p.out_d * p.out_h * p.out_w;
    chunks = std::min({slab.count, ceil_div(2 * kSlabsWanted, runs * parts),
                       std::max<std::int64_t>(kAllPartialBytes / chunk_bytes, 1),
                       std::max<std::int64_t>(pixels / 256, 1)});
  }
  const std::int64_t chunk_slabs = ceil_div(slab.count, chunks);
  chunks = ceil_div(slab.count, chunk_slabs);

  const Outputs of_rows = outputs_inside(rows, source.h);
  const Outputs of_cols = outputs_inside(axes.cols, source.w);
  const bool skips = !depthwise && p.kd == 1 && p.kw * run >= kTermsWorthSkipping;
  // A row of pixels without its first or last one is a segment of a sum: not too short.
  const bool skip_cols = skips && of_cols.padded && run >= kChannelsWorthSkipping &&
                         slab.out_w <= kWidthWorthSkipping &&
                         slab.out_w * slab.images >= kTermsWorthSkipping;
  const bool padded = (skips && of_rows.padded) || skip_cols;
  const bool by_rows = padded && slab.images > 1;

  const std::int64_t dy_pixels = slab.images * slab.rows * slab.out_w;
  const bool by_row_taps = row_taps.count > 0;
  const bool dy_direct =
      !by_rows && dy.stride_c == 1 && dy.stride_w >= 0 && outputs % (kBlockBytes / item) == 0 &&
      (p.o <= (taps == 1 ? kDirectOutputsOfOneTap : kDirectOutputs) || depthwise) &&
      (p.out_h == 1 || dy.stride_h == p.out_w * dy.stride_w) &&
      (slab.images == 1 || dy.stride_n == p.out_h * p.out_w * dy.stride_w);
  const std::int64_t dy_sizes[] = {dy_pixels, groups, strips ? row_taps.strip : pitch / parts};
  const std::int64_t dy_bytes =
      !strips && (dy_direct || by_row_taps)
          ? 0
          : checked_product("conv2d_backward_weight", dy_sizes, 3, item) * item;
  const std::int64_t units = chunks * parts * runs;
  Split split = split_for(units, work / static_cast<double>(units), p.interruptible);
  const bool in_place = slab.direct || (by_row_taps && !strips);
  // The only chunk: each unit puts its part of dw where it belongs, while it is in cache.
  const bool at_once = chunks == 1 && groups == 1 && !depthwise && runs * parts > 1;
  const std::int64_t partial_at =
      ceil_div((in_place ? 0 : slab.size * item) + dy_bytes, kBlockBytes) * kBlockBytes;
  const std::int64_t partial_bytes = at_once ? taps * run * (pitch / parts) * item : 0;
  const ThreadScratch scratch(partial_at + partial_bytes, is_parallel(split));
  const ThreadScratch orders(by_rows ? dy_pixels * 8 : 0, is_parallel(split));
  split.max_threads = std::min(scratch.threads, orders.threads);
  const Scratch partial(static_cast<std::size_t>(at_once ? 0 : chunks * chunk_bytes));

  Table term;
  for (std::int64_t first = 0; first < channels; first += run) {
    for (std::int64_t tap_index = 0; tap_index < taps; ++tap_index) {
      const std::int64_t plane = tap_index / (p.kh * p.kw), row = tap_index / p.kw % p.kh;
      const std::int64_t at =
          plane * dw.stride_d + row * dw.stride_h + tap_index % p.kw * dw.stride_w;
      for (std::int64_t channel = first; channel < first + run; ++channel) {
        term.push_back(at + channel * dw.stride_i);
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
                              parts,
                              columns,
                              dw.data,
                              term.data(),
                              order.data(),
                              dense_run(term, order),
                              outputs * dw.stride_o,
                              dw.stride_o};

  ConvWeightArgs args{};
  args.dtype = p.dtype;
  args.slab = slab;
  args.tap = tap.data();
  args.taps = taps;
  args.groups = groups;
  args.group_channels = channels;
  args.run = run;
  args.runs = runs;
  args.parts = parts;
  args.columns = columns;
  args.dy = dy.data;
  args.dy_stride_n = dy.stride_n, args.dy_stride_d = dy.stride_d, args.dy_stride_h = dy.stride_h;
  args.dy_stride_w = dy.stride_w, args.dy_stride_c = dy.stride_c;
  args.dy_direct = dy_direct;
  args.chunks = chunks;
  args.chunk_slabs = chunk_slabs;
  args.partial = partial.get();
  args.sum = at_once ? &sum : nullptr;
  args.partial_at = partial_at;
  args.first_rows = padded ? of_rows.first.data() : nullptr;
  args.last_rows = of_rows.last.data();
  args.first_cols = skip_cols ? of_cols.first.data() : nullptr;
  args.last_cols = of_cols.last.data();
  args.taps_w = p.kw;
  args.by_rows = by_rows;
  args.scratch = scratch.view();
  args.orders = orders.view();
  args.row_taps = row_taps;
  if (by_row_taps) {
    launch(conv_depthwise_rows_weight_kernel(), args, split);
  } else {
    launch(depthwise ? conv_depthwise_weight_kernel() : conv_weight_kernel(), args, split);
  }

  if (at_once) return;
  const std::int64_t sum_work = chunks * pitch * kPackRun;
  launch(conv_weight_sum_kernel(), sum,
         {.units = groups * ceil_div(depth, kPackRun),
          .grain = std::max<std::int64_t>(1, 65536 / sum_work),
          .interruptible = p.interruptible});
}

}  // namespace hotloop
