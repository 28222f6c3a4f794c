// pow over the vector contract, with the special cases of C99 (Annex F).
//
// float32 is 2^(y log2 x) in float64, to 34 bits by minimax polynomials of our own: 0.51 ULP. A
// vector of ordinary numbers leaves the special cases out: 1 M f32, 1.6 to 0.83 ms. float64
// takes the logarithm in two parts, 65 bits of it, since y may multiply its error by 745: at most 2
// ULP (tests/test_elementwise.py). The logarithm is 2 s + s z (2/3 + 2/5 z + ...) with s = f / (2 +
// f), z = s^2, as in fdlibm (e_pow.c).
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

// a + b x: the pieces of a polynomial by Estrin.
HOTLOOP_SIMD Vec<double> line(Vec<double> x, double a, double b) {
  return fma(set1<double>(b), x, set1<double>(a));
}

// log2(x) for positive finite x that is a float32, off by at most 2^-44 of it.
HOTLOOP_SIMD Vec<double> log2_of_float(Vec<double> x) {
  const Split<double> part = split_exponent(x);
  const Vec<double> f = part.m - set1<double>(1), s = f / (set1<double>(1) + part.m);
  const Vec<double> z = s * s, z2 = z * z;
  const Vec<double> end = fma(line(z, 0.31990561540834624766, 0.28290139418567023241), z2,
                              line(z, 0.57707794234751129057, 0.41220925424588542822));
  return fma(s, fma(end, z2, line(z, 2.8853900817778499676, 0.96179669411339848769)), part.k);
}

// 2^x, off by at most 2^-34 of it; as a float32, 0 or infinity beyond +-200.
HOTLOOP_SIMD Vec<double> exp2_of_float(Vec<double> x) {
  const Vec<double> magic =
      set1<double>(6755399441055744.0);  // 1.5 * 2^52: the sum's last bit is 1
  const Vec<double> t = max_or_b(set1<double>(-200), min_or_b(set1<double>(200), x));
  const Vec<double> sum = t + magic, r = t - (sum - magic);
  const Vec<double> r2 = r * r;
  const Vec<double> start = fma(line(r, 0.24022651198694958111, 0.055504103525266950075), r2,
                                line(r, 0.99999999996162698541, 0.69314718072878693426));
  const Vec<double> end = fma(line(r, 0.00015469315583637582631, 0.000015201834091571686854), r2,
                              line(r, 0.0096180271794950489498, 0.0013333923134839439616));
  const Vec<double> power = fma(end, r2 * r2, start);
  return as_vec<double>(as_int(power) + shift_left<52>(as_int(sum)));
}

// size^y for positive finite numbers.
HOTLOOP_SIMD Vec<float> pow_of_size(Vec<float> size, Vec<float> y) {
  return narrow(exp2_of_float(widen_low(y) * log2_of_float(widen_low(size))),
                exp2_of_float(widen_high(y) * log2_of_float(widen_high(size))));
}

template <class T>
HOTLOOP_SIMD Vec<T> pow(Vec<T> x, Vec<T> y) {
  const Vec<T> one = set1<T>(T(1)), none = zero<T>(), far = infinity<T>();
  const Vec<T> size = abs(x), half = y * set1<T>(T(0.5));
  Vec<T> result;
  if constexpr (is_float<T>) {
    result = pow_of_size(size, y);
    if (!any(!((none < x) & (x < far) & (abs(y) < far)))) return result;
    const Mask<T> falls = y < none;
    result = select(size == none, select(falls, far, none), result);
    result = select(size == far, select(falls, none, far), result);
    result = select(is_nan(x) | is_nan(y), x + y, result);
  } else {
    result = pow_of_positive(size, y);
  }
  const Mask<T> whole = floor(y) == y;
  const Mask<T> odd = whole & !(floor(half) == half);
  result = select(odd, copysign(result, x), result);
  const Mask<T> no_number = (x < none) & !whole & (size < far);
  result = select(no_number, quiet_nan<T>(), result);
  const Mask<T> turns = (size == one) & (abs(y) == far);
  return select((x == one) | (y == none) | turns, one, result);
}

}  // namespace hotloop::HOTLOOP_LEVEL::simd
