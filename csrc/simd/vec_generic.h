// The vector contract in the compiler's vector extensions, 16 bytes wide: SSE on x86-64, NEON on
// ARM. Named instructions only where the extensions have no word for them. Included by simd/simd.h
// only.
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

template <class T>
HOTLOOP_SIMD Vec<T> load_strided(const T* p, std::int64_t stride, int n) {
  Vec<T> r = zero<T>();
  if (n > 0) r.v[0] = p[0];
  if (n > 1) r.v[1] = p[stride];
  if constexpr (is_float<T>) {
    if (n > 2) r.v[2] = p[2 * stride];
    if (n > 3) r.v[3] = p[3 * stride];
  }
  return r;
}
template <class T>
HOTLOOP_SIMD void store_strided(T* p, Vec<T> a, std::int64_t stride, int n) {
  if (n > 0) p[0] = a.v[0];
  if (n > 1) p[stride] = a.v[1];
  if constexpr (is_float<T>) {
    if (n > 2) p[2 * stride] = a.v[2];
    if (n > 3) p[3 * stride] = a.v[3];
  }
}
template <class T>
HOTLOOP_SIMD Vec<T> load_n(const T* p, int n) {
  if (n == Vec<T>::lanes) return load(p);
  return load_strided(p, 1, n);
}
template <class T>
HOTLOOP_SIMD void store_n(T* p, Vec<T> a, int n) {
  if (n == Vec<T>::lanes) {
    store(p, a);
  } else {
    store_strided(p, a, 1, n);
  }
}
// Around the caches where the machine can; p is aligned to kBytes.
template <class T>
HOTLOOP_SIMD void stream(T* p, Vec<T> a) {
#if defined(__SSE2__)
  if constexpr (is_float<T>) {
    _mm_stream_ps(p, a.v);
  } else {
    _mm_stream_pd(p, a.v);
  }
#else
  store(p, a);
#endif
}
HOTLOOP_SIMD void stream_fence() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}
template <class T>
HOTLOOP_SIMD Int<T> load_u8_n(const std::uint8_t* p, int n) {
  Int<T> r = set1_int<T>(0);
  for (int i = 0; i < Vec<T>::lanes; ++i) r.v[i] = i < n ? p[i] : 0;
  return r;
}
template <class T>
HOTLOOP_SIMD void store_u8_n(std::uint8_t* p, Int<T> a, int n) {  // the low byte of each lane
  for (int i = 0; i < Vec<T>::lanes; ++i) {
    if (i < n) p[i] = static_cast<std::uint8_t>(a.v[i]);
  }
}

// ---- arithmetic --------------------------------------------------------------------------------

template <class T>
HOTLOOP_SIMD Vec<T> fma(Vec<T> a, Vec<T> b, Vec<T> c) {
  return {a.v * b.v + c.v};
}
template <class T>
HOTLOOP_SIMD Vec<T> fnma(Vec<T> a, Vec<T> b, Vec<T> c) {
  return {c.v - a.v * b.v};
}
template <class T>
HOTLOOP_SIMD Vec<T> blend(Mask<T> mask, Vec<T> yes, Vec<T> no) {
  typedef typename Int<T>::type I;
  return {(typename Vec<T>::type)((mask.v & (I)yes.v) | (~mask.v & (I)no.v))};
}
// As the instructions have it: b when either is NaN.
template <class T>
HOTLOOP_SIMD Vec<T> min_or_b(Vec<T> a, Vec<T> b) {
#if defined(__SSE2__)
  if constexpr (is_float<T>) {
    return {_mm_min_ps(a.v, b.v)};
  } else {
    return {_mm_min_pd(a.v, b.v)};
  }
#else
  return blend(Mask<T>{(typename Int<T>::type)(a.v < b.v)}, a, b);
#endif
}
template <class T>
HOTLOOP_SIMD Vec<T> max_or_b(Vec<T> a, Vec<T> b) {
#if defined(__SSE2__)
  if constexpr (is_float<T>) {
    return {_mm_max_ps(a.v, b.v)};
  } else {
    return {_mm_max_pd(a.v, b.v)};
  }
#else
  return blend(Mask<T>{(typename Int<T>::type)(a.v > b.v)}, a, b);
#endif
}
HOTLOOP_SIMD Vec<float> sqrt(Vec<float> a) {
#if defined(__SSE2__)
  return {_mm_sqrt_ps(a.v)};
#else
  for (int i = 0; i < Vec<float>::lanes; ++i) a.v[i] = __builtin_sqrtf(a.v[i]);
  return a;
#endif
}
HOTLOOP_SIMD Vec<double> sqrt(Vec<double> a) {
#if defined(__SSE2__)
  return {_mm_sqrt_pd(a.v)};
#else
  for (int i = 0; i < Vec<double>::lanes; ++i) a.v[i] = __builtin_sqrt(a.v[i]);
  return a;
#endif
}
// To the nearest, ties to even: adding 2^(mantissa bits) pushes the fraction out. From that size on
// every number is whole, and NaN and infinity take that way as well.
template <class T>
HOTLOOP_SIMD Vec<T> round(Vec<T> a) {
  const Vec<T> magic = set1<T>(is_float<T> ? T(8388608.0) : T(4503599627370496.0));
  const Vec<T> size = abs(a);
  const Vec<T> whole = copysign((size + magic) - magic, a);
  return blend(Mask<T>{(typename Int<T>::type)(size.v < magic.v)}, whole, a);
}
template <class T>
HOTLOOP_SIMD Vec<T> floor(Vec<T> a) {
  const Vec<T> near = round(a);
  const Vec<T> lower = near - set1<T>(1);
  return blend(Mask<T>{(typename Int<T>::type)(near.v > a.v)}, lower, near);
}
template <class T>
HOTLOOP_SIMD unsigned to_bits(Mask<T> a) {
  unsigned bits = 0;
  for (int i = 0; i < Vec<T>::lanes; ++i) bits |= static_cast<unsigned>(a.v[i] != 0) << i;
  return bits;
}

}  // namespace hotloop::HOTLOOP_LEVEL::simd

#include "simd/vec_lanes.h"
