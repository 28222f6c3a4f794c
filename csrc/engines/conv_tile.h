// The tile of convolutions: C[rows x columns] = init + sum over k of A[row][offset[k]] *
// B[k][columns]. Like engines/micro_kernel.h, but A is read through a table of offsets that all
// rows share. The table makes the sum dense whatever lies behind it: taps times channels of an
// image (one channel too) going forward, the pixels of an image in the gradient of the weights.
#pragma once

#include "simd/simd.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

using simd::Vec;

constexpr int kConvVectors = simd::kBytes == 64 ? 4 : 2;
constexpr int kConvMaxRows = 14;

// Accumulators, one vector of B for each column vector and one of A must fit the registers.
constexpr int conv_tile_rows(int vectors) {
  if (simd::kBytes == 64) {
    return vectors == 1 ? 14 : vectors == 2 ? 12 : vectors == 3 ? 8 : 6;
  }
  return vectors == 1 ? 10 : simd::kFusedFma ? 6 : 4;
}

template <class T>
struct ConvTile {
  const T* rows[kConvMaxRows];  // A, of each row
  T* c[kConvMaxRows];           // C, of each row
  const std::int64_t* offset;
  std::int64_t depth;
  // The sum over k in so many runs of `depth` terms each, `skip` terms left out between them.
  std::int64_t segments = 1, skip = 0;
  // What is read after this: fetched into L2 along the way, a line for each term; null: nothing.
  const char* ahead = nullptr;
  std::int64_t ahead_step = 0;
  const T* b;
  std::int64_t b_step;
  const T* init;         // one value per column, whole vectors; null: C itself
  std::int64_t columns;  // of C that exist; B and init reach to the end of the last vector
  bool stream = false;   // C is whole, aligned lines that nobody reads soon: around the caches
};

// A pointer for each of 12 rows is more than there are registers. Where the second row of each pair
// lies as far behind the first as in all others (pixels of a row, channels), six are enough.
constexpr bool conv_tile_pairs(int rows, int vectors) {
  return simd::kBytes == 64 && vectors == 2 && rows == conv_tile_rows(2);
}
template <class T>
inline bool rows_in_pairs(const ConvTile<T>& tile, int rows) {
  for (int i = 2; i < rows; i += 2) {
    if (tile.rows[i + 1] - tile.rows[i] != tile.rows[1] - tile.rows[0]) return false;
  }
  return true;
}

// Beside: the rows are neighbours in A, element by element.
template <class T, int Rows, int Vectors, bool Stream = false, bool Pairs = false,
          bool Beside = false>
[[gnu::noinline]] void conv_tile_loop(const ConvTile<T>& tile) {
  using V = Vec<T>;
  constexpr int kStep = Beside ? Rows : Pairs ? 2 : 1;
  V sum[Rows][Vectors];
#pragma GCC unroll 4
  for (int v = 0; v < Vectors; ++v) {
    if (tile.init) {
      const V init = simd::load(tile.init + v * V::lanes);
#pragma GCC unroll 14
      for (int i = 0; i < Rows; ++i) sum[i][v] = init;
    } else {
#pragma GCC unroll 14
      for (int i = 0; i < Rows; ++i) {
        sum[i][v] = simd::load_upto(tile.c[i] + v * V::lanes, tile.columns - v * V::lanes);
      }
    }
  }
  const T* row[Rows / kStep];
#pragma GCC unroll 14
  for (int i = 0; i < Rows / kStep; ++i) row[i] = tile.rows[i * kStep];
  const std::int64_t apart = Pairs ? tile.rows[Rows > 1] - tile.rows[0] : 0;
  const std::int64_t* offset = tile.offset;
  const T* b = tile.b;
  const std::int64_t b_step = tile.b_step;
  [[maybe_unused]] const char* ahead = tile.ahead ? tile.ahead : reinterpret_cast<const char*>(b);
  [[maybe_unused]] const std::int64_t ahead_step = tile.ahead_step;
  for (std::int64_t segment = tile.segments; segment > 0; --segment) {
    for (std::int64_t k = tile.depth; k > 0; --k) {
      const std::int64_t at[2] = {*offset, *offset + apart};
      ++offset;
      V bv[Vectors];
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) bv[v] = simd::load(b + v * V::lanes);
#pragma GCC unroll 14
      for (int i = 0; i < Rows; ++i) {
        const V av = simd::set1<T>(Beside ? row[0][at[0] + i] : row[i / kStep][at[i % kStep % 2]]);
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v) sum[i][v] = simd::fma(av, bv[v], sum[i][v]);
      }
      b += b_step;
      if constexpr (Vectors > 1) {  // tiles of one vector are bound by loads
        __builtin_prefetch(ahead, 0, 2);
        ahead += ahead_step;
      }
    }
    offset += tile.skip;
    b += tile.skip * b_step;
  }
  if constexpr (Stream) {
#pragma GCC unroll 14
    for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) simd::stream(tile.c[i] + v * V::lanes, sum[i][v]);
    }
    return;
  }
  const std::int64_t columns = tile.columns;
  if (columns >= Vectors * V::lanes) {
#pragma GCC unroll 14
    for (int i = 0; i < Rows; ++i) {
      T* const c = tile.c[i];
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) simd::store(c + v * V::lanes, sum[i][v]);
    }
    return;
  }
