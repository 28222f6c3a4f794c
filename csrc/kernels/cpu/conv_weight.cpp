// The gradient of convolution weights: dw[k, o] = sum over pixels p of source[p, k] * dy[p, o], the
// same tile as forward with the roles of pixels and terms exchanged. The sum runs over fixed chunks
// of slabs, each into a partial of its own; a second kernel adds the partials in order, so that the
// bits do not depend on the threads.
#include "engines/conv_slab.h"
#include "engines/conv_tile.h"
#include "kernels/conv.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

// The panels of one part of the columns.
struct PanelRange {
  std::int64_t begin, end;
};
inline PanelRange panels_of(const ConvWeightArgs& args, std::int64_t part) {
  const std::int64_t panels = args.columns.panels / args.parts;
  return {part * panels, (part + 1) * panels};
}

// dy of a slab as panels: [group][panel][pixel][columns of the panel].
template <class T>
void pack_dy(const ConvWeightArgs& args, const SlabPart& part, const PanelRange& panels, T* to) {
  const ConvColumns& columns = args.columns;
  for (std::int64_t group = 0; group < args.groups; ++group) {
    for (std::int64_t panel = panels.begin; panel < panels.end; ++panel) {
      const std::int64_t block = first_block(columns, panel);
      const std::int64_t width = (first_block(columns, panel + 1) - block) * kBlock<T>;
      const std::int64_t rest = columns.columns - block * kBlock<T>;
      const std::int64_t valid = rest < width ? rest : width;
      for (std::int64_t row = 0; row < part.images * part.rows; ++row) {
        const std::int64_t image = args.by_rows ? row % part.images : row / part.rows;
        const std::int64_t out_row = args.by_rows ? row / part.images : row % part.rows;
        const T* from = static_cast<const T*>(args.dy) + (part.image + image) * args.dy_stride_n +
                        part.plane * args.dy_stride_d + (part.row + out_row) * args.dy_stride_h +
                        (group * columns.columns + block * kBlock<T>)*args.dy_stride_c;
        copy_pixels(to, width, from, args.dy_stride_w, args.dy_stride_c, args.slab.out_w, valid);
        if (valid < width) {
          for (std::int64_t pixel = 0; pixel < args.slab.out_w; ++pixel) {
            fill_zeros(to + pixel * width + valid, width - valid);
          }
        }
        to += width * args.slab.out_w;
      }
    }
  }
}

// Source and dy of a slab, in scratch or in place. Panels of a packed dy follow one another.
template <class T>
struct SlabOperands {
  const T* source;
  const T* dy;
  const std::int64_t* pixel;
};

template <class T>
inline SlabOperands<T> read_slab(const ConvWeightArgs& args, const SlabPart& part,
                                 const PanelRange& panels, std::int64_t first_channel,
                                 std::int64_t channels) {
  T* scratch = own_scratch<T>(args.scratch);
  SlabOperands<T> operands;
  if (args.slab.direct) {
    operands.source = slab_in_place<T>(args.slab, part) + first_channel;
  } else {
    fill_slab(args.slab, part, first_channel, channels, scratch);
    operands.source = scratch;
    scratch += args.slab.size;
  }
  if (args.dy_direct) {
    operands.dy = static_cast<const T*>(args.dy) + part.image * args.dy_stride_n +
                  part.plane * args.dy_stride_d + part.row * args.dy_stride_h;
  } else {
    pack_dy(args, part, panels, scratch);
    operands.dy = scratch;
  }
  operands.pixel = args.slab.pixel;
  if (args.by_rows) {
    std::int64_t* pixel = own_scratch<std::int64_t>(args.orders);
    PixelWalk walk{part.rows, part.images, args.slab.out_w};
    for (std::int64_t p = 0; p < part.pixels; ++p, walk.step()) {
      pixel[p] = args.slab.pixel[walk.index()];
    }
    operands.pixel = pixel;
  }
  return operands;
}

