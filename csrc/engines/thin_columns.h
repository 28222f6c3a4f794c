// One to three columns beside full tiles would take a third of a tile's time: dot products with the
// rows of A instead, a vector of rows at a time, each row the same however the blocks are cut.
#pragma once

#include "engines/dots.h"
#include "engines/gemm_epilogue.h"
#include "engines/micro_kernel.h"
#include "kernels/gemm.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

constexpr std::int64_t kThinColumns = 3;
constexpr std::int64_t kThinDepth = 1024;  // the columns lie on the stack
template <class T>
inline bool is_thin(const GemmProblem& p, std::int64_t columns, std::int64_t depth) {
  return columns <= kThinColumns && p.a.column_step == 1 && p.m >= Vec<T>::lanes &&
         depth >= 2 * Vec<T>::lanes && depth <= kThinDepth;
}

template <class T>
void thin_columns(const GemmProblem& p, const Tile<T>& tile, std::int64_t batch, std::int64_t row,
                  std::int64_t count, std::int64_t columns) {
  constexpr std::int64_t kLanes = Vec<T>::lanes;
  alignas(64) T column[kThinDepth];
  for (std::int64_t j = 0; j < columns; ++j) {
    for (std::int64_t at = 0; at < tile.depth; ++at) column[at] = tile.b[at * tile.b_step + j];
    for (std::int64_t i = 0; i < count; i += kLanes) {
      // Where fewer rows are left, those before them once more: all of A is there.
      const std::int64_t start = least(row + i, p.m - kLanes);
      alignas(64) T sums[kLanes];
      simd::store(sums, dot_lanes<T, kLanes, 1>(element<T>(p.a, batch, start, 0), p.a.row_step,
                                                column, 0, tile.depth, 0));
      for (std::int64_t r = i; r < least(i + kLanes, count); ++r) {
        T value = sums[row + r - start] * tile.alpha;
        if (tile.bias) value += tile.bias[j];
        if (tile.from) value += tile.beta * tile.from[r * tile.from_step + j];
        tile.c[r * tile.ldc + j] = value;
      }
    }
  }
}

}  // namespace
}  // namespace hotloop::HOTLOOP_LEVEL
