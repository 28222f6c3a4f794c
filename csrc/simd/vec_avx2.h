// The vector contract in AVX2 with FMA. Included by simd/simd.h only.
#pragma once

namespace hotloop::HOTLOOP_LEVEL::simd {

template <class T>
struct Mask {
  typename Int<T>::type v;  // all ones or all zeros in each lane
};

template <class T>
HOTLOOP_SIMD Mask<T> first_lanes(int n) {
  return {iota_int<T>().v < set1_int<T>(n).v};
}

// ---- memory ------------------------------------------------------------------------------------

HOTLOOP_SIMD Vec<float> load_n(const float* p, int n) {
  return {_mm256_maskload_ps(p, (__m256i)first_lanes<float>(n).v)};
}
HOTLOOP_SIMD Vec<double> load_n(const double* p, int n) {
  return {_mm256_maskload_pd(p, (__m256i)first_lanes<double>(n).v)};
}
HOTLOOP_SIMD void store_n(float* p, Vec<float> a, int n) {
  _mm256_maskstore_ps(p, (__m256i)first_lanes<float>(n).v, a.v);
}
HOTLOOP_SIMD void store_n(double* p, Vec<double> a, int n) {
  _mm256_maskstore_pd(p, (__m256i)first_lanes<double>(n).v, a.v);
}
// Around the caches; p is aligned to kBytes. Followed by stream_fence() before another thread
// reads.
HOTLOOP_SIMD void stream(float* p, Vec<float> a) {
  _mm256_stream_ps(p, a.v);
}
HOTLOOP_SIMD void stream(double* p, Vec<double> a) {
  _mm256_stream_pd(p, a.v);
}
HOTLOOP_SIMD void stream_fence() {
  _mm_sfence();
}

template <class T>
HOTLOOP_SIMD Vec<T> load_strided(const T* p, std::int64_t stride, int n) {
  if constexpr (is_float<T>) {
    if (n == 8) {
      return {_mm256_setr_ps(p[0], p[stride], p[2 * stride], p[3 * stride], p[4 * stride],
                             p[5 * stride], p[6 * stride], p[7 * stride])};
    }
  } else {
    if (n == 4) return {_mm256_setr_pd(p[0], p[stride], p[2 * stride], p[3 * stride])};
  }
  T lane[Vec<T>::lanes] = {};
  for (int i = 0; i < n; ++i) lane[i] = p[i * stride];
  return load(lane);
}
template <class T>
HOTLOOP_SIMD void store_strided(T* p, Vec<T> a, std::int64_t stride, int n) {
  T lane[Vec<T>::lanes];
  store(lane, a);
  for (int i = 0; i < n; ++i) p[i * stride] = lane[i];
}
template <class T>
HOTLOOP_SIMD Int<T> load_u8_n(const std::uint8_t* p, int n) {
  std::uint64_t bytes = 0;
  if (n == Vec<T>::lanes) {
    __builtin_memcpy(&bytes, p, Vec<T>::lanes);
  } else {
    for (int i = 0; i < n; ++i) bytes |= static_cast<std::uint64_t>(p[i]) << (8 * i);
  }
  const __m128i packed = _mm_cvtsi64_si128(static_cast<long long>(bytes));
  if constexpr (is_float<T>) {
    return {(typename Int<T>::type)_mm256_cvtepu8_epi32(packed)};
  } else {
    return {(typename Int<T>::type)_mm256_cvtepu8_epi64(packed)};
  }
}
template <class T>
HOTLOOP_SIMD void store_u8_n(std::uint8_t* p, Int<T> a, int n) {  // the low byte of each lane
  const __m128i low = _mm256_castsi256_si128((__m256i)a.v);
  const __m128i high = _mm256_extracti128_si256((__m256i)a.v, 1);
  std::uint64_t bytes;
  if constexpr (is_float<T>) {
    const __m128i pick = _mm_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
    bytes = static_cast<std::uint64_t>(_mm_cvtsi128_si64(
        _mm_unpacklo_epi32(_mm_shuffle_epi8(low, pick), _mm_shuffle_epi8(high, pick))));
  } else {
    const __m128i pick =
        _mm_setr_epi8(0, 8, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
    bytes = static_cast<std::uint64_t>(_mm_cvtsi128_si64(
        _mm_unpacklo_epi16(_mm_shuffle_epi8(low, pick), _mm_shuffle_epi8(high, pick))));
  }
  if (n == Vec<T>::lanes) {
    __builtin_memcpy(p, &bytes, Vec<T>::lanes);
  } else {
    for (int i = 0; i < n; ++i) p[i] = static_cast<std::uint8_t>(bytes >> (8 * i));
  }
}

// ---- arithmetic by instruction -----------------------------------------------------------------

HOTLOOP_SIMD Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) {
  return {_mm256_fmadd_ps(a.v, b.v, c.v)};
}
HOTLOOP_SIMD Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) {
  return {_mm256_fmadd_pd(a.v, b.v, c.v)};
}
HOTLOOP_SIMD Vec<float> fnma(Vec<float> a, Vec<float> b, Vec<float> c) {
  return {_mm256_fnmadd_ps(a.v, b.v, c.v)};
}
HOTLOOP_SIMD Vec<double> fnma(Vec<double> a, Vec<double> b, Vec<double> c) {
  return {_mm256_fnmadd_pd(a.v, b.v, c.v)};
}
HOTLOOP_SIMD Vec<float> blend(Mask<float> mask, Vec<float> yes, Vec<float> no) {
  return {_mm256_blendv_ps(no.v, yes.v, (__m256)mask.v)};
}
HOTLOOP_SIMD Vec<double> blend(Mask<double> mask, Vec<double> yes, Vec<double> no) {
  return {_mm256_blendv_pd(no.v, yes.v, (__m256d)mask.v)};
}
// As the instructions have it: b when either is NaN.
HOTLOOP_SIMD Vec<float> min_or_b(Vec<float> a, Vec<float> b) {
  return {_mm256_min_ps(a.v, b.v)};
}
HOTLOOP_SIMD Vec<double> min_or_b(Vec<double> a, Vec<double> b) {
  return {_mm256_min_pd(a.v, b.v)};
}
HOTLOOP_SIMD Vec<float> max_or_b(Vec<float> a, Vec<float> b) {
  return {_mm256_max_ps(a.v, b.v)};
}
HOTLOOP_SIMD Vec<double> max_or_b(Vec<double> a, Vec<double> b) {
  return {_mm256_max_pd(a.v, b.v)};
}
HOTLOOP_SIMD Vec<float> sqrt(Vec<float> a) {
  return {_mm256_sqrt_ps(a.v)};
}
HOTLOOP_SIMD Vec<double> sqrt(Vec<double> a) {
  return {_mm256_sqrt_pd(a.v)};
}
HOTLOOP_SIMD Vec<float> round(Vec<float> a) {  // to the nearest, ties to even
  return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
HOTLOOP_SIMD Vec<double> round(Vec<double> a) {
  return {_mm256_round_pd(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
HOTLOOP_SIMD Vec<float> floor(Vec<float> a) {
  return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)};
}
HOTLOOP_SIMD Vec<double> floor(Vec<double> a) {
  return {_mm256_round_pd(a.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)};
}
HOTLOOP_SIMD unsigned to_bits(Mask<float> a) {
  return static_cast<unsigned>(_mm256_movemask_ps((__m256)a.v));
}
HOTLOOP_SIMD unsigned to_bits(Mask<double> a) {
  return static_cast<unsigned>(_mm256_movemask_pd((__m256d)a.v));
}

}  // namespace hotloop::HOTLOOP_LEVEL::simd

#include "simd/vec_lanes.h"
