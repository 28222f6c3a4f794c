// The gradient of convolution weights: dw[k, o] = sum over pixels p of source[p, k] * dy[p, o], the
// same tile as forward with the roles of pixels and terms exchanged. The sum runs over fixed chunks
// of slabs, each into a partial of its own; a second kernel adds the partials in order, so that the
// bits do not depend on the threads.
#include "engines/conv_slab.h"
#include "engines/conv_tile.h"
#include "engines/conv_weight_sum.h"
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
        const std::int64_t step = args.by_rows ? part.images * width : width;
        T* row_to = to + (args.by_rows ? out_row * args.slab.out_w * step + image * width
                                       : row * args.slab.out_w * step);
        copy_pixels(row_to, step, from, args.dy_stride_w, args.dy_stride_c, args.slab.out_w, valid);
        if (valid < width) {
          for (std::int64_t pixel = 0; pixel < args.slab.out_w; ++pixel) {
            fill_zeros(row_to + pixel * step + valid, width - valid);
          }
        }
      }
      to += width * part.pixels;
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

// Both operands of the slab that follows.
struct NextSlab {
  Ahead source, dy;

  template <class T>
  void fetch(ConvTile<T>& tile) {
    Ahead& from = source.left() ? source : dy;
    tile.ahead_step = from.left() ? from.pitch : 0;
    tile.ahead = from.left() ? from.take(tile.depth * tile.segments) : nullptr;
  }
};

template <class T>
inline NextSlab next_slab(const ConvWeightArgs& args, const SlabPart& part,
                          const PanelRange& panels, std::int64_t first_channel,
                          std::int64_t channels) {
  NextSlab next;
  next.source = ahead_of<T>(args.slab, part, first_channel, channels);
  const ConvSlab& slab = args.slab;
  const bool dense = args.dy_stride_c == 1 && args.dy_stride_h == slab.out_w * args.dy_stride_w &&
                     (part.images == 1 || args.dy_stride_n == slab.out_h * args.dy_stride_h);
  if (!dense) return next;
  const std::int64_t item = sizeof(T), first = first_block(args.columns, panels.begin);
  const std::int64_t blocks = first_block(args.columns, panels.end) - first;
  next.dy.base = static_cast<const char*>(args.dy) +
                 (part.image * args.dy_stride_n + part.plane * args.dy_stride_d +
                  part.row * args.dy_stride_h) *
                     item +
                 first * kBlockBytes;
  next.dy.pitch = args.dy_stride_w * item;
  next.dy.pixels = part.pixels;
  next.dy.lines = args.groups * blocks;
  return next;
}

// Three taps of three channels side by side: the nine terms of a row of taps are neighbours in the
// image. Of 27 terms three tiles of nine are whole, where 12, 12 and 3 would read dy a third time
// for few products, from L2.
constexpr int kBeside = 9;
template <class T>
inline bool nine_beside(const ConvWeightArgs& args) {
  return simd::kBytes == 64 && args.taps_w == 3 && args.run == 3 &&
         args.tap[1] - args.tap[0] == 3 && args.tap[2] - args.tap[1] == 3;
}

// Adds the products of terms [begin, end) over some pixels to one vector of the partial's columns.
template <class T>
inline void add_terms(const ConvWeightArgs& args, ConvTile<T>& tile, const T* source, T* c,
                      std::int64_t begin, std::int64_t end, int vectors, NextSlab& next) {
  const std::int64_t pitch = args.columns.blocks / args.parts * kBlock<T>;
  const bool beside = vectors == 2 && nine_beside<T>(args);
  const int most = beside ? kBeside : conv_tile_rows(vectors);
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
    next.fetch(tile);
    if constexpr (simd::kBytes == 64) {
      if (beside) {
        conv_tile_loop<T, kBeside, 2, false, false, true>(tile);
        continue;
      }
    }
    run_conv_tile(tile, rows, vectors);
  }
}

