// The tile every product is made of: C[mr x nr] = epilogue(sum over k of A[mr x k] * B[k x nr]),
// the accumulators in registers. Row-major C; nr up to kTileColumns<T>, mr up to
// tile_rows<T>(columns).
//
// How to use it (gemm and conv do):
//   Tile<T> tile;
//   tile.rows      pointers to mr rows of A; a_step is the stride of k in a row
//   tile.depth     terms of the sum
//   tile.b, tile.b_step     B, its rows b_step apart; nr contiguous elements each: a packed panel
//                  (engines/pack.h) or B itself. Columns beyond nr are never touched.
//   tile.c, tile.ldc, alpha, beta, bias (by column, or null)   C = alpha * sum + bias + beta * D,
//   tile.from, tile.from_step   where D is `from`: C itself, or what is added to the product
//   tile.fetch     C lies far away: ask for its lines before the sum, which hides the wait
//   tile.keep      where B goes as a packed panel on the way, or null: only for a whole tile
//                  (kWholeRows rows or more of kTileColumns<T>). Stores, and rows fetched ahead,
//                  cost nothing between multiplications; packing first took 9 % of a product with
//                  128 rows.
//   tile.copy      rows of what B will be next, brought over on the way: one for copy_every terms,
//                  copy_rows at most; whole tiles do it, the others not.
//                  A first tile that packs waits for memory: it took three times as long as the
//                  others where B lay beyond the caches, 10 % of a product with 128 rows.
//   tile.ahead     what is read after this: full-width tiles fetch it into L2 along the way,
//                  ahead_step bytes for each term; null: B's first line again
//   tile.stream    C is aligned lines that nobody reads soon: whole tiles go around the caches
//   run_tile(tile, mr, nr);
// Zen 4 and 5: 6x64 in f32 holds 24 accumulators; no spills (the build checks).
#pragma once

#include "simd/simd.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

using simd::Vec;

// Registers: mr * vectors accumulators, `vectors` of B and one or two of A.
constexpr int kTileVectors = simd::kBytes == 64 ? 4 : 2;
constexpr int kTileRows = simd::kFusedFma ? 6 : 4;
template <class T>
constexpr int kTileColumns = kTileVectors * Vec<T>::lanes;
constexpr int kWholeRows = kTileRows - 1;  // 25 rows and more are tiles of 5 and 6
constexpr int kMaxTileRows = simd::kBytes == 64 ? 8 : kTileRows;
// Rows of a tile that is `vectors` wide: narrow tiles take more rows; the mask of a short last
// vector is a seventeenth register under AVX2.
constexpr int rows_for_vectors(int vectors, bool ragged) {
  if (simd::kBytes == 64) return vectors < 4 ? 8 : kTileRows;
  return simd::kBytes == 32 && vectors == 2 && ragged ? 5 : kTileRows;
}
template <class T>
constexpr int tile_rows(std::int64_t columns) {
  return rows_for_vectors(columns > (kTileVectors - 1) * Vec<T>::lanes ? kTileVectors : 1,
                          columns % Vec<T>::lanes != 0);
}

template <class T>
struct Tile {
  const T* const* rows = nullptr;
  std::int64_t depth = 0;
  std::int64_t a_step = 1;
  const T* b = nullptr;
  std::int64_t b_step = 0;
  T* c = nullptr;
  std::int64_t ldc = 0;
  const T* from = nullptr;
  std::int64_t from_step = 0;
  T alpha = 1;
  T beta = 0;
  const T* bias = nullptr;
  bool fetch = false;
  T* keep = nullptr;
  const T* copy = nullptr;
  T* copy_to = nullptr;
  std::int64_t copy_step = 0;   // of the source
  std::int64_t copy_rows = 0;   // left to copy; 0: none
  std::int64_t copy_every = 1;  // terms
  const char* ahead = nullptr;
  std::int64_t ahead_step = 0;
  bool stream = false;
};

constexpr std::int64_t kKeepAhead = 16;  // rows of B that are fetched ahead
constexpr std::int64_t kCopyAhead = 64;  // terms: the time that a line from memory may take

enum class Way { plain, keep, copy, stream };

