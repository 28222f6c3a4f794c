// Forward of a few pixels, fewer than weights are worth packing for: y^T = w * source^T. Pixels
// fill the vectors, packed [term][pixel] with zeros for padding, and rows of w are the rows of the
// tile, read once where they lie. Sums run through the terms in the order of w, cut into runs by
// shape alone. (1, 512, 14, 14) to 512 by 3x3/2: packing 9.4 MB of weights for 49 pixels took more
// than the 2 % of the one pixel beyond a vector and what padding adds (0.84 of the time).
#pragma once

#include "engines/conv_finish.h"
#include "engines/conv_panel.h"
#include "engines/conv_tile.h"
#include "engines/pixels.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

// Rows of w that pass all pixels while they are near: whole tiles of any width.
constexpr std::int64_t kGroupRows = 24;
constexpr int kDotRows = 8;

inline std::int64_t least(std::int64_t a, std::int64_t b) {
  return a < b ? a : b;
}

// A vector of channels of a vector of pixels, turned: a row of `width` for each channel.
template <class T>
[[gnu::noinline]] void turn_pixels(const T* x, std::int64_t stride_c, const std::int64_t* source,
                                   int pixels, int channels, T* to, std::int64_t step) {
  using V = Vec<T>;
  V row[V::lanes];
#pragma GCC unroll 16
  for (int i = 0; i < V::lanes; ++i) {
    const bool inside = i < pixels && source[i] != kOutside;
    row[i] = !inside         ? simd::zero<T>()
             : stride_c == 1 ? simd::load_upto(x + source[i], channels)
                             : simd::load_strided(x + source[i], stride_c, channels);
  }
  transpose_registers<T>(row);
#pragma GCC unroll 16
  for (int i = 0; i < V::lanes; ++i) {
    if (i < channels) simd::store(to + i * step, row[i]);
  }
}

template <class T>
void few_pack_body(const ConvFewArgs& args, std::int64_t begin, std::int64_t end) {
  constexpr std::int64_t kLanes = Vec<T>::lanes;
  const T* x = static_cast<const T*>(args.x);
  const std::int64_t all = args.pixels + args.rest;
  T* const rest = static_cast<T*>(args.packed) + args.columns.blocks * kBlock<T> * args.depth;
  const std::int64_t last = least(end * kBlock<T>, args.channels);
  for (std::int64_t c = begin * kBlock<T>; c < last; c += kLanes) {
    const std::int64_t channels = least(kLanes, last - c);
    for (std::int64_t tap = 0; tap < args.taps; ++tap) {
      const std::int64_t* source = args.source + tap * all;
      const std::int64_t term = c * args.taps + tap;
      for (std::int64_t index = 0; index < args.columns.panels; ++index) {
        const PanelPlace place = panel_place<T>(args.columns, index);
        const std::int64_t width = place.blocks * kBlock<T>, first = place.block * kBlock<T>;
        T* panel = static_cast<T*>(args.packed) + first * args.depth + term * width;
        for (std::int64_t p = 0; p < width; p += kLanes) {
          const std::int64_t left = place.columns - p;
          turn_pixels(x + c * args.stride_c, args.stride_c, source + first + p,
                      static_cast<int>(left < 0 ? 0 : least(left, kLanes)),
                      static_cast<int>(channels), panel + p, args.taps * width);
        }
      }
      for (std::int64_t p = 0; p < args.rest; ++p) {
        const std::int64_t at = source[args.pixels + p];
        T* to = rest + p * args.depth + term;
        for (std::int64_t i = 0; i < channels; ++i) {
          to[i * args.taps] = at != kOutside ? x[at + (c + i) * args.stride_c] : T(0);
        }
      }
    }
  }
}

// Terms [k, k + terms) of `rows` rows of w, all pixels of one panel.
template <class T>
void panel_rows(const ConvFewArgs& args, const PanelPlace& place, const T* w, std::int64_t rows,
                std::int64_t k, std::int64_t terms, T* sums) {
  constexpr int kLanes = Vec<T>::lanes;
  const std::int64_t width = place.blocks * kBlock<T>, first = place.block * kBlock<T>;
  ConvTile<T> tile;
  tile.offset = args.offset;
  tile.depth = terms;
  tile.b_step = width;
  tile.init = nullptr;
  for (std::int64_t column = 0; column < width; column += kConvVectors * kLanes) {
    tile.columns = width - column;
    const int vectors = static_cast<int>(least(tile.columns / kLanes, kConvVectors));
    const int most = conv_tile_rows(vectors);
    tile.b = static_cast<const T*>(args.packed) + first * args.depth + k * width + column;
    for (std::int64_t row = 0; row < rows; row += most) {
      const int count = static_cast<int>(least(most, rows - row));
      for (int i = 0; i < count; ++i) {
        tile.rows[i] = w + (row + i) * args.stride_o + k;
        tile.c[i] = sums + (row + i) * args.pitch + first + column;
      }
      if (count < most) fill_rows(tile, count);
      run_conv_tile(tile, count, vectors);
    }
  }
}

