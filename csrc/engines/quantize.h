// Real numbers to bytes: rounded to the nearest (ties to even), shifted by the zero point,
// saturated. The same bits on every level.
#pragma once

#include "simd/dot.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

inline simd::Int<float> load_ints(const std::int32_t* p, std::int64_t n) {
  simd::Int<float> v = simd::set1_int<float>(0);
  if (n >= simd::Vec<float>::lanes) {
    simd::load_sum(p, &v);
  } else {
    for (int i = 0; i < simd::Vec<float>::lanes; ++i) v.v[i] = i < n ? p[i] : 0;
  }
  return v;
}

inline void store_words_upto(void* p, simd::Int<float> words, std::int64_t n) {
  simd::store_upto(static_cast<float*>(p), simd::as_vec<float>(words), n);
}

// NaN becomes the zero point. Saturation comes first, on whole numbers below 2^10: then nothing
// overflows.
inline simd::Int<float> quantized(simd::Vec<float> x, simd::Int<float> zero, bool is_unsigned) {
  using simd::set1;
  const simd::Vec<float> shift = simd::float_of(zero);
  const simd::Vec<float> low = set1(is_unsigned ? 0.0f : -128.0f) - shift;
  const simd::Vec<float> high = set1(is_unsigned ? 255.0f : 127.0f) - shift;
  const simd::Vec<float> number = simd::select(simd::is_nan(x), simd::zero<float>(), x);
  const simd::Vec<float> whole = simd::round(simd::min_or_b(simd::max_or_b(number, low), high));
  return simd::int_of(whole) + zero;
}

inline void store_quantized(void* p, simd::Vec<float> x, simd::Int<float> zero, bool is_unsigned,
                            std::int64_t n) {
  constexpr std::int64_t kLanes = simd::Vec<float>::lanes;
  simd::store_u8_n(static_cast<std::uint8_t*>(p), quantized(x, zero, is_unsigned),
                   static_cast<int>(n < kLanes ? n : kLanes));
}

}  // namespace
}  // namespace hotloop::HOTLOOP_LEVEL