template <class T, int Rows, int Vectors, bool Ragged, Way kWay = Way::plain>
[[gnu::noinline]] void tile_loop(const Tile<T>& tile, int last) {
  using V = Vec<T>;
  constexpr int kLanes = V::lanes;
  V sum[Rows][Vectors];
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) sum[i][v] = simd::zero<T>();
  }
  if (tile.fetch) {
    const T* line = tile.c;
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) simd::prefetch(line + v * kLanes);
      line += tile.ldc;
    }
  }
  const T* b = tile.b;
  const std::int64_t b_step = tile.b_step;
  const std::int64_t a_step = tile.a_step;
  [[maybe_unused]] T* keep = tile.keep;
  [[maybe_unused]] const char* ahead = tile.ahead ? tile.ahead : reinterpret_cast<const char*>(b);
  [[maybe_unused]] const std::int64_t ahead_step = tile.ahead_step;
  const T* row[Rows];
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i) row[i] = tile.rows[i];
  std::int64_t offset = 0, left = tile.depth;
  [[maybe_unused]] std::int64_t copied = 0, fetched = 0;
  if constexpr (kWay == Way::copy) fetched = 1 + kCopyAhead / tile.copy_every;
  while (left > 0) {
    std::int64_t run = left;
    if constexpr (kWay == Way::copy) {
      if (tile.copy_every < run) run = tile.copy_every;
      if (fetched < tile.copy_rows) {
        const T* line = tile.copy + fetched * tile.copy_step;
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v) simd::prefetch(line + v * kLanes);
        ++fetched;
      }
      if (copied < tile.copy_rows) {
        const T* from = tile.copy + copied * tile.copy_step;
        T* to = tile.copy_to + copied * Vectors * kLanes;
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v) {
          simd::store(to + v * kLanes, simd::load(from + v * kLanes));
        }
        ++copied;
      }
    }
    left -= run;
    for (; run > 0; --run) {
      V bv[Vectors];
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) {
        bv[v] = Ragged && v == Vectors - 1 ? simd::load_n(b + v * kLanes, last)
                                           : simd::load(b + v * kLanes);
        if constexpr (kWay == Way::keep) {
          simd::prefetch(b + kKeepAhead * b_step + v * kLanes);
          simd::store(keep + v * kLanes, bv[v]);
        }
      }
#pragma GCC unroll 8
      for (int i = 0; i < Rows; ++i) {
        const V av = simd::set1<T>(row[i][offset]);
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v) sum[i][v] = simd::fma(av, bv[v], sum[i][v]);
      }
      b += b_step;
      offset += a_step;
      if constexpr (Vectors == kTileVectors) {
        __builtin_prefetch(ahead, 0, 2);
        ahead += ahead_step;
      }
      if constexpr (kWay == Way::keep) keep += Vectors * kLanes;
    }
  }
  // One thing after the other: with 12 of 16 registers full, alpha, beta and bias do not fit at
  // once.
  if (tile.alpha != T(1)) {
    const V alpha = simd::set1(tile.alpha);
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) sum[i][v] = sum[i][v] * alpha;
    }
  }
  if (tile.bias) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) {
      const T* p = tile.bias + v * kLanes;
      const V bias = Ragged && v == Vectors - 1 ? simd::load_n(p, last) : simd::load(p);
#pragma GCC unroll 8
      for (int i = 0; i < Rows; ++i) sum[i][v] = sum[i][v] + bias;
    }
  }
  T* c = tile.c;
  const T* from = tile.from;
  const bool accumulate = tile.beta != T(0);  // otherwise what D holds, NaN too, is not read
  if constexpr (kWay == Way::stream || kWay == Way::copy) {
    if (tile.stream) {
#pragma GCC unroll 8
      for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v) simd::stream(c + v * kLanes, sum[i][v]);
        c += tile.ldc;
      }
      return;
    }
  }
  const V beta = simd::set1(tile.beta);
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) {
      T* p = c + v * kLanes;
      if (Ragged && v == Vectors - 1) {
        if (accumulate) {
          sum[i][v] = simd::fma(beta, simd::load_n(from + v * kLanes, last), sum[i][v]);
        }
        simd::store_n(p, sum[i][v], last);
      } else {
        if (accumulate) sum[i][v] = simd::fma(beta, simd::load(from + v * kLanes), sum[i][v]);
        simd::store(p, sum[i][v]);
      }
    }
    c += tile.ldc;
    if (accumulate) from += tile.from_step;
  }
}