template <class T>
void add_slab(const ConvWeightArgs& args, const SlabPart& part, const PanelRange& panels,
              const SlabOperands<T>& operands, T* partial, bool first, NextSlab& next) {
  constexpr int kLanes = Vec<T>::lanes;
  const T zeros[kConvVectors * kLanes] = {};
  const std::int64_t depth = args.taps * args.run;
  const std::int64_t pitch = args.columns.blocks / args.parts * kBlock<T>;
  const std::int64_t first_of_part = first_block(args.columns, panels.begin);
  const std::int64_t count = panels.end - panels.begin;
  const std::int64_t row_pixels = part.images * args.slab.out_w;
  const std::int64_t step = args.first_cols   ? args.run
                            : args.first_rows ? args.taps_w * args.run
                                              : depth;
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
          const std::int64_t tap_row = term / (args.taps_w * args.run);
          row = args.first_rows[tap_row] - part.row;
          last = args.last_rows[tap_row] - part.row;
          if (row < 0) row = 0;
          if (last > part.rows) last = part.rows;
          if (row >= last && !first) continue;
          if (row > last || row >= part.rows) row = last = 0;
        }
        std::int64_t pixel = row * row_pixels;
        tile.segments = 1;
        tile.depth = (last - row) * row_pixels;
        if (args.first_cols) {
          const std::int64_t tap_col = term / args.run % args.taps_w;
          const std::int64_t col = args.first_cols[tap_col];
          const std::int64_t cols = args.last_cols[tap_col] - col;
          if (cols == 0 && !first) continue;
          if (cols < args.slab.out_w) {
            tile.segments = last - row;
            tile.depth = cols * part.images;
            tile.skip = row_pixels - tile.depth;
            pixel += col * part.images;
          }
        }
        tile.offset = operands.pixel + pixel;
        tile.b = b + column + pixel * tile.b_step;
        add_terms(args, tile, source, c + column, term, term + step, vectors, next);
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
    T* partial = args.sum ? own_scratch<T>(args.scratch) +
                                args.partial_at / static_cast<std::int64_t>(sizeof(T))
                          : static_cast<T*>(args.partial) +
                                (part_of_all * args.groups * args.runs + run) * run_size;
    const SlabRange slabs = slabs_of_chunk(args, chunk);
    for (std::int64_t index = slabs.begin; index < slabs.end; ++index) {
      const SlabPart part = slab_part(args.slab, index);
      const std::int64_t channels = args.runs == 1 ? args.slab.channels : args.run;
      const SlabOperands<T> operands = read_slab<T>(args, part, panels, run * args.run, channels);
      NextSlab next;
      if (index + 1 < slabs.end) {
        next =
            next_slab<T>(args, slab_part(args.slab, index + 1), panels, run * args.run, channels);
      }
      add_slab(args, part, panels, operands, partial, index == slabs.begin && !args.adds, next);
    }
    if (args.sum) {
      const std::int64_t terms = args.taps * args.run;
      sum_terms(*args.sum, partial - run * run_size, part_of_all % args.parts * pitch, pitch,
                run * terms, (run + 1) * terms, static_cast<T*>(args.sum->dw));
    }
  }
}

template <class T>
void weight_sum_body(const ConvWeightSumArgs& args, std::int64_t begin, std::int64_t end) {
  const std::int64_t pitch = args.columns.blocks / args.parts * kBlock<T>;
  const std::int64_t runs = (args.depth + kPackRun - 1) / kPackRun;
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const T* partial =
        static_cast<const T*>(args.partial) + unit / runs * args.depth * pitch;  // of one part
    T* dw = static_cast<T*>(args.dw) + unit / runs * args.stride_group;
    const std::int64_t first = unit % runs * kPackRun;
    const std::int64_t last = first + kPackRun < args.depth ? first + kPackRun : args.depth;
    for (std::int64_t part = 0; part < args.parts; ++part) {
      sum_terms(args, partial + part * args.depth * pitch, part * pitch, pitch, first, last, dw);
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
    const SlabRange slabs = slabs_of_chunk(args, chunk);
    for (std::int64_t index = slabs.begin; index < slabs.end; ++index) {
      const SlabPart part = slab_part(args.slab, index);
      const SlabOperands<T> operands =
          read_slab<T>(args, part, {0, args.columns.panels}, 0, args.slab.channels);
      for (std::int64_t c = 0; c < args.columns.columns; c += kLanes) {
        const std::int64_t rest = args.columns.columns - c;
        const int lanes = rest < kLanes ? static_cast<int>(rest) : kLanes;
        for (std::int64_t tap = 0; tap < args.taps;) {
          const auto sums = [&](auto body, int count) {
            body(operands.source + c, args.tap + tap, operands.dy + c, dy_step, operands.pixel,
                 part.pixels, partial + tap * pitch + c, pitch, index == slabs.begin && !args.adds,
                 lanes);
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
