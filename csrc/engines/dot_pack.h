// Operands of any strides as words of 32 bits along k (simd/dot.h), zeros behind the end of k: rows
// of words for A, panels of words for B. Where the source has k in a row, words are copied; where
// it has the other axis in a row, the rows of k are interleaved; blocks that then lie the wrong way
// are transposed as float32 are. Anything else is gathered.
#pragma once

#include "engines/pack.h"
#include "kernels/dot.h"
#include "simd/dot.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

using simd::Int;
using simd::Word;

// A line of words along k: words [first, first + count) of `from`, whose k elements lie step apart.
template <class T>
inline void words_along(const T* from, std::int64_t step, std::int64_t k, std::int64_t first,
                        std::int64_t count, std::uint32_t flip, Word* to) {
  constexpr std::int64_t kPer = 4 / sizeof(T);
  const std::int64_t whole = k / kPer - first < count ? k / kPer - first : count;
  std::int64_t w = 0;
  if (step == 1) {
    constexpr std::int64_t kLanes = simd::Vec<float>::lanes;
    const char* source = reinterpret_cast<const char*>(from + first * kPer);
    const Int<float> flips = simd::set1_int<float>(static_cast<std::int32_t>(flip));
    for (; w + kLanes <= whole; w += kLanes) {
      Int<float> word;
      __builtin_memcpy(&word.v, source + 4 * w, simd::kBytes);
      simd::store(to + w, simd::as_vec<float>(word ^ flips));
    }
    for (; w < whole; ++w) simd::store_word(to + w, simd::load_word(source + 4 * w) ^ flip);
  }
  for (; w < count; ++w) {
    std::uint32_t word = 0;
    for (std::int64_t e = 0; e < kPer; ++e) {
      const std::int64_t at = (first + w) * kPer + e;
      if (at >= k) break;
      const T value = static_cast<T>(from[at * step] ^ static_cast<T>(flip));
      word |= static_cast<std::uint32_t>(value) << (8 * sizeof(T) * static_cast<unsigned>(e));
    }
    simd::store_word(to + w, word);
  }
}

// A vector of words from the rows of k that they hold, `step` apart.
inline Int<float> interleaved(const std::uint16_t* row, std::int64_t step) {
  return simd::load_u16(row) | simd::shift_left<16>(simd::load_u16(row + step));
}
inline Int<float> interleaved(const std::uint8_t* row, std::int64_t step) {
#if defined(HOTLOOP_LEVEL_AVX512BF16)
  // Sixteen bytes of each row, one permutation: packing 256x256 took 3.6 us, 3.1 to 3.5 so.
  const auto* const next = reinterpret_cast<const char*>(row);
  const auto load = [&](int r) { return _mm_loadu_si128((const __m128i*)(next + r * step)); };
  __m512i bytes = _mm512_castsi128_si512(load(0));
  bytes = _mm512_inserti32x4(bytes, load(1), 1);
  bytes = _mm512_inserti32x4(bytes, load(2), 2);
  bytes = _mm512_inserti32x4(bytes, load(3), 3);
  alignas(64) static constexpr std::uint8_t kOrder[64] = {
      0,  16, 32, 48, 1,  17, 33, 49, 2,  18, 34, 50, 3,  19, 35, 51, 4,  20, 36, 52, 5,  21,
      37, 53, 6,  22, 38, 54, 7,  23, 39, 55, 8,  24, 40, 56, 9,  25, 41, 57, 10, 26, 42, 58,
      11, 27, 43, 59, 12, 28, 44, 60, 13, 29, 45, 61, 14, 30, 46, 62, 15, 31, 47, 63};
  return {(Int<float>::type)_mm512_permutexvar_epi8(_mm512_load_si512(kOrder), bytes)};
#else
  constexpr int kLanes = simd::Vec<float>::lanes;
  const Int<float> low = simd::load_u8_n<float>(row, kLanes) |
                         simd::shift_left<8>(simd::load_u8_n<float>(row + step, kLanes));
  const Int<float> high = simd::load_u8_n<float>(row + 2 * step, kLanes) |
                          simd::shift_left<8>(simd::load_u8_n<float>(row + 3 * step, kLanes));
  return low | simd::shift_left<16>(high);
#endif
}

// One row of words across `columns` lines that lie column_step apart: word number w of each; zeros
// from there to `width`.
template <class T>
inline void words_across(const T* from, std::int64_t k_step, std::int64_t column_step,
                         std::int64_t k, std::int64_t w, std::int64_t columns, std::uint32_t flip,
                         Word* to, std::int64_t width) {
  constexpr int kPer = 4 / sizeof(T), kLanes = simd::Vec<float>::lanes;
  const T* row = from + w * kPer * k_step;
  const int high = k - w * kPer < kPer ? static_cast<int>(k - w * kPer) : kPer;
  const std::uint32_t valid = high == kPer ? ~0u : (1u << (8 * sizeof(T) * unsigned(high))) - 1u;
  std::int64_t j = 0;
  if (column_step == 1 && high == kPer) {
    const Int<float> flips = simd::set1_int<float>(static_cast<std::int32_t>(flip));
    for (; j + kLanes <= columns; j += kLanes) {
      simd::store(to + j, simd::as_vec<float>(interleaved(row + j, k_step) ^ flips));
    }
  }
  for (; j < columns; ++j) {
    std::uint32_t word = flip & valid;
    for (int e = 0; e < high; ++e) {
      word ^= static_cast<std::uint32_t>(row[e * k_step + j * column_step])
              << (8 * sizeof(T) * unsigned(e));
    }
    simd::store_word(to + j, word);
  }
  for (; j < width; ++j) simd::store_word(to + j, 0);
}

