// Depthwise convolution, y[p, c] = bias[c] + sum over taps t of source[pixel[p] + tap[t], c] * w[t,
// c]: vectors over the channels, a few pixels at a time so that a vector of weights serves them
// all. Forward and backward to the input (other tables). Bound by loads, one per product.
#include "engines/conv_finish.h"
#include "engines/conv_slab.h"
#include "kernels/conv.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

using simd::Vec;

constexpr int kDepthwisePixels = 6;

template <class T, bool Whole>
inline Vec<T> load_channels(const T* p, int lanes) {
  return Whole ? simd::load(p) : simd::load_n(p, lanes);
}

// One vector of channels for all pixels of a slab.
template <class T, bool Whole>
[[gnu::noinline]] void depthwise_channels(const ConvTilesArgs& args, const T* source, const T* w,
                                          Vec<T> bias, T* y, std::int64_t pixels, int lanes) {
  using V = Vec<T>;
  const std::int64_t pitch = args.columns.blocks * kBlock<T>;
  for (std::int64_t pixel = 0; pixel < pixels; pixel += kDepthwisePixels) {
    V sum[kDepthwisePixels];
    const T* from[kDepthwisePixels];
    const std::int64_t last = pixels - 1;
#pragma GCC unroll 6
    for (int i = 0; i < kDepthwisePixels; ++i) {  // pixels beyond the last repeat it
      from[i] = source + args.slab.pixel[pixel + i < last ? pixel + i : last];
      sum[i] = bias;
    }
    const T* weight = w;
    for (std::int64_t tap = 0; tap < args.depth; ++tap, weight += pitch) {
      const V wv = simd::load(weight);
      const std::int64_t at = args.tap[tap];
#pragma GCC unroll 6
      for (int i = 0; i < kDepthwisePixels; ++i) {
        sum[i] = simd::fma(load_channels<T, Whole>(from[i] + at, lanes), wv, sum[i]);
      }
    }
#pragma GCC unroll 6
    for (int i = 0; i < kDepthwisePixels; ++i) {
      T* to = y + args.y_pixel[pixel + i < last ? pixel + i : last];
      Whole ? simd::store(to, sum[i]) : simd::store_n(to, sum[i], lanes);
    }
  }
}

template <class T>
void depthwise_body(const ConvTilesArgs& args, std::int64_t begin, std::int64_t end) {
  constexpr int kLanes = Vec<T>::lanes;
  T* scratch = own_scratch<T>(args.scratch);
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const SlabPart part = slab_part(args.slab, unit);
    if (!args.slab.direct) fill_slab(args.slab, part, 0, args.slab.channels, scratch);
    const T* source = args.slab.direct ? slab_in_place<T>(args.slab, part) : scratch;
    T* y = static_cast<T*>(args.y) + part.image * args.y_stride_n + part.plane * args.y_stride_d +
           part.row * args.y_stride_h;
    for (std::int64_t c = 0; c < args.columns.columns; c += kLanes) {
      const std::int64_t rest = args.columns.columns - c;
      const T* w = static_cast<const T*>(args.weights) + c;
      const Vec<T> bias = simd::load(static_cast<const T*>(args.bias) + c);
      if (rest >= kLanes) {
        depthwise_channels<T, true>(args, source + c, w, bias, y + c, part.pixels, kLanes);
      } else {
        depthwise_channels<T, false>(args, source + c, w, bias, y + c, part.pixels,
                                     static_cast<int>(rest));
      }
    }
    finish_slab(args, part, y, 0, args.columns.columns);
  }
}

}  // namespace

void conv_depthwise(const ConvTilesArgs& args, std::int64_t begin, std::int64_t end) {
  args.dtype == DType::f32 ? depthwise_body<float>(args, begin, end)
                           : depthwise_body<double>(args, begin, end);
}

}  // namespace hotloop::HOTLOOP_LEVEL
