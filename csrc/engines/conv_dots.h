// Backward to an input of up to four channels, three taps along a row and whole vectors of outputs:
// dy is read where it lies, outputs in the vectors, a sum for each pixel and channel; what its
// lanes add up to is a tree over all sums at once. No row is turned (kernels/cpu/conv_lanes.cpp),
// which takes a third of the products' time: 1.2 to 2.2 times as fast. One loop over the tiles of a
// row: a call for each, with its addresses, took a tenth of the time; 89 % of the multiply-adds'
// ceiling with 3 channels and 32 outputs on a Zen 4.
#pragma once

#include "engines/transpose.h"
#include "kernels/conv.h"
#include "simd/simd.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

using simd::Vec;

// Loaded once: gcc would read a vector that straddles two lines anew for each channel.
template <class T>
HOTLOOP_SIMD void held([[maybe_unused]] Vec<T>& v) {
#if defined(__AVX512F__)
  __asm__("" : "+v"(v.v));
#elif defined(__AVX2__)
  __asm__("" : "+x"(v.v));
#endif
}

template <int Channels>
[[maybe_unused]] constexpr int kDotsPixels = Channels > 2 ? 4 : 8;

// Lane l of `own` is that of the vector whose turn it is, of `other` its neighbour's Step away: one
// of the two is a blend, which takes no port that products want.
template <int Step, class T, int... I>
HOTLOOP_SIMD Vec<T> own_lanes(Vec<T> a, Vec<T> b, LaneList<I...>) {
  constexpr int kLanes = Vec<T>::lanes;
  return {__builtin_shufflevector(a.v, b.v, ((I & Step) ? kLanes + I : I)...)};
}
template <int Step, class T, int... I>
HOTLOOP_SIMD Vec<T> other_lanes(Vec<T> a, Vec<T> b, LaneList<I...>) {
  constexpr int kLanes = Vec<T>::lanes;
  return {__builtin_shufflevector(a.v, b.v, ((I & Step) ? kLanes + I - Step : I + Step)...)};
}

// Lane l: what the lanes of sum[l] add up to; `Step` of a binary tree.
template <int Step, class T>
HOTLOOP_SIMD Vec<T> lane_sums(Vec<T>* sum) {
  using Lanes = typename MakeLanes<Vec<T>::lanes>::type;
  if constexpr (Step < Vec<T>::lanes) {
#pragma GCC unroll 16
    for (int i = 0; 2 * i * Step < Vec<T>::lanes; ++i) {
      const Vec<T> a = sum[2 * i], b = sum[2 * i + 1];
      sum[i] = own_lanes<Step, T>(a, b, Lanes{}) + other_lanes<Step, T>(a, b, Lanes{});
    }
    return lane_sums<2 * Step, T>(sum);
  }
  return sum[0];
}

// A row of dx.
template <class T>
struct DotsRow {
  const T* dy;  // the pixel under the first one's last tap, in the lowest row of taps that exists
  std::int64_t step, row_step, rows;  // of dy: elements to the next pixel, row of taps; rows
  std::int64_t vectors;               // of outputs
  std::int64_t begin, end;            // columns of dy that exist, from that pixel on
  const T* ahead;                     // a row that is read next, or one of them
  const T* weights;                   // of the rows of taps, one after the other
  const T* bias;
  T* dx;
  std::int64_t size;  // elements
};

// Which columns of dy under a tile do not exist: none, the first, the last, or any.
enum class Missing { none, first, last, any };

// Sums of kDotsPixels pixels and their channels, from pixel x on.
template <class T, int Channels, Missing missing>
HOTLOOP_SIMD void dots_products(const DotsRow<T>& row, std::int64_t x, Vec<T>* sum) {
  using V = Vec<T>;
  constexpr int kPixels = kDotsPixels<Channels>, kColumns = kPixels + 2;
  const auto left_out = [](int q) {
    return (missing == Missing::first && q == 0) || (missing == Missing::last && q == kColumns - 1);
  };
  const std::int64_t step = row.step;
  const T *dy = row.dy + x * step, *w = row.weights;
  for (std::int64_t tap_row = row.rows; tap_row > 0; --tap_row, dy += row.row_step) {
    const T* from[] = {dy, dy + 3 * step, dy + 6 * step, dy + 9 * step};
    for (std::int64_t o = row.vectors; o > 0; --o) {
      V column[kColumns];
#pragma GCC unroll 10
      for (int q = 0; q < kColumns; ++q) {
        column[q] = simd::zero<T>();
        if (left_out(q)) continue;
        if (missing == Missing::any && (x + q < row.begin || x + q >= row.end)) continue;
        column[q] = simd::load(from[q / 3] + q % 3 * step);
        held(column[q]);
      }
#pragma GCC unroll 4
      for (const T*& at : from) at += V::lanes;
#pragma GCC unroll 3
      for (int tap = 0; tap < 3; ++tap) {
#pragma GCC unroll 4
        for (int c = 0; c < Channels; ++c, w += V::lanes) {
          const V wv = simd::load(w);
#pragma GCC unroll 8
          for (int p = 0; p < kPixels; ++p) {
            if (left_out(p + 2 - tap)) continue;
            sum[p * Channels + c] = simd::fma(column[p + 2 - tap], wv, sum[p * Channels + c]);
          }
        }
      }
    }
  }
}

