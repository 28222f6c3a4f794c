// A pass of a convolution: forward, or one phase of backward to the input. How its weights are
// packed, and what runs it. Tables cover a run of channels and a shorter last one: all others are
// like the first.
#pragma once

#include <algorithm>
#include <memory>

#include "kernels/driver/conv_plan.h"

namespace hotloop {

// Weights as seen by one pass: from the channels it reads to the columns it writes.
struct PassWeights {
  const void* data;
  std::int64_t stride_plane, stride_row, stride_col, stride_channel, stride_column, stride_group;
};

// Terms in the order of the sum: runs of channels, all taps of each, tap by tap.
template <class Body>
void each_term(const PassAxes& axes, std::int64_t channels, std::int64_t run_channels, Body body) {
  for (std::int64_t first = 0; first < channels; first += run_channels) {
    const std::int64_t last = std::min(first + run_channels, channels);
    std::int64_t tap = 0;
    for (const std::int64_t plane : axes.planes.tap) {
      for (const std::int64_t row : axes.rows.tap) {
        for (const std::int64_t col : axes.cols.tap) {
          for (std::int64_t channel = first; channel < last; ++channel) {
            body(tap, plane, row, col, channel);
          }
          ++tap;
        }
      }
    }
  }
}

// How the weights of a pass are packed: of what they are alone, not of the images.
struct PackShape {
  bool depthwise;
  ConvColumns columns;
  std::int64_t groups, depth, run_channels;

  std::int64_t bias_bytes() const { return groups * columns.blocks * kBlockBytes; }
};
PackShape pack_shape(DType dtype, std::int64_t channels, std::int64_t groups,
                     std::int64_t group_columns, std::int64_t taps, bool pools);

// Where the terms lie in the weights, and what packs them.
struct RunTables {
  Table term, order;
};
struct PackPlan {
  RunTables run, last;
  ConvPackArgs args;
};
ConvPackRun run_of(const RunTables& tables);

void plan_pack(DType dtype, PassWeights w, const PassAxes& axes, std::int64_t channels,
               const PackShape& shape, void* packed, PackPlan& plan);
void run_pack(const PackShape& shape, const ConvPackArgs& args);

struct Destination {
  void* data;
  std::int64_t stride_n, stride_d, stride_h, stride_w;
};

// Weights that lie packed already: terms [first, first + those of the pass) of `depth` in a panel.
struct PackedWeights {
  const void* data = nullptr;
  std::int64_t first = 0, depth = 0;
};

// The slabs of a pass and the tables that go with them (kernels/conv_tables.cpp).
struct PassTables {
  SlabPlan plan;
  Table tap, y_pixel, residual_pixel;
  TapRanges row_ranges, col_ranges;
  std::vector<ConvPixel> order;
};
// Fills the tables for the slabs of `tables.plan`; `channels` of a group.
void fill_tables(const Source& source, const PassAxes& axes, std::int64_t channels,
                 const PackShape& shape, const ConvImage& residual, const Destination& y,
                 PassTables& tables);
// The arguments of tiles that follow from them and from the operands; weights, splits and scratch
// are left to the caller.
ConvTilesArgs pass_tiles(const ConvProblem& problem, const Source& source, const PassAxes& axes,
                         const PackShape& shape, const ConvEpilogue& epilogue, const Destination& y,
                         const PassTables& tables);
// The tables of run_pass, kept from an earlier call or made. `copied` channels of a slab at a time;
// `strip_pitch`: results go to a strip of scratch, so many elements from pixel to pixel.
std::shared_ptr<const PassTables> pass_tables(const ConvProblem& problem, const Source& source,
                                              const PassAxes& axes, const PackShape& shape,
                                              std::int64_t group_columns, std::int64_t copied,
                                              const ConvImage& residual, const Destination& y,
                                              std::int64_t strip_pitch);
// Bias into whole blocks per group, zeros behind it; all zeros without one.
void pack_bias(DType dtype, const ConvEpilogue& epilogue, const PackShape& shape, char* packed);

// All passes at once where weights outweigh the images (kernels/conv_panels.cpp); false, and
// nothing done, where they do not.
bool run_panels(const ConvProblem& problem, const Source& source,
                const std::vector<PassAxes>& passes, std::int64_t groups,
                std::int64_t group_columns, const PassWeights& weights,
                const ConvEpilogue& epilogue, const Destination& y, const void* packed);

void run_pass(const ConvProblem& problem, const Source& source, const PassAxes& axes,
              std::int64_t groups, std::int64_t group_columns, const PassWeights& weights,
              const ConvEpilogue& epilogue, const Destination& y, const PackedWeights& packed,
              const ConvImage* taps = nullptr);

}  // namespace hotloop