// Adds the products of terms [begin, end) over some pixels to one vector of the partial's columns.
template <class T>
inline void add_terms(const ConvWeightArgs& args, ConvTile<T>& tile, const T* source, T* c,
                      std::int64_t begin, std::int64_t end, int vectors) {
  const std::int64_t pitch = args.columns.blocks / args.parts * kBlock<T>;
  const int most = conv_tile_rows(vectors);
  std::int64_t tap = begin / args.run, channel = begin % args.run;
  for (std::int64_t term = begin; term < end; term += most) {
    const int rows = end - term < most ? static_cast<int>(end - term) : most;
    for (int i = 0; i < rows; ++i) {
      tile.rows[i] = source + args.tap[tap] + channel;
      tile.c[i] = c + (term + i) * pitch;
      if (++channel == args.run) {
        channel = 0;
        ++tap;
      }
    }
    if (rows < most) fill_rows(tile, rows);
    run_conv_tile(tile, rows, vectors);
  }
}

template <class T>
void add_slab(const ConvWeightArgs& args, const SlabPart& part, const PanelRange& panels,
              const SlabOperands<T>& operands, T* partial, bool first) {
  constexpr int kLanes = Vec<T>::lanes;
  const T zeros[kConvVectors * kLanes] = {};
  const std::int64_t depth = args.taps * args.run;
  const std::int64_t pitch = args.columns.blocks / args.parts * kBlock<T>;
  const std::int64_t first_of_part = first_block(args.columns, panels.begin);
  const std::int64_t count = panels.end - panels.begin;
  const std::int64_t row_pixels = part.images * args.slab.out_w;
  const std::int64_t step = args.first_rows ? args.taps_w * args.run : depth;
  const T* dy = operands.dy;
  ConvTile<T> tile;
  tile.init = first ? zeros : nullptr;
  tile.columns = kConvVectors * kLanes;  // the partial has whole blocks
  for (std::int64_t index = 0; index < args.groups * count; ++index) {
    const std::int64_t group = index / count, panel = panels.begin + index % count;
    const std::int64_t block = first_block(args.columns, panel);
    const std::int64_t width = (first_block(args.columns, panel + 1) - block) * kBlock<T>;
    const T* source = operands.source + group * args.group_channels;
    T* c = partial + group * args.runs * depth * pitch + (block - first_of_part) * kBlock<T>;
    const T* b = dy;
    tile.b_step = width;
    if (args.dy_direct) {
      b += group * args.columns.columns + block * kBlock<T>;
      tile.b_step = args.dy_stride_w;
    } else {
      dy += width * part.pixels;
    }
    for (std::int64_t column = 0; column < width; column += kConvVectors * kLanes) {
      const std::int64_t needed = (width - column) / kLanes;
      const int vectors = needed < kConvVectors ? static_cast<int>(needed) : kConvVectors;
      for (std::int64_t term = 0; term < depth; term += step) {
        std::int64_t row = 0, last = part.rows;
        if (args.first_rows) {
          row = args.first_rows[term / step] - part.row;
          last = args.last_rows[term / step] - part.row;
          if (row < 0) row = 0;
          if (last > part.rows) last = part.rows;
          if (row >= last && !first) continue;
          if (row > last || row >= part.rows) row = last = 0;
        }
        tile.offset = operands.pixel + row * row_pixels;
        tile.depth = (last - row) * row_pixels;
        tile.b = b + column + row * row_pixels * tile.b_step;
        add_terms(args, tile, source, c + column, term, term + step, vectors);
      }
    }
  }
}

