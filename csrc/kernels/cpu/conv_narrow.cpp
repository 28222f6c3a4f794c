// Backward to an input of few channels (the first layer of a network, the last of a generator),
// where output columns would leave most of a vector empty: columns are the taps of a row times the
// channels, z[q, (tap, channel)] = sum over o of dy[q, o] * w[o, tap, channel], and the rows of z
// are added up where they overlap in dx. A row of dx is one unit and gathers its rows of taps in
// rising order. Pixels whose rows of z do not overlap are added one after the other, so that no
// addition waits for the store before it.
#include "engines/activate.h"
#include "engines/conv_few.h"
#include "engines/conv_slab.h"
#include "engines/conv_tile.h"
#include "kernels/conv.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

// z of pixels [first, first + pixels) of a row of dy.
template <class T>
inline void multiply_row(const ConvNarrowArgs& args, const T* dy, const T* weights,
                         std::int64_t pixels, T* z) {
  constexpr int kLanes = Vec<T>::lanes;
  const T zeros[kConvVectors * kLanes] = {};
  ConvTile<T> tile;
  tile.offset = args.offset;
  tile.depth = args.outputs;
  tile.b_step = args.pitch;
  tile.init = zeros;
  for (std::int64_t column = 0; column < args.pitch; column += kConvVectors * kLanes) {
    tile.columns = args.pitch - column;
    const std::int64_t needed = tile.columns / kLanes;
    const int vectors = needed < kConvVectors ? static_cast<int>(needed) : kConvVectors;
    const int most = conv_tile_rows(vectors);
    tile.b = weights + column;
    for (std::int64_t q = 0; q < pixels; q += most) {
      const int rows = pixels - q < most ? static_cast<int>(pixels - q) : most;
      for (int i = 0; i < rows; ++i) {
        tile.rows[i] = dy + (q + i) * args.dy_stride_w;
        tile.c[i] = z + (q + i) * args.pitch + column;
      }
      if (rows < most) fill_rows(tile, rows);
      run_conv_tile(tile, rows, vectors);
    }
  }
}

// Columns behind the terms hold zeros, or NaN where dy is not finite: they are left out.
template <class T>
inline void add_rows(const T* z, std::int64_t pitch, std::int64_t terms, std::int64_t pixels,
                     T* row, std::int64_t step) {
  constexpr int kLanes = Vec<T>::lanes;
  const std::int64_t apart = (pitch + step - 1) / step;
  for (std::int64_t phase = 0; phase < apart; ++phase) {
    for (std::int64_t q = phase; q < pixels; q += apart) {
      for (std::int64_t i = 0; i < terms; i += kLanes) {
        T* to = row + q * step + i;
        simd::store(to, simd::load(to) + simd::load_upto(z + q * pitch + i, terms - i));
      }
    }
  }
}

template <class T>
void narrow_body(const ConvNarrowArgs& args, std::int64_t begin, std::int64_t end) {
  T* const row = own_scratch<T>(args.scratch);
  T* const z = row + args.row_size;
  const std::int64_t step = args.stride_w * args.channels;
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const std::int64_t image = unit / args.h, ih = unit % args.h;
    fill_zeros(row, args.row_size);
    T* const inside = row + args.padding_w * args.channels;
    if (args.bias_row) {
      copy_dense(inside, static_cast<const T*>(args.bias_row), args.w * args.channels);
    }
    for (std::int64_t tap = 0; tap < args.taps_h; ++tap) {
      const std::int64_t distance = ih + args.padding_h - tap * args.dilation_h;
      if (distance < 0 || distance % args.stride_h != 0) continue;
      const std::int64_t oh = distance / args.stride_h;
      if (oh >= args.out_h) continue;
      const T* dy =
          static_cast<const T*>(args.dy) + image * args.dy_stride_n + oh * args.dy_stride_h;
      const T* weights = static_cast<const T*>(args.weights) + tap * args.outputs * args.pitch;
      for (std::int64_t q = 0; q < args.out_w; q += kNarrowPixels) {
        const std::int64_t pixels = args.out_w - q < kNarrowPixels ? args.out_w - q : kNarrowPixels;
        multiply_row(args, dy + q * args.dy_stride_w, weights, pixels, z);
        add_rows(z, args.pitch, args.terms, pixels, row + q * step, step);
      }
    }
    T* dx = static_cast<T*>(args.dx) + image * args.dx_stride_n + ih * args.dx_stride_h;
    copy_dense(dx, inside, args.w * args.channels);
    if (args.activation != Activation::none) {
      activate_row(args.activation, args.activation_alpha, dx, args.w * args.channels);
    }
  }
}

}  // namespace

void conv_narrow(const ConvNarrowArgs& args, std::int64_t begin, std::int64_t end) {
  args.dtype == DType::f32 ? narrow_body<float>(args, begin, end)
                           : narrow_body<double>(args, begin, end);
}

// Forward of few pixels: here, since both take the same tiles, which are long to compile.
void conv_few_pack(const ConvFewArgs& args, std::int64_t begin, std::int64_t end) {
  args.dtype == DType::f32 ? few_pack_body<float>(args, begin, end)
                           : few_pack_body<double>(args, begin, end);
}

void conv_few(const ConvFewArgs& args, std::int64_t begin, std::int64_t end) {
  args.dtype == DType::f32 ? few_body<float>(args, begin, end) : few_body<double>(args, begin, end);
}

}  // namespace hotloop::HOTLOOP_LEVEL
