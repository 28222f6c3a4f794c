// What the depthwise kernels that go along rows share: three taps side by side in each row of taps.
#pragma once

#include "kernels/conv.h"
#include "simd/simd.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

using simd::Vec;

constexpr int kTaps = 3;

template <class T, bool Whole>
HOTLOOP_SIMD Vec<T> load_lanes(const T* p, int lanes) {
  return Whole ? simd::load(p) : simd::load_n(p, lanes);
}

// Rows of taps of output row `row` that meet the image.
struct RowTaps {
  std::int64_t first, last, top;
};
inline RowTaps row_taps(const ConvSlab& slab, const ConvRowTaps& taps, std::int64_t row) {
  RowTaps found{0, taps.count, row * slab.step_h + slab.top};
  while (found.first < found.last && found.top + taps.shift[found.first] < 0) ++found.first;
  while (found.last > found.first && found.top + taps.shift[found.last - 1] >= slab.h) --found.last;
  return found;
}

// Whether what the next rows read is fetched into the second cache: short runs far apart, which the
// hardware does not foresee. Not where pixels share a place of the first cache: (32, 1024, 7, 7)
// takes half the time without.
template <class T>
inline bool rows_ahead(std::int64_t step) {
  return step * static_cast<std::int64_t>(sizeof(T)) % 4096 != 0;
}

// The first two columns of taps of a run of output pixels, in `Sources` rows of x; zeros outside
// the image. `top`, `bottom`: the first and the last row lie outside it.
template <bool Whole, int Sources, class T>
HOTLOOP_SIMD void first_columns(const ConvSlab& slab, const T* x, bool top, bool bottom, int lanes,
                                Vec<T> (&left)[Sources], Vec<T> (&middle)[Sources]) {
  const std::int64_t at = slab.left, step = slab.stride_w;
#pragma GCC unroll 6
  for (int i = 0; i < Sources; ++i) {
    const T* row = x + i * slab.stride_h;
    const bool there = !(i == 0 && top) && !(i == Sources - 1 && bottom);
    left[i] = middle[i] = simd::zero<T>();
    if (there && at >= 0 && at < slab.w) left[i] = load_lanes<T, Whole>(row + at * step, lanes);
    if (there && at + 1 >= 0 && at + 1 < slab.w) {
      middle[i] = load_lanes<T, Whole>(row + (at + 1) * step, lanes);
    }
  }
}

template <int N>
struct Number {
  static constexpr int value = N;
};

// The first of `rows` output rows from `row` on, as many as go together: how many; 0: none can.
// `body(count, whole, x, top, bottom, c, lanes)` runs for each vector of channels: x is channel c
// of the first row of x under those rows.
template <class T, class Body>
inline std::int64_t slide_rows(const ConvSlab& slab, const T* image, std::int64_t row,
                               std::int64_t rows, std::int64_t channels, const Body& body) {
  constexpr std::int64_t kMost = simd::kBytes == 64 ? 4 : 1;  // registers
  const std::int64_t above = row + slab.top, fit = slab.h - above - 1;
  std::int64_t count = rows < kMost ? rows : kMost;
  if (fit < count) count = fit;
  if (above < -1 || count < 1) return 0;
  const T* first = image + above * slab.stride_h;
  const bool top = above < 0, bottom = count == fit;
  const auto all_channels = [&](auto number) {
    constexpr int kLanes = Vec<T>::lanes;
    std::int64_t c = 0;
    for (; c + kLanes <= channels; c += kLanes) {
      body(number, Number<1>{}, first + c, top, bottom, c, kLanes);
    }
    const int rest = static_cast<int>(channels - c);
    if (rest > 0) body(number, Number<0>{}, first + c, top, bottom, c, rest);
  };
  if constexpr (kMost > 1) {
    if (count == 4) all_channels(Number<4>{});
    if (count == 3) all_channels(Number<3>{});
    if (count == 2) all_channels(Number<2>{});
  }
  if (count == 1) all_channels(Number<1>{});
  return count;
}

}  // namespace
}  // namespace hotloop::HOTLOOP_LEVEL
