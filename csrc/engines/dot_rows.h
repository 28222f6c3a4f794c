// Products of words with few rows of A, B read once and where it lies: packing it would take longer
// than multiplying. B with its rows in memory (across): eight rows of k at a time, its rows
// interleaved in registers, sums in L1. B with its columns in memory (along): dot products, the
// sums in lanes. A is packed: rows of words (engines/dot_pack.h), zeros up to a multiple of
// kDotFewWords, and, where the sums of B's columns are wanted, one more row of ones.
#pragma once

#include "engines/dot_tile.h"
#include "engines/transpose.h"
#include "kernels/dot.h"
#include "simd/dot.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

using simd::Int;
using simd::Vec;
using simd::Word;

constexpr int kDotFewMost = 12;              // rows of sums: kDotFewRows and one of ones, in fours
constexpr int kDotFewRun = 8;                // rows of k at a time
constexpr std::int64_t kDotFewSums = 16384;  // of a block, on the stack
constexpr std::int64_t kDotFewColumns = 8192;                           // of a block, at most
alignas(64) constexpr std::uint8_t kDotNoRow[2 * kDotFewColumns] = {};  // in place of rows of B

template <class T>
constexpr int kDotPer = 4 / int(sizeof(T));  // elements of a word

// ---- words from rows of k -----------------------------------------------------------------------

typedef std::uint8_t Row8 __attribute__((vector_size(simd::kBytes)));
typedef std::uint16_t Row16 __attribute__((vector_size(simd::kBytes)));

// Elements of a and b in turn, in each 128 bits from their lower or upper half.
template <int Upper, class Row, int... I>
HOTLOOP_SIMD Row interleave(Row a, Row b, LaneList<I...>) {
  constexpr int kAll = sizeof...(I), kLane = 16 * kAll / simd::kBytes;
  return __builtin_shufflevector(
      a, b, (I / kLane * kLane + Upper * kLane / 2 + I % kLane / 2 + (I & 1) * kAll)...);
}
template <int Upper>
HOTLOOP_SIMD Row16 interleave(Row16 a, Row16 b) {
  return interleave<Upper>(a, b, typename MakeLanes<simd::kBytes / 2>::type{});
}
template <int Upper>
HOTLOOP_SIMD Row8 interleave(Row8 a, Row8 b) {
  return interleave<Upper>(a, b, typename MakeLanes<simd::kBytes>::type{});
}

// The words of a vector of columns, from the rows of k that they hold. In vector q the words 4 l to
// 4 l + 3 are those of the columns 4 (kDotPer l + q) and on: columns_in_order puts that right.
HOTLOOP_SIMD void words_of_rows(const std::uint16_t* const* row, std::int64_t at,
                                Int<float> (&words)[2]) {
  Row16 a, b;
  __builtin_memcpy(&a, row[0] + at, simd::kBytes);
  __builtin_memcpy(&b, row[1] + at, simd::kBytes);
  words[0] = {(Int<float>::type)interleave<0>(a, b)};
  words[1] = {(Int<float>::type)interleave<1>(a, b)};
}
HOTLOOP_SIMD void words_of_rows(const std::uint8_t* const* row, std::int64_t at,
                                Int<float> (&words)[4]) {
  Row8 a, b, c, d;
  __builtin_memcpy(&a, row[0] + at, simd::kBytes);
  __builtin_memcpy(&b, row[1] + at, simd::kBytes);
  __builtin_memcpy(&c, row[2] + at, simd::kBytes);
  __builtin_memcpy(&d, row[3] + at, simd::kBytes);
  const Row16 low = (Row16)interleave<0>(a, b), high = (Row16)interleave<1>(a, b);
  const Row16 low2 = (Row16)interleave<0>(c, d), high2 = (Row16)interleave<1>(c, d);
  words[0] = {(Int<float>::type)interleave<0>(low, low2)};
  words[1] = {(Int<float>::type)interleave<1>(low, low2)};
  words[2] = {(Int<float>::type)interleave<0>(high, high2)};
  words[3] = {(Int<float>::type)interleave<1>(high, high2)};
}

