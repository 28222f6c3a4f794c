// Rows of pixels copied into dense channels, whatever order they lie in: the border through which
// NCHW memory reaches loops that run over channels.
#pragma once

#include "engines/transpose.h"
#include "simd/simd.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

template <class T>
inline void fill_zeros(T* to, std::int64_t count) {
  std::int64_t i = 0;
  for (; i + simd::Vec<T>::lanes <= count; i += simd::Vec<T>::lanes) {
    simd::store(to + i, simd::zero<T>());
  }
  if (i < count) simd::store_n(to + i, simd::zero<T>(), static_cast<int>(count - i));
}

template <class T>
inline void copy_dense(T* to, const T* from, std::int64_t count) {
  std::int64_t i = 0;
  for (; i + simd::Vec<T>::lanes <= count; i += simd::Vec<T>::lanes) {
    simd::store(to + i, simd::load(from + i));
  }
  if (i < count) {
    const int rest = static_cast<int>(count - i);
    simd::store_n(to + i, simd::load_n(from + i, rest), rest);
  }
}

// `pixels` pixels of `channels` channels, to dense channels `to_step` apart.
template <class T>
inline void copy_pixels(T* to, std::int64_t to_step, const T* from, std::int64_t stride_w,
                        std::int64_t stride_c, std::int64_t pixels, std::int64_t channels) {
  constexpr int kLanes = simd::Vec<T>::lanes;
  if (stride_c == 1 || channels == 1) {
    if (stride_w == channels && to_step == channels) {
      copy_dense(to, from, pixels * channels);
    } else if (channels == 1) {
      for (std::int64_t p = 0; p < pixels; ++p) to[p * to_step] = from[p * stride_w];
    } else {
      for (std::int64_t p = 0; p < pixels; ++p) {
        copy_dense(to + p * to_step, from + p * stride_w, channels);
      }
    }
    return;
  }
  if (channels < 4) {
    for (std::int64_t c = 0; c < channels; ++c) {
      for (std::int64_t p = 0; p < pixels; ++p) {
        to[p * to_step + c] = from[p * stride_w + c * stride_c];
      }
    }
    return;
  }
  for (std::int64_t c = 0; c < channels; c += kLanes) {
    const int lanes = channels - c < kLanes ? static_cast<int>(channels - c) : kLanes;
    const T* block = from + c * stride_c;
    for (std::int64_t p = 0; stride_w == 1 && p < pixels; p += kLanes) {
      const int some = pixels - p < kLanes ? static_cast<int>(pixels - p) : kLanes;
      if (some == kLanes && lanes == kLanes) {
        transpose_block(block + p, stride_c, to + p * to_step + c, to_step);
      } else {
        transpose_edge(block + p, stride_c, lanes, some, to + p * to_step + c, to_step, lanes);
      }
    }
    for (std::int64_t p = 0; stride_w != 1 && p < pixels; ++p) {
      simd::store_n(to + p * to_step + c, simd::load_strided(block + p * stride_w, stride_c, lanes),
                    lanes);
    }
  }
}

}  // namespace
}  // namespace hotloop::HOTLOOP_LEVEL
