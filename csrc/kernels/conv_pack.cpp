// How the weights of a pass are packed: runs of channels, and the order in which memory is read.
#include "kernels/driver/conv_pass.h"

namespace hotloop {
namespace {

// Terms per run: a panel of 64 columns stays in a third of L2, and 128 channels of 3x3 are one run.
constexpr std::int64_t kRunBytes = 4608;
// Packing writes the taps of a channel side by side: runs of so many rows of a panel put all of
// them into one place of the first cache.
constexpr std::int64_t kRowsOfAPlace = 4096 / (kPanelBlocks * kBlockBytes);

}  // namespace

PackShape pack_shape(DType dtype, std::int64_t channels, std::int64_t groups,
                     std::int64_t group_columns, std::int64_t taps, bool pools) {
  PackShape shape;
  shape.depthwise = groups > 1 && channels == 1 && group_columns == 1 && !pools;
  shape.columns = columns_of(dtype, shape.depthwise ? groups : group_columns, shape.depthwise);
  shape.groups = shape.depthwise ? 1 : groups;
  shape.depth = taps * channels;
  // Runs of channels, as even as they can be.
  const std::int64_t bytes = std::max<std::int64_t>(shape.depth * bytes_of(dtype), 1);
  const std::int64_t runs = shape.depthwise ? 1 : std::min(channels, ceil_div(bytes, kRunBytes));
  shape.run_channels = ceil_div(channels, runs);
  if (runs > 1 && taps > 1 && shape.run_channels % kRowsOfAPlace == 0) {
    shape.run_channels = ceil_div(channels, runs + 1);
    if (shape.run_channels % kRowsOfAPlace == 0) ++shape.run_channels;
  }
  return shape;
}

ConvPackRun run_of(const RunTables& tables) {
  const auto terms = static_cast<std::int64_t>(tables.term.size());
  return {tables.term.data(), tables.order.data(), terms,
          terms > 0 ? dense_run(tables.term, tables.order) : 1};
}

void plan_pack(DType dtype, PassWeights w, const PassAxes& axes, std::int64_t channels,
               const PackShape& shape, void* packed, PackPlan& plan) {
  if (shape.depthwise) w.stride_column = w.stride_group;
  const std::int64_t taps = axes.taps();
  const auto tables_of = [&](std::int64_t count, RunTables& tables) {
    Table& term = tables.term;
    term.reserve(static_cast<std::size_t>(taps * count));
    each_term(axes, count, count,
              [&](std::int64_t, std::int64_t plane, std::int64_t row, std::int64_t col,
                  std::int64_t channel) {
                term.push_back(plane * w.stride_plane + row * w.stride_row + col * w.stride_col +
                               channel * w.stride_channel);
              });
    if (term.empty()) return;
    // Reading w as it lies keeps its cache lines: the taps of a channel one after the other where
    // they are closer than the channels; backwards where the taps are turned.
    const bool backwards = term[0] > term[static_cast<std::size_t>((taps - 1) * count)];
    const auto tap_at = [&](std::int64_t tap) { return backwards ? taps - 1 - tap : tap; };
    const bool by_channel = w.stride_channel > w.stride_col;
    tables.order.reserve(term.size());
    for (std::int64_t step = 0; step < taps * count; ++step) {
      const std::int64_t channel = by_channel ? step / taps : step % count;
      const std::int64_t tap = tap_at(by_channel ? step % taps : step / count);
      tables.order.push_back(tap * count + channel);
    }
  };
  const std::int64_t run_channels = shape.run_channels;
  tables_of(std::min(channels, run_channels), plan.run);
  if (run_channels > 0) tables_of(channels % run_channels, plan.last);
  plan.args = {dtype,
               w.data,
               run_of(plan.run),
               run_of(plan.last),
               run_channels * w.stride_channel,
               taps * channels,
               shape.groups,
               w.stride_group,
               w.stride_column,
               shape.columns,
               packed};
}

void run_pack(const PackShape& shape, const ConvPackArgs& args) {
  const std::int64_t units = shape.groups * shape.columns.panels * ceil_div(shape.depth, kPackRun);
  launch(conv_pack_kernel(), args, {.units = units, .grain = 2});
}

}  // namespace hotloop
