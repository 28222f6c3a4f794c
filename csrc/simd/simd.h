// The vector contract: what kernels may ask of a vector unit, in the words of the level that this
// file is compiled for. Loops are written over Vec<T>, Int<T> and Mask<T>, never over a literal
// lane count; the tail of a row goes through load_n/store_n, which touch no memory beyond the n
// elements.
//
//   Vec<T>   vector_size(kBytes) of float or double        Int<T>   the same lanes as int32 or
//   int64 Mask<T>  one truth value per lane (k-register under AVX-512, all-ones lanes elsewhere)
//
// Use full loads in the main loop and masked ones for the tail only: masked streams of memory ran
// at a fifth of the speed. Operators, bit operations and reductions are the compiler's vector
// extensions and live here; what needs instructions by name lives in vec_<level>.h.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(HOTLOOP_LEVEL_AVX2) || defined(HOTLOOP_LEVEL_AVX512) || \
    defined(HOTLOOP_LEVEL_AVX512BF16)
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push  // gcc's own headers read _mm512_undefined_ps() (gcc bug 105593)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
#elif defined(__SSE4_1__)
#include <smmintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#endif

#ifndef HOTLOOP_LEVEL
#error "simd/simd.h belongs to kernels that are compiled for a level (HOTLOOP_LEVEL)"
#endif

// Internal linkage and inlined even without optimization's consent: no level leaks through the
// linker.
#define HOTLOOP_SIMD [[gnu::always_inline]] static inline

// Before a loop of fixed length over registers (accumulators): without it gcc leaves them in
// memory.
#if defined(__clang__)
#define HOTLOOP_UNROLL _Pragma("unroll")
#else
#define HOTLOOP_UNROLL _Pragma("GCC unroll 32")
#endif

