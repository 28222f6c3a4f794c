// What softmax and cross entropy share: the maximum and the exponentials of a row, and a last pass
// that writes around the caches.
#pragma once

#include "engines/row_reduction.h"
#include "simd/math.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

// The largest element. A NaN may be lost here, which saves two thirds of the work: its exponential
// is NaN whatever the maximum, and so is the sum.
struct TopOp {
  template <class T>
  static T start() {
    return -static_cast<T>(__builtin_inf());
  }
  template <class T>
  [[gnu::always_inline]] static inline Vec<T> combine(Vec<T> a, Vec<T> b) {
    return simd::max_or_b(a, b);
  }
  template <class T>
  [[gnu::always_inline]] static inline T across(Vec<T> a) {
    return simd::reduce_max(a);
  }
};

// exp(x) for x <= 0 (NaN stays), within 1.2 ULP in float32: 12 instructions where exp takes 17. The
// polynomial is a minimax fit of our own (Lawson), 3e-9 off.
template <class T>
[[gnu::always_inline]] static inline Vec<T> falling_exp(Vec<T> x) {
  if constexpr (!simd::is_float<T>) {
    return simd::exp(x);
  } else {
    const auto every = [](double c) { return simd::set1<T>(static_cast<T>(c)); };
    x = simd::max_or_b(every(-104.0), x);  // rounds to zero below
    const Vec<T> n = simd::round(x * every(1.44269504088896340736));
    Vec<T> r = simd::fnma(n, every(0.693359375), x);
    r = simd::fnma(n, every(-2.12194440e-4), r);
    return simd::scale(
        simd::horner(r, 1.0, 1.0, 0.49999993432110584, 0.16666520398962378, 0.04166839078736977,
                     0.008368745116360892, 0.001381453998871777),
        n);
  }
}

constexpr std::int64_t kRowBuffer = 4096;  // elements that a thread keeps beside a row: half of L1

// out[i..] = value(i, lanes) for a dense row, whole aligned vectors around the caches.
template <class T, class Value>
[[gnu::always_inline]] static inline void stream_row(T* out, std::int64_t n, Value value) {
  constexpr int lanes = Vec<T>::lanes;
  const auto address = reinterpret_cast<std::uintptr_t>(out);
  std::int64_t i = static_cast<std::int64_t>((-address & (simd::kBytes - 1)) / sizeof(T));
  if (i > n) i = n;
  if (i > 0) simd::store_n(out, value(std::int64_t{0}, static_cast<int>(i)), static_cast<int>(i));
  for (; i + lanes <= n; i += lanes) simd::stream(out + i, value(i, lanes));
  if (i < n) {
    const int rest = static_cast<int>(n - i);
    simd::store_n(out + i, value(i, rest), rest);
  }
}

}  // namespace
}  // namespace hotloop::HOTLOOP_LEVEL
