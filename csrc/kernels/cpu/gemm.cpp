// The tiles of C = activation(alpha * A B + beta * C + bias). A unit is a block of rows times one
// panel of B, which stays in L2 while the row tiles pass by; sums over k run in rising order in one
// accumulator per element of C, so the bits depend on no tile's shape. See engines/micro_kernel.h.
#include "kernels/gemm.h"

#include "engines/gemm_epilogue.h"
#include "engines/micro_kernel.h"
#include "engines/pack.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

// The rows [first, first + count) times one column block, at most kTileColumns<T> wide.
template <class T>
void tile_rows_of_block(const GemmArgs& g, const T* a, Tile<T> tile, std::int64_t count,
                        std::int64_t columns) {
  const std::int64_t most = tile_rows<T>(columns);
  const std::int64_t tiles = (count + most - 1) / most;  // evenly: no tile of one row at the end
  const T* rows[kMaxTileRows];
  std::int64_t row = 0;
  for (std::int64_t t = 0; t < tiles; ++t) {
    const std::int64_t high = (count - row + tiles - t - 1) / (tiles - t);
    for (std::int64_t i = 0; i < high; ++i) rows[i] = a + (row + i) * g.p.a.row_step;
    tile.rows = rows;
    run_tile(tile, static_cast<int>(high), static_cast<int>(columns));
    tile.c += high * tile.ldc;
    row += high;
  }
}

template <class T>
void tiles_body(const GemmArgs& g, std::int64_t begin, std::int64_t end) {
  const GemmProblem& p = g.p;
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const std::int64_t column_block = unit % g.column_blocks;
    const std::int64_t rest = unit / g.column_blocks;
    const std::int64_t row_block = rest % g.row_blocks;
    const std::int64_t batch = rest / g.row_blocks;
    const std::int64_t row = row_block * g.row_block;
    const std::int64_t count = least(g.row_block, p.m - row);
    const std::int64_t first = column_block * g.column_block;
    const std::int64_t columns = least(g.column_block, p.n - first);
    const T* a = element<T>(p.a, batch, row, 0);
    const T* b = element<T>(p.b, batch, 0, 0) + column_block * g.panel_step;
    T* c = element<T>(p.c, batch, row, first);
    Tile<T> tile;
    tile.depth = depth_of(p.k, g.k_total, batch);
    tile.a_step = p.a.column_step;
    tile.b_step = p.b.row_step;
    tile.ldc = p.c.row_step;
    tile.alpha = static_cast<T>(p.alpha);
    tile.beta = static_cast<T>(p.beta);
    const T* bias = static_cast<const T*>(p.bias);
    for (std::int64_t j = 0; j < columns; j += kTileColumns<T>) {
      tile.b = b + j;
      tile.c = c + j;
      tile.bias = bias ? bias + first + j : nullptr;
      tile_rows_of_block<T>(g, a, tile, count, least(kTileColumns<T>, columns - j));
    }
    activate_block<T>(p, c, count, columns);
  }
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
