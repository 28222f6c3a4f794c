// Convolution forward, and backward to the input, which is the same loop over other tables.
// Implicit GEMM on channels-last images: a slab (some images, or some rows of one) with its padding
// is read in place or copied into scratch, then tiles of pixels x output channels run over a dense
// k of taps x channels, read through a table of offsets (engines/conv_tile.h). Terms are added in
// the order of k, cut into runs by shape alone: the same bits for any number of threads.
#include "kernels/conv.h"

#include "engines/conv_finish.h"
#include "engines/conv_slab.h"
#include "engines/conv_tile.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

struct PanelPlace {
  std::int64_t group, block, blocks, columns;
};

template <class T>
inline PanelPlace panel_place(const ConvColumns& columns, std::int64_t index) {
  PanelPlace place;
  const std::int64_t panel = index % columns.panels;
  place.group = index / columns.panels;
  place.block = first_block(columns, panel);
  place.blocks = first_block(columns, panel + 1) - place.block;
  const std::int64_t rest = columns.columns - place.block * kBlock<T>;
  place.columns = rest < place.blocks * kBlock<T> ? rest : place.blocks * kBlock<T>;
  return place;
}

// `count` terms that are neighbours in w, for one vector of columns: rows of w turned into columns.
template <class T>
[[gnu::noinline]] void pack_block(const T* from, std::int64_t stride_column, int columns, T* to,
                                  const std::int64_t* order, int count, std::int64_t width) {
  using V = Vec<T>;
  V row[V::lanes];
#pragma GCC unroll 16
  for (int i = 0; i < V::lanes; ++i) {
    row[i] = i < columns ? simd::load_upto(from + i * stride_column, count) : simd::zero<T>();
  }
  transpose_registers<T>(row);
#pragma GCC unroll 16
  for (int i = 0; i < V::lanes; ++i) {
    if (i < count) simd::store(to + order[i] * width, row[i]);
  }
}

// Terms [first, last), by their place in w, of one panel; its term 0 would lie at `panel`.
template <class T>
void pack_terms(const ConvPackArgs& args, const PanelPlace& place, std::int64_t first,
                std::int64_t last, T* panel) {
  constexpr int kLanes = Vec<T>::lanes;
  const bool turned = args.dense >= 4 && args.stride_column != 1;
  const std::int64_t width = place.blocks * kBlock<T>;
  const T* w = static_cast<const T*>(args.w) + place.group * args.stride_group +
               place.block * kBlock<T> * args.stride_column;
  for (std::int64_t step = first; step < last;) {
    std::int64_t count = 1;
    if (turned) {
      count = args.dense - step % args.dense;
      if (count > last - step) count = last - step;
      if (count > kLanes) count = kLanes;
    }
    const T* from = w + args.term[args.order[step]];
    for (std::int64_t column = 0; column < width; column += kLanes) {
      const std::int64_t rest = place.columns - column;
      const int lanes = rest >= kLanes ? kLanes : rest > 0 ? static_cast<int>(rest) : 0;
      const T* at = from + column * args.stride_column;
      T* to = panel + column;
      if (turned) {
        pack_block(at, args.stride_column, lanes, to, args.order + step, static_cast<int>(count),
                   width);
        continue;
      }
      Vec<T> values = simd::zero<T>();
      if (lanes > 0 && args.stride_column == 1) values = simd::load_n(at, lanes);
      if (lanes > 0 && args.stride_column != 1) {
        values = simd::load_strided(at, args.stride_column, lanes);
      }
      simd::store(to + args.order[step] * width, values);
    }
    step += count;
  }
}

template <class T>
void pack_body(const ConvPackArgs& args, std::int64_t begin, std::int64_t end) {
  const std::int64_t runs = (args.depth + kPackRun - 1) / kPackRun;
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const PanelPlace place = panel_place<T>(args.columns, unit / runs);
    const std::int64_t first = unit % runs * kPackRun;
    const std::int64_t last = first + kPackRun < args.depth ? first + kPackRun : args.depth;
    T* panel = static_cast<T*>(args.packed) +
               (place.group * args.columns.blocks + place.block) * kBlock<T> * args.depth;
    pack_terms(args, place, first, last, panel);
  }
}

