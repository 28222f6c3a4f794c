// Backward through relu and 2x2 max pooling at once: what reaches the convolution before them is dy
// where the window's tap points and the maximum was positive, and 0 elsewhere. One read of dy, y
// and the taps, one write of dx; the order of relu and pooling does not matter for the bits.
#include "engines/conv_slab.h"
#include "kernels/conv.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

using simd::Int;
using simd::Vec;

// The two rows of dx (the lower one may be missing) under one row of windows.
template <class T>
void scatter_row(const ConvPoolBackwardArgs& g, const T* dy, std::int64_t dy_step,
                 const std::uint8_t* taps, T* upper, T* lower) {
  constexpr int kLanes = Vec<T>::lanes;
  for (std::int64_t col = 0; col < g.w; ++col) {
    for (std::int64_t c = 0; c < g.c; c += kLanes) {
      const int lanes = g.c - c < kLanes ? static_cast<int>(g.c - c) : kLanes;
      const Int<T> which = simd::load_u8_n<T>(taps + c, lanes);
      const Vec<T> gradient = simd::load_upto(dy + c, lanes);
      T* const corner[4] = {upper + c, upper + g.dx_stride_w + c, lower + c,
                            lower + g.dx_stride_w + c};
#pragma GCC unroll 4
      for (int tap = 0; tap < 4; ++tap) {
        simd::store_upto(corner[tap],
                         simd::select(which == simd::set1_int<T>(tap), gradient, simd::zero<T>()),
                         lanes);
      }
    }
    dy += dy_step, taps += g.tap_stride_w;
    upper += 2 * g.dx_stride_w, lower += 2 * g.dx_stride_w;
  }
}

template <class T>
void zero_pixels(T* to, std::int64_t step, std::int64_t pixels, std::int64_t channels) {
  for (std::int64_t p = 0; p < pixels; ++p) fill_zeros(to + p * step, channels);
}

template <class T>
void backward_body(const ConvPoolBackwardArgs& g, std::int64_t begin, std::int64_t end) {
  const std::int64_t pairs = (g.dx_h + 1) / 2;
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const std::int64_t image = unit / pairs, row = unit % pairs;
    T* upper = static_cast<T*>(g.dx) + image * g.dx_stride_n + 2 * row * g.dx_stride_h;
    T* lower = upper + g.dx_stride_h;
    if (row >= g.h) {  // the last row of an odd number: no window
      zero_pixels(upper, g.dx_stride_w, g.dx_w, g.c);
      continue;
    }
    const T* dy = static_cast<const T*>(g.dy) + image * g.dy_stride_n + row * g.dy_stride_h;
    std::int64_t dy_step = g.dy_stride_w;
    if (g.dy_stride_c != 1) {
      T* dense = own_scratch<T>(g.scratch);
      copy_pixels(dense, g.c, dy, g.dy_stride_w, g.dy_stride_c, g.w, g.c);
      dy = dense, dy_step = g.c;
    }
    scatter_row(g, dy, dy_step, g.taps + image * g.tap_stride_n + row * g.tap_stride_h, upper,
                lower);
    const std::int64_t done = 2 * g.w * g.dx_stride_w;
    zero_pixels(upper + done, g.dx_stride_w, g.dx_w - 2 * g.w, g.c);
    zero_pixels(lower + done, g.dx_stride_w, g.dx_w - 2 * g.w, g.c);
  }
}

}  // namespace

void conv_pool_backward(const ConvPoolBackwardArgs& args, std::int64_t begin, std::int64_t end) {
  args.dtype == DType::f32 ? backward_body<float>(args, begin, end)
                           : backward_body<double>(args, begin, end);
}

}  // namespace hotloop::HOTLOOP_LEVEL