// `count` sums, a multiple of the columns in a vector of elements, in the order of the columns.
template <class T, class Sum>
inline void columns_in_order(const Sum* from, std::int64_t count, Sum* to) {
  constexpr int kLanes = Vec<float>::lanes, kPer = kDotPer<T>;
  for (std::int64_t at = 0; at < count; at += kPer * kLanes) {
    for (int q = 0; q < kPer; ++q) {
      for (int l = 0; l < kLanes / 4; ++l) {
        __builtin_memcpy(to + at + 4 * (kPer * l + q), from + at + q * kLanes + 4 * l, 16);
      }
    }
  }
}

// ---- across: B has its rows in memory -----------------------------------------------------------

// sums[r] += a[r] * b for kDotFewRun rows of k and `vectors` vectors of columns. The rows of
// the next words are asked for meanwhile: their runs are too short for the machine to see them
// coming.
template <class Kind, int Rows>
[[gnu::noinline]] void dot_across(const typename Kind::Element* const* b, std::int64_t ahead,
                                  const Word* const* a, std::int64_t vectors, std::int32_t flip,
                                  typename Kind::Sum* sums, std::int64_t pitch) {
  using T = typename Kind::Element;
  using V = typename simd::SumVector<typename Kind::Sum>::type;
  constexpr int kPer = kDotPer<T>, kLanes = Vec<float>::lanes;
  const Int<float> flips = simd::set1_int<float>(flip);
  for (std::int64_t vector = 0; vector < vectors; ++vector) {
    const std::int64_t at = vector * kPer * kLanes;
    V sum[Rows][kPer];
    HOTLOOP_UNROLL
    for (int r = 0; r < Rows; ++r) {
      HOTLOOP_UNROLL
      for (int q = 0; q < kPer; ++q) simd::load_sum(sums + r * pitch + at + q * kLanes, &sum[r][q]);
    }
    HOTLOOP_UNROLL
    for (int s = 0; s < kDotFewRun / kPer; ++s) {
      Int<float> words[kPer];
      words_of_rows(b + s * kPer, at, words);
      typename Kind::Words right[kPer];
      HOTLOOP_UNROLL
      for (int q = 0; q < kPer; ++q) {
        __builtin_prefetch(b[s * kPer + q] + at + ahead, 0, 2);
        right[q] = Kind::right(words[q] ^ flips);
      }
      HOTLOOP_UNROLL
      for (int r = 0; r < Rows; ++r) {
        const auto left =
            Kind::left(simd::set1_int<float>(static_cast<std::int32_t>(simd::load_word(a[r] + s))));
        HOTLOOP_UNROLL
        for (int q = 0; q < kPer; ++q) sum[r][q] = Kind::add(sum[r][q], left, right[q]);
      }
    }
    HOTLOOP_UNROLL
    for (int r = 0; r < Rows; ++r) {
      HOTLOOP_UNROLL
      for (int q = 0; q < kPer; ++q) simd::store_sum(sums + r * pitch + at + q * kLanes, sum[r][q]);
    }
  }
}

