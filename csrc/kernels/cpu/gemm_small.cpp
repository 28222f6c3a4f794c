// Tiles of products of a few microseconds: many of them in one loop. Between two tiles of
// engines/micro_kernel.h lies a quarter of the time where sums have ten terms, here a few
// additions: 8x512x10 took 1.04 us, 0.83 so, 16x16x16 145 and 105 ns. Sums run in the order of
// those tiles.
#include "engines/gemm_epilogue.h"
#include "engines/micro_kernel.h"
#include "engines/pack.h"
#include "engines/thin_columns.h"
#include "kernels/gemm.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

using simd::Vec;

constexpr int kRowVectors = 8;  // of a single row: as many sums as the latency of one asks for

// Tiles of C below each other.
template <class T>
struct Tiles {
  const T* a;
  std::int64_t row_step, a_step, depth;
  const T* b;
  std::int64_t b_step;
  T* c;
  std::int64_t ldc, count;
  int last;  // columns of the last vector
};

template <class T, int Rows, int Vectors, bool Ragged>
[[gnu::noinline]] void small_tile_loop(const Tiles<T>& tiles) {
  using V = Vec<T>;
  const std::int64_t row_step = tiles.row_step, a_step = tiles.a_step, b_step = tiles.b_step;
  const std::int64_t depth = tiles.depth, ldc = tiles.ldc;
  const T* a = tiles.a;
  T* c = tiles.c;
  for (std::int64_t left = tiles.count; left > 0; --left) {
    int last = tiles.last;
    // Or its mask is kept from tile to tile: one register too many.
    if constexpr (Ragged) __asm__("" : "+r"(last));
    V sum[Rows][Vectors];
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) sum[i][v] = simd::zero<T>();
    }
    const T* row[Rows];
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i) row[i] = a + i * row_step;
    a += Rows * row_step;
    const T* b = tiles.b;
    std::int64_t offset = 0;
    std::int64_t k = depth;  // more than 0
    do {
      V bv[Vectors];
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) {
        bv[v] = Ragged && v == Vectors - 1 ? simd::load_n(b + v * V::lanes, last)
                                           : simd::load(b + v * V::lanes);
      }
#pragma GCC unroll 8
      for (int i = 0; i < Rows; ++i) {
        const V av = simd::set1<T>(row[i][offset]);
#pragma GCC unroll 8
        for (int v = 0; v < Vectors; ++v) sum[i][v] = simd::fma(av, bv[v], sum[i][v]);
      }
      b += b_step;
      offset += a_step;
    } while (--k > 0);
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) {
        if (Ragged && v == Vectors - 1) {
          simd::store_n(c + v * V::lanes, sum[i][v], last);
        } else {
          simd::store(c + v * V::lanes, sum[i][v]);
        }
      }
      c += ldc;
    }
  }
}

template <class T>
using SmallLoop = void (*)(const Tiles<T>&);

template <class T, int Vectors, bool Ragged, int Rows = rows_for_vectors(Vectors, Ragged)>
inline SmallLoop<T> small_loop_for(std::int64_t rows) {
  if constexpr (Rows > 1) {
    if (rows < Rows) return small_loop_for<T, Vectors, Ragged, Rows - 1>(rows);
  }
  return small_tile_loop<T, Rows, Vectors, Ragged>;
}

template <class T, int Vectors = kTileVectors>
inline void run_tiles(Tiles<T>& tiles, std::int64_t rows, std::int64_t wide) {
  constexpr int kLanes = Vec<T>::lanes;
  if (wide == kRowVectors * kLanes) {
    tiles.last = kLanes;
    return small_tile_loop<T, 1, kRowVectors, false>(tiles);
  }
  if constexpr (Vectors > 1) {
    if (wide <= (Vectors - 1) * kLanes) return run_tiles<T, Vectors - 1>(tiles, rows, wide);
  }
  tiles.last = static_cast<int>(wide - (Vectors - 1) * kLanes);
  const SmallLoop<T> loop = tiles.last == kLanes ? small_loop_for<T, Vectors, false>(rows)
                                                 : small_loop_for<T, Vectors, true>(rows);
  loop(tiles);
}

// alpha, bias and beta * D: the sums of some rows, kTileColumns<T> apart, become C.
template <class T>
void finish_rows(const GemmProblem& p, const T* sums, std::int64_t row, std::int64_t rows,
                 std::int64_t column, std::int64_t columns) {
  using V = Vec<T>;
  for (std::int64_t i = 0; i < rows; ++i) {
    T* c = element<T>(p.c, 0, row + i, column);
    const T* d = p.beta != 0 ? element<T>(p.d, 0, row + i, column) : c;
    for (std::int64_t j = 0; j < columns; j += V::lanes) {
      const int some = static_cast<int>(least(V::lanes, columns - j));
      const V sum = simd::load_upto(sums + i * kTileColumns<T> + j, some);
      simd::store_upto(c + j, finish_sum<T>(p, sum, d + j, column + j, some), some);
    }
  }
}

// How rows are cut into tiles of at most `most`: evenly, the higher ones first.
struct Cut {
  Cut(std::int64_t rows, std::int64_t most) {
    const std::int64_t tiles = (rows + most - 1) / most;
    high = (rows + tiles - 1) / tiles;
    lows = tiles * high - rows;
    highs = tiles - lows;
  }
  std::int64_t high, highs, lows;
};

