// 3x3 convolutions of stride 1 by Winograd's F(4x4, 3x3): 36 products of transformed tiles where
// the direct sum has 144. For 6x6 pixels d of a channel and the taps g of a kernel
//   V = B' d B,  U = G g G',  y (4x4 pixels) = A' (sum over channels of U * V) A
// with the points 0, +-1/sqrt(2), +-sqrt(2) and infinity: in float32 less than half the error of
// the usual 0, +-1, +-2; on the layers of networks 1.1 to 1.6 times that of the direct sum.
#pragma once

#include "kernels/conv.h"

namespace hotloop {

inline constexpr std::int64_t kWinogradOut = 4, kWinogradIn = 6, kWinogradTiles = 36;

// Weights into U: [panel][36][channels][columns of the panel], float32. A unit is (panel, channel).
struct WinogradPackArgs {
  const float* w;
  std::int64_t stride_o, stride_i, stride_h, stride_w;
  std::int64_t channels;
  ConvColumns columns;
  float* packed;
};

// A unit is (block of `block` tiles, split of the panels).
struct WinogradArgs {
  const float* x;  // any strides
  std::int64_t x_stride_n, x_stride_h, x_stride_w, x_stride_c;
  std::int64_t n, h, w, channels, padding_h, padding_w;
  float* y;  // channels dense
  std::int64_t y_stride_n, y_stride_h, y_stride_w, out_h, out_w;
  const float* residual;  // likewise, or null
  std::int64_t residual_stride_n, residual_stride_h, residual_stride_w;
  Activation activation;
  double activation_alpha;
  const float* weights;  // U
  const float* bias;     // whole blocks, zeros where there is none
  ConvColumns columns;
  std::int64_t block, tiles_h, tiles_w, splits;
  const std::int64_t* offset;    // [channels]: 0, 1, 2, ...
  const float* zeros;            // as many as channels, and a vector
  std::int64_t v_pitch, v_step;  // elements from tile to tile, from product to product
  std::int64_t sum_pitch, sum_step;
  ConvScratch scratch;  // V, then the sums of a panel
};

HOTLOOP_KERNEL(conv_winograd_pack, WinogradPackArgs)
HOTLOOP_KERNEL(conv_winograd, WinogradArgs)

#ifndef HOTLOOP_LEVEL
// conv_forward for float32 images of one plane with 3x3 kernels, stride 1, no dilation, one group.
void conv_forward_winograd(const ConvProblem& problem, const ConvImage& x, const ConvKernel& w,
                           const ConvEpilogue& epilogue, const ConvImage& y);
#endif

}  // namespace hotloop
