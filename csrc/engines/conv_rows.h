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

// Rows of a copied slab, its border with them.
inline std::int64_t slab_height(const ConvSlab& slab) {
  return (slab.rows - 1) * slab.step_h + slab.span_h;
}

}  // namespace
}  // namespace hotloop::HOTLOOP_LEVEL