// All of k times `columns` columns at b; the sums of row r lie at sums + r * pitch, columns out of
// order (columns_in_order).
template <class Kind>
inline void dot_rows_across(const DotArgs& g, const typename Kind::Element* b, const Word* const* a,
                            int rows, std::int64_t columns, typename Kind::Sum* sums,
                            std::int64_t pitch) {
  using T = typename Kind::Element;
  using Sum = typename Kind::Sum;
  constexpr int kPer = kDotPer<T>, kRun = kDotFewRun;
  constexpr std::int64_t kGroup = simd::kBytes / sizeof(T);
  const std::int64_t whole = columns / kGroup, rest = columns % kGroup;
  const std::int64_t k_step = g.p.b.row_step;
  const std::int32_t flip = static_cast<std::int32_t>(g.b_flip);
  const int high = (rows + 3) / 4 * 4;
  for (std::int64_t j = 0; j < high * pitch; ++j) sums[j] = Sum(0);
  alignas(64) T edge[kRun * kGroup] = {};
  for (std::int64_t at = 0; at < g.words; at += kRun / kPer) {
    const T *row[kRun], *edge_row[kRun];
    for (int i = 0; i < kRun; ++i) {
      const std::int64_t k = at * kPer + i;
      row[i] = k < g.p.k ? b + k * k_step : reinterpret_cast<const T*>(kDotNoRow);
      edge_row[i] = edge + i * kGroup;
      for (std::int64_t j = 0; j < rest; ++j) edge[i * kGroup + j] = row[i][whole * kGroup + j];
    }
    const std::int64_t ahead = at * kPer + 2 * kRun <= g.p.k ? kRun * k_step : 0;
    for (int r = 0; r < rows; r += 4) {
      const Word* left[4];
      for (int i = 0; i < 4; ++i) left[i] = a[r + i < rows ? r + i : rows - 1] + at;
      const auto loop = rows - r == 1   ? dot_across<Kind, 1>
                        : rows - r == 2 ? dot_across<Kind, 2>
                                        : dot_across<Kind, 4>;
      Sum* to = sums + r * pitch;
      loop(row, r == 0 ? ahead : 0, left, whole, flip, to, pitch);
      if (rest > 0) loop(edge_row, 0, left, 1, flip, to + whole * kGroup, pitch);
    }
  }
}

// ---- along: B has its columns in memory ---------------------------------------------------------

HOTLOOP_SIMD Vec<float> in_sum_lanes(Vec<float> a) {
  return a;
}
HOTLOOP_SIMD Vec<float> in_sum_lanes(Int<float> a) {
  return simd::as_vec<float>(a);
}
HOTLOOP_SIMD void out_of_lanes(Vec<float> a, Vec<float>* to) {
  *to = a;
}
HOTLOOP_SIMD void out_of_lanes(Vec<float> a, Int<float>* to) {
  *to = simd::as_int(a);
}

// Lane l of row[0] becomes the sum of the lanes of row[l].
template <int Step, class V>
HOTLOOP_SIMD void add_up_lanes(V (&row)[Vec<float>::lanes]) {
  constexpr int kLanes = Vec<float>::lanes;
  using Lanes = typename MakeLanes<kLanes>::type;
  if constexpr (Step < kLanes) {
    HOTLOOP_UNROLL
    for (int i = 0; i < kLanes; i += 2 * Step) {
      const Vec<float> a = in_sum_lanes(row[i]), b = in_sum_lanes(row[i + Step]);
      V upper, lower;
      out_of_lanes(exchange_upper<Step>(a, b, Lanes{}), &upper);
      out_of_lanes(exchange_lower<Step>(a, b, Lanes{}), &lower);
      row[i] = upper + lower;
    }
    add_up_lanes<2 * Step>(row);
  }
}

template <int Rows>
constexpr int kDotWide = Vec<float>::lanes / Rows;  // columns at a time: a sum for each lane

