// x times a distribution of x, over the vector contract: x Phi(x) (GELU) and x sigmoid(x) (SiLU),
// with the digits of the tails down to denormal results.
//
// GELU: max(x, 0) - |x| Phi(-|x|), and |x| Phi(-|x|) = exp(-x^2 / 2) v P(v), v = |x| / (|x| + k), P
// a fit of ours (Chebyshev). The square is kept in two parts, since exp multiplies its error by
// 100; the last steps of P, and in float32 the quotient v, carry what they lost. Measured
// (tests/test_activation.py): 1.9 ULP in float32, 4 in float64; SiLU 2.0 and 2. Without fma float32
// goes through float64, and float64 reaches 6.
#pragma once

#include "simd/math.h"
#include "simd/wide.h"

namespace hotloop::HOTLOOP_LEVEL::simd {

// c0 + c1 x + ... with what the last two steps lose, in units of their own.
template <class T>
struct Carried {
  Vec<T> value, lost;
};
template <class T, class... Rest>
HOTLOOP_SIMD Carried<T> carried_horner(Vec<T> x, double c0, double c1, Rest... rest) {
  const Vec<T> a = set1<T>(static_cast<T>(c0)), b = set1<T>(static_cast<T>(c1));
  const Vec<T> p = horner(x, rest...);
  const Vec<T> first = fma(x, p, b), first_lost = fma(x, p, b - first);
  const Vec<T> second = fma(x, first, a);
  return {second, fma(x, first_lost, fma(x, first, a - second))};
}

template <class T>
HOTLOOP_SIMD Vec<T> gelu_tail(Vec<T> size) {  // |x| Phi(-|x|)
  constexpr double k = is_float<T> ? 2.5 : 4.0;
  const Vec<T> sum = size + set1<T>(T(k)), v = size / sum;
  Carried<T> p;
  if constexpr (is_float<T>) {
    const Vec<T> t = fma(v, set1<T>(T(2.3424657534246577859)), set1<T>(T(-1)));
    p = carried_horner(t, 0.772846822984, -0.402560625097, 0.0917782400403, 0.0114085783522,
                       -0.0076951178748, -0.00156955823778, 0.000635593197571, 0.000305077369466,
                       -1.24915697778e-5, -3.72616770333e-5, -6.83452161442e-6);
  } else {
    const Vec<T> t = fma(v, set1<T>(T(2.2051282051282051282)), set1<T>(T(-1)));
    p = carried_horner(
        t, 0.81533839684251690844, -0.62124410222472494523, 0.36390673682703855931,
        -0.15636995546798020338, 0.042906326776940923292, -0.0032588461890970944488,
        -0.0025014590567135727284, 0.00073742088062326573305, 0.00014720806269598603033,
        -0.000088470103954568676435, -0.000013622291213888910476, 0.000010463628504373593724,
        2.1840116071197446534e-6, -1.2131835767540268542e-6, -4.353794474580700891e-7,
        1.139298625434150255e-7, 8.3866909570356820405e-8, -1.7857529623092717327e-9,
        -1.3742982602287714234e-8, -2.6257532997116263898e-9, 1.6605161273312036806e-9,
        6.8739439958266565773e-10, -1.0451820377768306288e-10, -7.3566354556021644574e-11,
        -1.3710682359452264984e-12);
  }
  const Vec<T> square = size * size;
  const Vec<T> square_low = kFusedFma ? fma(size, size, -square) : zero<T>();
  const Reduced<T> part = reduce_by_ln2(square * set1<T>(T(-0.5)));
  const Vec<T> low = fma(square_low, set1<T>(T(0.5)), part.low);
  const Vec<T> r = part.high - low;
  const Vec<T> power = fma(exp_remainder(r) * r, r, (part.high - r) - low) + r;  // exp(r) - 1
  const Vec<T> w = v * p.value;
  Vec<T> w_lost = kFusedFma ? fma(v, p.lost, fma(v, p.value, -w)) : zero<T>();
  if constexpr (is_float<T>) {
    // v lost rest / sum (what the sum lost is exact, k having few digits), and the slope of v P is
    // sum / k (P + sum |x| (v P - 1 / sqrt(2 pi))).
    const Vec<T> rest = fnma(v, size - (sum - set1<T>(T(k))), fnma(v, sum, size));
    const Vec<T> slope = fma(sum * size, w - set1<T>(T(0.39894228)), p.value);
    w_lost = fma(rest * set1<T>(T(1 / k)), slope, w_lost);
  }
  return scale(w + fma(w, power, w_lost), part.n);
}

template <class T>
HOTLOOP_SIMD Vec<T> gelu(Vec<T> x) {
  if constexpr (is_float<T> && !kFusedFma) {
    return narrow(gelu(widen_low(x)), gelu(widen_high(x)));
  } else {
    // Beyond, the tail is less than the least denormal.
    const Vec<T> size = min_or_b(set1<T>(T(is_float<T> ? 14.5 : 38.7)), abs(x));
    return max_or_b(zero<T>(), x) - gelu_tail(size);
  }
}

// x / (1 + exp(-x)). Far below zero, where the 1 no longer counts and exp(-x) overflows, that is x
// over 2^-32 exp(-x), and 2^-32 times the quotient: denormal results are rounded once.
template <class T>
HOTLOOP_SIMD Vec<T> silu(Vec<T> x) {
  const Vec<T> one = set1<T>(T(1)), none = zero<T>();
  const Mask<T> far = x < set1<T>(T(is_float<T> ? -64 : -680));
  const Vec<T> near = max_or_b(set1<T>(T(is_float<T> ? -110 : -760)), x);
  const Reduced<T> part = reduce_by_ln2(min_or_b(set1<T>(T(is_float<T> ? 104 : 746)), near) * -one);
  const Vec<T> r = part.high - part.low;
  const Vec<T> less = fma(exp_remainder(r) * r, r, (part.high - r) - part.low) + r;
  const Vec<T> rounded = less + one;
  const Vec<T> lost = less - (rounded - one);
  const Vec<T> power = scale(rounded, part.n - select(far, set1<T>(T(32)), none));
  const Vec<T> y = near / (select(far, none, one) + power);
  const Vec<T> exact = select(x < -one, fnma(y, lost, y), y);  // what that costs counts here only
  return exact * select(far, set1<T>(T(0x1p-32)), one);
}

}  // namespace hotloop::HOTLOOP_LEVEL::simd
