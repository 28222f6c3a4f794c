// The driver of backward to the input: one pass for each phase of the strides, over weights that
// are packed once for all of them.
#include <algorithm>
#include <optional>

#include "core/errors.h"
#include "kernels/driver/conv_pass.h"

namespace hotloop {
namespace {

// The phases of the strides: those of each axis that have a pixel.
struct Phases {
  std::vector<AxisPlan> planes, rows, cols;

  std::int64_t count() const {
    return static_cast<std::int64_t>(planes.size() * rows.size() * cols.size());
  }
  PassAxes at(std::int64_t index) const {
    const auto i = static_cast<std::size_t>(index);
    return {planes[i / cols.size() / rows.size()], rows[i / cols.size() % rows.size()],
            cols[i % cols.size()]};
  }
  std::int64_t taps(std::int64_t index) const {
    const auto i = static_cast<std::size_t>(index);
    return planes[i / cols.size() / rows.size()].taps() *
           rows[i / cols.size() % rows.size()].taps() * cols[i % cols.size()].taps();
  }
};
// Every phase that has a pixel: a stride beyond the image has no more than the image has pixels.
std::vector<AxisPlan> phases_along(std::int64_t taps, std::int64_t stride, std::int64_t padding,
                                   std::int64_t dilation, std::int64_t size) {
  std::vector<AxisPlan> plans;
  for (std::int64_t i = 0; i < std::min(stride, size); ++i) {
    const std::int64_t phase = (i + padding) % stride;
    plans.push_back(backward_axis(taps, stride, padding, dilation, size, phase));
  }
  return plans;
}

constexpr std::int64_t kMostPanelPasses = 256;
// Tables of more terms would take more than 4 MB: each phase is packed by itself.
constexpr std::int64_t kMostTermsTogether = 1 << 18;

// The weights of all phases in one pack: memory is read once, in its own order, where a phase by
// itself would pick single taps out of it.
struct PhasePack {
  PackPlan plan;
  std::optional<Scratch> memory;
};

void pack_phases(const ConvProblem& p, const Phases& phases, const PassWeights& w,
                 PhasePack& pack) {
  const std::int64_t channels = p.o / p.groups;
  PackShape whole = pack_shape(p.dtype, channels, p.groups, p.c / p.groups, 1, false);
  Table& term = pack.plan.run.term;
  for (std::int64_t i = 0; i < phases.count(); ++i) {
    if (phases.taps(i) == 0) continue;
    const PassAxes axes = phases.at(i);
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
  Table& order = pack.plan.run.order;
  for (std::int64_t k = 0; k < depth; ++k) order.push_back(k);
  std::sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
    return term[static_cast<std::size_t>(a)] < term[static_cast<std::size_t>(b)];
  });
  whole.depth = depth;
  const std::int64_t sizes[] = {whole.groups, whole.columns.blocks, depth};
  pack.memory.emplace(static_cast<std::size_t>(
      checked_product("conv2d_backward_input", sizes, 3, kBlockBytes) * kBlockBytes));
  pack.plan.args = {p.dtype,
                    w.data,
                    run_of(pack.plan.run),
                    {},
                    0,
                    depth,
                    whole.groups,
                    w.stride_group,
                    w.stride_column,
                    whole.columns,
                    pack.memory->get()};
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
  const Phases phases{phases_along(p.kd, p.stride_d, p.padding_d, p.dilation_d, p.d),
                      phases_along(p.kh, p.stride_h, p.padding_h, p.dilation_h, p.h),
                      phases_along(p.kw, p.stride_w, p.padding_w, p.dilation_w, p.w)};
  std::int64_t with_taps = 0, taps = 0;
  for (std::int64_t i = 0; i < phases.count(); ++i) {
    taps += phases.taps(i);
    with_taps += phases.taps(i) > 0;
  }
  const std::int64_t columns = p.c / p.groups;
  if (phases.count() <= kMostPanelPasses) {
    std::vector<PassAxes> passes;
    for (std::int64_t i = 0; i < phases.count(); ++i) passes.push_back(phases.at(i));
    if (run_panels(p, source, passes, p.groups, columns, weights, epilogue, to, nullptr)) return;
  }
  const bool depthwise = p.groups > 1 && p.o == p.groups && p.c == p.groups;
  const bool together =
      with_taps > 1 && !depthwise && taps * (p.o / p.groups) <= kMostTermsTogether;
  PhasePack pack;
  if (together) pack_phases(p, phases, weights, pack);
  std::int64_t first = 0;
  for (std::int64_t i = 0; i < phases.count(); ++i) {
    PackedWeights packed;
    if (together) packed = {pack.memory->get(), first, pack.plan.args.depth};
    run_pass(p, source, phases.at(i), p.groups, columns, weights, epilogue, to, packed);
    first += phases.taps(i) * (p.o / p.groups);
  }
}

}  // namespace hotloop
