// Words of 32 bits that hold two bf16 or four bytes, and what a product does with them: each lane
// adds the dot product of its word of A and its word of B to a sum in f32 or int32. An island of
// the level avx512bf16, where one instruction does it (vdpbf16ps: twice, vpdpbusd: four times the
// multiply-adds of f32, as measured on Zen 4); elsewhere even and odd parts are widened, exactly.
#pragma once

#include "simd/simd.h"

namespace hotloop::HOTLOOP_LEVEL::simd {

#if defined(HOTLOOP_LEVEL_AVX512BF16)
constexpr bool kNativeDot = true;
#else
constexpr bool kNativeDot = false;
#endif

// Memory of words. They are moved, never computed with, so float will do, and what packs and
// transposes float32 packs and transposes words.
using Word = float;

HOTLOOP_SIMD std::uint32_t load_word(const void* p) {
  std::uint32_t word;
  __builtin_memcpy(&word, p, 4);
  return word;
}
HOTLOOP_SIMD void store_word(Word* p, std::uint32_t word) {
  __builtin_memcpy(p, &word, 4);
}
HOTLOOP_SIMD Int<float> load_words(const Word* p) {
  return as_int(load(p));
}

// Products of two bf16, summed in f32. vdpbf16ps takes subnormal numbers for zeros.
struct Bf16Dot {
  using Element = std::uint16_t;
  using Sum = float;
#if defined(HOTLOOP_LEVEL_AVX512BF16)
  struct Words {
    Int<float> all;
  };
  HOTLOOP_SIMD Words left(Int<float> word) { return {word}; }
  HOTLOOP_SIMD Words right(Int<float> word) { return {word}; }
  HOTLOOP_SIMD Vec<float> add(Vec<float> sum, Words a, Words b) {
    return {_mm512_dpbf16_ps(sum.v, (__m512bh)a.all.v, (__m512bh)b.all.v)};
  }
#else
  struct Words {
    Vec<float> even, odd;
  };
  HOTLOOP_SIMD Words left(Int<float> word) {
    return {as_vec<float>(shift_left<16>(word)),
            as_vec<float>(word & set1_int<float>(static_cast<std::int32_t>(0xffff0000u)))};
  }
  HOTLOOP_SIMD Words right(Int<float> word) { return left(word); }
  HOTLOOP_SIMD Vec<float> add(Vec<float> sum, Words a, Words b) {
    return fma(a.even, b.even, fma(a.odd, b.odd, sum));
  }
#endif
};

// Products of four unsigned bytes of A and four signed bytes of B. The sums wrap around at 2^32,
// on every level the same; nothing saturates on the way (as vpmaddubsw would).
struct ByteDot {
  using Element = std::uint8_t;
  using Sum = std::int32_t;
#if defined(HOTLOOP_LEVEL_AVX512BF16)
  struct Words {
    Int<float> all;
  };
  HOTLOOP_SIMD Words left(Int<float> word) { return {word}; }
  HOTLOOP_SIMD Words right(Int<float> word) { return {word}; }
  HOTLOOP_SIMD Int<float> add(Int<float> sum, Words a, Words b) {
    return {
        (Int<float>::type)_mm512_dpbusd_epi32((__m512i)sum.v, (__m512i)a.all.v, (__m512i)b.all.v)};
  }
#else
  typedef std::int16_t Halves __attribute__((vector_size(kBytes)));
  struct Words {
    Halves even, odd;  // of each word the bytes 0 and 2, and the bytes 1 and 3
  };
  HOTLOOP_SIMD Words left(Int<float> word) {
    const Int<float> low = set1_int<float>(0x00ff00ff);
    return {(Halves)(word & low).v, (Halves)(shift_right<8>(word) & low).v};
  }
  HOTLOOP_SIMD Words right(Int<float> word) {
    const Halves bytes = (Halves)word.v;
    return {(Halves)(bytes << 8) >> 8, bytes >> 8};
  }
  HOTLOOP_SIMD Int<float> pairs(Halves a, Halves b) {
#if defined(HOTLOOP_LEVEL_AVX512)
    return {(Int<float>::type)_mm512_madd_epi16((__m512i)a, (__m512i)b)};
#elif defined(HOTLOOP_LEVEL_AVX2)
    return {(Int<float>::type)_mm256_madd_epi16((__m256i)a, (__m256i)b)};
#elif defined(__SSE2__)
    return {(Int<float>::type)_mm_madd_epi16((__m128i)a, (__m128i)b)};
#else
    typedef Int<float>::type I;
    const I low = (((I)a << 16) >> 16) * (((I)b << 16) >> 16);
    return Int<float>{low} + Int<float>{((I)a >> 16) * ((I)b >> 16)};
#endif
  }
  HOTLOOP_SIMD Int<float> add(Int<float> sum, Words a, Words b) {
    return sum + pairs(a.even, b.even) + pairs(a.odd, b.odd);
  }
#endif
};

// Sums in memory: float or int32 in the same 32 bits.
HOTLOOP_SIMD void load_sum(const float* p, Vec<float>* sum) {
  *sum = load(p);
}
HOTLOOP_SIMD void load_sum(const std::int32_t* p, Int<float>* sum) {
  __builtin_memcpy(&sum->v, p, kBytes);
}
HOTLOOP_SIMD void store_sum(float* p, Vec<float> sum) {
  store(p, sum);
}
HOTLOOP_SIMD void store_sum(std::int32_t* p, Int<float> sum) {
  __builtin_memcpy(p, &sum.v, kBytes);
}
template <class Sum>
struct SumVector {
  using type = Vec<float>;
};
template <>
struct SumVector<std::int32_t> {
  using type = Int<float>;
};

// ---- bf16 and int32 as float32 ------------------------------------------------------------------

typedef std::uint16_t Half16 __attribute__((vector_size(kBytes / 2)));

HOTLOOP_SIMD Int<float> load_u16(const std::uint16_t* p) {
#if defined(HOTLOOP_LEVEL_AVX512) || defined(HOTLOOP_LEVEL_AVX512BF16)
  // gcc 12 converts halves of it: packing 256x256 took 4.9 us, 3.9 with this.
  return {(Int<float>::type)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p))};
