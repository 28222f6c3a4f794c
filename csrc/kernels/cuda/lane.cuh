// One number in the place of a vector: what the formulas of math/ ask of their V.
//
// The elementary functions are CUDA's own (no fast-math): at most 2 ULP in float32, 1 to 2 in
// float64 (CUDA C++ Programming Guide, mathematical functions appendix).
#pragma once

#include "kernels/cuda/kernel.cuh"

#if defined(HOTLOOP_CUDA_EMULATE)
#include <cmath>
#endif

namespace hotloop::cuda {

template <class T>
struct Lane {
  T value;
};
template <class T>
inline constexpr bool is_float = sizeof(T) == 4;

#define HOTLOOP_LANE \
  template <class T> \
  __device__ __forceinline__

HOTLOOP_LANE Lane<T> splat(Lane<T>, double number) {
  return {static_cast<T>(number)};
}
HOTLOOP_LANE Lane<T> operator+(Lane<T> a, Lane<T> b) {
  return {a.value + b.value};
}
HOTLOOP_LANE Lane<T> operator-(Lane<T> a, Lane<T> b) {
  return {a.value - b.value};
}
HOTLOOP_LANE Lane<T> operator*(Lane<T> a, Lane<T> b) {
  return {a.value * b.value};
}
HOTLOOP_LANE Lane<T> operator/(Lane<T> a, Lane<T> b) {
  return {a.value / b.value};
}
HOTLOOP_LANE Lane<T> operator-(Lane<T> a) {
  return {-a.value};
}
HOTLOOP_LANE bool operator==(Lane<T> a, Lane<T> b) {
  return a.value == b.value;
}
HOTLOOP_LANE bool operator<(Lane<T> a, Lane<T> b) {
  return a.value < b.value;
}
HOTLOOP_LANE bool operator<=(Lane<T> a, Lane<T> b) {
  return a.value <= b.value;
}
HOTLOOP_LANE bool operator>(Lane<T> a, Lane<T> b) {
  return a.value > b.value;
}
HOTLOOP_LANE bool operator>=(Lane<T> a, Lane<T> b) {
  return a.value >= b.value;
}
HOTLOOP_LANE Lane<T> select(bool mask, Lane<T> yes, Lane<T> no) {
  return mask ? yes : no;
}

// b where one of them is NaN, as SSE's instructions have it; max and min hand NaN on.
HOTLOOP_LANE Lane<T> max_or_b(Lane<T> a, Lane<T> b) {
  return a > b ? a : b;
}
HOTLOOP_LANE Lane<T> min_or_b(Lane<T> a, Lane<T> b) {
  return a < b ? a : b;
}
HOTLOOP_LANE Lane<T> max(Lane<T> a, Lane<T> b) {
  return a == a ? max_or_b(a, b) : a;
}
HOTLOOP_LANE Lane<T> min(Lane<T> a, Lane<T> b) {
  return a == a ? min_or_b(a, b) : a;
}

#define HOTLOOP_X(name)                  \
  HOTLOOP_LANE Lane<T> name(Lane<T> x) { \
    if constexpr (is_float<T>)           \
      return {::name##f(x.value)};       \
    else                                 \
      return {::name(x.value)};          \
  }
HOTLOOP_X(exp)
HOTLOOP_X(expm1)
HOTLOOP_X(log)
HOTLOOP_X(log1p)
HOTLOOP_X(sqrt)
HOTLOOP_X(tanh)
HOTLOOP_X(sin)
HOTLOOP_X(cos)
HOTLOOP_X(erf)
HOTLOOP_X(erfc)
HOTLOOP_X(round)
#undef HOTLOOP_X
HOTLOOP_LANE Lane<T> abs(Lane<T> x) {
  if constexpr (is_float<T>)
    return {::fabsf(x.value)};
  else
    return {::fabs(x.value)};
}
HOTLOOP_LANE Lane<T> power(Lane<T> x, Lane<T> y) {
  if constexpr (is_float<T>)
    return {::powf(x.value, y.value)};
  else
    return {::pow(x.value, y.value)};
}
HOTLOOP_LANE Lane<T> fma(Lane<T> a, Lane<T> b, Lane<T> c) {
  if constexpr (is_float<T>)
    return {::fmaf(a.value, b.value, c.value)};
  else
    return {::fma(a.value, b.value, c.value)};
}
HOTLOOP_LANE Lane<T> fnma(Lane<T> a, Lane<T> b, Lane<T> c) {
  return fma(-a, b, c);
}

// Both sides of zero keep their digits: exp of a negative number only.
HOTLOOP_LANE Lane<T> sigmoid(Lane<T> x) {
  const Lane<T> one{T(1)}, e = exp(-abs(x));
  return select(x < Lane<T>{T(0)}, e, one) / (one + e);
}
// x sigmoid(x); far below zero x exp(x), whose factors do not underflow before the product does.
HOTLOOP_LANE Lane<T> silu(Lane<T> x) {
  const Lane<T> near = max_or_b(Lane<T>{T(-1000)}, x);  // -inf: 0, as its limit
  return near * sigmoid(x);
}
// erfc(-x / sqrt(2)) / 2 itself would multiply the rounding of its argument by x^2 in the tail.
HOTLOOP_LANE Lane<T> normal_cdf(Lane<T> x) {
#if defined(HOTLOOP_CUDA_EMULATE)
  return {static_cast<T>(0.5 * ::erfc(-0.70710678118654752440 * static_cast<double>(x.value)))};
#else
  if constexpr (is_float<T>) {
    return {::normcdff(x.value)};
  } else {
    return {::normcdf(x.value)};
  }
#endif
}
HOTLOOP_LANE Lane<T> gelu(Lane<T> x) {
  return max_or_b(Lane<T>{T(-40)}, x) * normal_cdf(x);  // -inf: 0
}
// -1, 0 or 1; NaN and both zeros give 0.
HOTLOOP_LANE Lane<T> sign_of(Lane<T> x) {
  return {T(x.value > T(0)) - T(x.value < T(0))};
}
#undef HOTLOOP_LANE

}  // namespace hotloop::cuda
