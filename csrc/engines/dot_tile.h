// The tile of products of words: sums[mr x nr] += over k of A[mr x k] * B[k x nr], for the kinds of
// words of simd/dot.h. Sums go to a block in L1, which the family's epilogue then rounds, scales
// and writes: the tile knows nothing of it, so there are few of them.
// Zen 4: 6x64, 24 sums and 4 words of B and one of A in registers; no spills (the build checks).
// Reading past a block of k, the sums are taken up where they were left: the result is that of one
// run along k.
#pragma once

#include "engines/dot_pack.h"
#include "kernels/dot.h"
#include "simd/dot.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

using simd::Word;

// Without the instruction, words split in two take twice the registers.
constexpr int kDotVectors = simd::kNativeDot ? 4 : 2;
constexpr int kDotTileRows = simd::kBytes == 64 ? 6 : simd::kBytes == 32 ? 3 : 2;
constexpr std::int64_t kDotDepth = 1024;  // words: 256 KB of a panel in L2

template <class Sum>
struct DotTile {
  const char* a;        // rows of words,
  std::int64_t a_step;  // that many bytes apart
  const Word* b;
  std::int64_t b_step;
  std::int64_t words;
  Sum* sums;
  std::int64_t sums_step;
  const Sum* start;   // what every row begins with, or null for zeros
  bool resume;        // or with what the sums hold
  std::int32_t flip;  // of the words of A
};

template <class Kind, int Rows, int Vectors>
[[gnu::noinline]] void dot_tile_loop(const DotTile<typename Kind::Sum>& tile) {
  using Sum = typename Kind::Sum;
  using V = typename simd::SumVector<Sum>::type;
  constexpr int kLanes = simd::Vec<float>::lanes;
  V sum[Rows][Vectors];
#pragma GCC unroll 4
  for (int v = 0; v < Vectors; ++v) {
    V first{};
    if (tile.start) simd::load_sum(tile.start + v * kLanes, &first);
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i) sum[i][v] = first;
  }
  if (tile.resume) {
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) {
        simd::load_sum(tile.sums + i * tile.sums_step + v * kLanes, &sum[i][v]);
      }
    }
  }
  const char* row[Rows];
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i) row[i] = tile.a + i * tile.a_step;
  const Word* b = tile.b;
  const std::int64_t b_step = tile.b_step;
  const std::int64_t bytes = 4 * tile.words;
  // Signed bytes of A become unsigned here: the exclusive or takes the place of the broadcast.
  constexpr bool kFlips = sizeof(typename Kind::Element) == 1;
  const Int<float> flip = simd::set1_int<float>(kFlips ? tile.flip : 0);
  for (std::int64_t at = 0; at < bytes; at += 4) {
    typename Kind::Words right[Vectors];
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) right[v] = Kind::right(simd::load_words(b + v * kLanes));
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i) {
      Int<float> word =
          simd::set1_int<float>(static_cast<std::int32_t>(simd::load_word(row[i] + at)));
      if constexpr (kFlips) word = word ^ flip;
      const auto left = Kind::left(word);
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) sum[i][v] = Kind::add(sum[i][v], left, right[v]);
    }
    b += b_step;
  }
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) {
      simd::store_sum(tile.sums + i * tile.sums_step + v * kLanes, sum[i][v]);
    }
  }
}

template <class Kind, int Vectors>
inline void run_dot_rows(const DotTile<typename Kind::Sum>& tile, int rows) {
  switch (rows) {
    case 1:
      return dot_tile_loop<Kind, 1, Vectors>(tile);
    case 2:
      return dot_tile_loop<Kind, 2, Vectors>(tile);
    default:
      break;
  }
  if constexpr (kDotTileRows >= 3) {
    if (rows == 3) return dot_tile_loop<Kind, 3, Vectors>(tile);
  }
  if constexpr (kDotTileRows >= 6) {
    if (rows == 4) return dot_tile_loop<Kind, 4, Vectors>(tile);
    if (rows == 5) return dot_tile_loop<Kind, 5, Vectors>(tile);
    if (rows == 6) return dot_tile_loop<Kind, 6, Vectors>(tile);
  }
}

// 1 <= rows <= kDotTileRows, 1 <= vectors <= kDotVectors.
template <class Kind>
inline void run_dot_tile(const DotTile<typename Kind::Sum>& tile, int rows, int vectors) {
  if (vectors == 1) return run_dot_rows<Kind, 1>(tile, rows);
  if (vectors == 2) return run_dot_rows<Kind, 2>(tile, rows);
  if constexpr (kDotVectors == 4) {
    if (vectors == 3) return run_dot_rows<Kind, 3>(tile, rows);
    return run_dot_rows<Kind, 4>(tile, rows);
  }
}

// A block of C.
struct DotBlock {
  std::int64_t batch, row, rows, column, columns;
  const std::int32_t* column_sums;  // of its panel, slice by slice, or null
};
// Where its sums go and what they begin with.
template <class Sum>
struct DotTarget {
  Sum* sums;
  std::int64_t step;
  const Sum* start;
};