// to[r * kDotWide + c] = a[r] . b[c] over `bytes` bytes of k. The columns that come next, b[c +
// kColumns], are asked for meanwhile.
template <class Kind, int Rows>
[[gnu::noinline]] void dot_along(const char* const* b, std::int64_t bytes, const Word* const* a,
                                 std::int32_t flip, typename Kind::Sum* to) {
  using Sum = typename Kind::Sum;
  using V = typename simd::SumVector<Sum>::type;
  constexpr int kLanes = Vec<float>::lanes, kWide = kDotWide<Rows>;
  constexpr int kColumns = kWide < 4 ? kWide : 4;
  const Int<float> flips = simd::set1_int<float>(flip);
  alignas(64) Sum parts[kLanes * kLanes];
  for (int first = 0; first < kWide; first += kColumns) {
    const char* const* column = b + first;
    V sum[Rows][kColumns];
    HOTLOOP_UNROLL
    for (int r = 0; r < Rows; ++r) {
      HOTLOOP_UNROLL
      for (int c = 0; c < kColumns; ++c) sum[r][c] = V{};
    }
    alignas(64) char end[kColumns][simd::kBytes];
    for (std::int64_t at = 0; at < bytes; at += simd::kBytes) {
      typename Kind::Words right[kColumns];
      if (bytes - at >= simd::kBytes) {
        HOTLOOP_UNROLL
        for (int c = 0; c < kColumns; ++c) {
          __builtin_prefetch(column[c + kColumns] + at, 0, 2);
          Int<float> word;
          __builtin_memcpy(&word.v, column[c] + at, simd::kBytes);
          right[c] = Kind::right(word ^ flips);
        }
      } else {
        HOTLOOP_UNROLL
        for (int c = 0; c < kColumns; ++c) {
          Int<float> word{};
          __builtin_memcpy(end[c], &word.v, simd::kBytes);
          for (std::int64_t i = 0; i < bytes - at; ++i) end[c][i] = column[c][at + i];
          __builtin_memcpy(&word.v, end[c], simd::kBytes);
          right[c] = Kind::right(word ^ flips);
        }
      }
      HOTLOOP_UNROLL
      for (int r = 0; r < Rows; ++r) {
        const auto left = Kind::left(simd::load_words(a[r] + at / 4));
        HOTLOOP_UNROLL
        for (int c = 0; c < kColumns; ++c) sum[r][c] = Kind::add(sum[r][c], left, right[c]);
      }
    }
    HOTLOOP_UNROLL
    for (int r = 0; r < Rows; ++r) {
      HOTLOOP_UNROLL
      for (int c = 0; c < kColumns; ++c) {
        simd::store_sum(parts + (r * kWide + first + c) * kLanes, sum[r][c]);
      }
    }
  }
  V all[kLanes];
  HOTLOOP_UNROLL
  for (int i = 0; i < kLanes; ++i) simd::load_sum(parts + i * kLanes, &all[i]);
  add_up_lanes<1>(all);
  simd::store_sum(to, all[0]);
}

// Rows of A times kDotWide<Rows> columns, from column j on, of which some lie beyond the last one:
// that takes their places.
template <class Kind, int Rows>
inline void dot_some_along(const DotArgs& g, const typename Kind::Element* b, const Word* const* a,
                           int rows, std::int64_t j, std::int64_t columns, std::int64_t beyond,
                           typename Kind::Sum* sums) {
  using T = typename Kind::Element;
  constexpr int kWide = kDotWide<Rows>;
  const char* column[2 * kWide];
  for (int c = 0; c < 2 * kWide; ++c) {
    const std::int64_t at = j + c < columns + beyond ? j + c : columns + beyond - 1;
    column[c] = reinterpret_cast<const char*>(b + at * g.p.b.column_step);
  }
  const Word* left[Rows];
  for (int i = 0; i < Rows; ++i) left[i] = a[i < rows ? i : rows - 1];
  alignas(64) typename Kind::Sum to[Vec<float>::lanes];
  dot_along<Kind, Rows>(column, g.p.k * std::int64_t(sizeof(T)), left,
                        static_cast<std::int32_t>(g.b_flip), to);
  for (int i = 0; i < Rows && i < rows; ++i) {
    for (int c = 0; c < kWide; ++c) sums[i * kDotPanel + j + c] = to[i * kWide + c];
  }
}

