// The tiles of C = activation(alpha * A B + beta * C + bias). A unit is a block of rows times one
// panel of B, which stays in L2 while the row tiles pass by; sums over k run in rising order in one
// accumulator per element of C, so the bits depend on no tile's shape. See engines/micro_kernel.h.
#include "kernels/gemm.h"

#include "engines/gemm_epilogue.h"
#include "engines/micro_kernel.h"
#include "engines/pack.h"
#include "engines/thin_columns.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

// The rows [first, first + count) times one column block, at most kTileColumns<T> wide.
// Returns how many rows are left to copy.
template <class T>
std::int64_t tile_rows_of_block(const GemmArgs& g, const T* a, Tile<T> tile, std::int64_t count,
                                std::int64_t columns) {
  const std::int64_t most = tile_rows<T>(columns);
  const std::int64_t tiles = (count + most - 1) / most;  // evenly: no tile of one row at the end
  const T* rows[kMaxTileRows];
  std::int64_t row = 0;
  for (std::int64_t t = 0; t < tiles; ++t) {
    const std::int64_t high = (count - row + tiles - t - 1) / (tiles - t);
    for (std::int64_t i = 0; i < high; ++i) rows[i] = a + (row + i) * g.p.a.row_step;
    tile.rows = rows;
    tile.ahead = nullptr;
    tile.ahead_step = 0;
    if (g.ahead && t + 1 < tiles) {
      // Dense rows of the next tile a part for each term, or of columns the line of each.
      const std::int64_t next = (count - row - high + tiles - t - 2) / (tiles - t - 1);
      const std::int64_t step = g.p.a.column_step == 1 ? next : g.p.a.column_step;
      tile.ahead = reinterpret_cast<const char*>(a + (row + high) * g.p.a.row_step);
      tile.ahead_step = step * static_cast<std::int64_t>(sizeof(T));
    }
    const bool copies = copies_rows(tile, static_cast<int>(high), static_cast<int>(columns));
    run_tile(tile, static_cast<int>(high), static_cast<int>(columns));
    if (copies) {
      const std::int64_t rows_copied =
          least(tile.copy_rows, (tile.depth + tile.copy_every - 1) / tile.copy_every);
      tile.copy += rows_copied * tile.copy_step;
      tile.copy_to += rows_copied * kTileColumns<T>;
      tile.copy_rows -= rows_copied;
    }
    if (tile.keep) {
      tile.b = tile.keep;
      tile.b_step = kTileColumns<T>;
      tile.keep = nullptr;
    }
    tile.c += high * tile.ldc;
    if (tile.from) tile.from += high * tile.from_step;
    row += high;
  }
  return tile.copy_rows;
}

constexpr std::int64_t kCopyTiles = 4;  // fewer have no time for the panel behind

// Whether the first tile of a panel of B leaves it packed for the others: a whole one.
template <class T>
inline bool packs_on_the_way(const GemmArgs& g, std::int64_t count, std::int64_t columns) {
  const std::int64_t tiles = (count + kTileRows - 1) / kTileRows;
  return g.p.b.column_step == 1 && columns == kTileColumns<T> && g.column_block == columns &&
         tiles > 1 && (count + tiles - 1) / tiles >= kWholeRows;
}

// Packs a panel of B, whose first `rows` are there, or has the first of its tiles do it.
template <class T>
void pack_panel(const GemmArgs& g, std::int64_t count, std::int64_t columns, const T* b,
                std::int64_t rows, T* to, Tile<T>* tile) {
  if (rows == 0 && packs_on_the_way<T>(g, count, columns)) {
    tile->keep = to;
    return;
  }
  const GemmMatrix& matrix = g.p.b;
  if (rows < tile->depth) {
    pack_block<T>(b + rows * matrix.row_step, matrix.row_step, matrix.column_step,
                  tile->depth - rows, columns, to + rows * g.column_block, g.column_block, columns);
  }
  tile->b = to;
  tile->b_step = g.column_block;
}