// One pixel by itself: dot products with rows of w, lanes of each kept apart until the last term.
template <class T>
[[gnu::noinline]] void dot_rows(const T* w, std::int64_t stride, std::int64_t rows, const T* pixel,
                                std::int64_t terms, T* sums, std::int64_t pitch) {
  using V = Vec<T>;
  for (std::int64_t row = 0; row < rows; row += kDotRows) {
    const T* from[kDotRows];
    V sum[kDotRows];
#pragma GCC unroll 8
    for (int i = 0; i < kDotRows; ++i) {
      const std::int64_t at = least(row + i, rows - 1);
      from[i] = w + at * stride;
      sum[i] = simd::load(sums + at * pitch);
    }
    std::int64_t k = 0;
    for (; k + V::lanes <= terms; k += V::lanes) {
      const V values = simd::load(pixel + k);
#pragma GCC unroll 8
      for (int i = 0; i < kDotRows; ++i) {
        sum[i] = simd::fma(simd::load(from[i] + k), values, sum[i]);
      }
    }
    if (k < terms) {
      const V values = simd::load_upto(pixel + k, terms - k);
#pragma GCC unroll 8
      for (int i = 0; i < kDotRows; ++i) {
        sum[i] = simd::fma(simd::load_upto(from[i] + k, terms - k), values, sum[i]);
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < kDotRows; ++i) simd::store(sums + least(row + i, rows - 1) * pitch, sum[i]);
  }
}

// A vector of pixels of a vector of output channels, turned back.
template <class T>
[[gnu::noinline]] void put_pixels(const ConvFewArgs& args, const T* sums, std::int64_t first,
                                  std::int64_t pixels, T* y, const T* residual,
                                  std::int64_t outputs) {
  using V = Vec<T>;
  V row[V::lanes];
#pragma GCC unroll 16
  for (int i = 0; i < V::lanes; ++i) {
    row[i] = i < outputs ? simd::load(sums + i * args.pitch + first) : simd::zero<T>();
  }
  transpose_registers<T>(row);
#pragma GCC unroll 16
  for (int i = 0; i < V::lanes; ++i) {
    if (i >= pixels) break;
    if (residual) {
      row[i] = row[i] + simd::load_upto(residual + args.residual_pixel[first + i], outputs);
    }
    simd::store_upto(y + args.y_pixel[first + i], row[i], outputs);
  }
}

// All sums of output channels [o, o + rows), with the bias: [row][pixel].
template <class T>
void sum_rows(const ConvFewArgs& args, std::int64_t o, std::int64_t rows, T* sums) {
  constexpr std::int64_t kLanes = Vec<T>::lanes;
  const T* bias = static_cast<const T*>(args.bias);
  const std::int64_t whole = args.columns.blocks * kBlock<T>;
  const T* const rest = static_cast<const T*>(args.packed) + whole * args.depth;
  for (std::int64_t row = 0; row < rows; ++row) {
    const Vec<T> init = simd::set1<T>(bias ? bias[(o + row) * args.bias_stride] : T(0));
    T* const to = sums + row * args.pitch;
    for (std::int64_t p = 0; p < whole; p += kLanes) simd::store(to + p, init);
    fill_zeros(to + whole, args.pitch - whole);
  }
  for (std::int64_t k = 0; k < args.depth; k += args.run) {
    const std::int64_t terms = least(args.run, args.depth - k);
    for (std::int64_t row = 0; row < rows; row += kGroupRows) {
      const std::int64_t some = least(kGroupRows, rows - row);
      const T* w = static_cast<const T*>(args.w) + (o + row) * args.stride_o;
      T* to = sums + row * args.pitch;
      for (std::int64_t index = 0; index < args.columns.panels; ++index) {
        panel_rows(args, panel_place<T>(args.columns, index), w, some, k, terms, to);
      }
      for (std::int64_t p = 0; p < args.rest; ++p) {
        dot_rows(w + k, args.stride_o, some, rest + p * args.depth + k, terms,
                 to + whole + p * kBlock<T>, args.pitch);
      }
    }
  }
  // Pixels of the rest follow at `whole`, which is their number where there are any.
  for (std::int64_t row = 0; row < rows; ++row) {
    T* const to = sums + row * args.pitch + whole;
    for (std::int64_t p = 0; p < args.rest; ++p) {
      to[p] = simd::reduce_add(simd::load(to + p * kBlock<T>)) +
              (bias ? bias[(o + row) * args.bias_stride] : T(0));
    }
  }
}

template <class T>
void few_body(const ConvFewArgs& args, std::int64_t begin, std::int64_t end) {
  constexpr std::int64_t kLanes = Vec<T>::lanes;
  T* const sums = own_scratch<T>(args.scratch);
  const std::int64_t all = args.pixels + args.rest;
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const std::int64_t o = unit * args.rows, rows = least(args.rows, args.outputs - o);
    sum_rows(args, o, rows, sums);
    T* const y = args.pool ? sums + args.rows * args.pitch : static_cast<T*>(args.y) + o;
    const T* residual = args.residual ? static_cast<const T*>(args.residual) + o : nullptr;
    for (std::int64_t row = 0; row < rows; row += kLanes) {
      for (std::int64_t p = 0; p < all; p += kLanes) {
        put_pixels(args, sums + row * args.pitch, p, all - p, y + row,
                   residual ? residual + row : nullptr, least(kLanes, rows - row));
      }
    }
    if (args.pool) {
      const SlabPart part{0, args.images, 0, 0, args.even_rows, all};
      pool_strip(*args.pool, part, args.out_w, y, o, rows);
    } else if (args.activation != Activation::none) {
      for (std::int64_t p = 0; p < all; ++p) {
        activate_row(args.activation, args.activation_alpha, y + args.y_pixel[p], rows);
      }
    }
  }
}

}  // namespace
}  // namespace hotloop::HOTLOOP_LEVEL