namespace hotloop::HOTLOOP_LEVEL::simd {

#if defined(HOTLOOP_LEVEL_AVX512) || defined(HOTLOOP_LEVEL_AVX512BF16)
constexpr int kBytes = 64;
constexpr bool kFusedFma = true;
#elif defined(HOTLOOP_LEVEL_AVX2)
constexpr int kBytes = 32;
constexpr bool kFusedFma = true;
#else
constexpr int kBytes = 16;
constexpr bool kFusedFma = false;  // fma(a, b, c) rounds twice
#endif

template <class T>
struct Vec;
template <class T>
struct Int;
template <class T>
struct Mask;

template <>
struct Vec<float> {
  typedef float type __attribute__((vector_size(kBytes)));
  static constexpr int lanes = kBytes / 4;
  type v;
};
template <>
struct Vec<double> {
  typedef double type __attribute__((vector_size(kBytes)));
  static constexpr int lanes = kBytes / 8;
  type v;
};
template <>
struct Int<float> {
  typedef std::int32_t scalar;
  typedef std::uint32_t uscalar;
  typedef scalar type __attribute__((vector_size(kBytes)));
  typedef uscalar utype __attribute__((vector_size(kBytes)));
  type v;
};
template <>
struct Int<double> {
  typedef std::int64_t scalar;
  typedef std::uint64_t uscalar;
  typedef scalar type __attribute__((vector_size(kBytes)));
  typedef uscalar utype __attribute__((vector_size(kBytes)));
  type v;
};

template <class T>
static constexpr bool is_float = sizeof(T) == 4;

// ---- memory, whole vectors ---------------------------------------------------------------------

template <class T>
HOTLOOP_SIMD Vec<T> load(const T* p) {
  Vec<T> r;
  __builtin_memcpy(&r.v, p, kBytes);
  return r;
}
template <class T>
HOTLOOP_SIMD void store(T* p, Vec<T> a) {
  __builtin_memcpy(p, &a.v, kBytes);
}
HOTLOOP_SIMD void prefetch(const void* p) {
  __builtin_prefetch(p);
}

// ---- constants ---------------------------------------------------------------------------------

template <class T>
HOTLOOP_SIMD Vec<T> zero() {
  return {typename Vec<T>::type{}};
}
template <class T>
HOTLOOP_SIMD Vec<T> set1(T x) {
  return {
      x -
      typename Vec<T>::type{}};  // the compilers know this as a broadcast; x - 0 keeps -0 and NaN
}
// The constant c in the type of another vector: how math/ spells its numbers.
template <class T>
HOTLOOP_SIMD Vec<T> splat(Vec<T>, double c) {
  return set1<T>(static_cast<T>(c));
}
template <class T>
HOTLOOP_SIMD Int<T> set1_int(typename Int<T>::scalar x) {
  return {x - typename Int<T>::type{}};
}
template <class T>
HOTLOOP_SIMD Int<T> iota_int() {
  Int<T> r;
  for (int i = 0; i < Vec<T>::lanes; ++i) r.v[i] = i;
  return r;
}
template <class T>
HOTLOOP_SIMD Vec<T> iota() {
  Vec<T> r;
  for (int i = 0; i < Vec<T>::lanes; ++i) r.v[i] = static_cast<T>(i);
  return r;
}

// ---- arithmetic --------------------------------------------------------------------------------

template <class T>
HOTLOOP_SIMD Vec<T> operator+(Vec<T> a, Vec<T> b) {
  return {a.v + b.v};
}
template <class T>
HOTLOOP_SIMD Vec<T> operator-(Vec<T> a, Vec<T> b) {
  return {a.v - b.v};
}
template <class T>
HOTLOOP_SIMD Vec<T> operator*(Vec<T> a, Vec<T> b) {
  return {a.v * b.v};
}
template <class T>
HOTLOOP_SIMD Vec<T> operator/(Vec<T> a, Vec<T> b) {
  return {a.v / b.v};
}
template <class T>
HOTLOOP_SIMD Vec<T> operator-(Vec<T> a) {
  return {-a.v};
}

// ---- bits --------------------------------------------------------------------------------------

template <class T>
HOTLOOP_SIMD Int<T> as_int(Vec<T> a) {
  return {(typename Int<T>::type)a.v};
}
template <class T>
HOTLOOP_SIMD Vec<T> as_vec(Int<T> a) {
  return {(typename Vec<T>::type)a.v};
}
// 2^n for whole n whose power is a normal number: the sum with 1.5 * 2^(mantissa bits) + bias holds
// the exponent field in its low bits.
template <class T>
HOTLOOP_SIMD Vec<T> power_of_two(Vec<T> n) {
  typedef typename Int<T>::utype U;
  const Vec<T> magic =
      set1<T>(is_float<T> ? T(12582912.0 + 127.0) : T(6755399441055744.0 + 1023.0));
  return {(typename Vec<T>::type)((U)(n.v + magic.v) << (is_float<T> ? 23 : 52))};
}
template <class T>
HOTLOOP_SIMD Int<T> operator+(Int<T> a, Int<T> b) {
  typedef typename Int<T>::utype U;  // wraps around instead of being undefined
  return {(typename Int<T>::type)((U)a.v + (U)b.v)};
}
template <class T>
HOTLOOP_SIMD Int<T> operator-(Int<T> a, Int<T> b) {
  typedef typename Int<T>::utype U;
  return {(typename Int<T>::type)((U)a.v - (U)b.v)};
}
template <class T>
HOTLOOP_SIMD Int<T> operator&(Int<T> a, Int<T> b) {
  return {a.v & b.v};
}
template <class T>
HOTLOOP_SIMD Int<T> operator|(Int<T> a, Int<T> b) {
  return {a.v | b.v};
}
template <class T>
HOTLOOP_SIMD Int<T> operator^(Int<T> a, Int<T> b) {
  return {a.v ^ b.v};
}
template <class T>
HOTLOOP_SIMD Int<T> operator~(Int<T> a) {
  return {~a.v};
}
template <int Bits, class T>
HOTLOOP_SIMD Int<T> shift_left(Int<T> a) {
  typedef typename Int<T>::utype U;
  return {(typename Int<T>::type)((U)a.v << Bits)};
}
template <int Bits, class T>
HOTLOOP_SIMD Int<T> shift_right(Int<T> a) {  // fills with zeros
  typedef typename Int<T>::utype U;
  return {(typename Int<T>::type)((U)a.v >> Bits)};
}
template <int Bits, class T>
HOTLOOP_SIMD Int<T> shift_right_signed(Int<T> a) {
  return {a.v >> Bits};
}
template <class T>
HOTLOOP_SIMD Int<T> sign_bit() {
  typedef typename Int<T>::uscalar U;
  return set1_int<T>(static_cast<typename Int<T>::scalar>(U(1) << (8 * sizeof(T) - 1)));
}
template <class T>
HOTLOOP_SIMD Vec<T> abs(Vec<T> a) {
  return as_vec<T>(as_int(a) & ~sign_bit<T>());
}
template <class T>
HOTLOOP_SIMD Vec<T> copysign(Vec<T> magnitude, Vec<T> sign) {
  return as_vec<T>((as_int(magnitude) & ~sign_bit<T>()) | (as_int(sign) & sign_bit<T>()));
}

}  // namespace hotloop::HOTLOOP_LEVEL::simd

#if defined(HOTLOOP_LEVEL_AVX512) || defined(HOTLOOP_LEVEL_AVX512BF16)
#include "simd/vec_avx512.h"  // IWYU pragma: export
#elif defined(HOTLOOP_LEVEL_AVX2)
#include "simd/vec_avx2.h"  // IWYU pragma: export
#else
#include "simd/vec_generic.h"  // IWYU pragma: export
#endif

