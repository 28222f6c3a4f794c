// Convolutions of bf16, the sums in f32: blocks of output pixels as rows of a matrix (the taps of
// each, copied), times the weights as one matrix, through the product of kernels/dot.h.
#pragma once

#include "kernels/conv.h"
#include "kernels/dot.h"

namespace hotloop {

// A unit is a block of output pixels.
struct ConvBf16Args {
  DotArgs dot;  // everything but A and the rows of C: m counts all pixels
  const std::uint16_t* x;
  std::int64_t stride_n, stride_h, stride_w, stride_c;
  std::int64_t h, w, channels;  // of a group
  std::int64_t taps_h, taps_w, step_h, step_w, padding_h, padding_w, dilation_h, dilation_w;
  std::int64_t out_h, out_w;
  std::int64_t block;
  bool in_place;        // one tap, dense pixels of whole words: x itself is A
  ConvScratch scratch;  // rows of A
};

// Weights (o, i, kh, kw) of any strides as rows of (kh, kw, i). A unit is an output channel.
struct ConvBf16WeightsArgs {
  const std::uint16_t* w;
  std::int64_t stride_o, stride_i, stride_h, stride_w;
  std::int64_t channels, taps_h, taps_w;
  std::uint16_t* to;
};

HOTLOOP_KERNEL_BF16(conv_bf16, ConvBf16Args)
HOTLOOP_KERNEL_BF16(conv_bf16_weights, ConvBf16WeightsArgs)

#ifndef HOTLOOP_LEVEL
// y channels last without gaps, in bf16 or f32; bias in f32, contiguous, or null.
void conv_forward_bf16(const ConvProblem& problem, const ConvImage& x, const ConvKernel& w,
                       const float* bias, Activation activation, double activation_alpha,
                       DType y_type, void* y);
#endif

}  // namespace hotloop