// What the tiles of a unit copy: the panel behind theirs, or, at the end of a thread's share, the
// first of the share in the next block of k, which the same thread most likely takes.
template <class T>
void copy_next_panel(const GemmArgs& g, GemmSlot* own, std::int64_t unit, T* to, Tile<T>* tile) {
  const GemmProblem& p = g.p;
  const std::int64_t tiles = (p.m + kTileRows - 1) / kTileRows;
  const std::int64_t panels = p.batches * g.column_blocks;
  if (p.b.column_step != 1 || g.k_total > 0 || tiles <= kCopyTiles ||
      g.column_block != kTileColumns<T>) {
    return;
  }
  const std::int64_t units = panels * g.row_blocks, share = unit * g.sharers / units;
  std::int64_t next = unit / g.row_blocks + 1, terms = p.k, row = 0;
  if (next * g.row_blocks * g.sharers / units != share) {
    next = (share * units + g.sharers - 1) / g.sharers / g.row_blocks;
    terms = g.next_terms;
    row = p.k;
  }
  const std::int64_t column = next % g.column_blocks * g.column_block;
  if (terms == 0 || column + g.column_block > p.n) return;
  const std::int64_t number = g.first_panel + next + (row > 0 ? panels : 0);
  if (own->next != number) own->rows = 0;
  own->next = number;
  tile->copy = element<T>(p.b, next / g.column_blocks, row + own->rows, column);
  tile->copy_to = to + own->rows * kTileColumns<T>;
  tile->copy_step = p.b.row_step;
  tile->copy_rows = terms - own->rows;
  tile->copy_every = tiles - tiles / 8 - 1;  // done a little before the last tile
  if (own->rows == 0) fetch_first_rows(*tile);
}

// The panel of B for a unit, in the thread's slot.
template <class T>
void take_panel(const GemmArgs& g, GemmSlot* own, std::int64_t unit, std::int64_t count,
                std::int64_t columns, const T* b, Tile<T>* tile) {
  const std::int64_t number = g.first_panel + unit / g.row_blocks;
  const auto place = [&](std::int64_t which) {
    return reinterpret_cast<T*>(reinterpret_cast<char*>(own + 1) + which * g.place_bytes);
  };
  if (number != own->panel) {
    const bool is_next = number == own->next;
    if (is_next) own->place ^= 1;
    pack_panel(g, count, columns, b, is_next ? own->rows : 0, place(own->place), tile);
    own->panel = number;
    own->next = -1;
  } else {
    tile->b = place(own->place);
    tile->b_step = g.column_block;
  }
  copy_next_panel(g, own, unit, place(own->place ^ 1), tile);
}

// The sums over k of the rows [row, row + count) of A, which the tiles have just left in cache. At
// most 64 terms each are added one after another, so that the error grows with k / 64.
template <class T>
void sum_rows(const GemmArgs& g, std::int64_t batch, std::int64_t row, std::int64_t count,
              std::int64_t depth) {
  using V = Vec<T>;
  constexpr std::int64_t kTerms = 64;
  const GemmMatrix& matrix = g.p.a;
  T* sums = static_cast<T*>(g.p.a_sums) + batch * g.sums_step + row;
  if (matrix.column_step == 1) {
    for (std::int64_t i = 0; i < count; ++i) {
      const T* a = element<T>(matrix, batch, row + i, 0);
      V sum = simd::zero<T>();
      for (std::int64_t at = 0; at < depth; at += V::lanes) {
        sum = sum + simd::load_upto(a + at, depth - at);
      }
      sums[i] = simd::reduce_add(sum) + (g.add_sums ? sums[i] : T(0));
    }
    return;
  }
  for (std::int64_t i = 0; i < count; i += V::lanes) {
    const int some = static_cast<int>(least(V::lanes, count - i));
    V total = g.add_sums ? simd::load_upto(sums + i, some) : simd::zero<T>();
    for (std::int64_t start = 0; start < depth; start += kTerms) {
      const std::int64_t stop = least(start + kTerms, depth);
      V sum = simd::zero<T>();
      for (std::int64_t at = start; at < stop; ++at) {
        const T* a = element<T>(matrix, batch, row + i, at);
        sum = sum + (matrix.row_step == 1 ? simd::load_upto(a, some)
                                          : simd::load_strided(a, matrix.row_step, some));
      }
      total = total + sum;
    }
    simd::store_upto(sums + i, total, some);
  }
}