template <class T>
using TileLoop = void (*)(const Tile<T>&, int);

// The body for a number of rows, vectors of columns, and whether the last vector is short.
template <class T, int Vectors, bool Ragged>
inline TileLoop<T> loop_for_rows(int rows) {
  switch (rows) {
    case 1:
      return tile_loop<T, 1, Vectors, Ragged>;
    case 2:
      return tile_loop<T, 2, Vectors, Ragged>;
    case 3:
      return tile_loop<T, 3, Vectors, Ragged>;
    case 4:
      return tile_loop<T, 4, Vectors, Ragged>;
    default:
      break;
  }
  if constexpr (rows_for_vectors(Vectors, Ragged) >= 5) {
    if (rows == 5) return tile_loop<T, 5, Vectors, Ragged>;
  }
  if constexpr (rows_for_vectors(Vectors, Ragged) >= 6) {
    if (rows == 6) return tile_loop<T, 6, Vectors, Ragged>;
  }
  if constexpr (rows_for_vectors(Vectors, Ragged) >= 8) {
    if (rows == 7) return tile_loop<T, 7, Vectors, Ragged>;
    return tile_loop<T, 8, Vectors, Ragged>;
  }
  return nullptr;
}

// The rows that are copied before those which the first of these tiles fetches.
template <class T>
inline void fetch_first_rows(const Tile<T>& tile) {
  std::int64_t rows = 1 + kCopyAhead / tile.copy_every;
  if (rows > tile.copy_rows) rows = tile.copy_rows;
  for (std::int64_t i = 0; i < rows; ++i) {
    const T* line = tile.copy + i * tile.copy_step;
    for (int v = 0; v < kTileVectors; ++v) simd::prefetch(line + v * Vec<T>::lanes);
  }
}

// Whether run_tile copies rows on the way.
template <class T>
inline bool copies_rows(const Tile<T>& tile, int mr, int nr) {
  return tile.copy_rows > 0 && !tile.keep && mr >= kWholeRows && nr == kTileColumns<T>;
}

template <class T, Way kWay>
inline void run_whole(const Tile<T>& tile, int mr) {
  mr == kTileRows ? tile_loop<T, kTileRows, kTileVectors, false, kWay>(tile, Vec<T>::lanes)
                  : tile_loop<T, kWholeRows, kTileVectors, false, kWay>(tile, Vec<T>::lanes);
}

// 1 <= mr <= tile_rows<T>(nr), 1 <= nr <= kTileColumns<T>.
template <class T>
inline void run_tile(const Tile<T>& tile, int mr, int nr) {
  if (tile.keep) return run_whole<T, Way::keep>(tile, mr);
  if (copies_rows(tile, mr, nr)) return run_whole<T, Way::copy>(tile, mr);
  if (tile.stream && mr == kTileRows && nr == kTileColumns<T>) {
    return tile_loop<T, kTileRows, kTileVectors, false, Way::stream>(tile, Vec<T>::lanes);
  }
  const int vectors = (nr + Vec<T>::lanes - 1) / Vec<T>::lanes;
  const int last = nr - (vectors - 1) * Vec<T>::lanes;
  const bool ragged = last != Vec<T>::lanes;
  TileLoop<T> body = nullptr;
  switch (vectors) {
    case 1:
      body = ragged ? loop_for_rows<T, 1, true>(mr) : loop_for_rows<T, 1, false>(mr);
      break;
    case 2:
      body = ragged ? loop_for_rows<T, 2, true>(mr) : loop_for_rows<T, 2, false>(mr);
      break;
    default:
      if constexpr (kTileVectors == 4) {
        if (vectors == 3) {
          body = ragged ? loop_for_rows<T, 3, true>(mr) : loop_for_rows<T, 3, false>(mr);
        } else {
          body = ragged ? loop_for_rows<T, 4, true>(mr) : loop_for_rows<T, 4, false>(mr);
        }
      }
  }
  body(tile, last);
}

}  // namespace
}  // namespace hotloop::HOTLOOP_LEVEL