// Rows of A: line i at `to + i * to_step`, the words [0, words).
template <class T>
inline void pack_dot_rows(const T* from, std::int64_t row_step, std::int64_t k_step,
                          std::int64_t rows, std::int64_t k, std::int64_t words, std::uint32_t flip,
                          Word* to, std::int64_t to_step) {
  if (k_step == 1 || row_step != 1) {
    for (std::int64_t i = 0; i < rows; ++i) {
      words_along(from + i * row_step, k_step, k, 0, words, flip, to + i * to_step);
    }
    return;
  }
  alignas(64) Word block[kDotBlock * kDotBlock];
  for (std::int64_t i = 0; i < rows; i += kDotBlock) {
    const std::int64_t high = rows - i < kDotBlock ? rows - i : kDotBlock;
    for (std::int64_t w = 0; w < words; w += kDotBlock) {
      const std::int64_t deep = words - w < kDotBlock ? words - w : kDotBlock;
      for (std::int64_t d = 0; d < deep; ++d) {
        words_across(from + i, k_step, 1, k, w + d, high, flip, block + d * kDotBlock, high);
      }
      pack_block<Word>(block, 1, kDotBlock, high, deep, to + i * to_step + w, to_step, deep);
    }
  }
}

// A part of a panel of B: the words [first, first + count) of `columns` lines, one below the other,
// `width` wide.
template <class T>
inline void pack_dot_panel(const T* from, std::int64_t k_step, std::int64_t column_step,
                           std::int64_t k, std::int64_t first, std::int64_t count,
                           std::int64_t columns, std::uint32_t flip, Word* to, std::int64_t width) {
  // The source is asked for ahead of its use, since its runs are short.
  constexpr std::int64_t kLine = 64 / sizeof(T), kPer = 4 / sizeof(T), kAhead = 16;
  if (column_step == 1 || k_step != 1) {
    for (std::int64_t w = 0; w < count; ++w) {
      if (column_step == 1) {
        const T* next = from + (first + w + kAhead) * kPer * k_step;
        for (std::int64_t e = 0; e < kPer; ++e) {
          for (std::int64_t j = 0; j < columns + kLine - 1; j += kLine) {
            __builtin_prefetch(next + e * k_step + j, 0, 2);
          }
        }
      }
      words_across(from, k_step, column_step, k, first + w, columns, flip, to + w * width, width);
    }
    return;
  }
  alignas(64) Word block[kDotBlock * kDotPanel];
  for (std::int64_t w = 0; w < count; w += kDotBlock) {
    const std::int64_t deep = count - w < kDotBlock ? count - w : kDotBlock;
    for (std::int64_t j = 0; j < columns; ++j) {
      const T* line = from + j * column_step;
      for (std::int64_t at = 0; at < kDotBlock * kPer; at += kLine) {
        __builtin_prefetch(line + (first + w + kDotBlock) * kPer + at, 0, 2);
      }
      words_along(line, 1, k, first + w, deep, flip, block + j * kDotBlock);
    }
    pack_block<Word>(block, 1, kDotBlock, deep, columns, to + w * width, width, width);
  }
}

// A slice of a panel of B, and the sums of its columns, unless `column_sums` is null.
template <class Kind, class Sums>
inline void pack_dot_slice(const DotPackArgs& g, std::int64_t batch, std::int64_t panel,
                           std::int64_t slice, Word* to, std::int32_t* column_sums, Sums sums) {
  using T = typename Kind::Element;
  const std::int64_t first = slice * g.slice_words, column = panel * g.panel;
  const std::int64_t count = g.words - first < g.slice_words ? g.words - first : g.slice_words;
  const std::int64_t columns = g.n - column < g.panel ? g.n - column : g.panel;
  const T* from = static_cast<const T*>(g.b.data) +
                  (g.b.offsets ? g.b.offsets[batch] : batch * g.b.batch_step) +
                  column * g.b.column_step;
  pack_dot_panel(from, g.b.row_step, g.b.column_step, g.k, first, count, columns, g.b_flip, to,
                 g.panel);
  if (column_sums) sums.columns(to, g.panel, count, column_sums);
}

// The whole kernel; `sums` adds up the bytes of rows and columns where they are asked for.
template <class Kind, class Sums>
inline void dot_pack(const DotPackArgs& g, std::int64_t begin, std::int64_t end, Sums sums) {
  using T = typename Kind::Element;
  const std::int64_t a_units = g.a_batches * g.a_blocks;
  for (std::int64_t unit = begin; unit < end; ++unit) {
    if (unit < a_units) {
      const std::int64_t batch = unit / g.a_blocks, row = unit % g.a_blocks * g.a_rows;
      const std::int64_t rows = g.m - row < g.a_rows ? g.m - row : g.a_rows;
      const T* from = static_cast<const T*>(g.a.data) +
                      (g.a.offsets ? g.a.offsets[batch] : batch * g.a.batch_step) +
                      row * g.a.row_step;
      Word* to = g.a_to + (batch * g.m + row) * g.a_to_step;
      pack_dot_rows(from, g.a.row_step, g.a.column_step, rows, g.k, g.words, g.a_flip, to,
                    g.a_to_step);
      if (g.row_sums) sums.rows(to, g.a_to_step, rows, g.words, g.row_sums + batch * g.m + row);
    } else {
      const std::int64_t number = unit - a_units, slice = number % g.slices;
      const std::int64_t panel = number / g.slices % g.panels, batch = number / g.slices / g.panels;
      Word* to = g.b_to + ((batch * g.panels + panel) * g.words + slice * g.slice_words) * g.panel;
      pack_dot_slice<Kind>(g, batch, panel, slice, to,
                           g.column_sums ? g.column_sums + number * g.panel : nullptr, sums);
    }
  }
}

}  // namespace
}  // namespace hotloop::HOTLOOP_LEVEL