#pragma GCC unroll 4
  for (int v = 0; v < Vectors; ++v) {
#pragma GCC unroll 14
    for (int i = 0; i < Rows; ++i) {
      simd::store_upto(tile.c[i] + v * V::lanes, sum[i][v], columns - v * V::lanes);
    }
  }
}

// Whole tiles of 12 pixels by two vectors one after the other, of few terms and all in one run:
// what a tile costs beside its products is a tenth of the time there. Pixels in pairs `apart`
// apart.
template <class T, bool Stream>
[[gnu::noinline]] void conv_tiles_of_few_terms(const ConvTile<T>& tile, const T* source,
                                               const std::int64_t* pixel, T* y,
                                               const std::int64_t* y_pixel, std::int64_t tiles) {
  using V = Vec<T>;
  constexpr int kRows = 12;
  const std::int64_t apart = pixel[1] - pixel[0];
  const std::int64_t* const offsets = tile.offset;
  const std::int64_t depth = tile.depth, b_step = tile.b_step;
  const T* const first = tile.b;
  const V init[2] = {simd::load(tile.init), simd::load(tile.init + V::lanes)};
  for (; tiles > 0; --tiles, pixel += kRows, y_pixel += kRows) {
    V sum[kRows][2];
#pragma GCC unroll 12
    for (int i = 0; i < kRows; ++i) sum[i][0] = init[0], sum[i][1] = init[1];
    const T* row[kRows / 2];
#pragma GCC unroll 6
    for (int i = 0; i < kRows / 2; ++i) row[i] = source + pixel[2 * i];
    const T* b = first;
    const std::int64_t* offset = offsets;
    for (std::int64_t k = depth; k > 0; --k, b += b_step) {
      const std::int64_t at[2] = {*offset, *offset + apart};
      ++offset;
      const V b0 = simd::load(b), b1 = simd::load(b + V::lanes);
#pragma GCC unroll 12
      for (int i = 0; i < kRows; ++i) {
        const V av = simd::set1<T>(row[i / 2][at[i % 2]]);
        sum[i][0] = simd::fma(av, b0, sum[i][0]);
        sum[i][1] = simd::fma(av, b1, sum[i][1]);
      }
    }
#pragma GCC unroll 12
    for (int i = 0; i < kRows; ++i) {
      T* const c = y + y_pixel[i];
      if constexpr (Stream) {
        simd::stream(c, sum[i][0]), simd::stream(c + V::lanes, sum[i][1]);
      } else {
        simd::store(c, sum[i][0]), simd::store(c + V::lanes, sum[i][1]);
      }
    }
  }
}

template <class T, int Vectors, bool Streams>
inline void run_conv_tile_rows(const ConvTile<T>& tile, int rows) {
  constexpr int kMost = conv_tile_rows(Vectors);
  if constexpr (conv_tile_pairs(kMost, Vectors)) {
    if (rows == kMost && rows_in_pairs(tile, kMost)) {
      if constexpr (Streams) {
        if (tile.stream) return conv_tile_loop<T, kMost, Vectors, true, true>(tile);
      }
      return conv_tile_loop<T, kMost, Vectors, false, true>(tile);
    }
  }
  if constexpr (Streams) {  // whole tiles: they are nearly all
    if (tile.stream && rows == kMost) return conv_tile_loop<T, kMost, Vectors, true>(tile);
  }
  if (rows == 1) return conv_tile_loop<T, 1, Vectors>(tile);
  if (rows == 2) return conv_tile_loop<T, 2, Vectors>(tile);
  if (rows <= 4) return conv_tile_loop<T, 4, Vectors>(tile);
  if constexpr (kMost >= 8) {
    if (rows <= 6) return conv_tile_loop<T, 6, Vectors>(tile);
  }
  if constexpr (kMost >= 10) {
    if (rows <= 8) return conv_tile_loop<T, 8, Vectors>(tile);
  }
  if constexpr (kMost >= 12) {
    if (rows <= 10) return conv_tile_loop<T, 10, Vectors>(tile);
  }
  if constexpr (kMost >= 14) {
    if (rows <= 12) return conv_tile_loop<T, 12, Vectors>(tile);
  }
  if constexpr (kMost > 4) conv_tile_loop<T, kMost, Vectors>(tile);
}

// Rows beyond the last are filled with copies of it by the caller: fill_rows. Streams: tile.stream
// is looked at.
template <class T, bool Streams = false>
inline void run_conv_tile(const ConvTile<T>& tile, int rows, int vectors) {
  switch (vectors) {
    case 1:
      return run_conv_tile_rows<T, 1, Streams>(tile, rows);
    case 2:
      return run_conv_tile_rows<T, 2, Streams>(tile, rows);
    default:
      if constexpr (kConvVectors == 4) {
        if (vectors == 3) return run_conv_tile_rows<T, 3, Streams>(tile, rows);
        return run_conv_tile_rows<T, 4, Streams>(tile, rows);
      }
  }
}

// A tile of 5 rows runs as one of 6 whose last row is computed twice, with the same result.
template <class T>
inline void fill_rows(ConvTile<T>& tile, int rows) {
  for (int i = rows; i < kConvMaxRows; ++i) {
    tile.rows[i] = tile.rows[rows - 1];
    tile.c[i] = tile.c[rows - 1];
  }
}

}  // namespace
}  // namespace hotloop::HOTLOOP_LEVEL
