// sin and cos over the vector contract, for arguments of any size.
//
// Up to 2^20 a multiple of pi/2 is taken off in three parts of 33, 33 and 53 bits (Cody and Waite),
// which leaves the rest as a double and, in float64, what its rounding lost; float32 is computed in
// float64. Beyond, lane by lane, the C library, which knows pi to 1200 bits. At most 0.51 ULP in
// float32 and 1 in float64 (tests/test_elementwise.py). Polynomials: fdlibm (k_sin.c, k_cos.c).
#pragma once

#include "simd/wide.h"

namespace hotloop::HOTLOOP_LEVEL::simd {

// sin (Quarters 0) or cos (Quarters 1) of x, |x| <= 2^20. Exact: to float64's accuracy instead of
// what float32 needs.
template <int Quarters, bool Exact>
HOTLOOP_SIMD Vec<double> sine_near(Vec<double> x) {
  const auto c = [](double value) { return set1<double>(value); };
  const Vec<double> n = round(x * c(6.36619772367581382433e-01));
  Vec<double> r = x - n * c(1.57079632673412561417e+00);
  Vec<double> low = zero<double>();
  if constexpr (Exact) {
    const Vec<double> part = n * c(6.07710050630396597660e-11);
    const Vec<double> first = r - part;
    const Vec<double> back = r - first;  // two-sum: what first lost
    const Vec<double> lost = (r - (first + back)) + (back - part);
    const Vec<double> rest = n * c(2.02226624879595063154e-21) - lost;
    r = first - rest;
    low = (first - r) - rest;
  } else {
    r = r - n * c(6.07710050650619224932e-11);
  }
  const Vec<double> z = r * r;
  Vec<double> sine, cosine;
  if constexpr (Exact) {
    const Vec<double> v = z * r;
    const Vec<double> p =
        horner(z, 8.33333333332248946124e-03, -1.98412698298579493134e-04,
               2.75573137070700676789e-06, -2.50507602534068634195e-08, 1.58969099521155010221e-10);
    sine = r - ((z * (c(0.5) * low - v * p) - low) - v * c(-1.66666666666666324348e-01));
    const Vec<double> q = z * horner(z, 4.16666666666666019037e-02, -1.38888888888741095749e-03,
                                     2.48015872894767294178e-05, -2.75573143513906633035e-07,
                                     2.08757232129817482790e-09, -1.13596475577881948265e-11);
    const Vec<double> half = c(0.5) * z, w = c(1.0) - half;
    cosine = w + (((c(1.0) - w) - half) + (z * q - r * low));
  } else {
    sine = fma(r * z,
               horner(z, -0.166666666416265235595, 0.0083333293858894631756,
                      -0.000198393348360966317347, 0.0000027183114939898219064),
               r);
    cosine = fma(z,
                 horner(z, -0.499999997251031003120, 0.0416666233237390631894,
                        -0.00138867637746099294692, 0.0000243904487962774090654),
                 c(1.0));
  }
  const Int<double> quarter = to_int(n) + set1_int<double>(Quarters);
  const Mask<double> even = (quarter & set1_int<double>(1)) == set1_int<double>(0);
  const Int<double> sign = shift_left<62>(quarter & set1_int<double>(2));
  return as_vec<double>(as_int(select(even, sine, cosine)) ^ sign);
}

template <int Quarters, class T>
[[gnu::noinline]] [[maybe_unused]] static Vec<T> sine_far(Vec<T> x, Vec<T> y) {
  for (int i = 0; i < Vec<T>::lanes; ++i) {
    const double at = static_cast<double>(x.v[i]);
    if (at < 0x1p20 && at > -0x1p20) continue;
    y.v[i] = static_cast<T>(Quarters == 0 ? __builtin_sin(at) : __builtin_cos(at));
  }
  return y;
}

template <int Quarters, class T>
HOTLOOP_SIMD Vec<T> sine(Vec<T> x) {
  Vec<T> y;
  if constexpr (is_float<T>) {
    y = narrow(sine_near<Quarters, false>(widen_low(x)), sine_near<Quarters, false>(widen_high(x)));
  } else {
    y = sine_near<Quarters, true>(x);
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
