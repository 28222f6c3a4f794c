// What happens to the tiles of a convolution while they are in cache: the residual, the activation,
// or the maxima of 2x2 windows that take the place of y.
#pragma once

#include "engines/activate.h"
#include "engines/conv_slab.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

// y = activation(y + residual) over `pixels` pixels, `columns` channels each; the tables say where.
template <class T>
inline void finish_pixels(const ConvTilesArgs& args, T* y, const std::int64_t* y_pixel,
                          const T* residual, const std::int64_t* residual_pixel,
                          std::int64_t pixels, std::int64_t columns) {
  constexpr int kLanes = simd::Vec<T>::lanes;
  for (std::int64_t pixel = 0; pixel < pixels; ++pixel) {
    T* row = y + y_pixel[pixel];
    if (residual) {
      const T* from = residual + residual_pixel[pixel];
      for (std::int64_t c = 0; c < columns; c += kLanes) {
        const std::int64_t left = columns - c;
        const simd::Vec<T> sum = simd::load_upto(row + c, left) + simd::load_upto(from + c, left);
        simd::store_upto(row + c, sum, left);
      }
    }
    activate_row(args.activation, args.activation_alpha, row, columns);
  }
}

// The residual of a slab's first pixel, channel `first`; null where there is none.
template <class T>
inline const T* residual_of(const ConvTilesArgs& args, std::int64_t image, std::int64_t plane,
                            std::int64_t row, std::int64_t first) {
  if (!args.residual.data) return nullptr;
  return static_cast<const T*>(args.residual.data) + image * args.residual.stride_n +
         plane * args.residual.stride_d + row * args.residual.stride_h + first;
}

// For a whole slab, from channel `first` on; y is that of its first pixel and that channel.
template <class T>
inline void finish_slab(const ConvTilesArgs& args, const SlabPart& part, T* y, std::int64_t first,
                        std::int64_t columns) {
  if (args.activation == Activation::none && !args.residual.data) return;
  finish_pixels(args, y, args.y_pixel,
                residual_of<T>(args, part.image, part.plane, part.row, first), args.residual.pixel,
                part.pixels, columns);
}

// For one row of an image, from channel `first` on; y is that of its first pixel and that channel.
template <class T>
inline void finish_row(const ConvTilesArgs& args, std::int64_t image, std::int64_t row,
                       std::int64_t first, T* y, std::int64_t columns) {
  if (args.activation == Activation::none && !args.residual.data) return;
  finish_pixels(args, y, args.y_pixel, residual_of<T>(args, image, 0, row, first),
                args.residual.pixel, args.slab.out_w, columns);
}

// The maxima of relu over the 2x2 windows of a strip, whose pixels lie `pitch` apart, with the tap
// of the first one (NaN wins, the last one): as engines relu and max_pool do it one after the
// other.
template <class T>
inline void pool_strip(const ConvPoolTarget& to, const SlabPart& part, std::int64_t out_w,
                       const T* strip, std::int64_t first, std::int64_t columns) {
  using simd::Int;
  using simd::Vec;
  constexpr int kLanes = Vec<T>::lanes;
  const std::int64_t down = out_w * to.pitch, right = to.pitch;
  for (std::int64_t index = 0; index < part.images * (part.rows / 2); ++index) {
    const std::int64_t image = index / (part.rows / 2), row = index % (part.rows / 2);
    const T* from = strip + (image * part.rows + 2 * row) * down;
    T* y = static_cast<T*>(to.y) + (part.image + image) * to.y_stride_n +
           (part.row / 2 + row) * to.y_stride_h + first;
    std::uint8_t* taps = to.taps ? to.taps + (part.image + image) * to.tap_stride_n +
                                       (part.row / 2 + row) * to.tap_stride_h + first
                                 : nullptr;
    for (std::int64_t col = 0; col < out_w / 2; ++col, from += 2 * right) {
      for (std::int64_t c = 0; c < columns; c += kLanes) {
        const int lanes = columns - c < kLanes ? static_cast<int>(columns - c) : kLanes;
        Vec<T> best = simd::set1<T>(-static_cast<T>(__builtin_inf()));
        Int<T> which = simd::set1_int<T>(0);
        const T* const corner[4] = {from + c, from + right + c, from + down + c,
                                    from + down + right + c};
#pragma GCC unroll 4
        for (int tap = 0; tap < 4; ++tap) {
          const Vec<T> v = formula::relu(simd::load(corner[tap]), 0);
          const auto better = (v > best) | simd::is_nan(v);
          best = simd::select(better, v, best);
          which = simd::select(better, simd::set1_int<T>(tap), which);
        }
        simd::store_upto(y + c, best, lanes);
        which = simd::select(best <= simd::zero<T>(), simd::set1_int<T>(kNoTap), which);
        if (taps) simd::store_u8_n<T>(taps + c, which, lanes);
      }
      y += to.y_stride_w;
      if (taps) taps += to.tap_stride_w;
    }
  }
}

}  // namespace
}  // namespace hotloop::HOTLOOP_LEVEL
