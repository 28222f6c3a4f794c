// float32 vectors as two float64 vectors and back: for functions whose float32 accuracy comes from
// float64 in between.
#pragma once

#include "simd/simd.h"

namespace hotloop::HOTLOOP_LEVEL::simd {

#if defined(HOTLOOP_LEVEL_AVX512) || defined(HOTLOOP_LEVEL_AVX512BF16)
HOTLOOP_SIMD Vec<double> widen_low(Vec<float> a) {
  return {_mm512_cvtps_pd(_mm512_castps512_ps256(a.v))};
}
HOTLOOP_SIMD Vec<double> widen_high(Vec<float> a) {
  return {_mm512_cvtps_pd(_mm512_extractf32x8_ps(a.v, 1))};
}
HOTLOOP_SIMD Vec<float> narrow(Vec<double> low, Vec<double> high) {
  return {_mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(low.v)),
                             _mm512_cvtpd_ps(high.v), 1)};
}
#elif defined(HOTLOOP_LEVEL_AVX2)
HOTLOOP_SIMD Vec<double> widen_low(Vec<float> a) {
  return {_mm256_cvtps_pd(_mm256_castps256_ps128(a.v))};
}
HOTLOOP_SIMD Vec<double> widen_high(Vec<float> a) {
  return {_mm256_cvtps_pd(_mm256_extractf128_ps(a.v, 1))};
}
HOTLOOP_SIMD Vec<float> narrow(Vec<double> low, Vec<double> high) {
  return {_mm256_set_m128(_mm256_cvtpd_ps(high.v), _mm256_cvtpd_ps(low.v))};
}
#else
HOTLOOP_SIMD Vec<double> widen_low(Vec<float> a) {
  return {Vec<double>::type{a.v[0], a.v[1]}};
}
HOTLOOP_SIMD Vec<double> widen_high(Vec<float> a) {
  return {Vec<double>::type{a.v[2], a.v[3]}};
}
HOTLOOP_SIMD Vec<float> narrow(Vec<double> low, Vec<double> high) {
  return {Vec<float>::type{static_cast<float>(low.v[0]), static_cast<float>(low.v[1]),
                           static_cast<float>(high.v[0]), static_cast<float>(high.v[1])}};
}
#endif

}  // namespace hotloop::HOTLOOP_LEVEL::simd
