// Planning of convolutions: what of the images one unit of work reads, and where its pixels lie.
#include "kernels/driver/conv_plan.h"

#include <algorithm>
#include <numeric>

#include "core/errors.h"

namespace hotloop {
namespace {

std::int64_t floor_mod(std::int64_t value, std::int64_t divisor) {
  const std::int64_t rest = value % divisor;
  return rest < 0 ? rest + divisor : rest;
}

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

}  // namespace

PassAxes forward_axes(const ConvProblem& p) {
  return {forward_axis(p.kd, p.stride_d, p.padding_d, p.dilation_d, p.out_d),
          forward_axis(p.kh, p.stride_h, p.padding_h, p.dilation_h, p.out_h),
          forward_axis(p.kw, p.stride_w, p.padding_w, p.dilation_w, p.out_w)};
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
  const std::int64_t start = padding > phase ? ceil_div(padding - phase, stride) : 0;
  axis.out_first = stride * start + phase - padding;
  axis.out_step = stride;
  axis.count = axis.out_first < size ? ceil_div(size - axis.out_first, stride) : 0;
  axis.first = start + least;
  axis.span = most - least + 1;
  return axis;
}

Source source_of(const ConvImage& image, std::int64_t n, std::int64_t channels, std::int64_t d,
                 std::int64_t h, std::int64_t w) {
  return {image.data,
          n,
          channels,
          d,
          h,
          w,
          image.stride_n,
          image.stride_c,
          image.stride_d,
          image.stride_h,
          image.stride_w};
}

namespace {

// The axis sees every pixel of what is left: its size; 0 where it stays as it is.
std::int64_t skip_along(AxisPlan& axis, std::int64_t size) {
  const bool one = axis.taps() == 1 && axis.span == 1 && axis.step > 1 && axis.first >= 0;
  if (!one || axis.count <= 0 || axis.first + (axis.count - 1) * axis.step >= size) return 0;
  axis.step = 1;
  axis.first = 0;
  return axis.count;
}

}  // namespace

void skip_unread(DType dtype, Source& source, PassAxes& axes) {
  const auto skip = [&](AxisPlan& axis, std::int64_t& size, std::int64_t& stride) {
    const std::int64_t first = axis.first, step = axis.step;
    const std::int64_t left = skip_along(axis, size);
    if (left == 0) return std::int64_t{0};
    const std::int64_t moved = first * stride;
    size = left;
    stride *= step;
    return moved;
  };
  const std::int64_t moved = skip(axes.planes, source.d, source.stride_d) +
                             skip(axes.rows, source.h, source.stride_h) +
                             skip(axes.cols, source.w, source.stride_w);
  source.data = static_cast<const char*>(source.data) + moved * bytes_of(dtype);
}

ConvColumns columns_of(DType dtype, std::int64_t columns, bool one_panel) {
  const std::int64_t blocks = ceil_div(columns, kBlockBytes / (dtype == DType::f32 ? 4 : 8));
  return {columns, blocks, one_panel ? 1 : ceil_div(blocks, kPanelBlocks)};
}
namespace {

constexpr std::int64_t kSlabPixels = 1024;
constexpr double kWorkOfAGrain = 1e6;
constexpr double kWorkOfShares = 4e5;       // in all: worth another thread that is awake
constexpr std::int64_t kSharePixels = 256;  // below, packing for both takes as long
constexpr std::int64_t kSpreadBytes = 512;
// Pixels so far apart share one place of the first cache; from half of it on rows in place win.
constexpr std::int64_t kPageBytes = 4096;
// The most bytes of x for which rows are walked once for each vector of channels: with y they stay
// in the last cache. (32, 512, 14, 14) takes 0.57 of the time of blocks so, (32, 256, 28, 28) 1.2.
constexpr std::int64_t kSlideBytes = 16 << 20;

// Whether the taps of so many output positions lie so far apart that each has its own copies.
bool leaves_out(const AxisPlan& axis, std::int64_t count) {
  return !axis.whole && axis.taps() > 0 &&
         count * axis.taps() < (count - 1) * axis.step + axis.span;
}
std::int64_t copied_size(const AxisPlan& axis, std::int64_t count) {
  return leaves_out(axis, count) ? count * axis.taps() : (count - 1) * axis.step + axis.span;
}

// Where the slabs lie in the source, and whether they can be read there.
ConvSlab place_slabs(const Source& source, const PassAxes& axes) {
  const auto& [planes, rows, cols] = axes;
  ConvSlab slab{};
  slab.data = source.data;
  slab.stride_n = source.stride_n, slab.stride_d = source.stride_d;
  slab.stride_h = source.stride_h, slab.stride_w = source.stride_w;
  slab.stride_c = source.stride_c;
  slab.n = source.n, slab.d = source.d, slab.h = source.h, slab.w = source.w;
  slab.channels = source.channels;
  slab.out_d = planes.count, slab.out_h = rows.count, slab.out_w = cols.count;
  slab.step_d = planes.step, slab.step_h = rows.step, slab.step_w = cols.step;
  slab.front = planes.first, slab.top = rows.first, slab.left = cols.first;
  slab.span_d = planes.span, slab.span_h = rows.span;
  slab.width = copied_size(cols, cols.count);
  slab.planes = copied_size(planes, 1);
  slab.plane_shift = leaves_out(planes, 1) ? planes.shift.data() : nullptr;
  slab.col_shift = leaves_out(cols, cols.count) ? cols.shift.data() : nullptr;
  const bool no_taps = axes.taps() == 0;
  if (no_taps) slab.front = slab.top = slab.left = 0;
  const auto inside = [](const AxisPlan& axis, std::int64_t size) {
    return axis.first >= 0 && axis.first + (axis.count - 1) * axis.step + axis.span <= size;
  };
  slab.direct =
      no_taps || ((source.stride_c == 1 || source.channels == 1) && inside(planes, source.d) &&
                  inside(rows, source.h) && inside(cols, source.w));
  return slab;
}

}  // namespace

namespace {

SlabCut cut_slabs(DType dtype, const ConvSlab& slab, std::int64_t out_channels, double pixel_work,
                  std::int64_t splits, std::int64_t row_multiple, std::int64_t slab_bytes) {
  const std::int64_t item = bytes_of(dtype);
  const std::int64_t images = slab.n * slab.out_d;  // each plane of a volume is one
  const std::int64_t row_bytes =
      item * std::max(slab.out_w * out_channels,
                      slab.planes * slab.width * slab.pitch * std::min(slab.step_h, slab.span_h));
  const std::int64_t rows_that_fit = std::max<std::int64_t>(
      1, std::min(slab_bytes / std::max<std::int64_t>(row_bytes, 1), kSlabPixels / slab.out_w));
  SlabCut cut{1, slab.out_h, row_multiple};
  const double work = pixel_work * static_cast<double>(slab.out_h * slab.out_w * images);
  if (rows_that_fit >= 2 * slab.out_h && slab.out_d == 1) {
    cut.images = std::min(slab.n, rows_that_fit / slab.out_h);
    if (work >= kWorkWorthSplitting) {
      const std::int64_t most = slab.n * splits / kSlabsWanted;
      cut.images = std::max<std::int64_t>(1, std::min(cut.images, most));
    } else if (work >= kWorkOfShares && slab.n * slab.out_h * slab.out_w >= kSharePixels) {
      cut.images = std::min(cut.images, ceil_div(slab.n, 2));
    }
    // Few slabs, which threads share in halves: as many images, below as many rows, for each.
    const std::int64_t slabs = ceil_div(slab.n, cut.images);
    if (slabs > 1 && slabs % 2 != 0 && slabs < 2 * kSlabsWanted) {
      cut.images = ceil_div(slab.n, slabs + 1);
    }
  }
  if (cut.images == 1) {
    std::int64_t pieces = ceil_div(slab.out_h, rows_that_fit);
    if (work >= kWorkWorthSplitting && images * splits * pieces < kSlabsWanted) {
      pieces = std::max(pieces, ceil_div(kSlabsWanted, images * splits));
    }
    if (pieces > 1 && images * pieces % 2 != 0 && images * pieces < 2 * kSlabsWanted) ++pieces;
    cut.rows = ceil_div(slab.out_h, std::min(pieces, slab.out_h));
    cut.rows = std::min(ceil_div(cut.rows, row_multiple) * row_multiple, slab.out_h);
  }
  return cut;
}

// No more than a thread may copy.
void keep_within(const ConvSlab& slab, const AxisPlan& rows, std::int64_t item,
                 std::int64_t row_multiple, SlabCut& cut) {
  const auto bytes = [&] {
    return static_cast<double>(cut.images * slab.planes * slab.width * slab.pitch * item) *
           static_cast<double>(copied_size(rows, cut.rows));
  };
  while (cut.images > 1 && bytes() > kMostSlabBytes) cut.images /= 2;
  while (cut.rows > row_multiple && bytes() > kMostSlabBytes) {
    cut.rows = std::max(cut.rows / 2 / row_multiple, std::int64_t{1}) * row_multiple;
  }
}

}  // namespace

AxisPlan piece_of(const AxisPlan& axis, std::int64_t first, std::int64_t count) {
  AxisPlan piece = axis;
  piece.first += first * axis.step;
  piece.out_first += first * axis.out_step;
  piece.count = count;
  return piece;
}

std::int64_t columns_at_once(const PassAxes& axes, std::int64_t pixel_bytes, std::int64_t beside) {
  const auto bytes = [&](std::int64_t count) {
    return static_cast<double>(copied_size(axes.planes, 1) * copied_size(axes.rows, 1)) *
               static_cast<double>(copied_size(axes.cols, count) * pixel_bytes) +
           static_cast<double>(count * beside);
  };
  std::int64_t count = std::min(axes.cols.count, kListedPixels);
  while (count > 2 && bytes(count) > kMostSlabBytes) {
    count = std::max(count / 4, std::int64_t{1}) * 2;
  }
  return count;
}

bool reads_in_place(const Source& source, const PassAxes& axes) {
  return place_slabs(source, axes).direct;
}

SlabPlan plan_slabs(DType dtype, const Source& source, const PassAxes& axes,
                    std::int64_t copied_channels, std::int64_t out_channels, double pixel_work,
                    std::int64_t splits, bool spread, std::int64_t row_multiple,
                    std::int64_t slab_bytes) {
  ConvSlab slab = place_slabs(source, axes);
  slab.pitch = copied_channels;
  SlabCut cut = cut_slabs(dtype, slab, out_channels, pixel_work, splits, row_multiple, slab_bytes);
  if (!slab.direct || spread) keep_within(slab, axes.rows, bytes_of(dtype), row_multiple, cut);
  return plan_slabs_of(dtype, source, axes, copied_channels, spread, cut);
}

SlabPlan plan_slabs_of(DType dtype, const Source& source, const PassAxes& axes,
                       std::int64_t copied_channels, bool spread, const SlabCut& cut) {
  SlabPlan plan;
  plan.slab = place_slabs(source, axes);
  ConvSlab& slab = plan.slab;
  const std::int64_t item = bytes_of(dtype);
  slab.pitch = copied_channels;
  if (spread && axes.cols.step * source.stride_w * item % kSpreadBytes == 0) slab.direct = false;
  if (slab.pitch * item % kSpreadBytes == 0) slab.pitch += kBlockBytes / item;
  slab.images = cut.images;
  slab.rows = cut.rows, slab.row_multiple = cut.row_multiple;
  slab.per_image = ceil_div(slab.out_h, slab.rows);
  slab.count = ceil_div(slab.n * slab.out_d, slab.images) * slab.per_image;
  slab.height = copied_size(axes.rows, slab.rows);
  slab.row_shift = leaves_out(axes.rows, slab.rows) ? axes.rows.shift.data() : nullptr;
  if (!slab.direct) {
    const std::int64_t sizes[] = {slab.images, slab.planes, slab.height, slab.width, slab.pitch};
    // Whole blocks: what lies behind it in scratch is read in them.
    slab.size = ceil_div(checked_product("conv2d", sizes, 5, 16), kBlockBytes) * kBlockBytes;
  }

  const std::int64_t pixel_step = slab.direct ? slab.stride_w : slab.pitch;
  const std::int64_t row_step = slab.direct ? slab.stride_h : slab.width * slab.pitch;
  const std::int64_t image_step =
      slab.direct ? slab.stride_n : slab.planes * slab.height * row_step;
  const std::int64_t rows_apart = !slab.direct && slab.row_shift ? 1 : slab.step_h;
  const std::int64_t cols_apart = !slab.direct && slab.col_shift ? 1 : slab.step_w;
  plan.pixel.reserve(static_cast<std::size_t>(slab.images * slab.rows * slab.out_w));
  for (std::int64_t image = 0; image < slab.images; ++image) {
    for (std::int64_t row = 0; row < slab.rows; ++row) {
      std::int64_t at = image * image_step + row * rows_apart * row_step;
      for (std::int64_t col = 0; col < slab.out_w; ++col, at += cols_apart * pixel_step) {
        plan.pixel.push_back(at);
      }
    }
  }
  slab.pixel = plan.pixel.data();
  return plan;
}

TapRanges taps_inside(const AxisPlan& axis, std::int64_t size) {
  TapRanges ranges;
  for (std::int64_t at = axis.first, t = 0; t < axis.count; ++t, at += axis.step) {
    std::int64_t first = 0, last = axis.taps();
    while (first < last && at + axis.shift[static_cast<std::size_t>(first)] < 0) ++first;
    while (last > first && at + axis.shift[static_cast<std::size_t>(last - 1)] >= size) --last;
    ranges.first.push_back(first);
    ranges.last.push_back(last);
  }
  return ranges;
}

namespace {

// Terms of a row of taps: below, leaving some of them out is not worth the tiles it breaks up.
constexpr std::int64_t kTermsWorthSkipping = 96;

struct Edges {
  std::int64_t before = 0, behind = 0;
};
// Positions at both ends that miss some tap.
Edges edges_of(const TapRanges& ranges, std::int64_t taps) {
  const std::int64_t count = static_cast<std::int64_t>(ranges.first.size());
  const auto cut = [&](std::int64_t at) {
    const auto t = static_cast<std::size_t>(at);
    return ranges.first[t] > 0 || ranges.last[t] < taps;
  };
  Edges edges;
  while (edges.before < count && cut(edges.before)) ++edges.before;
  while (edges.behind < count - edges.before && cut(count - 1 - edges.behind)) ++edges.behind;
  return edges;
}

}  // namespace

std::vector<ConvPixel> tile_order(const ConvSlab& slab, const PassAxes& axes, const TapRanges& rows,
                                  const TapRanges& cols, std::int64_t channels) {
  const std::int64_t h = slab.rows, w = slab.out_w;
  if (channels * axes.cols.taps() < kTermsWorthSkipping) return {};
  const Edges of_rows = edges_of(rows, axes.planes.taps() * axes.rows.taps());
  const Edges of_cols = edges_of(cols, axes.cols.taps());
  if (of_rows.before + of_rows.behind + of_cols.before + of_cols.behind == 0) return {};
  const std::int64_t left = of_cols.before, right = w - of_cols.behind;
  const std::int64_t top = std::min(of_rows.before, h);
  const std::int64_t bottom = h - std::min(of_rows.behind, h - top);
  std::vector<ConvPixel> order;
  order.reserve(static_cast<std::size_t>(slab.images * h * w));
  const auto add = [&](std::int64_t image, std::int64_t row, std::int64_t col) {
    order.push_back({static_cast<std::int32_t>((image * h + row) * w + col),
                     static_cast<std::int32_t>(row), static_cast<std::int32_t>(col)});
  };
  const auto add_all = [&](std::int64_t row, std::int64_t col) {
    for (std::int64_t image = 0; image < slab.images; ++image) add(image, row, col);
  };
  // Round the edge, each corner with the side that follows it.
  for (std::int64_t row = 0; row < top; ++row) {
    for (std::int64_t col = 0; col < right; ++col) add_all(row, col);
  }
  for (std::int64_t row = 0; row < bottom; ++row) {
    for (std::int64_t col = right; col < w; ++col) add_all(row, col);
  }
  for (std::int64_t row = bottom; row < h; ++row) {
    for (std::int64_t col = w - 1; col >= left; --col) add_all(row, col);
  }
  for (std::int64_t row = h - 1; row >= top; --row) {
    for (std::int64_t col = 0; col < left; ++col) add_all(row, col);
  }
  for (std::int64_t row = top; row < bottom; ++row) {
    for (std::int64_t image = 0; image < slab.images; ++image) {
      for (std::int64_t col = left; col < right; ++col) add(image, row, col);
    }
  }
  return order;
}

Table tap_offsets(const ConvSlab& slab, const PassAxes& axes) {
  const std::int64_t pixel_step = slab.direct ? slab.stride_w : slab.pitch;
  const std::int64_t row_step = slab.direct ? slab.stride_h : slab.width * slab.pitch;
  const std::int64_t plane_step = slab.direct ? slab.stride_d : slab.height * row_step;
  // Of each tap along an axis: its shift, or where its own copies begin.
  const auto places = [&](const AxisPlan& axis, const std::int64_t* shift, std::int64_t count) {
    Table table(axis.shift.begin(), axis.shift.end());
    for (std::size_t i = 0; !slab.direct && shift && i < table.size(); ++i) {
      table[i] = static_cast<std::int64_t>(i) * count;
    }
    return table;
  };
  const Table planes = places(axes.planes, slab.plane_shift, 1);
  const Table rows = places(axes.rows, slab.row_shift, slab.rows);
  const Table cols = places(axes.cols, slab.col_shift, slab.out_w);
  Table offsets;
  offsets.reserve(static_cast<std::size_t>(axes.taps()));
  for (const std::int64_t plane : planes) {
    for (const std::int64_t row : rows) {
      for (const std::int64_t col : cols) {
        offsets.push_back(plane * plane_step + row * row_step + col * pixel_step);
      }
    }
  }
  return offsets;
}

ConvRowTaps plan_row_taps(DType dtype, const Source& source, const PassAxes& axes,
                          std::int64_t y_step) {
  const AxisPlan& cols = axes.cols;
  const bool three = cols.shift == Numbers{0, 1, 2} && (cols.step == 1 || cols.step == 2);
  const AxisPlan& planes = axes.planes;  // an image, not a volume with planes of padding
  const bool image = source.d == 1 && planes.taps() == 1 && planes.count == 1 && planes.first == 0;
  if (!three || !image || source.stride_c != 1) return {};
  if (axes.rows.taps() > kMaxRowTaps) return {};
  const std::int64_t item = bytes_of(dtype), strip = kStripBlocks * kBlockBytes / item;
  const std::int64_t bytes = item * source.n * source.h * source.w * source.channels;
  const bool square = cols.step == 1 && axes.rows.step == 1 && axes.rows.shift == Numbers{0, 1, 2};
  const bool pages = source.stride_w * item % kPageBytes == 0 && source.channels > strip;
  const bool slide = square && (y_step == 0 || bytes <= kSlideBytes);
  const bool copied = pages && !slide;
  if (copied && axes.rows.span > axes.rows.taps()) return {};  // rows between taps are not copied
  return {axes.rows.taps(), axes.rows.shift.data(), cols.step, y_step, copied ? strip : 0, slide};
}

std::int64_t dense_run(const Table& term, const Table& order) {
  const auto at = [&](std::size_t step) { return term[static_cast<std::size_t>(order[step])]; };
  std::size_t run = 1;
  while (run < order.size() && at(run) == at(run - 1) + 1) ++run;
  run = std::gcd(run, order.size());  // runs of channels may differ in length
  for (std::size_t first = 0; first < order.size(); first += run) {
    for (std::size_t step = first + 1; step < first + run; ++step) {
      if (at(step) != at(step - 1) + 1) return 1;
    }
  }
  return static_cast<std::int64_t>(run);
}

Split split_for(std::int64_t units, double unit_work, bool interruptible) {
  const auto grain = static_cast<std::int64_t>(kWorkOfAGrain / (unit_work + 1.0));
  Split split{
      .units = units, .grain = std::max<std::int64_t>(1, grain), .interruptible = interruptible};
  if (!is_parallel(split) && units > 1 && unit_work * static_cast<double>(units) >= kWorkOfShares) {
    // Too short to wake anybody, but not for threads that are awake.
    split.grain = ceil_div(units, num_threads());
    split.is_short = true;
  }
  return split;
}

}  // namespace hotloop
