// The tables of a pass: where its slabs lie, and the pixels and taps in them. They depend on shapes
// and strides alone, so those of recent small passes are kept: planning takes as long as a small
// layer, and other threads would fetch what the caller has just written line by line (32 images of
// 8x8, 1 to 32 channels: 22.8 to 12.6 us).
#include <algorithm>
#include <array>
#include <mutex>

#include "kernels/driver/conv_pass.h"

namespace hotloop {
namespace {

constexpr std::size_t kKept = 64;                // passes, the latest
constexpr std::size_t kMostBytes = 48ull << 10;  // of one: 3 MB in all

// Where each pixel of a slab lies in an image of a pass's result.
Table pixel_table(const ConvSlab& slab, const PassAxes& axes, std::int64_t stride_n,
                  std::int64_t stride_h, std::int64_t stride_w) {
  Table table;
  table.reserve(static_cast<std::size_t>(slab.images * slab.rows * slab.out_w));
  for (std::int64_t image = 0; image < slab.images; ++image) {
    for (std::int64_t row = 0; row < slab.rows; ++row) {
      std::int64_t at = image * stride_n + row * axes.rows.out_step * stride_h;
      for (std::int64_t col = 0; col < slab.out_w; ++col, at += axes.cols.out_step * stride_w) {
        table.push_back(at);
      }
    }
  }
  return table;
}

std::size_t bytes_of_tables(const Numbers& key, const PassTables& tables) {
  std::size_t numbers = key.size() + tables.plan.pixel.size() + tables.tap.size() +
                        tables.y_pixel.size() + tables.residual_pixel.size();
  for (const TapRanges* ranges : {&tables.row_ranges, &tables.col_ranges}) {
    numbers += ranges->first.size() + ranges->last.size();
  }
  return numbers * sizeof(std::int64_t) + tables.order.size() * sizeof(ConvPixel);
}

struct Kept {
  Numbers key;
  std::shared_ptr<const PassTables> tables;
};
struct Store {
  std::mutex lock;
  std::array<Kept, kKept> kept;
  std::size_t next = 0;  // to be replaced
};
Store& store_of_process() {
  static Store* const store = new Store;  // leaked: threads may outlive static objects
  return *store;
}

// All numbers that the tables depend on.
Numbers tables_key(const ConvProblem& problem, const Source& source, const PassAxes& axes,
                   std::int64_t columns, std::int64_t copied, const ConvImage& residual,
                   const Destination& y, std::int64_t strip_pitch) {
  Numbers key{static_cast<std::int64_t>(problem.dtype),
              problem.groups,
              columns,
              copied,
              strip_pitch,
              source.n,
              source.channels,
              source.d,
              source.h,
              source.w,
              source.stride_n,
              source.stride_c,
              source.stride_d,
              source.stride_h,
              source.stride_w,
              y.stride_n,
              y.stride_d,
              y.stride_h,
              y.stride_w,
              residual.data != nullptr};
  if (residual.data) {
    key.insert(key.end(), {residual.stride_n, residual.stride_h, residual.stride_w});
  }
  for (const AxisPlan* axis : {&axes.planes, &axes.rows, &axes.cols}) {
    key.insert(key.end(), {axis->step, axis->first, axis->span, axis->count, axis->out_first,
                           axis->out_step, axis->taps()});
    key.insert(key.end(), axis->tap.begin(), axis->tap.end());
    key.insert(key.end(), axis->shift.begin(), axis->shift.end());
  }
  return key;
}

// Or null.
std::shared_ptr<const PassTables> find_tables(const Numbers& key) {
  Store& store = store_of_process();
  // Nobody waits here, a forked child least of all: its parent's lock may never open.
  const std::unique_lock hold(store.lock, std::try_to_lock);
  if (!hold) return nullptr;
  const auto at = std::find_if(store.kept.begin(), store.kept.end(),
                               [&](const Kept& one) { return one.tables && one.key == key; });
  return at == store.kept.end() ? nullptr : at->tables;
}

void keep_tables(Numbers key, std::shared_ptr<const PassTables> tables) {
  if (bytes_of_tables(key, *tables) > kMostBytes) return;
  Store& store = store_of_process();
  const std::unique_lock hold(store.lock, std::try_to_lock);
  if (!hold) return;
  store.kept[store.next] = {std::move(key), std::move(tables)};
  store.next = (store.next + 1) % kKept;
}

}  // namespace

void fill_tables(const Source& source, const PassAxes& axes, std::int64_t channels,
                 const PackShape& shape, const ConvImage& residual, const Destination& y,
                 PassTables& tables) {
  const auto& [planes, rows, cols] = axes;
  const ConvSlab& slab = tables.plan.slab;
  const Table offsets = tap_offsets(slab, axes);
  const std::int64_t last = shape.run_channels > 0 ? channels % shape.run_channels : 0;
  tables.tap.reserve(static_cast<std::size_t>(axes.taps() * (shape.run_channels + last)));
  for (const std::int64_t run : {std::min(channels, shape.run_channels), last}) {
    for (const std::int64_t offset : offsets) {
      for (std::int64_t channel = 0; channel < run; ++channel) {
        tables.tap.push_back(offset + channel);
      }
    }
  }
  TapRanges& row_ranges = tables.row_ranges;
  row_ranges = taps_inside(rows, source.h);
  if (planes.taps() > 1) {  // rows of taps of several planes: all are read
    row_ranges.first.assign(static_cast<std::size_t>(rows.count), 0);
    row_ranges.last.assign(static_cast<std::size_t>(rows.count), planes.taps() * rows.taps());
  }
  tables.col_ranges = taps_inside(cols, source.w);
  if (!shape.depthwise) {
    tables.order = tile_order(slab, axes, row_ranges, tables.col_ranges, channels);
  }
  tables.y_pixel = pixel_table(slab, axes, y.stride_n, y.stride_h, y.stride_w);
  if (residual.data) {
    tables.residual_pixel =
        pixel_table(slab, axes, residual.stride_n, residual.stride_h, residual.stride_w);
  }
}

ConvTilesArgs pass_tiles(const ConvProblem& problem, const Source& source, const PassAxes& axes,
                         const PackShape& shape, const ConvEpilogue& epilogue, const Destination& y,
                         const PassTables& tables) {
  const auto& [planes, rows, cols] = axes;
  const std::int64_t item = bytes_of(problem.dtype), channels = source.channels / problem.groups;
  ConvTilesArgs args{};
  args.dtype = problem.dtype;
  args.slab = tables.plan.slab;
  args.slab.data = source.data;
  // The tables may be of an earlier call, whose axes are gone.
  if (args.slab.plane_shift) args.slab.plane_shift = planes.shift.data();
  if (args.slab.row_shift) args.slab.row_shift = rows.shift.data();
  if (args.slab.col_shift) args.slab.col_shift = cols.shift.data();
  args.tap = tables.tap.data();
  args.depth = axes.taps() * channels;
  args.groups = shape.groups;
  args.stride_group = channels;
  args.first_taps = tables.row_ranges.first.data(), args.last_taps = tables.row_ranges.last.data();
  args.first_cols = tables.col_ranges.first.data(), args.last_cols = tables.col_ranges.last.data();
  args.order = tables.order.empty() ? nullptr : tables.order.data();
  args.taps = axes.taps(), args.taps_w = cols.taps();
  args.channels = channels, args.run_channels = shape.run_channels;
  args.columns = shape.columns;
  args.y = static_cast<char*>(y.data) +
           item * (planes.out_first * y.stride_d + rows.out_first * y.stride_h +
                   cols.out_first * y.stride_w);
  args.y_stride_n = y.stride_n;
  args.y_stride_d = planes.out_step * y.stride_d;
  args.y_stride_h = rows.out_step * y.stride_h;
  args.y_pixel = tables.y_pixel.data();
  const ConvImage& residual = epilogue.residual;
  const auto* added = static_cast<const char*>(residual.data);
  if (added) {
    added += item * (planes.out_first * residual.stride_d + rows.out_first * residual.stride_h +
                     cols.out_first * residual.stride_w);
  }
  args.residual = {added, residual.stride_n, residual.stride_d, residual.stride_h,
                   tables.residual_pixel.data()};
  args.activation = epilogue.activation;
  args.activation_alpha = epilogue.activation_alpha;
  return args;
}

std::shared_ptr<const PassTables> pass_tables(const ConvProblem& problem, const Source& source,
                                              const PassAxes& axes, const PackShape& shape,
                                              std::int64_t group_columns, std::int64_t copied,
                                              const ConvImage& residual, const Destination& y,
                                              std::int64_t strip_pitch) {
  Numbers key = tables_key(problem, source, axes, group_columns, copied, residual, y, strip_pitch);
  if (auto kept = find_tables(key)) return kept;
  const std::int64_t channels = source.channels / problem.groups;
  const std::int64_t outputs = group_columns * problem.groups;
  const double pixel_work = 2.0 * static_cast<double>(shape.depth * outputs + problem.groups);
  // An image that weights outweigh is not cut into more pieces than threads need: each of them
  // reads all weights.
  const bool heavy =
      shape.depth * group_columns > source.h * source.w * channels * axes.planes.span;
  const std::int64_t splits = shape.groups * shape.columns.panels * (heavy ? 2 : 1);
  const auto made = std::make_shared<PassTables>();
  made->plan = plan_slabs(problem.dtype, source, axes, copied, outputs, pixel_work, splits,
                          copied < source.channels, strip_pitch > 0 ? 2 : 1);
  fill_tables(source, axes, channels, shape, residual, y, *made);
  if (strip_pitch > 0) {
    Table& strip = made->y_pixel;
    for (std::size_t p = 0; p < strip.size(); ++p) {
      strip[p] = static_cast<std::int64_t>(p) * strip_pitch;
    }
  }
  keep_tables(std::move(key), made);
  return made;
}

}  // namespace hotloop
