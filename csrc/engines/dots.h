// Dot products of rows of A with rows of B^T, all contiguous: the sums run in lanes, which are
// added up at the end. What few rows and few columns of a product are made of.
#pragma once

#include "engines/transpose.h"
#include "simd/simd.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

using simd::Vec;

// Adds up the lanes of Count vectors, a power of two up to the number of lanes: lane l of row[0]
// becomes the sum of row[l]. Three instructions for a sum instead of eight. Lanes that differ in
// one bit of their number meet, the lowest bit first: the same bits however many vectors there are.
template <int Step, class T, int Count>
HOTLOOP_SIMD void add_lanes(Vec<T> (&row)[Count]) {
  using V = Vec<T>;
  if constexpr (Step < Count) {
    using Lanes = typename MakeLanes<V::lanes>::type;
#pragma GCC unroll 16
    for (int i = 0; i < Count; ++i) {
      if (i % (2 * Step)) continue;
      const V upper = row[i];
      const V lower = row[i + Step];
      row[i] =
          exchange_upper<Step>(upper, lower, Lanes{}) + exchange_lower<Step>(upper, lower, Lanes{});
    }
    add_lanes<2 * Step, T>(row);
  } else if constexpr (Step < V::lanes) {
    row[0] = row[0] + simd::swap_lanes<Step>(row[0]);
    add_lanes<2 * Step, T>(row);
  }
}

// sums[i] = the lanes of sum[i], for the vectors from number First on.
template <int First, class T, int Count>
HOTLOOP_SIMD void store_lane_sums(const Vec<T> (&sum)[Count], T* sums) {
  if constexpr (First < Count) {
    constexpr int kLeft = Count - First < Vec<T>::lanes ? Count - First : Vec<T>::lanes;
    constexpr int kSome = kLeft >= 16 ? 16 : kLeft >= 8 ? 8 : kLeft >= 4 ? 4 : kLeft >= 2 ? 2 : 1;
    Vec<T> row[kSome];
#pragma GCC unroll 16
    for (int i = 0; i < kSome; ++i) row[i] = sum[First + i];
    add_lanes<1, T>(row);
    if constexpr (kSome == Vec<T>::lanes) {
      simd::store(sums + First, row[0]);
    } else {
      simd::store_n(sums + First, row[0], kSome);
    }
    store_lane_sums<First + kSome, T>(sum, sums);
  }
}

// sum[i][j] = the lanes of a[i] . b[j] over `depth` terms. `ahead` of the next columns, those from
// number `next` on, are asked for meanwhile.
template <class T, int Rows, int Columns>
HOTLOOP_SIMD void dot_sums(const T* a, std::int64_t a_step, const T* b, std::int64_t b_step,
                           std::int64_t depth, int ahead, int next, Vec<T> (&sum)[Rows][Columns]) {
  using V = Vec<T>;
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < Columns; ++j) sum[i][j] = simd::zero<T>();
  }
  // One row of A: bandwidth decides.
  const T* const line = ahead > 0 ? b + (Columns + next) * b_step : b;
  std::int64_t at = 0;
  for (; at + V::lanes <= depth; at += V::lanes) {
    if constexpr (Rows == 1) {
      const V av = simd::load(a + at);
      if (Columns > 1 && ahead > 0) {
#pragma GCC unroll 16
        for (int j = 0; j < Columns; ++j) __builtin_prefetch(line + j * b_step + at, 0, 2);
      }
#pragma GCC unroll 16
      for (int j = 0; j < Columns; ++j) {
        sum[0][j] = simd::fma(av, simd::load(b + j * b_step + at), sum[0][j]);
      }
      continue;
    }
    // Of five columns there are no registers for it.
    if constexpr (Columns <= 4) {
      for (int j = 0; j < ahead; ++j) __builtin_prefetch(line + j * b_step + at, 0, 2);
    }
    V bv[Columns];
#pragma GCC unroll 16
    for (int j = 0; j < Columns; ++j) bv[j] = simd::load(b + j * b_step + at);
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      const V av = simd::load(a + i * a_step + at);
#pragma GCC unroll 16
      for (int j = 0; j < Columns; ++j) sum[i][j] = simd::fma(av, bv[j], sum[i][j]);
    }
  }
  if (at < depth) {
    const int some = static_cast<int>(depth - at);
    if constexpr (Rows == 1) {
      const V av = simd::load_n(a + at, some);
#pragma GCC unroll 16
      for (int j = 0; j < Columns; ++j) {
        sum[0][j] = simd::fma(av, simd::load_n(b + j * b_step + at, some), sum[0][j]);
      }
      return;
    }
    V bv[Columns];
#pragma GCC unroll 16
    for (int j = 0; j < Columns; ++j) bv[j] = simd::load_n(b + j * b_step + at, some);
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      const V av = simd::load_n(a + i * a_step + at, some);
#pragma GCC unroll 16
      for (int j = 0; j < Columns; ++j) sum[i][j] = simd::fma(av, bv[j], sum[i][j]);
    }
  }
}

// As many dot products as there are lanes: a vector of them, row by row. Of a single row, groups of
// four columns one after another: sixteen rows of B at once are more than the machine sees coming,
// and where they are a power of two apart L1 holds half of them (1x1024x1024: 88 against 29 us).
template <class T, int Rows, int Columns>
[[gnu::noinline]] Vec<T> dot_lanes(const T* a, std::int64_t a_step, const T* b, std::int64_t b_step,
                                   std::int64_t depth, int ahead) {
  using V = Vec<T>;
  static_assert(Rows * Columns == V::lanes);
  V row[V::lanes];
  if constexpr (Rows == 1 && Columns > 4) {
    V sums[Columns / 4][1][4];
#pragma GCC unroll 4
    for (int group = 0; group < Columns / 4; ++group) {
      dot_sums<T, 1, 4>(a, a_step, b + group * 4 * b_step, b_step, depth, ahead, 0, sums[group]);
    }
#pragma GCC unroll 16
    for (int j = 0; j < Columns; ++j) row[j] = sums[j / 4][0][j % 4];
    add_lanes<1, T>(row);
    return row[0];
  }
  V sum[Rows][Columns];
  dot_sums<T, Rows, Columns>(a, a_step, b, b_step, depth, ahead, 0, sum);
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < Columns; ++j) row[i * Columns + j] = sum[i][j];
  }
  add_lanes<1, T>(row);
  return row[0];
}

template <class T, int Rows, int Columns>
void dot_loop(const T* a, std::int64_t a_step, const T* b, std::int64_t b_step, std::int64_t depth,
              int ahead, int next, T* sums) {
  using V = Vec<T>;
  V sum[Rows][Columns];
  dot_sums<T, Rows, Columns>(a, a_step, b, b_step, depth, ahead, next, sum);
  V row[Rows * Columns];
#pragma GCC unroll 4
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < Columns; ++j) row[i * Columns + j] = sum[i][j];
  }
  store_lane_sums<0, T>(row, sums);
}

}  // namespace
}  // namespace hotloop::HOTLOOP_LEVEL