// The tiles of a strip one by one, where more than A B is asked for.
template <class T>
[[gnu::noinline]] void finished_strip(const GemmProblem& p, Tiles<T> tiles, const Cut& cut,
                                      std::int64_t row, std::int64_t column, std::int64_t wide) {
  alignas(64) T sums[kMaxTileRows * kTileColumns<T>];
  tiles.c = sums;
  tiles.ldc = kTileColumns<T>;
  tiles.count = 1;
  for (std::int64_t t = 0; t < cut.highs + cut.lows; ++t) {
    const std::int64_t high = cut.high - (t >= cut.highs);
    run_tiles<T>(tiles, high, wide);
    finish_rows<T>(p, sums, row, high, column, wide);
    tiles.a += high * tiles.row_step;
    row += high;
  }
}

template <class T>
inline void plain_strip(Tiles<T>& tiles, const Cut& cut, std::int64_t wide) {
  tiles.count = cut.highs;
  run_tiles<T>(tiles, cut.high, wide);
  if (cut.lows == 0) return;
  const T* const a = tiles.a;
  T* const c = tiles.c;
  tiles.a += cut.highs * cut.high * tiles.row_step;
  tiles.c += cut.highs * cut.high * tiles.ldc;
  tiles.count = cut.lows;
  run_tiles<T>(tiles, cut.high - 1, wide);
  tiles.a = a;
  tiles.c = c;
}

// A block of rows and columns of C: strips as wide as a tile.
template <class T>
void small_block(const GemmProblem& p, Tiles<T>& tiles, std::int64_t row, std::int64_t rows,
                 std::int64_t first, std::int64_t columns) {
  const bool is_plain = p.alpha == 1 && p.beta == 0 && !p.bias;
  const Cut cut(rows, kTileRows);
  std::int64_t column = 0;
  const auto strips = [&](std::int64_t width) {
    for (; column + width <= columns; column += width) {
      if (is_plain) {
        plain_strip<T>(tiles, cut, width);
      } else {
        finished_strip<T>(p, tiles, cut, row, first + column, width);
      }
      tiles.b += width;
      tiles.c += width;
    }
  };
  if (rows == 1) strips(kRowVectors * Vec<T>::lanes);
  strips(kTileColumns<T>);
  const std::int64_t wide = columns - column;
  if (wide == 0) return;
  if (is_thin<T>(p, wide, p.k)) {
    Tile<T> tile;
    tile.depth = p.k;
    tile.b = tiles.b;
    tile.b_step = tiles.b_step;
    tile.c = tiles.c;
    tile.ldc = tiles.ldc;
    tile.from = p.beta != 0 ? element<T>(p.d, 0, row, first + column) : nullptr;
    tile.from_step = p.d.row_step;
    tile.alpha = static_cast<T>(p.alpha);
    tile.beta = static_cast<T>(p.beta);
    tile.bias = p.bias ? static_cast<const T*>(p.bias) + first + column : nullptr;
    thin_columns<T>(p, tile, 0, row, rows, wide);
    return;
  }
  const Cut last(rows, tile_rows<T>(wide));
  if (is_plain) {
    plain_strip<T>(tiles, last, wide);
  } else {
    finished_strip<T>(p, tiles, last, row, first + column, wide);
  }
}

template <class T>
void small_units(const GemmArgs& g, std::int64_t begin, std::int64_t end, const T* b,
                 std::int64_t b_step) {
  const GemmProblem& p = g.p;
  Tiles<T> tiles;
  tiles.row_step = p.a.row_step;
  tiles.a_step = p.a.column_step;
  tiles.depth = p.k;
  tiles.b_step = b_step;
  tiles.ldc = p.c.row_step;
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const std::int64_t row = unit / g.column_blocks * g.row_block;
    const std::int64_t first = unit % g.column_blocks * g.column_block;
    const std::int64_t rows = least(g.row_block, p.m - row);
    const std::int64_t columns = least(g.column_block, p.n - first);
    tiles.a = element<T>(p.a, 0, row, 0);
    tiles.b = b + first;
    tiles.c = element<T>(p.c, 0, row, first);
    small_block<T>(p, tiles, row, rows, first, columns);
    activate_block<T>(p, element<T>(p.c, 0, row, first), rows, columns);
  }
}

// A frame of its own: touching the pages of so large a one costs 20 ns.
template <class T>
[[gnu::noinline]] void small_packed(const GemmArgs& g, std::int64_t begin, std::int64_t end) {
  const GemmProblem& p = g.p;
  alignas(64) T panel[kGemmTinyBytes / sizeof(T)];
  const std::int64_t width = (p.n + 15) / 16 * 16;
  pack_block<T>(element<T>(p.b, 0, 0, 0), p.b.row_step, p.b.column_step, p.k, p.n, panel, width,
                p.n);
  small_units<T>(g, begin, end, panel, width);
}

template <class T>
void small_body(const GemmArgs& g, std::int64_t begin, std::int64_t end) {
  if (g.p.b.column_step != 1) return small_packed<T>(g, begin, end);
  small_units<T>(g, begin, end, element<T>(g.p.b, 0, 0, 0), g.p.b.row_step);
}

}  // namespace

void gemm_small_tiles(const GemmArgs& args, std::int64_t begin, std::int64_t end) {
  args.p.dtype == DType::f32 ? small_body<float>(args, begin, end)
                             : small_body<double>(args, begin, end);
}

}  // namespace hotloop::HOTLOOP_LEVEL
