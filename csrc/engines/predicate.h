// Element-wise loops over bytes of truth: comparisons write them, selections read them. Bytes are
// 0 or 1 as NumPy keeps bool; any other value but 0 counts as true.
#pragma once

#include "engines/map.h"

namespace hotloop::HOTLOOP_LEVEL {

template <class T>
[[gnu::always_inline]] static inline void store_flags(std::uint8_t* p, simd::Mask<T> flags, int n) {
#if defined(HOTLOOP_LEVEL_AVX512)
  const __m128i bytes = _mm_maskz_set1_epi8(static_cast<__mmask16>(simd::to_bits(flags)), 1);
  if (simd::is_float<T> && n == simd::Vec<T>::lanes) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
  } else {
    _mm_mask_storeu_epi8(p, static_cast<__mmask16>((1u << n) - 1u), bytes);
  }
#else
  simd::store_u8_n<T>(p, simd::select(flags, simd::set1_int<T>(1), simd::set1_int<T>(0)), n);
#endif
}
template <class T>
[[gnu::always_inline]] static inline simd::Mask<T> load_flags(const std::uint8_t* p, int n) {
#if defined(HOTLOOP_LEVEL_AVX512)
  const __m128i bytes = _mm_maskz_loadu_epi8(static_cast<__mmask16>((1u << n) - 1u), p);
  return {static_cast<decltype(simd::Mask<T>::bits)>(_mm_test_epi8_mask(bytes, bytes))};
#else
  return !(simd::load_u8_n<T>(p, n) == simd::set1_int<T>(0));
#endif
}

// out = f(a, b): f gives a mask.
template <class T, class F>
static inline void compare_rows(const MapArgs& args, std::int64_t begin, std::int64_t end, F f) {
  constexpr int lanes = simd::Vec<T>::lanes;
  each_row<3>(args, begin, end,
              [&](const std::int64_t(&first)[3], const std::int64_t(&step)[3], std::int64_t n) {
                std::uint8_t* out = static_cast<std::uint8_t*>(args.data[0]) + first[0];
                const T* a = static_cast<const T*>(args.data[1]) + first[1];
                const T* b = static_cast<const T*>(args.data[2]) + first[2];
                std::int64_t i = 0;
                if (step[0] == 1 && step[1] == 1 && step[2] <= 1 && step[2] >= 0) {
                  const simd::Vec<T> same = simd::set1<T>(*b);
                  for (; i + lanes <= n; i += lanes) {
                    const simd::Vec<T> y = step[2] == 0 ? same : simd::load(b + i);
                    store_flags<T>(out + i, f(simd::load(a + i), y), lanes);
                  }
                }
                for (; i < n; i += lanes) {
                  const int count = n - i < lanes ? static_cast<int>(n - i) : lanes;
                  const auto flags = f(load_any(a + i * step[1], step[1], count),
                                       load_any(b + i * step[2], step[2], count));
                  if (step[0] == 1) {
                    store_flags<T>(out + i, flags, count);
                  } else {
                    std::uint8_t bytes[lanes];
                    store_flags<T>(bytes, flags, lanes);
                    for (int j = 0; j < count; ++j) out[(i + j) * step[0]] = bytes[j];
                  }
                }
              });
}

// out = condition ? a : b; data[1] is the condition.
template <class T>
static inline void select_rows(const MapArgs& args, std::int64_t begin, std::int64_t end) {
  constexpr int lanes = simd::Vec<T>::lanes;
  each_row<4>(
      args, begin, end,
      [&](const std::int64_t(&first)[4], const std::int64_t(&step)[4], std::int64_t n) {
        T* out = static_cast<T*>(args.data[0]) + first[0];
        const std::uint8_t* condition = static_cast<const std::uint8_t*>(args.data[1]) + first[1];
        const T* a = static_cast<const T*>(args.data[2]) + first[2];
        const T* b = static_cast<const T*>(args.data[3]) + first[3];
        for (std::int64_t i = 0; i < n; i += lanes) {
          const int count = n - i < lanes ? static_cast<int>(n - i) : lanes;
          simd::Mask<T> flags;
          if (step[1] == 1) {
            flags = load_flags<T>(condition + i, count);
          } else {
            std::uint8_t bytes[lanes] = {};
            for (int j = 0; j < count; ++j) bytes[j] = condition[(i + j) * step[1]];
            flags = load_flags<T>(bytes, lanes);
          }
          const simd::Vec<T> y = simd::select(flags, load_any(a + i * step[2], step[2], count),
                                              load_any(b + i * step[3], step[3], count));
          if (step[0] == 1) {
            simd::store_upto(out + i, y, count);
          } else {
            simd::store_strided(out + i * step[0], y, step[0], count);
          }
        }
      });
}

}  // namespace hotloop::HOTLOOP_LEVEL
