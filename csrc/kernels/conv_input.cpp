// The driver of backward to the input: one pass for each phase of the strides, over weights that
// are packed once for all of them.
#include <algorithm>
#include <optional>

#include "core/errors.h"
#include "kernels/driver/conv_pass.h"

namespace hotloop {
namespace {

// The weights of all phases in one pack: memory is read once, in its own order, where a phase by
// itself would pick single taps out of it.
struct PhasePack {
  PackPlan plan;
  std::optional<Scratch> memory;
  std::vector<std::int64_t> first;  // term of each phase
};

void pack_phases(const ConvProblem& p, const std::vector<PassAxes>& phases, const PassWeights& w,
                 PhasePack& pack) {
  const std::int64_t channels = p.o / p.groups;
  PackShape whole = pack_shape(p.dtype, channels, p.groups, p.c / p.groups, 1, false);
  Table& term = pack.plan.term;
  for (const PassAxes& axes : phases) {
    pack.first.push_back(static_cast<std::int64_t>(term.size()));
    const PackShape shape =
        pack_shape(p.dtype, channels, p.groups, p.c / p.groups, axes.taps(), false);
    each_term(axes, channels, shape.run_channels,
              [&](std::int64_t, std::int64_t plane, std::int64_t row, std::int64_t col,
                  std::int64_t channel) {
                term.push_back(plane * w.stride_plane + row * w.stride_row + col * w.stride_col +
                               channel * w.stride_channel);
              });
  }
  const std::int64_t depth = static_cast<std::int64_t>(term.size());
  Table& order = pack.plan.order;
  for (std::int64_t k = 0; k < depth; ++k) order.push_back(k);
  std::sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
    return term[static_cast<std::size_t>(a)] < term[static_cast<std::size_t>(b)];
  });
  whole.depth = depth;
  const std::int64_t sizes[] = {whole.groups, whole.columns.blocks, depth};
  pack.memory.emplace(static_cast<std::size_t>(
      checked_product("conv2d_backward_input", sizes, 3, kBlockBytes) * kBlockBytes));
  pack.plan.args = {
      p.dtype,      w.data,         term.data(),     order.data(),  dense_run(term, order), depth,
      whole.groups, w.stride_group, w.stride_column, whole.columns, pack.memory->get()};
  run_pack(whole, pack.plan.args);
}

}  // namespace

void conv_backward_input(const ConvProblem& p, const ConvImage& dy, const ConvKernel& w,
                         const ConvEpilogue& epilogue, const ConvImage& dx) {
  if (conv_lanes_input(p, dy, w, epilogue, dx)) return;
  if (conv_narrow_input(p, dy, w, epilogue, dx)) return;
  if (conv_pointwise_input(p, dy, w, epilogue, dx)) return;
  const PassWeights weights{w.data,
                            w.stride_d,
                            w.stride_h,
                            w.stride_w,
                            w.stride_o,
                            w.stride_i,
                            p.o / p.groups * w.stride_o};
  const Source source = source_of(dy, p.n, p.o, p.out_d, p.out_h, p.out_w);
  const Destination to{dx.data, dx.stride_n, dx.stride_d, dx.stride_h, dx.stride_w};
  // Every phase that has a pixel: a stride beyond the image has no more than the image has pixels.
  const auto phases = [](std::int64_t taps, std::int64_t stride, std::int64_t padding,
                         std::int64_t dilation, std::int64_t size) {
    std::vector<AxisPlan> plans;
    for (std::int64_t i = 0; i < std::min(stride, size); ++i) {
      const std::int64_t phase = (i + padding) % stride;
      plans.push_back(backward_axis(taps, stride, padding, dilation, size, phase));
    }
    return plans;
  };
  const auto all_cols = phases(p.kw, p.stride_w, p.padding_w, p.dilation_w, p.w);
  const auto all_rows = phases(p.kh, p.stride_h, p.padding_h, p.dilation_h, p.h);
  std::vector<PassAxes> passes;
  int with_taps = 0;
  for (const AxisPlan& planes : phases(p.kd, p.stride_d, p.padding_d, p.dilation_d, p.d)) {
    for (const AxisPlan& rows : all_rows) {
      for (const AxisPlan& cols : all_cols) {
        passes.push_back({planes, rows, cols});
        with_taps += passes.back().taps() > 0;
      }
    }
  }
  const std::int64_t columns = p.c / p.groups;
  if (run_panels(p, source, passes, p.groups, columns, weights, epilogue, to, nullptr)) return;
  const bool depthwise = p.groups > 1 && p.o == p.groups && p.c == p.groups;
  const bool together = with_taps > 1 && !depthwise;
  PhasePack pack;
  if (together) pack_phases(p, passes, weights, pack);
  for (std::size_t i = 0; i < passes.size(); ++i) {
    PackedWeights packed;
    if (together) packed = {pack.memory->get(), pack.first[i], pack.plan.args.depth};
    run_pass(p, source, passes[i], p.groups, columns, weights, epilogue, to, packed);
  }
}

}  // namespace hotloop
