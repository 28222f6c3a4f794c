// Copies a strided matrix into a block of rows that lie `to_step` apart: the panels and blocks that
// the micro-kernel reads in a row. Rows are copied where the source has them in a row, transposed
// in registers where it has columns in a row, gathered otherwise.
#pragma once

#include "engines/transpose.h"
#include "simd/simd.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

// to[i * to_step + j] = from[i * row_step + j * column_step] for rows x columns elements, and zeros
// for columns <= j < width.
template <class T>
void pack_block(const T* from, std::int64_t row_step, std::int64_t column_step, std::int64_t rows,
                std::int64_t columns, T* to, std::int64_t to_step, std::int64_t width) {
  constexpr std::int64_t kLanes = simd::Vec<T>::lanes;
  constexpr std::int64_t kAhead = 32, kNarrow = 64;  // short runs are fetched so many rows ahead
  constexpr std::int64_t kRunAhead = 8;
  if (row_step == 1 && column_step != 1) {
    // What comes kRunAhead blocks later: behind the end of these rows lie the next ones.
    const std::int64_t blocks = (rows + kLanes - 1) / kLanes;
    const std::int64_t far = kRunAhead / (blocks + !blocks), near = kRunAhead - far * blocks;
    for (std::int64_t j = 0; j < width; j += kLanes) {
      const int wide = static_cast<int>(width - j < kLanes ? width - j : kLanes);
      const int some = static_cast<int>(columns - j < 0      ? 0
                                        : columns - j < wide ? columns - j
                                                             : wide);
      const T* source = from + j * column_step;
      std::int64_t next = near, group = far;
      for (std::int64_t i = 0; i < rows; i += kLanes) {
        const int high = static_cast<int>(rows - i < kLanes ? rows - i : kLanes);
        // Rows far apart: sixteen runs at once are more than the machine sees coming.
        const T* line = source + group * kLanes * column_step + next * kLanes;
        for (int r = 0; r < some; ++r) simd::prefetch(line + r * column_step);
        if (++next == blocks) {
          next = 0;
          ++group;
        }
        if (some == kLanes && high == kLanes) {
          transpose_block<T>(source + i, column_step, to + i * to_step + j, to_step);
        } else {
          transpose_edge<T>(source + i, column_step, some, high, to + i * to_step + j, to_step,
                            wide);
        }
      }
    }
    return;
  }
  for (std::int64_t i = 0; i < rows; ++i) {
    const T* source = from + i * row_step;
    T* target = to + i * to_step;
    std::int64_t j = 0;
    if (column_step == 1 && i + kAhead < rows && columns <= kNarrow) {
      for (std::int64_t at = 0; at < columns; at += 64 / sizeof(T)) {
        __builtin_prefetch(source + kAhead * row_step + at, 0, 2);
      }
    }
    if (column_step == 1) {
      for (; j + kLanes <= columns; j += kLanes) simd::store(target + j, simd::load(source + j));
    } else {
      for (; j + kLanes <= columns; j += kLanes) {
        simd::store(target + j, simd::load_strided(source + j * column_step, column_step,
                                                   static_cast<int>(kLanes)));
      }
    }
    for (; j < width; j += kLanes) {
      const int wide = static_cast<int>(width - j < kLanes ? width - j : kLanes);
      const int some = static_cast<int>(columns - j < 0      ? 0
                                        : columns - j < wide ? columns - j
                                                             : wide);
      simd::Vec<T> value = simd::zero<T>();
      if (some > 0) {
        value = column_step == 1 ? simd::load_n(source + j, some)
                                 : simd::load_strided(source + j * column_step, column_step, some);
      }
      simd::store_n(target + j, value, wide);
    }
  }
}

}  // namespace
}  // namespace hotloop::HOTLOOP_LEVEL
