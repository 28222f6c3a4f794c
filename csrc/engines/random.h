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

// The words of kLanes blocks from `block`, a multiple of kLanes, on; the high halves hold
// leftovers. As math::philox, whose first two rounds are mostly the same for all lanes: what they
// are is computed once. Under AVX-512 a block of 16 words costs 13 cycles on Zen 4.
HOTLOOP_SIMD U64 xor3(U64 a, U64 b, U64 c) {
#if defined(HOTLOOP_LEVEL_AVX512) || defined(HOTLOOP_LEVEL_AVX512BF16)
  return (U64)_mm512_ternarylogic_epi64((__m512i)a, (__m512i)b, (__m512i)c, 0x96);
#else
  return a ^ b ^ c;
#endif
}
// A stream: its key in each round, spread over the lanes, and what all lanes share. Made once for
// many blocks.
struct Stream {
  std::uint64_t from_stream, high;  // kPhiloxM1 times the low half of the stream; its high half
  std::uint32_t first0, first1, second0, second1;
  U64 key0[math::kPhiloxRounds - 2], key1[math::kPhiloxRounds - 2];

  [[gnu::always_inline]] inline Stream(std::uint64_t seed, std::uint64_t stream)
      : from_stream((stream & 0xffffffffu) * math::kPhiloxM1),
        high(stream >> 32),
        first0(static_cast<std::uint32_t>(seed)),
        first1(static_cast<std::uint32_t>(seed >> 32)),
        second0(first0 + math::kPhiloxW0),
        second1(first1 + math::kPhiloxW1) {
    for (std::uint32_t i = 0; i < math::kPhiloxRounds - 2; ++i) {
      key0[i] = fill(static_cast<std::uint32_t>(first0 + (i + 2) * math::kPhiloxW0));
      key1[i] = fill(static_cast<std::uint32_t>(first1 + (i + 2) * math::kPhiloxW1));
    }
  }
};

