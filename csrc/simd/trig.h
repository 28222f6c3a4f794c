// sin and cos over the vector contract, for arguments of any size.
//
// Up to 2^20 a multiple of pi/2 is taken off in three parts of 33, 33 and 53 bits (Cody and Waite),
// which leaves the rest as a double and what its rounding lost. float32 is computed in float64,
// from the nearest zero: one polynomial instead of two. Beyond, lane by lane, the C library, which
// knows pi to 1200 bits. At most 0.51 ULP in float32 and 1 in float64 (tests/test_elementwise.py).
// Polynomials: fdlibm (k_sin.c, k_cos.c).
#pragma once

#include "simd/wide.h"

namespace hotloop::HOTLOOP_LEVEL::simd {

// sin (Quarters 0) or cos (Quarters 1) of x, |x| <= 2^20, to what float32 needs: the distance from
// the nearest zero, a multiple of pi or a half more of it, by one odd polynomial (ours, minimax).
template <int Quarters>
HOTLOOP_SIMD Vec<double> sine_of_float(Vec<double> x) {
  const auto c = [](double value) { return set1<double>(value); };
  const Vec<double> magic = c(6755399441055744.0);  // 1.5 * 2^52: the sum's last bit is 1
  const Vec<double> turns = x * c(0.31830988618379067154);
  const Vec<double> sum = (Quarters == 0 ? turns : turns - c(0.5)) + magic;
  Vec<double> n = sum - magic;
  if constexpr (Quarters == 1) n = n + c(0.5);
  const Vec<double> r = fnma(n, c(1.2154201013012384e-10), fnma(n, c(3.14159265346825122833), x));
  const Vec<double> z = r * r;
  const Vec<double> y =
      fma(r * z,
          horner(z, -0.16666666639141382375, 0.0083333314303545021595, -0.00019840891232324763931,
                 2.7525907705714324827e-6, -2.3890051806217251052e-8),
          r);
  // Every other zero is passed downwards; cosine's first one is.
  const Int<double> odd = as_int(sum) + set1_int<double>(Quarters);
  return as_vec<double>(as_int(y) ^ shift_left<63>(odd));
}

// The same to float64's accuracy: multiples of pi/2, sine or cosine of the rest.
template <int Quarters>
HOTLOOP_SIMD Vec<double> sine_near(Vec<double> x) {
  const auto c = [](double value) { return set1<double>(value); };
  const Vec<double> n = round(x * c(6.36619772367581382433e-01));
  Vec<double> r = x - n * c(1.57079632673412561417e+00);
  const Vec<double> part = n * c(6.07710050630396597660e-11);
  const Vec<double> first = r - part;
  const Vec<double> back = r - first;  // two-sum: what first lost
  const Vec<double> lost = (r - (first + back)) + (back - part);
  const Vec<double> rest = n * c(2.02226624879595063154e-21) - lost;
  r = first - rest;
  const Vec<double> low = (first - r) - rest;
  const Vec<double> z = r * r, v = z * r;
  const Vec<double> p =
      horner(z, 8.33333333332248946124e-03, -1.98412698298579493134e-04, 2.75573137070700676789e-06,
             -2.50507602534068634195e-08, 1.58969099521155010221e-10);
  const Vec<double> sine =
      r - ((z * (c(0.5) * low - v * p) - low) - v * c(-1.66666666666666324348e-01));
  const Vec<double> q = z * horner(z, 4.16666666666666019037e-02, -1.38888888888741095749e-03,
                                   2.48015872894767294178e-05, -2.75573143513906633035e-07,
                                   2.08757232129817482790e-09, -1.13596475577881948265e-11);
  const Vec<double> half = c(0.5) * z, w = c(1.0) - half;
  const Vec<double> cosine = w + (((c(1.0) - w) - half) + (z * q - r * low));
  const Int<double> quarter = to_int(n) + set1_int<double>(Quarters);
  const Mask<double> even = (quarter & set1_int<double>(1)) == set1_int<double>(0);
  const Int<double> sign = shift_left<62>(quarter & set1_int<double>(2));
  return as_vec<double>(as_int(select(even, sine, cosine)) ^ sign);
}

template <int Quarters, class T>
[[gnu::noinline]] [[maybe_unused]] static Vec<T> sine_far(Vec<T> x, Vec<T> y) {
  for (int i = 0; i < Vec<T>::lanes; ++i) {
    const double at = static_cast<double>(x.v[i]);
    // NaN stays what it is, whoever its neighbours are.
    if (!(at >= 0x1p20 || at <= -0x1p20)) continue;
    y.v[i] = static_cast<T>(Quarters == 0 ? __builtin_sin(at) : __builtin_cos(at));
  }
  return y;
}

template <int Quarters, class T>
HOTLOOP_SIMD Vec<T> sine(Vec<T> x) {
  Vec<T> y;
  if constexpr (is_float<T>) {
    y = narrow(sine_of_float<Quarters>(widen_low(x)), sine_of_float<Quarters>(widen_high(x)));
  } else {
    y = sine_near<Quarters>(x);
  }
  if constexpr (Quarters == 0) {  // -0, and what z * r would flush
    y = select(abs(x) < set1<T>(T(is_float<T> ? 0x1p-13 : 0x1p-27)), x, y);
  }
  if (any(abs(x) >= set1<T>(T(0x1p20)))) y = sine_far<Quarters>(x, y);
  return y;
}

template <class T>
HOTLOOP_SIMD Vec<T> sin(Vec<T> x) {
  return sine<0>(x);
}
template <class T>
HOTLOOP_SIMD Vec<T> cos(Vec<T> x) {
  return sine<1>(x);
}

}  // namespace hotloop::HOTLOOP_LEVEL::simd
