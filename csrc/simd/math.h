// exp, expm1, log, log1p, tanh, erf and sigmoid over the vector contract, written once for all
// levels.
//
// Error, measured over the whole range (tests/test_simd.py): at most 2 ULP in float32, 4 in
// float64. NaN, infinities, -0 and denormals come out as IEEE 754 and C99 Annex F have it. No
// formula relies on fma rounding once, since the generic level rounds twice. Argument reduction by
// Cody and Waite; log after fdlibm (e_log.c, s_log1p.c); the other polynomials are minimax fits of
// our own (Lawson).
#pragma once

#include "simd/simd.h"

namespace hotloop::HOTLOOP_LEVEL::simd {

// c0 + c1 x + c2 x^2 + ...
template <class T, class... Rest>
HOTLOOP_SIMD Vec<T> horner(Vec<T> x, double c0, Rest... rest) {
  if constexpr (sizeof...(rest) == 0) {
    return set1<T>(static_cast<T>(c0));
  } else {
    return fma(horner(x, rest...), x, set1<T>(static_cast<T>(c0)));
  }
}

template <class T>
HOTLOOP_SIMD Vec<T> infinity() {
  return set1<T>(static_cast<T>(__builtin_inf()));
}
template <class T>
HOTLOOP_SIMD Vec<T> quiet_nan() {
  return set1<T>(static_cast<T>(__builtin_nan("")));
}

// x = n ln2 + high - low with |high - low| <= ln2 / 2. The upper part of ln2 has so many trailing
// zeros that n times it is exact.
template <class T>
struct Reduced {
  Vec<T> n, high, low;
};
template <class T>
HOTLOOP_SIMD Reduced<T> reduce_by_ln2(Vec<T> x) {
  constexpr double upper = is_float<T> ? 0.693359375 : 6.93147180369123816490e-01;
  constexpr double lower = is_float<T> ? -2.12194440e-4 : 1.90821492927058770002e-10;
  const Vec<T> n = round(x * set1<T>(static_cast<T>(1.44269504088896340736)));
  return {n, fnma(n, set1<T>(static_cast<T>(upper)), x), n * set1<T>(static_cast<T>(lower))};
}

// (exp(r) - 1 - r) / r^2 for |r| <= ln2 / 2
template <class T>
HOTLOOP_SIMD Vec<T> exp_remainder(Vec<T> r) {
  if constexpr (is_float<T>) {
    return horner(r, 0.50000000785830479, 0.1666666684078013258, 0.04166626796127861153,
                  0.008333269057886614701, 0.001394619914334050296, 0.0001991580454979964329);
  } else {
    return horner(r, 0.5, 0.16666666666666684, 0.04166666666666672368, 0.008333333333316609237,
                  0.001388888888885876062, 0.0001984126989740035103, 0.00002480158737316307736,
                  2.75572338840909254e-6, 2.755723382016655775e-7, 2.511236492392662669e-8,
                  2.092681147594919091e-9);
  }
}

template <bool Careful, class T>
HOTLOOP_SIMD Vec<T> exp_rounded(Vec<T> x) {
  // Beyond these the result is infinite or rounds to zero; NaN passes (b of min_or_b).
  const Vec<T> most = set1<T>(T(is_float<T> ? 89.0 : 710.0));
  const Vec<T> least = set1<T>(T(is_float<T> ? -104.0 : -746.0));
  const Reduced<T> part = reduce_by_ln2(max_or_b(least, min_or_b(most, x)));
  const Vec<T> r = part.high - part.low;
  Vec<T> t = exp_remainder(r) * r;
  if constexpr (Careful) {  // 0.75 ULP instead of 0.98, for two additions
    t = fma(t, r, (part.high - r) - part.low) + r;
  } else {
    t = fma(t, r, r);
  }
  return scale(t + set1<T>(T(1)), part.n);
}
template <class T>
HOTLOOP_SIMD Vec<T> exp(Vec<T> x) {
  return exp_rounded<false>(x);
}

template <class T>
HOTLOOP_SIMD Vec<T> expm1(Vec<T> x) {
  const Vec<T> most = set1<T>(T(is_float<T> ? 89.0 : 710.0));
  const Vec<T> least = set1<T>(T(is_float<T> ? -18.0 : -40.0));
  const Reduced<T> part = reduce_by_ln2(max_or_b(least, min_or_b(most, x)));
  const Vec<T> r = part.high - part.low;
  const Vec<T> lost = (part.high - r) - part.low;
  const Vec<T> t = fma(exp_remainder(r) * r, r, lost);
  // 2^n (1 + r + t) - 1 with half the power, since 2^n itself may overflow.
  const Vec<T> s = power_of_two(part.n - set1<T>(T(1)));
  const Vec<T> half = fma(s, t, fma(s, r, s - set1<T>(T(0.5))));
  const Vec<T> tiny = set1<T>(T(is_float<T> ? 0x1p-30 : 0x1p-60));
  return select(abs(x) < tiny, x, half + half);
}

// log(m) - f for f = m - 1, m in [sqrt(1/2), sqrt(2)), as s (f^2/2 + R) - f^2/2, in two parts.
template <class T>
struct LogParts {
  Vec<T> product, square;  // s (f^2/2 + R(s)), f^2/2
};
template <class T>
HOTLOOP_SIMD LogParts<T> log_parts(Vec<T> f) {
  const Vec<T> s = f / (set1<T>(T(2)) + f);
  const Vec<T> z = s * s;
  const Vec<T> square = set1<T>(T(0.5)) * f * f;
  Vec<T> series;
  if constexpr (is_float<T>) {
    series = horner(z, 0.66666662693, 0.40000972152, 0.28498786688, 0.24279078841);
  } else {
    series = horner(z, 6.666666666666735130e-01, 3.999999999940941908e-01, 2.857142874366239149e-01,
                    2.222219843214978396e-01, 1.818357216161805012e-01, 1.531383769920937332e-01,
                    1.479819860511658591e-01);
  }
  return {s * fma(series, z, square), square};
}

// x = 2^k m with m in [sqrt(1/2), sqrt(2)), for positive normal x.
template <class T>
struct Split {
  Vec<T> k, m;
};
template <class T>
HOTLOOP_SIMD Split<T> split_exponent(Vec<T> x) {
  typedef typename Int<T>::scalar I;
  constexpr int bits = is_float<T> ? 23 : 52;
  constexpr I one = is_float<T> ? I(0x3f800000) : I(0x3ff0000000000000);
  constexpr I root = is_float<T> ? I(0x3f3504f3) : I(0x3fe6a09e667f3bcd);
  const Int<T> shifted = as_int(x) + set1_int<T>(one - root);
  const Int<T> k = shift_right<bits>(shifted) - set1_int<T>(one >> bits);
  const Int<T> m = (shifted & set1_int<T>((I(1) << bits) - 1)) + set1_int<T>(root);
  return {to_vec<T>(k), as_vec<T>(m)};
}

template <class T>
constexpr double kLn2Upper = is_float<T> ? 6.9313812256e-01 : 6.93147180369123816490e-01;
template <class T>
constexpr double kLn2Lower = is_float<T> ? 9.0580006145e-06 : 1.90821492927058770002e-10;

template <class T>
HOTLOOP_SIMD Vec<T> log(Vec<T> x) {
  const Vec<T> least_normal = set1<T>(T(is_float<T> ? 0x1p-126 : 0x1p-1022));
  const Mask<T> small = x < least_normal;
  const Vec<T> scaled = select(small, x * set1<T>(T(is_float<T> ? 0x1p25 : 0x1p54)), x);
  Split<T> part = split_exponent(scaled);
  part.k = part.k - select(small, set1<T>(T(is_float<T> ? 25 : 54)), zero<T>());
  const Vec<T> f = part.m - set1<T>(T(1));
  const LogParts<T> parts = log_parts(f);
  const Vec<T> upper = part.k * set1<T>(static_cast<T>(kLn2Upper<T>));
  const Vec<T> low = fma(part.k, set1<T>(static_cast<T>(kLn2Lower<T>)), parts.product);
  Vec<T> y = ((low - parts.square) + f) + upper;
  y = select(x == zero<T>(), -infinity<T>(), y);
  y = select(x < zero<T>(), quiet_nan<T>(), y);
  return select((x == infinity<T>()) | is_nan(x), x, y);
}

template <class T>
HOTLOOP_SIMD Vec<T> log1p(Vec<T> x) {
  const Vec<T> one = set1<T>(T(1));
  const Vec<T> u = one + x;
  const Split<T> part = split_exponent(u);
  // What the rounding of 1 + x lost, relative to u; with k = 0, x itself is the exact f.
  const Vec<T> lost = select(part.k >= set1<T>(T(2)), one - (u - x), x - (u - one)) / u;
  const Mask<T> near_zero = part.k == zero<T>();
  const Vec<T> correction = select(near_zero, zero<T>(), lost);
  const Vec<T> f = select(near_zero, x, part.m - one);
  const LogParts<T> parts = log_parts(f);
  const Vec<T> upper = part.k * set1<T>(static_cast<T>(kLn2Upper<T>));
  const Vec<T> low = fma(part.k, set1<T>(static_cast<T>(kLn2Lower<T>)), correction) + parts.product;
  Vec<T> y = ((low - parts.square) + f) + upper;
  y = select(x == -one, -infinity<T>(), y);
  y = select(x < -one, quiet_nan<T>(), y);
  const Mask<T> itself =
      (abs(x) < set1<T>(T(is_float<T> ? 0x1p-26 : 0x1p-55))) | (x == infinity<T>()) | is_nan(x);
  return select(itself, x, y);
}

// Near zero x + x^3 P(x^2) (float32) or e / (e + 2) with e = expm1(2x); then 1 - 2 / (exp(2x) + 1).
template <class T>
HOTLOOP_SIMD Vec<T> tanh(Vec<T> x) {
  const Vec<T> one = set1<T>(T(1));
  const Vec<T> two = set1<T>(T(2));
  const Vec<T> size = min_or_b(set1<T>(T(is_float<T> ? 10.0 : 22.0)), abs(x));  // beyond: 1
  const Mask<T> large = size > set1<T>(T(0.6));
  if constexpr (is_float<T>) {
    const Vec<T> z = size * size;
    const Vec<T> p =
        horner(z, -0.3333333056674334477, 0.1333319592908771155, -0.05394539212897783075,
               0.02169271430948445998, -0.008156587248851139339, 0.002123045932603877662);
    const Vec<T> outer = one - two / (exp(size + size) + one);
    return copysign(select(large, outer, fma(z * size, p, size)), x);
  } else {
    const Vec<T> e = expm1(size + size);
    const Vec<T> quotient = select(large, two, e) / (e + two);
    return copysign(select(large, one - quotient, quotient), x);
  }
}

// 1 / (1 + e) or e / (1 + e) with e = exp(-|x|); what the rounding of 1 + e lost is put back.
template <class T>
HOTLOOP_SIMD Vec<T> sigmoid(Vec<T> x) {
  const Vec<T> one = set1<T>(T(1));
  const Vec<T> e = exp_rounded<true>(-abs(x));
  const Vec<T> sum = one + e;
  const Vec<T> lost = (one - sum) + e;
  const Mask<T> negative = x < zero<T>();
  const Vec<T> y = select(negative, e, one) / sum;
  return fnma(y * lost, select(negative, one - y, y), y);
}

// |x| <= 1: x + x P(x^2). Above: 1 - exp(-Q(|x|)), where Q fits -log(erfc) with the weight erfc.
template <class T>
HOTLOOP_SIMD Vec<T> erf(Vec<T> x) {
  const Vec<T> one = set1<T>(T(1));
  const Vec<T> size = min_or_b(set1<T>(T(is_float<T> ? 4.0 : 6.0)), abs(x));  // beyond: 1
  const Vec<T> z = size * size;
  const Mask<T> inner = size <= one;
  Vec<T> p, q;
  if constexpr (is_float<T>) {
    p = horner(z, 0.1283791659032965407, -0.376126271004614924, 0.1128360002514212846,
               -0.02685444540110174564, 0.005189546684014852093, -0.0008021006279843515481,
               0.00007889833660806516579);
    q = horner(size, -0.0001835658834602309882, 1.129557434202563155, 0.6332613510260643599,
               0.1083739152197190432, -0.0251799309091345628, 0.004193990761551906662,
               -0.0004391878207628352986, 0.00002150344720348911978);
  } else {
    p = horner(z, 0.1283791670955125738, -0.3761263890318374817, 0.1128379167095488439,
               -0.02686617064507786358, 0.005223977624828350779, -0.0008548326981422482813,
               0.0001205533113289049051, -0.00001492559577153953565, 1.646100848005219018e-6,
               -1.635039635930001258e-7, 1.466033028510498322e-8, -1.137496390518837217e-9,
               5.960702247389177893e-11);
    q = horner(size, 8.158540846254636468e-7, 1.128370935615891222, 0.6366583535538206121,
               0.1026611330505860803, -0.01890642324048567761, -0.0005318668908836532806,
               0.002048803064748612356, -0.0008832155892085152884, 0.0002097077657529107944,
               -0.00001870631646805071157, -6.809029934213545633e-6, 3.517787592449130025e-6,
               -8.556476740524015763e-7, 1.324883903218089908e-7, -1.330913174950632729e-8,
               7.979712739995712103e-10, -2.180366376964828622e-11);
  }
  const Vec<T> outer = copysign(one - exp(-q), x);
  return select(inner, fma(x, p, x), outer);
}

// (1 + erf(x / sqrt 2)) / 2, off by at most one ULP of 1. In float32 by one exponential: erfc(t) /
// 2 = exp(-Q(t)) / 2 for t = |x| / sqrt 2 up to 4, where it is below half an ULP of 1; twice as
// fast as by erf.
template <class T>
HOTLOOP_SIMD Vec<T> normal_cdf(Vec<T> x) {
  const Vec<T> root_half = set1<T>(static_cast<T>(0.70710678118654752440));
  const Vec<T> half = set1<T>(T(0.5));
  if constexpr (is_float<T>) {
    const Vec<T> four = set1<T>(T(4));
    const Vec<T> size = abs(x) * root_half;
    const Vec<T> t = min_or_b(four, size);
    const Vec<T> q =
        horner(t, 1.128379330962608087, 0.6366161320389445485, 0.1027990936545732459,
               -0.01921692420170881642, -0.00005896697398518499058, 0.001576827878922017213,
               -0.0005879561912057613531, 0.0001060249213383848308, -8.043649351289159594e-6);
    const Vec<T> tail = select(size >= four, zero<T>(), exp(-(q * t)) * half);
    return select(x < zero<T>(), tail, set1<T>(T(1)) - tail);
  } else {
    return fma(erf(x * root_half), half, half);
  }
}

}  // namespace hotloop::HOTLOOP_LEVEL::simd
