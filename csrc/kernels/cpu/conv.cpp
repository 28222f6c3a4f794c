// Convolution forward, and backward to the input, which is the same loop over other tables.
// Implicit GEMM on channels-last images: a slab (some images, or some rows of one) with its padding
// is read in place or copied into scratch, then tiles of pixels x output channels run over a dense
// k of taps x channels, read through a table of offsets (engines/conv_tile.h). Terms are added in
// the order of k, cut into runs by shape alone: the same bits for any number of threads.
#include "kernels/conv.h"

#include "engines/activate.h"
#include "engines/conv_slab.h"
#include "engines/conv_tile.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

// Terms per run: a panel of 64 columns stays in half of L2, rows of a tile in L1.
template <class T>
constexpr std::int64_t kTermRun = 2048 / static_cast<std::int64_t>(sizeof(T));

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

template <class T>
void pack_body(const ConvPackArgs& args, std::int64_t begin, std::int64_t end) {
  constexpr int kLanes = Vec<T>::lanes;
  const std::int64_t runs = (args.depth + kPackRun - 1) / kPackRun;
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const PanelPlace place = panel_place<T>(args.columns, unit / runs);
    const std::int64_t width = place.blocks * kBlock<T>;
    const std::int64_t first = unit % runs * kPackRun;
    const std::int64_t last = first + kPackRun < args.depth ? first + kPackRun : args.depth;
    T* panel = static_cast<T*>(args.packed) +
               (place.group * args.columns.blocks + place.block) * kBlock<T> * args.depth;
    const T* w = static_cast<const T*>(args.w) + place.group * args.stride_group +
                 place.block * kBlock<T> * args.stride_column;
    for (std::int64_t step = first; step < last; ++step) {
      const std::int64_t k = args.order ? args.order[step] : step;
      const T* from = w + args.term[k];
      T* to = panel + k * width;
      for (std::int64_t column = 0; column < width; column += kLanes) {
        const std::int64_t rest = place.columns - column;
        const int lanes = rest >= kLanes ? kLanes : rest > 0 ? static_cast<int>(rest) : 0;
        Vec<T> values = simd::zero<T>();
        if (lanes > 0 && args.stride_column == 1) values = simd::load_n(from + column, lanes);
        if (lanes > 0 && args.stride_column != 1) {
          values =
              simd::load_strided(from + column * args.stride_column, args.stride_column, lanes);
        }
        simd::store(to + column, values);
      }
    }
  }
}

// All pixels of a slab against one panel.
template <class T>
void panel_tiles(const ConvTilesArgs& args, const PanelPlace& place, const T* source, T* y,
                 std::int64_t pixels) {
  constexpr int kLanes = Vec<T>::lanes;
  const std::int64_t width = place.blocks * kBlock<T>;
  const std::int64_t packed_at = (place.group * args.columns.blocks + place.block) * kBlock<T>;
  const T* weights = static_cast<const T*>(args.weights) + packed_at * args.depth;
  const T* bias = static_cast<const T*>(args.bias) + packed_at;
  ConvTile<T> tile;
  tile.b_step = width;
  std::int64_t k = 0;
  do {
    const std::int64_t rest = args.depth - k;
    tile.depth = rest < kTermRun<T> ? rest : kTermRun<T>;
    tile.offset = args.tap + k;
    for (std::int64_t column = 0; column < place.columns; column += kConvVectors * kLanes) {
      tile.columns = place.columns - column;
      const std::int64_t needed = (tile.columns + kLanes - 1) / kLanes;
      const int vectors = needed < kConvVectors ? static_cast<int>(needed) : kConvVectors;
      const int most = conv_tile_rows(vectors);
      tile.b = weights + k * width + column;
      tile.init = k == 0 ? bias + column : nullptr;
      for (std::int64_t pixel = 0; pixel < pixels; pixel += most) {
        const int rows = pixels - pixel < most ? static_cast<int>(pixels - pixel) : most;
        for (int i = 0; i < rows; ++i) {
          tile.rows[i] = source + args.slab.pixel[pixel + i];
          tile.c[i] = y + args.y_pixel[pixel + i] + column;
        }
        if (rows < most) fill_rows(tile, rows);
        run_conv_tile(tile, rows, vectors);
      }
    }
    k += tile.depth;
  } while (k < args.depth);
  if (args.activation == Activation::none) return;
  for (std::int64_t pixel = 0; pixel < pixels; ++pixel) {
    activate_row(args.activation, args.activation_alpha, y + args.y_pixel[pixel], place.columns);
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
    T* y = static_cast<T*>(args.y) + part.image * args.y_stride_n + part.row * args.y_stride_h;
    const std::int64_t last = panels * (split + 1) / args.splits;
    for (std::int64_t panel = panels * split / args.splits; panel < last; ++panel) {
      const PanelPlace place = panel_place<T>(args.columns, panel);
      panel_tiles(args, place, source + place.group * args.stride_group,
                  y + place.group * args.columns.columns + place.block * kBlock<T>, part.pixels);
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