// The units [begin, end) of batch, panel, row block. prepare(block, sums) says where the sums go:
// straight to C where they are the result and whole vectors, or to `sums`, which holds a block;
// finish(block, sums) then writes C.
template <class Kind, class Sums, class Prepare, class Finish>
inline void dot_blocks(const DotArgs& g, std::int64_t begin, std::int64_t end, Sums sums_of,
                       Prepare prepare, Finish finish) {
  using Sum = typename Kind::Sum;
  constexpr std::int64_t kLanes = simd::Vec<float>::lanes;
  alignas(64) Sum sums[kDotRows * kDotPanel];
  std::int64_t in_slot = -1;  // the panel that this thread has packed
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const std::int64_t row = unit % g.row_blocks * g.row_block;
    const std::int64_t panel = unit / g.row_blocks % g.panels;
    const std::int64_t batch = unit / g.row_blocks / g.panels;
    const std::int64_t rows = g.p.m - row < g.row_block ? g.p.m - row : g.row_block;
    const std::int64_t column = panel * g.panel;
    const std::int64_t columns = g.p.n - column < g.panel ? g.p.n - column : g.panel;
    const char* const a =
        static_cast<const char*>(g.a) +
        (g.a_offsets ? g.a_offsets[batch] * std::int64_t(sizeof(typename Kind::Element))
                     : batch * g.a_batch_step) +
        row * g.a_step;
    const Word* b = g.b + batch * g.b_batch_step + panel * g.words * g.panel;
    const std::int32_t* column_sums =
        g.column_sums ? g.column_sums + batch * g.column_sums_step + panel * g.slices * g.panel
                      : nullptr;
    if (g.pack) {
      Word* const slot = reinterpret_cast<Word*>(g.slots + g.slot_bytes * g.slot());
      std::int32_t* const own = reinterpret_cast<std::int32_t*>(slot + g.words * g.panel);
      const bool is_new = unit / g.row_blocks != in_slot;
      in_slot = unit / g.row_blocks;
      for (std::int64_t slice = 0; is_new && slice < g.slices; ++slice) {
        pack_dot_slice<Kind>(*g.pack, batch, panel, slice,
                             slot + slice * g.pack->slice_words * g.panel,
                             g.own_sums ? own + slice * g.panel : nullptr, sums_of);
      }
      b = slot;
      column_sums = g.own_sums ? own : nullptr;
    }
    const DotBlock block{batch, row, rows, column, columns, column_sums};
    const DotTarget<Sum> to = prepare(block, sums);
    // Tile by tile where each is complete, while its sums are in L1: 256^3 of bf16 on two threads
    // took 89 us, 81 so.
    const bool at_once = to.sums == sums && g.words <= kDotDepth && columns <= kDotVectors * kLanes;
    std::int64_t at = 0;
    do {
      const std::int64_t depth = g.words - at < kDotDepth ? g.words - at : kDotDepth;
      for (std::int64_t j = 0; j < columns; j += kDotVectors * kLanes) {
        const std::int64_t left = (columns - j + kLanes - 1) / kLanes;
        const int vectors = static_cast<int>(left < kDotVectors ? left : kDotVectors);
        std::int64_t i = 0;
        while (i < rows) {
          // Tiles of even height: 7 rows are 4 and 3 rather than 6 and 1.
          const std::int64_t tiles = (rows - i + kDotTileRows - 1) / kDotTileRows;
          const std::int64_t high = (rows - i + tiles - 1) / tiles;
          const DotTile<Sum> tile{a + i * g.a_step + 4 * at,
                                  g.a_step,
                                  b + at * g.panel + j,
                                  g.panel,
                                  depth,
                                  to.sums + (at_once ? 0 : i * to.step) + j,
                                  to.step,
                                  to.start && at == 0 ? to.start + j : nullptr,
                                  at > 0,
                                  static_cast<std::int32_t>(g.a_flip)};
          run_dot_tile<Kind>(tile, static_cast<int>(high), vectors);
          if (at_once) finish({batch, row + i, high, column, columns, column_sums}, sums);
          i += high;
        }
      }
      at += depth;
    } while (at < g.words);
    if (to.sums == sums && !at_once) finish(block, sums);
  }
}

// Twelve chains of dot products in registers: the ceiling.
template <class Kind>
inline void probe_dots(const ProbeDotArgs& args, std::int64_t begin, std::int64_t end) {
  using V = typename simd::SumVector<typename Kind::Sum>::type;
  constexpr int kChains = 12, kLanes = simd::Vec<float>::lanes;
  constexpr std::int64_t kStep = kChains * kLanes * 2 * (4 / sizeof(typename Kind::Element));
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const auto left = Kind::left(simd::set1_int<float>(static_cast<std::int32_t>(unit & 3)));
    const auto right = Kind::right(simd::set1_int<float>(1));
    V sum[kChains];
    HOTLOOP_UNROLL
    for (int j = 0; j < kChains; ++j) sum[j] = V{};
    for (std::int64_t i = 0; i < kProbeDotFlops / kStep; ++i) {
      HOTLOOP_UNROLL
      for (int j = 0; j < kChains; ++j) {
        sum[j] = Kind::add(sum[j], left, right);
#if defined(__x86_64__)
        __asm__ volatile("" : "+x"(sum[j].v));  // or all chains were one
#endif
      }
    }
    double total = 0;
    for (int j = 0; j < kChains; ++j) total += static_cast<double>(sum[j].v[0]);
    args.sink[unit] = total;
  }
}

}  // namespace
}  // namespace hotloop::HOTLOOP_LEVEL