template <class T>
void weight_body(const ConvWeightArgs& args, std::int64_t begin, std::int64_t end) {
  const std::int64_t pitch = args.columns.blocks / args.parts * kBlock<T>;
  const std::int64_t run_size = args.taps * args.run * pitch;
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const std::int64_t chunk = unit / (args.parts * args.runs), run = unit % args.runs;
    const std::int64_t part_of_all = unit / args.runs;
    const PanelRange panels = panels_of(args, part_of_all % args.parts);
    T* partial =
        static_cast<T*>(args.partial) + (part_of_all * args.groups * args.runs + run) * run_size;
    const std::int64_t first = chunk * args.chunk_slabs;
    const std::int64_t last =
        first + args.chunk_slabs < args.slab.count ? first + args.chunk_slabs : args.slab.count;
    for (std::int64_t index = first; index < last; ++index) {
      const SlabPart part = slab_part(args.slab, index);
      const std::int64_t channels = args.runs == 1 ? args.slab.channels : args.run;
      const SlabOperands<T> operands = read_slab<T>(args, part, panels, run * args.run, channels);
      add_slab(args, part, panels, operands, partial, index == first);
    }
  }
}

template <class T>
inline Vec<T> sum_chunks(const ConvWeightSumArgs& args, const T* partial) {
  Vec<T> sum = simd::load(partial);
  for (std::int64_t chunk = 1; chunk < args.chunks; ++chunk) {
    sum = sum + simd::load(partial + chunk * args.chunk_size);
  }
  return sum;
}

// `count` terms that are neighbours in dw, for one vector of columns: columns turned into rows of
// dw.
template <class T>
[[gnu::noinline]] void sum_block(const ConvWeightSumArgs& args, const T* partial,
                                 std::int64_t pitch, const std::int64_t* order, int count, T* dw,
                                 int columns) {
  using V = Vec<T>;
  V row[V::lanes];
  for (int i = 0; i < V::lanes; ++i) {
    row[i] = i < count ? sum_chunks(args, partial + order[i] * pitch) : simd::zero<T>();
  }
  transpose_registers<T>(row);
#pragma GCC unroll 16
  for (int i = 0; i < V::lanes; ++i) {
    if (i < columns) simd::store_upto(dw + i * args.stride_column, row[i], count);
  }
}

template <class T>
void weight_sum_body(const ConvWeightSumArgs& args, std::int64_t begin, std::int64_t end) {
  constexpr int kLanes = Vec<T>::lanes;
  const std::int64_t pitch = args.columns.blocks / args.parts * kBlock<T>;
  const std::int64_t runs = (args.depth + kPackRun - 1) / kPackRun;
  const bool turned = args.dense >= 4 && args.stride_column != 1;
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const T* partial =
        static_cast<const T*>(args.partial) + unit / runs * args.depth * pitch;  // of one part
    T* dw = static_cast<T*>(args.dw) + unit / runs * args.stride_group;
    const std::int64_t first = unit % runs * kPackRun;
    const std::int64_t last = first + kPackRun < args.depth ? first + kPackRun : args.depth;
    for (std::int64_t step = first; step < last;) {
      std::int64_t count = 1;
      if (turned) {
        count = args.dense - step % args.dense;
        if (count > last - step) count = last - step;
        if (count > kLanes) count = kLanes;
      }
      const std::int64_t k = args.order[step];
      T* to = dw + args.term[k];
      for (std::int64_t column = 0; column < args.columns.columns; column += kLanes) {
        const std::int64_t rest = args.columns.columns - column;
        const int lanes = rest < kLanes ? static_cast<int>(rest) : kLanes;
        T* at = to + column * args.stride_column;
        const T* from = partial + column / pitch * args.depth * pitch + column % pitch;
        if (turned) {
          sum_block(args, from, pitch, args.order + step, static_cast<int>(count), at, lanes);
          continue;
        }
        const Vec<T> sum = sum_chunks(args, from + k * pitch);
        if (args.stride_column == 1) {
          simd::store_upto(at, sum, lanes);
        } else {
          simd::store_strided(at, sum, args.stride_column, lanes);
        }
      }
      step += count;
    }
  }
}

