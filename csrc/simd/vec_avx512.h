// The vector contract in AVX-512 F, BW, DQ and VL. Included by simd/simd.h only.
#pragma once

namespace hotloop::HOTLOOP_LEVEL::simd {

template <>
struct Mask<float> {
  __mmask16 bits;
};
template <>
struct Mask<double> {
  __mmask8 bits;
};

template <class T>
HOTLOOP_SIMD Mask<T> first_lanes(int n) {
  return {static_cast<decltype(Mask<T>::bits)>((1u << n) - 1u)};
}

// ---- memory ------------------------------------------------------------------------------------

template <class T>
HOTLOOP_SIMD Vec<T> load_n(const T* p, int n) {
  if constexpr (is_float<T>) {
    return {_mm512_maskz_loadu_ps(first_lanes<T>(n).bits, p)};
  } else {
    return {_mm512_maskz_loadu_pd(first_lanes<T>(n).bits, p)};
  }
}
template <class T>
HOTLOOP_SIMD void store_n(T* p, Vec<T> a, int n) {
  if constexpr (is_float<T>) {
    _mm512_mask_storeu_ps(p, first_lanes<T>(n).bits, a.v);
  } else {
    _mm512_mask_storeu_pd(p, first_lanes<T>(n).bits, a.v);
  }
}
// Around the caches; p is aligned to kBytes. Followed by stream_fence() before another thread
// reads.
template <class T>
HOTLOOP_SIMD void stream(T* p, Vec<T> a) {
  if constexpr (is_float<T>) {
    _mm512_stream_ps(p, a.v);
  } else {
    _mm512_stream_pd(p, a.v);
  }
}
HOTLOOP_SIMD void stream_fence() {
  _mm_sfence();
}

// 64-bit indices, so that any stride is right.
HOTLOOP_SIMD __m512i strided_index(std::int64_t stride) {
  return _mm512_mullo_epi64(_mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0), _mm512_set1_epi64(stride));
}
template <class T>
HOTLOOP_SIMD Vec<T> load_strided(const T* p, std::int64_t stride, int n) {
  const __m512i index = strided_index(stride);
  const unsigned bits = first_lanes<T>(n).bits;
  if constexpr (is_float<T>) {
    const __m256 low =
        _mm512_mask_i64gather_ps(_mm256_setzero_ps(), static_cast<__mmask8>(bits), index, p, 4);
    const T* upper = n > 8 ? p + 8 * stride : p;
    const __m256 high = _mm512_mask_i64gather_ps(_mm256_setzero_ps(),
                                                 static_cast<__mmask8>(bits >> 8), index, upper, 4);
    return {_mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1)};
  } else {
    return {
        _mm512_mask_i64gather_pd(_mm512_setzero_pd(), static_cast<__mmask8>(bits), index, p, 8)};
  }
}
template <class T>
HOTLOOP_SIMD void store_strided(T* p, Vec<T> a, std::int64_t stride, int n) {
  const __m512i index = strided_index(stride);
  const unsigned bits = first_lanes<T>(n).bits;
  if constexpr (is_float<T>) {
    _mm512_mask_i64scatter_ps(p, static_cast<__mmask8>(bits), index, _mm512_castps512_ps256(a.v),
                              4);
    if (n > 8) {
      _mm512_mask_i64scatter_ps(p + 8 * stride, static_cast<__mmask8>(bits >> 8), index,
                                _mm512_extractf32x8_ps(a.v, 1), 4);
    }
  } else {
    _mm512_mask_i64scatter_pd(p, static_cast<__mmask8>(bits), index, a.v, 8);
  }
}
template <class T>
HOTLOOP_SIMD Int<T> load_u8_n(const std::uint8_t* p, int n) {
  const __m128i bytes = _mm_maskz_loadu_epi8(first_lanes<T>(n).bits, p);
  if constexpr (is_float<T>) {
    return {(typename Int<T>::type)_mm512_cvtepu8_epi32(bytes)};
  } else {
    return {(typename Int<T>::type)_mm512_cvtepu8_epi64(bytes)};
  }
}
template <class T>
HOTLOOP_SIMD void store_u8_n(std::uint8_t* p, Int<T> a, int n) {  // the low byte of each lane
  if constexpr (is_float<T>) {
    _mm512_mask_cvtepi32_storeu_epi8(p, first_lanes<T>(n).bits, (__m512i)a.v);
  } else {
    _mm512_mask_cvtepi64_storeu_epi8(p, first_lanes<T>(n).bits, (__m512i)a.v);
  }
}

// ---- masks -------------------------------------------------------------------------------------

#define HOTLOOP_COMPARE_(op, predicate)                                 \
  HOTLOOP_SIMD Mask<float> operator op(Vec<float> a, Vec<float> b) {    \
    return {_mm512_cmp_ps_mask(a.v, b.v, predicate)};                   \
  }                                                                     \
  HOTLOOP_SIMD Mask<double> operator op(Vec<double> a, Vec<double> b) { \
    return {_mm512_cmp_pd_mask(a.v, b.v, predicate)};                   \
  }
HOTLOOP_COMPARE_(<, _CMP_LT_OQ)
HOTLOOP_COMPARE_(<=, _CMP_LE_OQ)
HOTLOOP_COMPARE_(==, _CMP_EQ_OQ)
#undef HOTLOOP_COMPARE_