// The words of kWays times kLanes blocks from `block`, a multiple of their number, on; the high
// halves hold leftovers. As math::philox, whose first two rounds are mostly the same for all lanes.
// One chain is long: two side by side take 0.93 of the time of one after the other.
template <int kWays>
HOTLOOP_SIMD void philox_words(const Stream& s, std::uint64_t block, U64 (*word)[4]) {
  constexpr std::uint64_t kLow = 0xffffffffu;
  U64 lane;
  for (int i = 0; i < kLanes; ++i) lane[i] = static_cast<std::uint64_t>(i);
  // Round 1: only the low half of the counter differs between lanes. Round 2: what is multiplied by
  // kPhiloxM0 is still the same in all of them.
  const std::uint64_t same = ((s.from_stream >> 32) ^ (block >> 32) ^ s.first0) & kLow;
  const std::uint64_t product = same * math::kPhiloxM0;
  U64 c0[kWays], c1[kWays], c2[kWays], c3[kWays];
  HOTLOOP_UNROLL
  for (int w = 0; w < kWays; ++w) {
    const std::uint64_t from = (block & kLow) + static_cast<std::uint64_t>(w * kLanes);
    const U64 first = multiply_low(lane + fill(from), fill(math::kPhiloxM0));
    const U64 in = (first >> 32) ^ fill(s.high ^ s.first1);
    c1[w] = multiply_low(in, fill(math::kPhiloxM1));
    c0[w] = (c1[w] >> 32) ^ fill((s.from_stream & kLow) ^ s.second0);
    c2[w] = first ^ fill((product >> 32) ^ s.second1);
    c3[w] = fill(product & kLow);
  }
  HOTLOOP_UNROLL
  for (int round = 0; round < math::kPhiloxRounds - 2; ++round) {
    HOTLOOP_UNROLL
    for (int w = 0; w < kWays; ++w) {
      const U64 product0 = multiply_low(c0[w], fill(math::kPhiloxM0));
      const U64 product1 = multiply_low(c2[w], fill(math::kPhiloxM1));
      c0[w] = xor3(product1 >> 32, c1[w], s.key0[round]);
      c2[w] = xor3(product0 >> 32, c3[w], s.key1[round]);
      c1[w] = product1;
      c3[w] = product0;
    }
  }
  HOTLOOP_UNROLL
  for (int w = 0; w < kWays; ++w) {
    word[w][0] = c0[w];
    word[w][1] = c1[w];
    word[w][2] = c2[w];
    word[w][3] = c3[w];
  }
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
HOTLOOP_SIMD void uniform_unit(const Stream& s, std::uint64_t unit, float* out) {
  for (int group = 0; group < kGroups; ++group) {
    U64 words[1][4], (&word)[4] = words[0];
    philox_words<1>(s, unit * kBlocks + static_cast<std::uint64_t>(group * kLanes), words);
    for (int w = 0; w < 4; ++w) {
      put(out + w * kBlocks + group * kLanes, top_bits<24>(word[w]) * 0x1p-24);
    }
  }
}
HOTLOOP_SIMD void uniform_unit(const Stream& s, std::uint64_t unit, double* out) {
  for (int group = 0; group < 2 * kGroups; ++group) {
    U64 words[1][4], (&word)[4] = words[0];
    philox_words<1>(s, 2 * unit * kBlocks + static_cast<std::uint64_t>(group * kLanes), words);
    double* to = out + (group / kGroups) * 2 * kBlocks + (group % kGroups) * kLanes;
    put(to, fraction(word[0], word[1]));
    put(to + kBlocks, fraction(word[2], word[3]));
  }
}

#if defined(HOTLOOP_LEVEL_AVX512) || defined(HOTLOOP_LEVEL_AVX512BF16)
// For each of the 32 words of kUnits units from `unit`, a multiple of kUnits, a bit: whether it is
// at least `least` (at most 2^32).
template <int kUnits>
HOTLOOP_SIMD void bits_units(const Stream& s, std::uint64_t unit, std::uint64_t least,
                             std::uint32_t* bits) {
  U64 word[kUnits][4];
  philox_words<kUnits>(s, unit * kBlocks, word);
  const __m512i lows = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  const __m512i low =
      _mm512_set1_epi32(static_cast<std::int32_t>(static_cast<std::uint32_t>(least)));
  for (int u = 0; u < kUnits; ++u) {
    bits[u] = 0;
    for (int half = 0; half < 2; ++half) {
      const __m512i words = _mm512_permutex2var_epi32((__m512i)word[u][2 * half], lows,
                                                      (__m512i)word[u][2 * half + 1]);
      const __mmask16 kept = _mm512_cmpge_epu32_mask(words, low);
      bits[u] |= static_cast<std::uint32_t>(kept) << (16 * half);
    }
    if (least >> 32) bits[u] = 0;
  }
}
#endif

// For each of the 32 words all ones where it is at least `least` (at most 2^32), else zeros, in
// lanes as wide as I.
template <class I>
HOTLOOP_SIMD void mask_unit(const Stream& s, std::uint64_t unit, std::uint64_t least, I* out) {
  typedef simd::Int<double>::type S64;
  typedef std::int32_t I32 __attribute__((vector_size(4 * kLanes)));
  for (int group = 0; group < kGroups; ++group) {
    U64 words[1][4], (&word)[4] = words[0];
    philox_words<1>(s, unit * kBlocks + static_cast<std::uint64_t>(group * kLanes), words);
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

HOTLOOP_SIMD void normal_unit(const Stream& s, std::uint64_t unit, float* out) {
  constexpr int kPairs = 2 * kBlocks;
  float u1[kPairs], u2[kPairs];
  for (int group = 0; group < kGroups; ++group) {
    U64 words[1][4], (&word)[4] = words[0];
    philox_words<1>(s, unit * kBlocks + static_cast<std::uint64_t>(group * kLanes), words);
    for (int half = 0; half < 2; ++half) {
      const int at = half * kBlocks + group * kLanes;
      put(u1 + at, (top_bits<32>(word[2 * half]) + 0.5) * 0x1p-32);
      put(u2 + at, top_bits<24>(word[2 * half + 1]) * 0x1p-24);
    }
  }
  box_muller(u1, u2, kPairs, out);
}
HOTLOOP_SIMD void normal_unit(const Stream& s, std::uint64_t unit, double* out) {
  for (int part = 0; part < 2; ++part) {
    double u1[kBlocks], u2[kBlocks];
    for (int group = 0; group < kGroups; ++group) {
      U64 words[1][4], (&word)[4] = words[0];
      const std::uint64_t chunk = 2 * unit + static_cast<std::uint64_t>(part);
      philox_words<1>(s, chunk * kBlocks + static_cast<std::uint64_t>(group * kLanes), words);
      put(u1 + group * kLanes, fraction(word[0], word[1]) + 0x1p-54);
      put(u2 + group * kLanes, fraction(word[2], word[3]));
    }
    box_muller(u1, u2, kBlocks, out + part * 2 * kBlocks);
  }
}

}  // namespace hotloop::HOTLOOP_LEVEL::random