// One vector of channels: up to kTaps sums at a time over all pixels.
template <class T, int Taps>
[[gnu::noinline]] void depthwise_sums(const T* source, const std::int64_t* tap, const T* dy,
                                      std::int64_t dy_step, const std::int64_t* pixel,
                                      std::int64_t pixels, T* partial, std::int64_t pitch,
                                      bool first, int lanes) {
  using V = Vec<T>;
  V sum[Taps];
  const T* from[Taps];
#pragma GCC unroll 8
  for (int t = 0; t < Taps; ++t) {
    sum[t] = first ? simd::zero<T>() : simd::load(partial + t * pitch);
    from[t] = source + tap[t];
  }
  for (std::int64_t p = 0; p < pixels; ++p) {
    const V dyv = simd::load(dy + p * dy_step);
    const std::int64_t at = pixel[p];
    if (lanes == V::lanes) {
#pragma GCC unroll 8
      for (int t = 0; t < Taps; ++t) sum[t] = simd::fma(simd::load(from[t] + at), dyv, sum[t]);
    } else {
#pragma GCC unroll 8
      for (int t = 0; t < Taps; ++t) {
        sum[t] = simd::fma(simd::load_n(from[t] + at, lanes), dyv, sum[t]);
      }
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < Taps; ++t) simd::store(partial + t * pitch, sum[t]);
}

template <class T>
void depthwise_weight_body(const ConvWeightArgs& args, std::int64_t begin, std::int64_t end) {
  constexpr int kLanes = Vec<T>::lanes;
  const std::int64_t pitch = args.columns.blocks * kBlock<T>;
  const std::int64_t dy_step = args.dy_direct ? args.dy_stride_w : pitch;
  for (std::int64_t chunk = begin; chunk < end; ++chunk) {
    T* partial = static_cast<T*>(args.partial) + chunk * args.taps * pitch;
    const std::int64_t first = chunk * args.chunk_slabs;
    const std::int64_t last =
        first + args.chunk_slabs < args.slab.count ? first + args.chunk_slabs : args.slab.count;
    for (std::int64_t index = first; index < last; ++index) {
      const SlabPart part = slab_part(args.slab, index);
      const SlabOperands<T> operands =
          read_slab<T>(args, part, {0, args.columns.panels}, 0, args.slab.channels);
      for (std::int64_t c = 0; c < args.columns.columns; c += kLanes) {
        const std::int64_t rest = args.columns.columns - c;
        const int lanes = rest < kLanes ? static_cast<int>(rest) : kLanes;
        for (std::int64_t tap = 0; tap < args.taps;) {
          const auto sums = [&](auto body, int count) {
            body(operands.source + c, args.tap + tap, operands.dy + c, dy_step, operands.pixel,
                 part.pixels, partial + tap * pitch + c, pitch, index == first, lanes);
            tap += count;
          };
          const std::int64_t left = args.taps - tap;
          if (left >= 5) {
            sums(depthwise_sums<T, 5>, 5);
          } else if (left >= 3) {
            sums(depthwise_sums<T, 3>, 3);
          } else {
            sums(depthwise_sums<T, 1>, 1);
          }
        }
      }
    }
  }
}

}  // namespace

void conv_weight(const ConvWeightArgs& args, std::int64_t begin, std::int64_t end) {
  args.dtype == DType::f32 ? weight_body<float>(args, begin, end)
                           : weight_body<double>(args, begin, end);
}

void conv_depthwise_weight(const ConvWeightArgs& args, std::int64_t begin, std::int64_t end) {
  args.dtype == DType::f32 ? depthwise_weight_body<float>(args, begin, end)
                           : depthwise_weight_body<double>(args, begin, end);
}

void conv_weight_sum(const ConvWeightSumArgs& args, std::int64_t begin, std::int64_t end) {
  args.dtype == DType::f32 ? weight_sum_body<float>(args, begin, end)
                           : weight_sum_body<double>(args, begin, end);
}

}  // namespace hotloop::HOTLOOP_LEVEL