// A block of at most kDotPanel columns, `beyond` more of which follow in memory.
template <class Kind>
inline void dot_rows_along(const DotArgs& g, const typename Kind::Element* b, const Word* const* a,
                           int rows, std::int64_t columns, std::int64_t beyond,
                           typename Kind::Sum* sums) {
  constexpr int kStep = kDotWide<1>;  // columns, whose k stays near for all rows
  for (std::int64_t first = 0; first < columns; first += kStep) {
    const std::int64_t past = first + kStep < columns ? first + kStep : columns;
    for (int r = 0; r < rows; r += 4) {
      typename Kind::Sum* to = sums + r * kDotPanel;
      const auto each = [&](auto loop, int wide) {
        for (std::int64_t j = first; j < past; j += wide) {
          loop(g, b, a + r, rows - r, j, columns, beyond, to);
        }
      };
      if (rows - r == 1) {
        each(dot_some_along<Kind, 1>, kDotWide<1>);
      } else if (rows - r == 2) {
        each(dot_some_along<Kind, 2>, kDotWide<2>);
      } else {
        each(dot_some_along<Kind, 4>, kDotWide<4>);
      }
    }
  }
}

// ---- the kernel ---------------------------------------------------------------------------------

// Units: batch, block of g.panel columns. finish(block, sums) takes kDotPanel columns at a time,
// the sums of a row kDotPanel apart.
template <class Kind, class Finish>
inline void dot_few_rows(const DotArgs& g, std::int64_t begin, std::int64_t end, Finish finish) {
  using T = typename Kind::Element;
  using Sum = typename Kind::Sum;
  constexpr std::int64_t kGroup = simd::kBytes / sizeof(T), kPitchSpare = 48;
  alignas(64) Sum sums[kDotFewMost * kDotPanel];
  alignas(64) Sum wide[kDotFewSums];
  const bool across = !g.along;
  const int rows = static_cast<int>(g.p.m) + (g.ones ? 1 : 0);
  const std::int64_t fit =
      (kDotFewSums / ((rows + 3) / 4 * 4) - kPitchSpare) / kDotPanel * kDotPanel;
  const std::int64_t most = across ? (fit < kDotFewColumns ? fit : kDotFewColumns) : kDotPanel;
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const std::int64_t batch = unit / g.panels, first = unit % g.panels * g.panel;
    const std::int64_t past = first + g.panel < g.p.n ? first + g.panel : g.p.n;
    const Word* a[kDotFewMost];
    const char* const left = static_cast<const char*>(g.a) + batch * g.a_batch_step;
    for (std::int64_t i = 0; i < g.p.m; ++i) {
      a[i] = reinterpret_cast<const Word*>(left + i * g.a_step);
    }
    if (g.ones) a[g.p.m] = g.ones;
    const T* const b = static_cast<const T*>(g.p.b.data) +
                       (g.p.b.offsets ? g.p.b.offsets[batch] : batch * g.p.b.batch_step);
    for (std::int64_t column = first; column < past; column += most) {
      const std::int64_t columns = past - column < most ? past - column : most;
      const T* const from = b + column * g.p.b.column_step;
      // Not a power of two: the sums of all rows would fall onto the same places of L1.
      const std::int64_t pitch = (columns + kGroup - 1) / kGroup * kGroup + kPitchSpare;
      if (across) {
        dot_rows_across<Kind>(g, from, a, rows, columns, wide, pitch);
      } else {
        dot_rows_along<Kind>(g, from, a, rows, columns, g.p.n - column - columns, sums);
      }
      for (std::int64_t j = 0; j < columns; j += kDotPanel) {
        const std::int64_t some = columns - j < kDotPanel ? columns - j : kDotPanel;
        if (across) {
          const std::int64_t count = (some + kGroup - 1) / kGroup * kGroup;
          for (int r = 0; r < rows; ++r) {
            columns_in_order<T>(wide + r * pitch + j, count, sums + r * kDotPanel);
          }
        }
        const void* const last = g.ones ? sums + g.p.m * kDotPanel : nullptr;
        finish(DotBlock{batch, 0, g.p.m, column + j, some, static_cast<const std::int32_t*>(last)},
               sums);
      }
    }
  }
}

}  // namespace
}  // namespace hotloop::HOTLOOP_LEVEL
