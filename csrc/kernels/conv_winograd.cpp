// The driver of Winograd convolutions: transforms the weights, cuts the images into blocks of tiles
// whose transforms stay in L2, launches. Shapes alone decide.
#include "kernels/conv_winograd.h"

#include <algorithm>

#include "core/errors.h"
#include "kernels/driver/conv_plan.h"

namespace hotloop {
namespace {

constexpr std::int64_t kBlockMemory = 768 << 10;  // V and the sums of a panel
constexpr std::int64_t kMostMemory = 6 << 20;     // of them where a tile has very many channels
constexpr std::int64_t kLanes = kBlockBytes / 4;
constexpr std::int64_t kTileRows = 6;  // of the products' tile at its widest

std::int64_t whole(std::int64_t size, std::int64_t step) {
  return ceil_div(size, step) * step;
}

}  // namespace

void conv_forward_winograd(const ConvProblem& p, const ConvImage& x, const ConvKernel& w,
                           const ConvEpilogue& epilogue, const ConvImage& y) {
  WinogradArgs args{};
  args.columns = columns_of(DType::f32, p.o, false);
  const ConvColumns& columns = args.columns;
  const std::int64_t padded_columns = columns.blocks * kLanes;

  const std::int64_t sizes[] = {kWinogradTiles, p.c, padded_columns};
  const std::int64_t weight_size = checked_product("conv2d", sizes, 3, 4);
  const std::int64_t zeros_size = whole(p.c, kLanes) + kLanes;
  const Scratch memory(static_cast<std::size_t>(4 * (weight_size + padded_columns + zeros_size)));
  float* const weights = memory.as<float>();
  float* const bias = weights + weight_size;
  float* const zeros = bias + padded_columns;
  std::fill(bias, zeros + zeros_size, 0.0f);
  for (std::int64_t o = 0; epilogue.bias && o < p.o; ++o) {
    bias[o] = static_cast<const float*>(epilogue.bias)[o * epilogue.bias_stride];
  }
  const WinogradPackArgs pack{static_cast<const float*>(w.data),
                              w.stride_o,
                              w.stride_i,
                              w.stride_h,
                              w.stride_w,
                              p.c,
                              columns,
                              weights};
  launch(conv_winograd_pack_kernel(), pack, {.units = columns.panels * p.c, .grain = 8});

  args.tiles_h = ceil_div(p.out_h, kWinogradOut), args.tiles_w = ceil_div(p.out_w, kWinogradOut);
  const std::int64_t tiles = p.n * args.tiles_h * args.tiles_w;
  const std::int64_t panel = ceil_div(columns.blocks, columns.panels) * kLanes;
  const std::int64_t tile_bytes = 4 * kWinogradTiles * (whole(p.c, kLanes) + panel);
  std::int64_t block = std::max(kBlockMemory / tile_bytes / kTileRows, std::int64_t{2}) * kTileRows;
  // Enough units for every thread, and as even as they can be: 16, 16, ... and not 18, 18, ..., 2.
  block = std::min(block, whole(ceil_div(tiles, kSlabsWanted), 2));
  block = std::min(std::max(block, kTileRows), std::max<std::int64_t>(kMostMemory / tile_bytes, 1));
  args.block = std::min(block, tiles);
  const std::int64_t blocks = ceil_div(tiles, args.block);
  args.splits =
      blocks >= kSlabsWanted ? 1 : std::min(columns.panels, ceil_div(kSlabsWanted, blocks));
  // A vector more than the tiles need: steps of a power of two would meet in the same cache lines.
  args.v_pitch = whole(p.c, kLanes), args.v_step = args.block * args.v_pitch + kLanes;
  args.sum_pitch = panel, args.sum_step = args.block * panel + kLanes;

  const std::int64_t units = blocks * args.splits;
  Split split = split_for(units, conv_work(p) / 3 / static_cast<double>(units), p.interruptible);
  const ThreadScratch scratch(4 * kWinogradTiles * (args.v_step + args.sum_step),
                              is_parallel(split));
  split.max_threads = scratch.threads;
  Table offset;
  for (std::int64_t c = 0; c < p.c; ++c) offset.push_back(c);

  args.x = static_cast<const float*>(x.data);
  args.x_stride_n = x.stride_n, args.x_stride_h = x.stride_h, args.x_stride_w = x.stride_w;
  args.x_stride_c = p.c == 1 ? 1 : x.stride_c;
  args.n = p.n, args.h = p.h, args.w = p.w, args.channels = p.c;
  args.padding_h = p.padding_h, args.padding_w = p.padding_w;
  args.y = static_cast<float*>(y.data);
  args.y_stride_n = y.stride_n, args.y_stride_h = y.stride_h, args.y_stride_w = y.stride_w;
  args.out_h = p.out_h, args.out_w = p.out_w;
  args.residual = static_cast<const float*>(epilogue.residual.data);
  args.residual_stride_n = epilogue.residual.stride_n;
  args.residual_stride_h = epilogue.residual.stride_h;
  args.residual_stride_w = epilogue.residual.stride_w;
  args.activation = epilogue.activation;
  args.activation_alpha = epilogue.activation_alpha;
  args.weights = weights;
  args.bias = bias;
  args.offset = offset.data();
  args.zeros = zeros;
  args.scratch = scratch.view();
  launch(conv_winograd_kernel(), args, split);
}

}  // namespace hotloop