namespace hotloop::HOTLOOP_LEVEL::simd {

template <class T>
HOTLOOP_SIMD Mask<T> operator>(Vec<T> a, Vec<T> b) {
  return b < a;
}
template <class T>
HOTLOOP_SIMD Mask<T> operator>=(Vec<T> a, Vec<T> b) {
  return b <= a;
}
template <class T>
HOTLOOP_SIMD bool any(Mask<T> a) {
  return to_bits(a) != 0;
}
template <class T>
HOTLOOP_SIMD bool all(Mask<T> a) {
  return to_bits(a) == (1u << Vec<T>::lanes) - 1u;
}

// The whole numbers in a (rounded before, below 2^22 and 2^51 in size) as integers, and back: the
// sum with 1.5 * 2^(mantissa bits) holds the integer in its low bits.
template <class T>
HOTLOOP_SIMD Int<T> to_int(Vec<T> a) {
  const Vec<T> magic = set1<T>(is_float<T> ? T(12582912.0) : T(6755399441055744.0));
  return as_int(a + magic) - as_int(magic);
}
template <class T>
HOTLOOP_SIMD Vec<T> to_vec(Int<T> a) {
  const Vec<T> magic = set1<T>(is_float<T> ? T(12582912.0) : T(6755399441055744.0));
  return as_vec<T>(a + as_int(magic)) - magic;
}

// Whole vectors when n allows it: for loops whose last step is the only short one.
template <class T>
HOTLOOP_SIMD Vec<T> load_upto(const T* p, std::int64_t n) {
  return n >= Vec<T>::lanes ? load(p) : load_n(p, static_cast<int>(n));
}
template <class T>
HOTLOOP_SIMD void store_upto(T* p, Vec<T> a, std::int64_t n) {
  if (n >= Vec<T>::lanes) {
    store(p, a);
  } else {
    store_n(p, a, static_cast<int>(n));
  }
}

// ---- reductions over the lanes
// ----------------------------------------------------------------------- Halves are combined until
// one lane is left: an order that depends on the level alone.

template <int Step, class T>
HOTLOOP_SIMD Vec<T> swap_lanes(Vec<T> a) {  // lane i takes lane i ^ Step
  constexpr int n = Vec<T>::lanes;
  if constexpr (n == 16 && Step == 8) {
    return {
        __builtin_shufflevector(a.v, a.v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7)};
  } else if constexpr (n == 16 && Step == 4) {
    return {
        __builtin_shufflevector(a.v, a.v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11)};
  } else if constexpr (n == 16 && Step == 2) {
    return {
        __builtin_shufflevector(a.v, a.v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13)};
  } else if constexpr (n == 16 && Step == 1) {
    return {
        __builtin_shufflevector(a.v, a.v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14)};
  } else if constexpr (n == 8 && Step == 4) {
    return {__builtin_shufflevector(a.v, a.v, 4, 5, 6, 7, 0, 1, 2, 3)};
  } else if constexpr (n == 8 && Step == 2) {
    return {__builtin_shufflevector(a.v, a.v, 2, 3, 0, 1, 6, 7, 4, 5)};
  } else if constexpr (n == 8 && Step == 1) {
    return {__builtin_shufflevector(a.v, a.v, 1, 0, 3, 2, 5, 4, 7, 6)};
  } else if constexpr (n == 4 && Step == 2) {
    return {__builtin_shufflevector(a.v, a.v, 2, 3, 0, 1)};
  } else if constexpr (n == 4 && Step == 1) {
    return {__builtin_shufflevector(a.v, a.v, 1, 0, 3, 2)};
  } else {
    static_assert(n == 2 && Step == 1);
    return {__builtin_shufflevector(a.v, a.v, 1, 0)};
  }
}

template <class T>
HOTLOOP_SIMD T reduce_add(Vec<T> a) {
  if constexpr (Vec<T>::lanes > 8) a = a + swap_lanes<8>(a);
  if constexpr (Vec<T>::lanes > 4) a = a + swap_lanes<4>(a);
  if constexpr (Vec<T>::lanes > 2) a = a + swap_lanes<2>(a);
  a = a + swap_lanes<1>(a);
  return a.v[0];
}
template <class T>
HOTLOOP_SIMD T reduce_max(Vec<T> a) {
  if constexpr (Vec<T>::lanes > 8) a = max(a, swap_lanes<8>(a));
  if constexpr (Vec<T>::lanes > 4) a = max(a, swap_lanes<4>(a));
  if constexpr (Vec<T>::lanes > 2) a = max(a, swap_lanes<2>(a));
  a = max(a, swap_lanes<1>(a));
  return a.v[0];
}
template <class T>
HOTLOOP_SIMD T reduce_min(Vec<T> a) {
  if constexpr (Vec<T>::lanes > 8) a = min(a, swap_lanes<8>(a));
  if constexpr (Vec<T>::lanes > 4) a = min(a, swap_lanes<4>(a));
  if constexpr (Vec<T>::lanes > 2) a = min(a, swap_lanes<2>(a));
  a = min(a, swap_lanes<1>(a));
  return a.v[0];
}

}  // namespace hotloop::HOTLOOP_LEVEL::simd