// `tiles` of them.
template <class T, int Channels, Missing missing>
[[gnu::noinline]] void dots_tiles(const DotsRow<T>& row, std::int64_t x, std::int64_t tiles) {
  using V = Vec<T>;
  constexpr int kPixels = kDotsPixels<Channels>;
  constexpr int kSums = kPixels * Channels;
  constexpr int kAll = (kSums + V::lanes - 1) / V::lanes * V::lanes;
  for (; tiles > 0; --tiles, x += kPixels) {
    for (std::int64_t o = 0; o < row.vectors; ++o) {
#pragma GCC unroll 8
      for (int p = 0; p < kPixels; ++p) {
        __builtin_prefetch(row.ahead + (x + p) * row.step + o * V::lanes, 0, 2);
      }
    }
    V sum[kAll];
#pragma GCC unroll 32
    for (int i = 0; i < kAll; ++i) sum[i] = simd::zero<T>();
    dots_products<T, Channels, missing>(row, x, sum);
    T* const to = row.dx + x * Channels;
    const std::int64_t left = row.size - x * Channels;
#pragma GCC unroll 4
    for (int i = 0; i < kAll; i += V::lanes) {
      const V v = lane_sums<1, T>(sum + i) + simd::load(row.bias + i);
      if (left > i) simd::store_upto(to + i, v, left - i);  // what is too much, the next one mends
    }
  }
}

template <class T, int Channels>
void dots_row(const DotsRow<T>& row) {
  constexpr std::int64_t kPixels = kDotsPixels<Channels>;
  const std::int64_t w = row.size / Channels;
  for (std::int64_t x = 0, tiles = 1; x < w; x += tiles * kPixels) {
    const std::int64_t before = row.begin - x, behind = x + kPixels + 2 - row.end;
    tiles = 1;
    if (before <= 0 && behind <= 0) {
      tiles = (w - x + kPixels - 1) / kPixels;
      if (-behind / kPixels + 1 < tiles) tiles = -behind / kPixels + 1;
      dots_tiles<T, Channels, Missing::none>(row, x, tiles);
    } else if (before == 1 && behind <= 0) {
      dots_tiles<T, Channels, Missing::first>(row, x, 1);
    } else if (before <= 0 && behind == 1) {
      dots_tiles<T, Channels, Missing::last>(row, x, 1);
    } else {
      dots_tiles<T, Channels, Missing::any>(row, x, 1);
    }
  }
}

// `rows` rows of dx from `first` on; more: another image lies behind this one.
template <class T, int Channels>
void dots_strip(const ConvLanesArgs& args, std::int64_t first, std::int64_t rows, const T* packed,
                const T* image, bool more, T* dx) {
  constexpr int kPixels = kDotsPixels<Channels>;
  const std::int64_t taps = args.depth / (3 * args.outputs);
  const std::int64_t dilation = taps > 1 ? args.reach / (taps - 1) : 1;
  const T* last = static_cast<const T*>(args.weights) + args.depth * Channels;
  alignas(kBlockBytes) T bias[4 * kPixels];
  for (int i = 0; i < 4 * kPixels; ++i) bias[i] = last[i % Channels];
  DotsRow<T> tiles{};
  tiles.step = args.dy_stride_w, tiles.row_step = -dilation * args.dy_stride_h;
  tiles.vectors = args.outputs / Vec<T>::lanes;
  tiles.begin = args.left, tiles.end = args.out_w + args.left;
  tiles.bias = bias;
  tiles.size = args.w * Channels;
  const T* const left = image - args.left * args.dy_stride_w;
  for (std::int64_t row = 0; row < rows; ++row, dx += args.dx_stride_h) {
    const std::int64_t lowest = first + row + args.top + args.reach;
    std::int64_t tap = 0;
    while (tap < taps && lowest - tap * dilation >= args.out_h) ++tap;
    tiles.dy = left + (lowest - tap * dilation) * args.dy_stride_h;
    tiles.weights = packed + tap * args.outputs * 3 * Channels;
    tiles.rows = 0;
    for (; tap < taps && lowest - tap * dilation >= 0; ++tap) ++tiles.rows;
    const bool goes_on = lowest + 1 < args.out_h || more;
    tiles.ahead = goes_on && lowest >= 0 ? left + (lowest + 1) * args.dy_stride_h : tiles.dy;
    tiles.dx = dx;
    dots_row<T, Channels>(tiles);
  }
}

// Weights for it: [row of taps][vector of outputs][tap][channel][output].
template <class T>
void pack_dots(const ConvLanesArgs& args, T* to) {
  constexpr std::int64_t kLanes = Vec<T>::lanes;
  const T* from = static_cast<const T*>(args.weights);
  const std::int64_t terms = 3 * args.channels;
  for (std::int64_t o = 0; o < args.depth / 3; o += kLanes, from += kLanes * terms) {
    for (std::int64_t term = 0; term < terms; ++term) {
      for (std::int64_t lane = 0; lane < kLanes; ++lane) *to++ = from[lane * terms + term];
    }
  }
}

}  // namespace
}  // namespace hotloop::HOTLOOP_LEVEL
