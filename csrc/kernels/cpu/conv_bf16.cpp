// Convolutions of bf16: the taps of a block of output pixels copied into rows of words, two bf16
// each, that stay in L2 while the panels of the weights pass by (kernels/cpu/gemm_bf16.cpp).
// also compiled for: avx512bf16
#include "kernels/conv_bf16.h"

#include "engines/conv_slab.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

using Bits = std::uint16_t;

// `pixels` pixels of `channels` channels, one behind the other.
void copy_taps(const ConvBf16Args& g, const Bits* from, std::int64_t step, std::int64_t pixels,
               Bits* to) {
  if (g.stride_c == 1 && step == g.channels) {
    __builtin_memcpy(to, from, static_cast<std::size_t>(2 * pixels * g.channels));
    return;
  }
  for (std::int64_t p = 0; p < pixels; ++p, from += step, to += g.channels) {
    if (g.stride_c == 1) {
      __builtin_memcpy(to, from, static_cast<std::size_t>(2 * g.channels));
    } else {
      for (std::int64_t c = 0; c < g.channels; ++c) to[c] = from[c * g.stride_c];
    }
  }
}

void clear(Bits* to, std::int64_t count) {
  __builtin_memset(to, 0, static_cast<std::size_t>(2 * count));
}

// All taps of an output pixel, zeros where they lie outside the image and behind the last one.
void read_pixel(const ConvBf16Args& g, std::int64_t pixel, Bits* to) {
  const std::int64_t image = pixel / (g.out_h * g.out_w);
  const std::int64_t top = pixel / g.out_w % g.out_h * g.step_h - g.padding_h;
  const std::int64_t left = pixel % g.out_w * g.step_w - g.padding_w;
  // Taps [first, last) of a row lie inside.
  std::int64_t first = 0, last = g.taps_w;
  while (first < last && left + first * g.dilation_w < 0) ++first;
  while (last > first && left + (last - 1) * g.dilation_w >= g.w) --last;
  for (std::int64_t tap = 0; tap < g.taps_h; ++tap, to += g.taps_w * g.channels) {
    const std::int64_t row = top + tap * g.dilation_h;
    if (row < 0 || row >= g.h || first == last) {
      clear(to, g.taps_w * g.channels);
      continue;
    }
    const Bits* from =
        g.x + image * g.stride_n + row * g.stride_h + (left + first * g.dilation_w) * g.stride_w;
    clear(to, first * g.channels);
    copy_taps(g, from, g.dilation_w * g.stride_w, last - first, to + first * g.channels);
    clear(to + last * g.channels, (g.taps_w - last) * g.channels);
  }
  if (g.dot.p.k % 2 != 0) *to = 0;
}

}  // namespace

void conv_bf16_weights(const ConvBf16WeightsArgs& g, std::int64_t begin, std::int64_t end) {
  const std::int64_t depth = g.taps_h * g.taps_w * g.channels;
  for (std::int64_t o = begin; o < end; ++o) {
    Bits* to = g.to + o * depth;
    for (std::int64_t row = 0; row < g.taps_h; ++row) {
      for (std::int64_t col = 0; col < g.taps_w; ++col, to += g.channels) {
        const Bits* from = g.w + o * g.stride_o + row * g.stride_h + col * g.stride_w;
        for (std::int64_t c = 0; c < g.channels; ++c) to[c] = from[c * g.stride_i];
      }
    }
  }
}

void conv_bf16(const ConvBf16Args& g, std::int64_t begin, std::int64_t end) {
  Bits* const rows = g.in_place ? nullptr : own_scratch<Bits>(g.scratch);
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const std::int64_t first = unit * g.block;
    DotArgs dot = g.dot;
    dot.p.m = dot.p.m - first < g.block ? dot.p.m - first : g.block;
    for (std::int64_t i = 0; !g.in_place && i < dot.p.m; ++i) {
      read_pixel(g, first + i, rows + i * g.dot.a_step / 2);
    }
    dot.a = g.in_place ? g.x + first * g.stride_w : rows;
    dot.row_block = dot.p.m, dot.row_blocks = 1;
    const std::int64_t item = dot.p.c_type == DType::f32 ? 4 : 2;
    dot.p.c.data = static_cast<char*>(dot.p.c.data) + first * dot.p.c.row_step * item;
    gemm_bf16_tiles(dot, 0, dot.panels);
  }
}

}  // namespace hotloop::HOTLOOP_LEVEL
