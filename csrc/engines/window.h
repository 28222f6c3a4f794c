// Windows that slide over an image: which taps of a window lie inside the image, and which windows
// cover a pixel. Backward passes gather (each input pixel asks its windows, in rising order), so
// that no two threads write the same pixel and sums have one order.
#pragma once

#include <cstdint>

#include "simd/simd.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

using simd::Vec;

struct Range {
  std::int64_t begin, end;
};

// One axis of the window: `size` pixels, `out` windows.
struct WindowAxis {
  std::int64_t size, out, kernel, stride, padding;

  // The taps of window o that lie inside.
  [[gnu::always_inline]] inline Range taps(std::int64_t o) const {
    const std::int64_t start = o * stride - padding;
    const std::int64_t last = size - start;
    return {start < 0 ? -start : 0, last < kernel ? last : kernel};
  }
  // The windows that cover pixel i.
  [[gnu::always_inline]] inline Range windows(std::int64_t i) const {
    const std::int64_t reach = i + padding;
    const std::int64_t first = reach < kernel ? 0 : (reach - kernel) / stride + 1;
    const std::int64_t last = reach / stride + 1;
    return {first, last < out ? last : out};
  }
};

// The windows that cover pixel 0, then 1, 2, ...: without the divisions, which cost as much as a
// pixel.
struct Cover {
  WindowAxis axis;
  std::int64_t pixel = 0;
  Range range;

  explicit Cover(const WindowAxis& along) : axis(along), range(along.windows(0)) {}
  [[gnu::always_inline]] inline void next() {
    const std::int64_t reach = ++pixel + axis.padding;
    while (range.begin * axis.stride + axis.kernel <= reach) ++range.begin;
    while (range.end < axis.out && range.end * axis.stride <= reach) ++range.end;
  }
  [[gnu::always_inline]] inline bool single() const { return range.end - range.begin == 1; }
};

// Calls body(channel, lanes) for whole vectors of channels and once for the rest.
template <class T, class Body>
[[gnu::always_inline]] static inline void each_channels(std::int64_t channels, Body body) {
  constexpr int lanes = Vec<T>::lanes;
  std::int64_t c = 0;
  for (; c + lanes <= channels; c += lanes) body(c, lanes);
  if (c < channels) body(c, static_cast<int>(channels - c));
}

// Channels that lie side by side, or `stride` apart (NCHW in memory).
template <bool dense, class T>
[[gnu::always_inline]] static inline Vec<T> load_channels(const T* p, std::int64_t stride, int n) {
  if constexpr (dense) {
    return n == Vec<T>::lanes ? simd::load(p) : simd::load_n(p, n);
  } else {
    return simd::load_strided(p, stride, n);
  }
}

template <class T>
[[gnu::always_inline]] static inline void store_channels(T* p, Vec<T> v, int n) {
  if (n == Vec<T>::lanes) {
    simd::store(p, v);
  } else {
    simd::store_n(p, v, n);
  }
}

}  // namespace
}  // namespace hotloop::HOTLOOP_LEVEL