template <class T>
void tiles_body(const GemmArgs& g, std::int64_t begin, std::int64_t end) {
  const GemmProblem& p = g.p;
  GemmSlot* const own =
      g.slots ? reinterpret_cast<GemmSlot*>(g.slots + g.slot_bytes * g.slot()) : nullptr;
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const std::int64_t panel = unit / g.row_blocks, rest = unit / g.column_blocks;
    const std::int64_t column_block = (g.slots ? panel : unit) % g.column_blocks;
    const std::int64_t row_block = (g.slots ? unit : rest) % g.row_blocks;
    const std::int64_t batch = unit / (g.row_blocks * g.column_blocks);
    const std::int64_t row = g.first_row + row_block * g.row_block;
    const std::int64_t count = least(g.row_block, p.m - row);
    const std::int64_t first = column_block * g.column_block;
    const std::int64_t columns = least(g.column_block, p.n - first);
    const T* a = element<T>(p.a, batch, row, 0);
    const T* b = element<T>(p.b, batch, 0, 0) + column_block * g.panel_step;
    T* c = element<T>(p.c, batch, row, first);
    const T* from = p.beta != 0 ? element<T>(p.d, batch, row, first) : nullptr;
    Tile<T> tile;
    tile.depth = depth_of(p.k, g.k_total, batch);
    tile.a_step = p.a.column_step;
    tile.b_step = p.b.row_step;
    tile.ldc = p.c.row_step;
    tile.from_step = p.d.row_step;
    tile.fetch = g.fetch;
    tile.stream = g.stream;
    tile.b = b;
    if (own) take_panel<T>(g, own, unit, count, columns, b, &tile);
    if (g.shared_b) {
      T* const to = static_cast<T*>(g.shared_b) + column_block * p.k * g.column_block;
      pack_panel<T>(g, count, columns, b, 0, to, &tile);
    }
    tile.alpha = static_cast<T>(p.alpha);
    tile.beta = static_cast<T>(p.beta);
    const T* bias = static_cast<const T*>(p.bias);
    for (std::int64_t j = 0; j < columns; j += kTileColumns<T>) {
      if (j > 0) tile.b += kTileColumns<T>;
      tile.c = c + j;
      tile.from = from ? from + j : nullptr;
      tile.bias = bias ? bias + first + j : nullptr;
      const std::int64_t wide = least(kTileColumns<T>, columns - j);
      if (is_thin<T>(p, wide, tile.depth)) {
        thin_columns<T>(p, tile, batch, row, count, wide);
      } else {
        const std::int64_t left = tile_rows_of_block<T>(g, a, tile, count, wide);
        if (own) own->rows += tile.copy_rows - left;
      }
    }
    activate_block<T>(p, c, count, columns);
    if (p.a_sums && column_block == 0) sum_rows<T>(g, batch, row, count, tile.depth);
  }
  if (g.stream) simd::stream_fence();
}

template <class T>
void pack_body(const GemmPackArgs& g, std::int64_t begin, std::int64_t end) {
  const std::int64_t a_units = g.a_batches * g.a_blocks;
  for (std::int64_t unit = begin; unit < end; ++unit) {
    if (unit < a_units) {
      const std::int64_t batch = unit / g.a_blocks;
      const std::int64_t row = unit % g.a_blocks * g.a_rows;
      const std::int64_t depth = depth_of(g.k, g.k_total, batch);
      T* to = static_cast<T*>(g.a_to) + (batch * g.m + row) * g.a_to_step;
      pack_block<T>(element<T>(g.a, batch, row, 0), g.a.row_step, g.a.column_step,
                    least(g.a_rows, g.m - row), depth, to, g.a_to_step, depth);
    } else {
      const std::int64_t slice = (unit - a_units) % g.b_slices;
      const std::int64_t rest = (unit - a_units) / g.b_slices;
      const std::int64_t panel = rest % g.b_panels;
      const std::int64_t batch = rest / g.b_panels;
      const std::int64_t row = slice * g.b_rows;
      const std::int64_t rows = least(g.b_rows, depth_of(g.k, g.k_total, batch) - row);
      const std::int64_t column = panel * g.b_columns;
      const std::int64_t columns = least(g.b_columns, g.n - column);
      T* to = static_cast<T*>(g.b_to) + ((batch * g.b_panels + panel) * g.k + row) * g.b_columns;
      pack_block<T>(element<T>(g.b, batch, row, column), g.b.row_step, g.b.column_step, rows,
                    columns, to, g.b_columns, columns);
    }
  }
}

}  // namespace

void gemm_tiles(const GemmArgs& args, std::int64_t begin, std::int64_t end) {
  args.p.dtype == DType::f32 ? tiles_body<float>(args, begin, end)
                             : tiles_body<double>(args, begin, end);
}

void gemm_pack(const GemmPackArgs& args, std::int64_t begin, std::int64_t end) {
  args.dtype == DType::f32 ? pack_body<float>(args, begin, end)
                           : pack_body<double>(args, begin, end);
}

}  // namespace hotloop::HOTLOOP_LEVEL
