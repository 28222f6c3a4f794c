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

// Terms [first, last) of a panel where they are needed next, a few at a time: their rows fit the
// first cache until all columns are in them.
template <class T>
void pack_here(const ConvPackArgs& args, const PanelPlace& place, std::int64_t first,
               std::int64_t last, T* panel) {
  for (std::int64_t k = first; k < last; k += kPackRun) {
    pack_terms(args, place, k, k + kPackRun < last ? k + kPackRun : last, panel);
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

constexpr std::int64_t kFewTerms = 64;

// Channels [channel, channel + channels) of all pixels of a slab against one panel, whose terms for
// them begin at `weights`.
template <class T>
void run_tiles(const ConvTilesArgs& args, const PanelPlace& place, const SlabPart& part,
               std::int64_t channel, std::int64_t channels, const T* weights, const T* source, T* y,
               Ahead& ahead) {
  constexpr int kLanes = Vec<T>::lanes;
  const std::int64_t width = place.blocks * kBlock<T>;
  const T* bias = static_cast<const T*>(args.bias) +
                  (place.group * args.columns.blocks + place.block) * kBlock<T>;
  const std::int64_t row_depth = args.taps_w * channels;
  const std::int64_t* taps =
      channels == args.run_channels ? args.tap : args.tap + args.taps * args.run_channels;
  source += channel;
  ConvTile<T> tile;
  tile.b_step = width;
  for (std::int64_t column = 0; column < place.columns; column += kConvVectors * kLanes) {
    tile.columns = place.columns - column;
    const std::int64_t needed = (tile.columns + kLanes - 1) / kLanes;
    const int vectors = needed < kConvVectors ? static_cast<int>(needed) : kConvVectors;
    const int most = conv_tile_rows(vectors);
    tile.init = channel == 0 ? bias + column : nullptr;
    tile.stream = args.stream && channel + channels == args.channels &&
                  vectors * kLanes * sizeof(T) % kBlockBytes == 0;
    const ConvPixel* next = args.order;
    std::int64_t pixel = 0;
    if constexpr (simd::kBytes == 64) {
      tile.depth = args.taps * channels;
      if (!next && vectors == 2 && tile.init && tile.depth <= kFewTerms &&
          tile.columns >= 2 * kLanes && args.slab.out_w % 2 == 0 && part.pixels >= most) {
        tile.offset = taps;
        tile.b = weights + column;
        (tile.stream ? conv_tiles_of_few_terms<T, true>
                     : conv_tiles_of_few_terms<T, false>)(tile, source, args.slab.pixel, y + column,
                                                          args.y_pixel, part.pixels / most);
        pixel = part.pixels / most * most;
      }
    }
    for (; pixel < part.pixels; pixel += most) {
      const int rows = part.pixels - pixel < most ? static_cast<int>(part.pixels - pixel) : most;
      if (!next) {  // all taps of all pixels, as they lie
        for (int i = 0; i < rows; ++i) {
          tile.rows[i] = source + args.slab.pixel[pixel + i];
          tile.c[i] = y + args.y_pixel[pixel + i] + column;
        }
        tile.segments = 1, tile.skip = 0;
        tile.depth = args.taps * channels;
        tile.offset = taps;
        tile.b = weights + column;
      } else {
        TapBox box;
        for (int i = 0; i < rows; ++i, ++next) {
          while (next->index >= part.pixels) ++next;  // a short slab
          tile.rows[i] = source + args.slab.pixel[next->index];
          tile.c[i] = y + args.y_pixel[next->index] + column;
          box.add(args, part.row + next->row, next->col);
        }
        const std::int64_t cols = box.last_col - box.first_col;
        // All taps lie outside, or a stride leaves this phase without planes of taps.
        const bool none = args.taps == 0 || cols <= 0 || box.last_row <= box.first_row;
        if (none && channel > 0) continue;
        const bool whole = cols == args.taps_w;
        tile.segments = whole || none ? 1 : box.last_row - box.first_row;
        tile.depth = none    ? 0
                     : whole ? (box.last_row - box.first_row) * row_depth
                             : cols * channels;
        tile.skip = row_depth - tile.depth;
        const std::int64_t k = none ? 0 : box.first_row * row_depth + box.first_col * channels;
        tile.offset = taps + k;
        tile.b = weights + k * width + column;
      }
      tile.ahead_step = ahead.left() ? ahead.pitch : 0;
      tile.ahead = ahead.left() ? ahead.take(tile.depth * tile.segments) : nullptr;
      if (rows < most) fill_rows(tile, rows);
      run_conv_tile<T, true>(tile, rows, vectors);
    }
  }
}

// All pixels of a slab against one panel.
template <class T>
void panel_tiles(const ConvTilesArgs& args, const PanelPlace& place, const SlabPart& part,
                 const T* source, T* y, Ahead& ahead) {
  const std::int64_t width = place.blocks * kBlock<T>;
  const std::int64_t packed_at = (place.group * args.columns.blocks + place.block) * kBlock<T>;
  T* const late =
      args.pack ? own_scratch<T>(args.scratch) + args.pack_at / static_cast<std::int64_t>(sizeof(T))
                : nullptr;
  const T* const packed =
      static_cast<const T*>(args.weights) + packed_at * args.pack_depth + args.first_term * width;
  for (std::int64_t channel = 0; channel < args.channels; channel += args.run_channels) {
    const std::int64_t left = args.channels - channel;
    const std::int64_t channels = left < args.run_channels ? left : args.run_channels;
    const std::int64_t run = channel * args.taps;
    const T* weights = packed + run * width;
    if (late) {
      pack_here(*args.pack, place, run, run + args.taps * channels, late - run * width);
      weights = late;
    }
    run_tiles(args, place, part, channel, channels, weights, source, y, ahead);
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

template <class T>
void fill_body(const ConvFillArgs& args, std::int64_t begin, std::int64_t end) {
  const ConvSlab& slab = args.slab;
  const std::int64_t height = slab.height, rows = slab.images * slab.planes * height;
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const SlabPart part = slab_part(slab, unit / rows);
    const std::int64_t row = unit % rows;
    if (row / height >= part.images * slab.planes) continue;
    const SlabCopy<T> copy(slab, part, 0, slab.channels);
    copy.copy_row(row / height, row % height,
                  static_cast<T*>(args.slabs) + unit / rows * slab.size);
  }
}

// A slab of a pass: its part of the images, where it is read, and y of the panel's first channel.
template <class T>
struct PanelSlab {
  SlabPart part;
  const T* source;
  T* y;
  std::int64_t first;

  PanelSlab(const ConvPanelPass& pass, const PanelPlace& place, std::int64_t index) {
    const ConvTilesArgs& args = pass.tiles;
    part = slab_part(args.slab, index);
    first = place.group * args.columns.columns + place.block * kBlock<T>;
    source = (pass.slabs ? static_cast<const T*>(pass.slabs) + index * args.slab.size
                         : slab_in_place<T>(args.slab, part)) +
             place.group * args.stride_group;
    y = static_cast<T*>(args.y) + part.image * args.y_stride_n + first;
  }
};

template <class T>
void panels_body(const ConvPanelsArgs& all, std::int64_t begin, std::int64_t end) {
  const ConvTilesArgs& shape = all.passes[0].tiles;
  T* const late = all.pack ? own_scratch<T>(all.scratch) : nullptr;
  Ahead ahead;
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const PanelPlace place = panel_place<T>(shape.columns, unit / all.parts);
    const std::int64_t part = unit % all.parts, width = place.blocks * kBlock<T>;
    const std::int64_t packed_at =
        (place.group * shape.columns.blocks + place.block) * kBlock<T> * shape.pack_depth;
    const auto each_slab = [&](auto body) {
      for (std::int64_t pass = 0; pass < all.count; ++pass) {
        const ConvPanelPass& one = all.passes[pass];
        const std::int64_t slabs = one.tiles.slab.count, last = slabs * (part + 1) / all.parts;
        for (std::int64_t index = slabs * part / all.parts; index < last; ++index) {
          body(one, PanelSlab<T>(one, place, index));
        }
      }
    };
    for (std::int64_t channel = 0; channel < shape.channels; channel += shape.run_channels) {
      const std::int64_t left = shape.channels - channel;
      const std::int64_t channels = left < shape.run_channels ? left : shape.run_channels;
      const std::int64_t run = channel * all.taps;
      const T* weights = late;
      if (late) {
        pack_here(*all.pack, place, run, run + all.taps * channels, late - run * width);
      } else {
        weights = static_cast<const T*>(shape.weights) + packed_at + run * width;
      }
      each_slab([&](const ConvPanelPass& pass, const PanelSlab<T>& slab) {
        run_tiles(pass.tiles, place, slab.part, channel, channels,
                  weights + pass.first_tap * channels * width, slab.source, slab.y, ahead);
      });
    }
    each_slab([&](const ConvPanelPass& pass, const PanelSlab<T>& slab) {
      finish_slab(pass.tiles, slab.part, slab.y, slab.first, place.columns);
    });
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

void conv_fill(const ConvFillArgs& args, std::int64_t begin, std::int64_t end) {
  args.dtype == DType::f32 ? fill_body<float>(args, begin, end)
                           : fill_body<double>(args, begin, end);
}

void conv_panels(const ConvPanelsArgs& args, std::int64_t begin, std::int64_t end) {
  args.passes[0].tiles.dtype == DType::f32 ? panels_body<float>(args, begin, end)
                                           : panels_body<double>(args, begin, end);
}

}  // namespace hotloop::HOTLOOP_LEVEL
