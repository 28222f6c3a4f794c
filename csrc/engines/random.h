// Philox words, eight blocks side by side, and the numbers made of them. Chunk c holds blocks 8 c
// to 8 c + 7; word w of its block b is number 8 w + b of the chunk, so that every level stores
// whole vectors and all levels agree.
#pragma once

#include "math/philox.h"
#include "simd/math.h"
#include "simd/simd.h"

namespace hotloop::HOTLOOP_LEVEL::random {

constexpr int kBlocks = 8;
constexpr int kWords = 4 * kBlocks;

typedef simd::Int<double>::utype U64;  // one 32-bit word in the low half of each lane
typedef simd::Vec<double>::type F64;
constexpr int kLanes = simd::Vec<double>::lanes;
constexpr int kGroups = kBlocks / kLanes;
typedef float F32 __attribute__((vector_size(4 * kLanes)));

// The product of the low halves, all 64 bits of it.
HOTLOOP_SIMD U64 multiply_low(U64 a, U64 b) {
#if defined(HOTLOOP_LEVEL_AVX512) || defined(HOTLOOP_LEVEL_AVX512BF16)
  return (U64)_mm512_mul_epu32((__m512i)a, (__m512i)b);
#elif defined(HOTLOOP_LEVEL_AVX2)
  return (U64)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
  return (U64)_mm_mul_epu32((__m128i)a, (__m128i)b);
#else
  return (a & 0xffffffffu) * (b & 0xffffffffu);
#endif
}

HOTLOOP_SIMD U64 fill(std::uint64_t x) {
  return x - U64{};
}

// The words of kLanes blocks from `block` on; the high halves hold leftovers. As math::philox.
HOTLOOP_SIMD void philox_words(std::uint64_t seed, std::uint64_t stream, std::uint64_t block,
                               U64* word) {
  U64 c0, c1, c2 = fill(stream & 0xffffffffu), c3 = fill(stream >> 32);
  for (int i = 0; i < kLanes; ++i) c0[i] = block + static_cast<std::uint64_t>(i);
  c1 = c0 >> 32;
  std::uint32_t key0 = static_cast<std::uint32_t>(seed);
  std::uint32_t key1 = static_cast<std::uint32_t>(seed >> 32);
  for (int round = 0; round < math::kPhiloxRounds; ++round) {
    const U64 product0 = multiply_low(c0, fill(math::kPhiloxM0));
    const U64 product1 = multiply_low(c2, fill(math::kPhiloxM1));
    c0 = (product1 >> 32) ^ c1 ^ fill(key0);
    c2 = (product0 >> 32) ^ c3 ^ fill(key1);
    c1 = product1;
    c3 = product0;
    key0 += math::kPhiloxW0;
    key1 += math::kPhiloxW1;
  }
  word[0] = c0;
  word[1] = c1;
  word[2] = c2;
  word[3] = c3;
}

// Whole numbers below 2^52 as doubles: the exponent of 2^52 put before their bits.
HOTLOOP_SIMD F64 to_double(U64 x) {
  return (F64)(x | fill(0x4330000000000000u)) - 4503599627370496.0;
}
// The top `Bits` bits of each word.
template <int Bits>
HOTLOOP_SIMD F64 top_bits(U64 word) {
  return to_double((word & fill(0xffffffffu)) >> (32 - Bits));
}
HOTLOOP_SIMD void put(double* to, F64 x) {
  __builtin_memcpy(to, &x, sizeof x);
}
HOTLOOP_SIMD void put(float* to, F64 x) {
  const F32 narrow = __builtin_convertvector(x, F32);
  __builtin_memcpy(to, &narrow, sizeof narrow);
}
// 53 random bits, in [0, 1).
HOTLOOP_SIMD F64 fraction(U64 high, U64 low) {
  return (top_bits<27>(high) * 67108864.0 + top_bits<26>(low)) * 0x1p-53;
}

// 32 numbers in [0, 1), of 24 bits (float) or 53 (double), for unit `unit`.
HOTLOOP_SIMD void uniform_unit(std::uint64_t seed, std::uint64_t stream, std::uint64_t unit,
                               float* out) {
  for (int group = 0; group < kGroups; ++group) {
    U64 word[4];
    philox_words(seed, stream, unit * kBlocks + static_cast<std::uint64_t>(group * kLanes), word);
    for (int w = 0; w < 4; ++w) {
      put(out + w * kBlocks + group * kLanes, top_bits<24>(word[w]) * 0x1p-24);
    }
  }
}
HOTLOOP_SIMD void uniform_unit(std::uint64_t seed, std::uint64_t stream, std::uint64_t unit,
                               double* out) {
  for (int group = 0; group < 2 * kGroups; ++group) {
    U64 word[4];
    philox_words(seed, stream, 2 * unit * kBlocks + static_cast<std::uint64_t>(group * kLanes),
                 word);
    double* to = out + (group / kGroups) * 2 * kBlocks + (group % kGroups) * kLanes;
    put(to, fraction(word[0], word[1]));
    put(to + kBlocks, fraction(word[2], word[3]));
  }
}

// For each of the 32 words all ones where it is at least `least` (at most 2^32), else zeros, in
// lanes as wide as I.
template <class I>
HOTLOOP_SIMD void mask_unit(std::uint64_t seed, std::uint64_t stream, std::uint64_t unit,
                            std::uint64_t least, I* out) {
  typedef simd::Int<double>::type S64;
  typedef std::int32_t I32 __attribute__((vector_size(4 * kLanes)));
  for (int group = 0; group < kGroups; ++group) {
    U64 word[4];
    philox_words(seed, stream, unit * kBlocks + static_cast<std::uint64_t>(group * kLanes), word);
    for (int w = 0; w < 4; ++w) {
      I* to = out + w * kBlocks + group * kLanes;
      // Signed: there is no unsigned comparison below AVX-512, and both are small.
      const S64 kept = (S64)(word[w] & fill(0xffffffffu)) >= (S64)fill(least);
      if constexpr (sizeof(I) == 4) {
        const I32 narrow = __builtin_convertvector(kept, I32);
        __builtin_memcpy(to, &narrow, sizeof narrow);
      } else {
        __builtin_memcpy(to, &kept, sizeof kept);
      }
    }
  }
}

template <class T>
struct SineCosine {
  simd::Vec<T> sine, cosine;
};

// Of 2 pi u, u in [0, 1]: the nearest quarter turn is taken off exactly, the rest lies within an
// eighth.
template <class T>
HOTLOOP_SIMD SineCosine<T> sine_cosine_of_turns(simd::Vec<T> u) {
  using V = simd::Vec<T>;
  const V quarters = simd::round(simd::set1<T>(4) * u);
  const V angle =
      simd::set1<T>(T(6.283185307179586476925)) * simd::fma(quarters, simd::set1<T>(T(-0.25)), u);
  const V square = angle * angle;
  V sine, cosine;
  if constexpr (simd::is_float<T>) {
    sine = simd::horner(square, -1.0 / 6, 1.0 / 120, -1.0 / 5040, 1.0 / 362880);
    cosine = simd::horner(square, -1.0 / 2, 1.0 / 24, -1.0 / 720, 1.0 / 40320, -1.0 / 3628800);
  } else {
    sine = simd::horner(square, -1.0 / 6, 1.0 / 120, -1.0 / 5040, 1.0 / 362880, -1.0 / 39916800,
                        1.0 / 6227020800, -1.0 / 1307674368000, 1.0 / 355687428096000);
    cosine = simd::horner(square, -1.0 / 2, 1.0 / 24, -1.0 / 720, 1.0 / 40320, -1.0 / 3628800,
                          1.0 / 479001600, -1.0 / 87178291200, 1.0 / 20922789888000,
                          -1.0 / 6402373705728000);
  }
  sine = simd::fma(sine * square, angle, angle);
  cosine = simd::fma(cosine, square, simd::set1<T>(1));
  const simd::Int<T> quadrant = simd::to_int(quarters), two = simd::set1_int<T>(2);
  const auto even = (quadrant & simd::set1_int<T>(1)) == simd::set1_int<T>(0);
  const auto sine_positive = (quadrant & two) == simd::set1_int<T>(0);
  const auto cosine_positive = ((quadrant + simd::set1_int<T>(1)) & two) == simd::set1_int<T>(0);
  const V s = simd::select(even, sine, cosine), c = simd::select(even, cosine, sine);
  return {simd::select(sine_positive, s, -s), simd::select(cosine_positive, c, -c)};
}

// Box and Muller: r cos and r sin of independent r = sqrt(-2 log u1), u1 in (0, 1], and u2 turns.
// `pairs` of them from u1 and u2; the cosines come first.
template <class T>
HOTLOOP_SIMD void box_muller(const T* u1, const T* u2, int pairs, T* out) {
  constexpr int lanes = simd::Vec<T>::lanes;
  for (int i = 0; i < pairs; i += lanes) {
    const simd::Vec<T> radius = simd::sqrt(simd::set1<T>(-2) * simd::log(simd::load(u1 + i)));
    const SineCosine<T> at = sine_cosine_of_turns(simd::load(u2 + i));
    simd::store(out + i, radius * at.cosine);
    simd::store(out + pairs + i, radius * at.sine);
  }
}

HOTLOOP_SIMD void normal_unit(std::uint64_t seed, std::uint64_t stream, std::uint64_t unit,
                              float* out) {
  constexpr int kPairs = 2 * kBlocks;
  float u1[kPairs], u2[kPairs];
  for (int group = 0; group < kGroups; ++group) {
    U64 word[4];
    philox_words(seed, stream, unit * kBlocks + static_cast<std::uint64_t>(group * kLanes), word);
    for (int half = 0; half < 2; ++half) {
      const int at = half * kBlocks + group * kLanes;
      put(u1 + at, (top_bits<32>(word[2 * half]) + 0.5) * 0x1p-32);
      put(u2 + at, top_bits<24>(word[2 * half + 1]) * 0x1p-24);
    }
  }
  box_muller(u1, u2, kPairs, out);
}
HOTLOOP_SIMD void normal_unit(std::uint64_t seed, std::uint64_t stream, std::uint64_t unit,
                              double* out) {
  for (int part = 0; part < 2; ++part) {
    double u1[kBlocks], u2[kBlocks];
    for (int group = 0; group < kGroups; ++group) {
      U64 word[4];
      const std::uint64_t chunk = 2 * unit + static_cast<std::uint64_t>(part);
      philox_words(seed, stream, chunk * kBlocks + static_cast<std::uint64_t>(group * kLanes),
                   word);
      put(u1 + group * kLanes, fraction(word[0], word[1]) + 0x1p-54);
      put(u2 + group * kLanes, fraction(word[2], word[3]));
    }
    box_muller(u1, u2, kBlocks, out + part * 2 * kBlocks);
  }
}

}  // namespace hotloop::HOTLOOP_LEVEL::random
