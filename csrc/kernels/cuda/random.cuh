// Philox words and the numbers made of them, bit for bit as engines/random.h makes them on the CPU:
// the same steps, with every rounding written out, so that nvcc fuses nothing on its own.
//
// A thread makes one block of four words. Words lie as on the CPU: word w of block b of a chunk of
// eight blocks is number 8 w + b, so a warp writes whole sectors of 32 bytes.
#pragma once

#include "kernels/cuda/row.cuh"
#include "kernels/random.h"
#include "math/philox.h"

namespace hotloop::cuda {

inline constexpr int kPhiloxBlocks = 8;  // of a chunk

__device__ __forceinline__ float times(float a, float b) {
  return __fmul_rn(a, b);
}
__device__ __forceinline__ double times(double a, double b) {
  return __dmul_rn(a, b);
}
__device__ __forceinline__ float plus(float a, float b) {
  return __fadd_rn(a, b);
}
__device__ __forceinline__ double plus(double a, double b) {
  return __dadd_rn(a, b);
}

// 53 random bits, in [0, 1).
__device__ __forceinline__ double fraction(std::uint32_t high, std::uint32_t low) {
  const double upper = static_cast<double>(high >> 5), lower = static_cast<double>(low >> 6);
  return times(fma_of(upper, 67108864.0, lower), 0x1p-53);  // all of it exact
}
__device__ __forceinline__ float fraction24(std::uint32_t word) {
  return times(static_cast<float>(word >> 8), 0x1p-24f);
}

// c[0] + z (c[1] + z (...))
template <class T, int n>
__device__ __forceinline__ T polynomial(T z, const double (&c)[n]) {
  T y = static_cast<T>(c[n - 1]);
  HOTLOOP_UNROLL_ALL
  for (int k = n - 2; k >= 0; --k) y = fma_of(y, z, static_cast<T>(c[k]));
  return y;
}

__device__ __forceinline__ std::int32_t bits_of(float x) {
  return __float_as_int(x);
}
__device__ __forceinline__ std::int64_t bits_of(double x) {
  return __double_as_longlong(x);
}
__device__ __forceinline__ float from_bits(std::int32_t x) {
  return __int_as_float(x);
}
__device__ __forceinline__ double from_bits(std::int64_t x) {
  return __longlong_as_double(x);
}

// log of a positive normal number (simd::log).
template <class T>
__device__ __forceinline__ T shared_log(T x) {
  using I = decltype(bits_of(x));
  constexpr bool single = is_float<T>;
  constexpr int bits = single ? 23 : 52;
  constexpr I one = static_cast<I>(single ? 0x3f800000 : 0x3ff0000000000000);
  constexpr I root = static_cast<I>(single ? 0x3f3504f3 : 0x3fe6a09e667f3bcd);
  const I shifted = bits_of(x) + (one - root);
  const T k = static_cast<T>((shifted >> bits) - (one >> bits));
  const T m = from_bits((shifted & ((I{1} << bits) - 1)) + root);
  const T f = plus(m, T(-1));
  const T s = f / plus(T(2), f);
  const T z = times(s, s), square = times(times(T(0.5), f), f);
  T series;
  if constexpr (single) {
    series = polynomial<T>(z, {0.66666662693, 0.40000972152, 0.28498786688, 0.24279078841});
  } else {
    series = polynomial<T>(
        z, {6.666666666666735130e-01, 3.999999999940941908e-01, 2.857142874366239149e-01,
            2.222219843214978396e-01, 1.818357216161805012e-01, 1.531383769920937332e-01,
            1.479819860511658591e-01});
  }
  const T product = times(s, fma_of(series, z, square));
  const T upper = times(k, static_cast<T>(single ? 6.9313812256e-01 : 6.93147180369123816490e-01));
  const T low =
      fma_of(k, static_cast<T>(single ? 9.0580006145e-06 : 1.90821492927058770002e-10), product);
  return plus(plus(plus(low, -square), f), upper);
}

template <class T>
struct Two {
  T first, second;
};

// Box and Muller: r cos and r sin of independent r = sqrt(-2 log u1), u1 in (0, 1], and u2 turns.
template <class T>
__device__ __forceinline__ Two<T> box_muller(T u1, T u2) {
  const T radius = sqrt(Lane<T>{times(T(-2), shared_log(u1))}).value;
  const T quarters = round(Lane<T>{times(T(4), u2)}).value;
  const T angle = times(T(6.283185307179586476925), fma_of(quarters, T(-0.25), u2));
  const T square = times(angle, angle);
  T sine, cosine;
  if constexpr (is_float<T>) {
    sine = polynomial<T>(square, {-1.0 / 6, 1.0 / 120, -1.0 / 5040, 1.0 / 362880});
    cosine = polynomial<T>(square, {-1.0 / 2, 1.0 / 24, -1.0 / 720, 1.0 / 40320, -1.0 / 3628800});
  } else {
    sine = polynomial<T>(square, {-1.0 / 6, 1.0 / 120, -1.0 / 5040, 1.0 / 362880, -1.0 / 39916800,
                                  1.0 / 6227020800, -1.0 / 1307674368000, 1.0 / 355687428096000});
    cosine = polynomial<T>(
        square, {-1.0 / 2, 1.0 / 24, -1.0 / 720, 1.0 / 40320, -1.0 / 3628800, 1.0 / 479001600,
                 -1.0 / 87178291200, 1.0 / 20922789888000, -1.0 / 6402373705728000});
  }
  sine = fma_of(times(sine, square), angle, angle);
  cosine = fma_of(cosine, square, T(1));
  const int quadrant = static_cast<int>(quarters);
  const T s = quadrant % 2 == 0 ? sine : cosine, c = quadrant % 2 == 0 ? cosine : sine;
  return {times(radius, (quadrant + 1) / 2 % 2 == 0 ? c : -c),
          times(radius, quadrant / 2 % 2 == 0 ? s : -s)};
}

// The words of this thread's block.
template <class Args>
__device__ __forceinline__ math::PhiloxBlock words_at(const Args& args, std::int64_t block) {
  RandomDraws from{args.stream, args.seed};
  if (args.draws) {
    from.stream += args.draws->stream;
    from.seed = args.draws->seed;
  }
  return math::philox_at(from.seed, from.stream, static_cast<std::uint64_t>(block));
}

}  // namespace hotloop::cuda