template <class T>
HOTLOOP_SIMD Mask<T> is_nan(Vec<T> a) {
  if constexpr (is_float<T>) {
    return {_mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q)};
  } else {
    return {_mm512_cmp_pd_mask(a.v, a.v, _CMP_UNORD_Q)};
  }
}
template <class T>
HOTLOOP_SIMD Mask<T> operator==(Int<T> a, Int<T> b) {
  if constexpr (is_float<T>) {
    return {_mm512_cmpeq_epi32_mask((__m512i)a.v, (__m512i)b.v)};
  } else {
    return {_mm512_cmpeq_epi64_mask((__m512i)a.v, (__m512i)b.v)};
  }
}
template <class T>
HOTLOOP_SIMD Mask<T> operator<(Int<T> a, Int<T> b) {
  if constexpr (is_float<T>) {
    return {_mm512_cmplt_epi32_mask((__m512i)a.v, (__m512i)b.v)};
  } else {
    return {_mm512_cmplt_epi64_mask((__m512i)a.v, (__m512i)b.v)};
  }
}
template <class T>
HOTLOOP_SIMD Mask<T> operator&(Mask<T> a, Mask<T> b) {
  return {static_cast<decltype(a.bits)>(a.bits & b.bits)};
}
template <class T>
HOTLOOP_SIMD Mask<T> operator|(Mask<T> a, Mask<T> b) {
  return {static_cast<decltype(a.bits)>(a.bits | b.bits)};
}
template <class T>
HOTLOOP_SIMD Mask<T> operator!(Mask<T> a) {
  return {static_cast<decltype(a.bits)>(~a.bits)};
}
template <class T>
HOTLOOP_SIMD unsigned to_bits(Mask<T> a) {
  return a.bits;
}
template <class T>
HOTLOOP_SIMD Vec<T> select(Mask<T> mask, Vec<T> yes, Vec<T> no) {
  if constexpr (is_float<T>) {
    return {_mm512_mask_mov_ps(no.v, mask.bits, yes.v)};
  } else {
    return {_mm512_mask_mov_pd(no.v, mask.bits, yes.v)};
  }
}
template <class T>
HOTLOOP_SIMD Int<T> select(Mask<T> mask, Int<T> yes, Int<T> no) {
  typedef typename Int<T>::type Type;
  if constexpr (is_float<T>) {
    return {(Type)_mm512_mask_mov_epi32((__m512i)no.v, mask.bits, (__m512i)yes.v)};
  } else {
    return {(Type)_mm512_mask_mov_epi64((__m512i)no.v, mask.bits, (__m512i)yes.v)};
  }
}

// ---- arithmetic --------------------------------------------------------------------------------

HOTLOOP_SIMD Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) {
  return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
HOTLOOP_SIMD Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) {
  return {_mm512_fmadd_pd(a.v, b.v, c.v)};
}
HOTLOOP_SIMD Vec<float> fnma(Vec<float> a, Vec<float> b, Vec<float> c) {
  return {_mm512_fnmadd_ps(a.v, b.v, c.v)};
}
HOTLOOP_SIMD Vec<double> fnma(Vec<double> a, Vec<double> b, Vec<double> c) {
  return {_mm512_fnmadd_pd(a.v, b.v, c.v)};
}
// As the instructions have it: b when either is NaN.
HOTLOOP_SIMD Vec<float> min_or_b(Vec<float> a, Vec<float> b) {
  return {_mm512_min_ps(a.v, b.v)};
}
HOTLOOP_SIMD Vec<double> min_or_b(Vec<double> a, Vec<double> b) {
  return {_mm512_min_pd(a.v, b.v)};
}
HOTLOOP_SIMD Vec<float> max_or_b(Vec<float> a, Vec<float> b) {
  return {_mm512_max_ps(a.v, b.v)};
}
HOTLOOP_SIMD Vec<double> max_or_b(Vec<double> a, Vec<double> b) {
  return {_mm512_max_pd(a.v, b.v)};
}
template <class T>
HOTLOOP_SIMD Vec<T> min(Vec<T> a, Vec<T> b) {
  return select(is_nan(a), a, min_or_b(a, b));
}
template <class T>
HOTLOOP_SIMD Vec<T> max(Vec<T> a, Vec<T> b) {
  return select(is_nan(a), a, max_or_b(a, b));
}
HOTLOOP_SIMD Vec<float> sqrt(Vec<float> a) {
  return {_mm512_sqrt_ps(a.v)};
}
HOTLOOP_SIMD Vec<double> sqrt(Vec<double> a) {
  return {_mm512_sqrt_pd(a.v)};
}
HOTLOOP_SIMD Vec<float> round(Vec<float> a) {  // to the nearest, ties to even
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
HOTLOOP_SIMD Vec<double> round(Vec<double> a) {
  return {_mm512_roundscale_pd(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
HOTLOOP_SIMD Vec<float> floor(Vec<float> a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)};
}
HOTLOOP_SIMD Vec<double> floor(Vec<double> a) {
  return {_mm512_roundscale_pd(a.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)};
}

// a * 2^n for whole n, with gradual underflow.
HOTLOOP_SIMD Vec<float> scale(Vec<float> a, Vec<float> n) {
  return {_mm512_scalef_ps(a.v, n.v)};
}
HOTLOOP_SIMD Vec<double> scale(Vec<double> a, Vec<double> n) {
  return {_mm512_scalef_pd(a.v, n.v)};
}

}  // namespace hotloop::HOTLOOP_LEVEL::simd