// All pixels of a slab against one panel.
template <class T>
void panel_tiles(const ConvTilesArgs& args, const PanelPlace& place, const SlabPart& part,
                 const T* source, T* y) {
  constexpr int kLanes = Vec<T>::lanes;
  const std::int64_t width = place.blocks * kBlock<T>;
  const std::int64_t packed_at = (place.group * args.columns.blocks + place.block) * kBlock<T>;
  T* const late =
      args.pack ? own_scratch<T>(args.scratch) + args.pack_at / static_cast<std::int64_t>(sizeof(T))
                : nullptr;
  const T* bias = static_cast<const T*>(args.bias) + packed_at;
  ConvTile<T> tile;
  tile.b_step = width;
  for (std::int64_t channel = 0; channel < args.channels; channel += args.run_channels) {
    const std::int64_t left = args.channels - channel;
    const std::int64_t channels = left < args.run_channels ? left : args.run_channels;
    const std::int64_t run = channel * args.taps, row_depth = args.taps_w * channels;
    const T* weights = static_cast<const T*>(args.weights) + packed_at * args.depth;
    if (late) {
      pack_terms(*args.pack, place, run, run + args.taps * channels, late - run * width);
      weights = late - run * width;
    }
    for (std::int64_t column = 0; column < place.columns; column += kConvVectors * kLanes) {
      tile.columns = place.columns - column;
      const std::int64_t needed = (tile.columns + kLanes - 1) / kLanes;
      const int vectors = needed < kConvVectors ? static_cast<int>(needed) : kConvVectors;
      const int most = conv_tile_rows(vectors);
      tile.init = run == 0 ? bias + column : nullptr;
      PixelWalk walk{part.rows, part.images, args.slab.out_w};
      for (std::int64_t pixel = 0; pixel < part.pixels; pixel += most) {
        const int rows = part.pixels - pixel < most ? static_cast<int>(part.pixels - pixel) : most;
        // The first row of the tile meets the last taps, its last row the first ones.
        const std::int64_t k_end = run + args.last_taps[part.row + walk.row] * row_depth;
        std::int64_t last_row = 0;
        for (int i = 0; i < rows; ++i) {
          const std::int64_t index = walk.index();
          tile.rows[i] = source + args.slab.pixel[index];
          tile.c[i] = y + args.y_pixel[index] + column;
          last_row = walk.row;
          walk.step();
        }
        const std::int64_t k = run + args.first_taps[part.row + last_row] * row_depth;
        if (k >= k_end && run > 0) continue;
        tile.depth = k_end > k ? k_end - k : 0;  // none for a pixel whose taps all lie outside
        tile.offset = args.tap + k;
        tile.b = weights + k * width + column;
        if (rows < most) fill_rows(tile, rows);
        run_conv_tile(tile, rows, vectors);
      }
    }
  }
}

template <class T>
void tiles_body(const ConvTilesArgs& args, std::int64_t begin, std::int64_t end) {
  const ConvSlab& slab = args.slab;
  const std::int64_t panels = args.groups * args.columns.panels;
  T* scratch = own_scratch<T>(args.scratch);
  std::int64_t filled = -1;
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const std::int64_t index = unit / args.splits, split = unit % args.splits;
    const SlabPart part = slab_part(slab, index);
    if (!slab.direct && filled != index) fill_slab(slab, part, 0, slab.channels, scratch);
    filled = index;
    const T* source = slab.direct ? slab_in_place<T>(slab, part) : scratch;
    T* y = static_cast<T*>(args.y) + part.image * args.y_stride_n + part.plane * args.y_stride_d +
           part.row * args.y_stride_h;
    const std::int64_t last = panels * (split + 1) / args.splits;
    for (std::int64_t panel = panels * split / args.splits; panel < last; ++panel) {
      const PanelPlace place = panel_place<T>(args.columns, panel);
      const T* from = source + place.group * args.stride_group;
      const std::int64_t first = place.group * args.columns.columns + place.block * kBlock<T>;
      if (args.pool) {
        T* const strip = scratch + args.pool->strip_at / static_cast<std::int64_t>(sizeof(T));
        panel_tiles(args, place, part, from, strip);
        pool_strip(*args.pool, part, slab.out_w, strip, first, place.columns);
      } else {
        panel_tiles(args, place, part, from, y + first);
        finish_slab(args, part, y + first, first, place.columns);
      }
    }
  }
}

}  // namespace

void conv_pack(const ConvPackArgs& args, std::int64_t begin, std::int64_t end) {
  args.dtype == DType::f32 ? pack_body<float>(args, begin, end)
                           : pack_body<double>(args, begin, end);
}

void conv_tiles(const ConvTilesArgs& args, std::int64_t begin, std::int64_t end) {
  args.dtype == DType::f32 ? tiles_body<float>(args, begin, end)
                           : tiles_body<double>(args, begin, end);
}

}  // namespace hotloop::HOTLOOP_LEVEL
