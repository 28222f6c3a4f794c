// Masks as all-ones lanes, for the levels without mask registers. Included by vec_<level>.h only.
#pragma once

namespace hotloop::HOTLOOP_LEVEL::simd {

template <class T>
HOTLOOP_SIMD Mask<T> operator<(Vec<T> a, Vec<T> b) {
  return {(typename Int<T>::type)(a.v < b.v)};
}
template <class T>
HOTLOOP_SIMD Mask<T> operator<=(Vec<T> a, Vec<T> b) {
  return {(typename Int<T>::type)(a.v <= b.v)};
}
template <class T>
HOTLOOP_SIMD Mask<T> operator==(Vec<T> a, Vec<T> b) {
  return {(typename Int<T>::type)(a.v == b.v)};
}
template <class T>
HOTLOOP_SIMD Mask<T> is_nan(Vec<T> a) {
  return {(typename Int<T>::type)(a.v != a.v)};
}
template <class T>
HOTLOOP_SIMD Mask<T> operator==(Int<T> a, Int<T> b) {
  return {(typename Int<T>::type)(a.v == b.v)};
}
template <class T>
HOTLOOP_SIMD Mask<T> operator<(Int<T> a, Int<T> b) {
  return {(typename Int<T>::type)(a.v < b.v)};
}
template <class T>
HOTLOOP_SIMD Mask<T> operator&(Mask<T> a, Mask<T> b) {
  return {a.v & b.v};
}
template <class T>
HOTLOOP_SIMD Mask<T> operator|(Mask<T> a, Mask<T> b) {
  return {a.v | b.v};
}
template <class T>
HOTLOOP_SIMD Mask<T> operator!(Mask<T> a) {
  return {~a.v};
}
template <class T>
HOTLOOP_SIMD Vec<T> select(Mask<T> mask, Vec<T> yes, Vec<T> no) {
  return blend(mask, yes, no);
}
template <class T>
HOTLOOP_SIMD Int<T> select(Mask<T> mask, Int<T> yes, Int<T> no) {
  return as_int(blend(mask, as_vec<T>(yes), as_vec<T>(no)));
}
template <class T>
HOTLOOP_SIMD Vec<T> min(Vec<T> a, Vec<T> b) {
  return blend(is_nan(a), a, min_or_b(a, b));
}
template <class T>
HOTLOOP_SIMD Vec<T> max(Vec<T> a, Vec<T> b) {
  return blend(is_nan(a), a, max_or_b(a, b));
}

// a * 2^n for whole n with |n| below twice the largest exponent: in two steps, so that neither
// factor leaves the range of normal numbers, with gradual underflow.
template <class T>
HOTLOOP_SIMD Vec<T> scale(Vec<T> a, Vec<T> n) {
  const Vec<T> half = round(n * set1<T>(T(0.5)));
  return a * power_of_two(half) * power_of_two(n - half);
}

}  // namespace hotloop::HOTLOOP_LEVEL::simd
