// Convolution forward, and backward to the input, which is the same loop over other tables.
// Implicit GEMM on channels-last images: a slab (some images, or some rows of one) with its padding
// is read in place or copied into scratch, then tiles of pixels x output channels run over a dense
// k of taps x channels, read through a table of offsets (engines/conv_tile.h). Terms are added in
// the order of k, cut into runs by shape alone: the same bits for any number of threads.
#include "kernels/conv.h"

#include "engines/conv_finish.h"
#include "engines/conv_panel.h"
#include "engines/conv_slab.h"
#include "engines/conv_tile.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

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

// The taps that some pixel of a tile needs.
struct TapBox {
  std::int64_t first_row = 1 << 30, last_row = 0, first_col = 1 << 30, last_col = 0;

  void add(const ConvTilesArgs& args, std::int64_t row, std::int64_t col) {
    if (args.first_taps[row] < first_row) first_row = args.first_taps[row];
    if (args.last_taps[row] > last_row) last_row = args.last_taps[row];
    if (args.first_cols[col] < first_col) first_col = args.first_cols[col];
    if (args.last_cols[col] > last_col) last_col = args.last_cols[col];
  }
};

// All pixels of a slab against one panel.
template <class T>
void panel_tiles(const ConvTilesArgs& args, const PanelPlace& place, const SlabPart& part,
                 const T* source, T* y, Ahead& ahead) {
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
    const T* weights =
        static_cast<const T*>(args.weights) + packed_at * args.pack_depth + args.first_term * width;
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
      tile.stream = args.stream && channel + channels == args.channels &&
                    vectors * kLanes * sizeof(T) % kBlockBytes == 0;
      const ConvPixel* next = args.order;
      for (std::int64_t pixel = 0; pixel < part.pixels; pixel += most) {
        const int rows = part.pixels - pixel < most ? static_cast<int>(part.pixels - pixel) : most;
        if (!next) {  // all taps of all pixels, as they lie
          for (int i = 0; i < rows; ++i) {
            tile.rows[i] = source + args.slab.pixel[pixel + i];
            tile.c[i] = y + args.y_pixel[pixel + i] + column;
          }
          tile.segments = 1, tile.skip = 0;
          tile.depth = args.taps * channels;
          tile.offset = args.tap + run;
          tile.b = weights + run * width + column;
        } else {
          TapBox box;
          for (int i = 0; i < rows; ++i, ++next) {
            while (next->index >= part.pixels) ++next;  // a short slab
            tile.rows[i] = source + args.slab.pixel[next->index];
            tile.c[i] = y + args.y_pixel[next->index] + column;
            box.add(args, part.row + next->row, next->col);
          }
          const std::int64_t cols = box.last_col - box.first_col;
          const bool none = cols <= 0 || box.last_row <= box.first_row;  // all taps lie outside
          if (none && run > 0) continue;
          const bool whole = cols == args.taps_w;
          tile.segments = whole || none ? 1 : box.last_row - box.first_row;
          tile.depth = none    ? 0
                       : whole ? (box.last_row - box.first_row) * row_depth
                               : cols * channels;
          tile.skip = row_depth - tile.depth;
          const std::int64_t k =
              run + (none ? 0 : box.first_row * row_depth + box.first_col * channels);
          tile.offset = args.tap + k;
          tile.b = weights + k * width + column;
        }
        tile.ahead_step = ahead.left() ? ahead.pitch : 0;
        tile.ahead = ahead.left() ? ahead.take(tile.depth * tile.segments) : nullptr;
        if (rows < most) fill_rows(tile, rows);
        run_conv_tile<T, true>(tile, rows, vectors);
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
    Ahead ahead;
    if (split == 0 && index < (end - 1) / args.splits) {
      ahead = ahead_of<T>(slab, slab_part(slab, index + 1), 0, slab.channels);
    }
    const std::int64_t last = panels * (split + 1) / args.splits;
    for (std::int64_t panel = panels * split / args.splits; panel < last; ++panel) {
      const PanelPlace place = panel_place<T>(args.columns, panel);
      const T* from = source + place.group * args.stride_group;
      const std::int64_t first = place.group * args.columns.columns + place.block * kBlock<T>;
      if (args.pool) {
        T* const strip = scratch + args.pool->strip_at / static_cast<std::int64_t>(sizeof(T));
        panel_tiles(args, place, part, from, strip, ahead);
        pool_strip(*args.pool, part, slab.out_w, strip, first, place.columns);
      } else {
        panel_tiles(args, place, part, from, y + first, ahead);
        finish_slab(args, part, y + first, first, place.columns);
      }
    }
  }
  if (args.stream) simd::stream_fence();
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
