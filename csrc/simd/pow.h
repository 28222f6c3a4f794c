// pow over the vector contract, with the special cases of C99 (Annex F).
//
// float32 is exp(y log x) in float64: 0.51 ULP. float64 takes the logarithm in two parts, 65 bits
// of it, since y may multiply its error by 745: at most 2 ULP (tests/test_elementwise.py). The
// logarithm is 2 s + s z (2/3 + 2/5 z + ...) with s = f / (2 + f), z = s^2, as in fdlibm (e_pow.c).
#pragma once

#include "simd/math.h"
#include "simd/wide.h"

namespace hotloop::HOTLOOP_LEVEL::simd {

// high + low, |low| at most half an ULP of high.
struct Pair {
  Vec<double> high, low;
};
HOTLOOP_SIMD Pair fast_sum(Vec<double> a, Vec<double> b) {  // |a| >= |b| or a == 0
  const Vec<double> sum = a + b;
  return {sum, b - (sum - a)};
}
HOTLOOP_SIMD Pair exact_product(Vec<double> a, Vec<double> b) {
  const Vec<double> product = a * b;
  if constexpr (kFusedFma) return {product, fma(a, b, -product)};
  const Vec<double> factor = set1<double>(134217729.0);  // Dekker: halves of 26 bits
  const Vec<double> fa = factor * a, fb = factor * b;
  const Vec<double> a1 = fa - (fa - a), b1 = fb - (fb - b);
  const Vec<double> a2 = a - a1, b2 = b - b1;
  return {product, ((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2};
}

// log(x) for positive finite x.
HOTLOOP_SIMD Pair log_pair(Vec<double> x) {
  const auto c = [](double value) { return set1<double>(value); };
  const Mask<double> small = x < c(0x1p-1022);
  Split<double> part = split_exponent(select(small, x * c(0x1p54), x));
  part.k = part.k - select(small, c(54), zero<double>());
  const Vec<double> f = part.m - c(1);
  const Vec<double> d = c(2) + f, d_low = f - (d - c(2));
  const Vec<double> s = f / d;
  const Pair back = exact_product(s, d);
  const Vec<double> s_low = (((f - back.high) - back.low) - s * d_low) / d;
  Pair z = exact_product(s, s);
  z.low = z.low + c(2) * s * s_low;
  const Vec<double> tail =
      z.high * horner(z.high, 2.0 / 5, 2.0 / 7, 2.0 / 9, 2.0 / 11, 2.0 / 13, 2.0 / 15, 2.0 / 17,
                      2.0 / 19, 2.0 / 21, 2.0 / 23, 2.0 / 25);
  Pair p = fast_sum(c(0.66666666666666662966), tail);
  p.low = p.low + c(3.7007434154171886e-17) + z.low * c(0.4);
  Pair t = exact_product(z.high, p.high);
  t.low = t.low + (z.high * p.low + z.low * p.high);
  Pair w = exact_product(s, t.high);
  w.low = w.low + (s * t.low + s_low * t.high);
  const Pair first = fast_sum(part.k * c(6.93147180369123816490e-01), c(2) * s);
  const Pair second = fast_sum(first.high, w.high);
  const Vec<double> low =
      (part.k * c(1.90821492927058770002e-10) + c(2) * s_low + w.low) + (first.low + second.low);
  return fast_sum(second.high, low);
}

// x^y for x >= 0 or NaN.
HOTLOOP_SIMD Vec<double> pow_of_positive(Vec<double> x, Vec<double> y) {
  const auto c = [](double value) { return set1<double>(value); };
  const Mask<double> edge = (x == zero<double>()) | (x == infinity<double>()) | is_nan(x);
  const Pair log_x = log_pair(x);
  const Vec<double> at_edge = select(x == zero<double>(), -infinity<double>(), x);
  const Vec<double> power = y * select(edge, at_edge, log_x.high);
  Vec<double> rest = exact_product(y, log_x.high).low + y * log_x.low;
  rest = select(edge | !(abs(power) < c(800)), zero<double>(), rest);
  const Vec<double> near = max_or_b(c(-746), min_or_b(c(710), power));
  const Reduced<double> part = reduce_by_ln2(near);
  const Vec<double> low = part.low - rest;
  const Vec<double> r = part.high - low;
  const Vec<double> t = fma(exp_remainder(r) * r, r, (part.high - r) - low) + r;
  return scale(t + c(1), part.n);
}

template <class T>
HOTLOOP_SIMD Vec<T> pow(Vec<T> x, Vec<T> y) {
  const Vec<T> one = set1<T>(T(1)), size = abs(x), half = y * set1<T>(T(0.5));
  Vec<T> result;
  if constexpr (is_float<T>) {
    result = narrow(exp(widen_low(y) * log(widen_low(size))),
                    exp(widen_high(y) * log(widen_high(size))));
  } else {
    result = pow_of_positive(size, y);
  }
  const Mask<T> whole = floor(y) == y;
  const Mask<T> odd = whole & !(floor(half) == half);
  result = select(odd, copysign(result, x), result);
  const Mask<T> no_number = (x < zero<T>()) & !whole & (size < infinity<T>());
  result = select(no_number, quiet_nan<T>(), result);
  const Mask<T> turns = (size == one) & (abs(y) == infinity<T>());
  return select((x == one) | (y == zero<T>()) | turns, one, result);
}

}  // namespace hotloop::HOTLOOP_LEVEL::simd