#else
  Half16 half;
  __builtin_memcpy(&half, p, sizeof(half));
  return {(Int<float>::type) __builtin_convertvector(half, Int<float>::utype)};
#endif
}
HOTLOOP_SIMD Vec<float> load_bf16_upto(const std::uint16_t* p, std::int64_t n) {
  if (n >= Vec<float>::lanes) return as_vec<float>(shift_left<16>(load_u16(p)));
  std::uint16_t some[Vec<float>::lanes] = {};
  for (int i = 0; i < Vec<float>::lanes; ++i) {
    if (i < n) some[i] = p[i];
  }
  return as_vec<float>(shift_left<16>(load_u16(some)));
}
// To the nearest, ties to even, subnormal numbers kept (vcvtneps2bf16 drops them); NaN stays NaN.
HOTLOOP_SIMD void store_bf16_upto(std::uint16_t* p, Vec<float> a, std::int64_t n) {
  typedef Int<float>::utype U;
  const Int<float> bits = as_int(a);
  const Int<float> odd = shift_right<16>(bits) & set1_int<float>(1);
  const Int<float> near = shift_right<16>(bits + set1_int<float>(0x7fff) + odd);
  const Int<float> quiet = shift_right<16>(bits) | set1_int<float>(0x40);
  const Half16 half = __builtin_convertvector((U)select(is_nan(a), quiet, near).v, Half16);
  if (n >= Vec<float>::lanes) {
    __builtin_memcpy(p, &half, sizeof(half));
  } else {
    for (int i = 0; i < Vec<float>::lanes; ++i) {
      if (i < n) p[i] = half[i];
    }
  }
}
// Two whole vectors.
HOTLOOP_SIMD void store_bf16_pair(std::uint16_t* p, Vec<float> low, Vec<float> high) {
#if defined(HOTLOOP_LEVEL_AVX512BF16)
  // The instruction, where nothing is subnormal: 4 of 160 us of a product of 256^3.
  constexpr int kSubnormal = 0x20;
  if ((_mm512_fpclass_ps_mask(low.v, kSubnormal) | _mm512_fpclass_ps_mask(high.v, kSubnormal)) ==
      0) {
    _mm512_storeu_si512(p, (__m512i)_mm512_cvtne2ps_pbh(high.v, low.v));
    return;
  }
#endif
  store_bf16_upto(p, low, Vec<float>::lanes);
  store_bf16_upto(p + Vec<float>::lanes, high, Vec<float>::lanes);
}
HOTLOOP_SIMD Vec<float> float_of(Int<float> a) {  // rounded to the nearest
  return {__builtin_convertvector(a.v, Vec<float>::type)};
}
HOTLOOP_SIMD Int<float> int_of(Vec<float> a) {  // a is whole and fits
  return {__builtin_convertvector(a.v, Int<float>::type)};
}

}  // namespace hotloop::HOTLOOP_LEVEL::simd
