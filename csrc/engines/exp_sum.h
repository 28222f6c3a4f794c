// What softmax and cross entropy share: the maximum and the exponentials of a row, and a last pass
// that writes around the caches.
//
// Long rows are visited once for both (Milakov and Gimelshein, arXiv 1805.02867, by pieces): the
// exponentials of a piece are relative to the largest element so far, and the last pass brings them
// to one base, piece by piece. The next piece is asked for while this one is computed.
#pragma once

#include "engines/row_reduction.h"
#include "kernels/row_memory.h"
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

// What this thread keeps of a long row: the base of each piece, and the row. Null where not wanted.
template <class T>
struct LongRow {
  T *tops, *powers;
};
template <class T>
[[gnu::always_inline]] static inline LongRow<T> own_row(const RowMemory& memory) {
  if (!memory.data) return {nullptr, nullptr};
  char* data = memory.data + memory.thread() * memory.stride;
  return {reinterpret_cast<T*>(data), reinterpret_cast<T*>(data + memory.row)};
}

template <class T>
struct RowPowers {
  Vec<T> top, total;  // the maximum, and the sum of exp(x - top)
};

// Nothing to do beside the exponentials.
struct Idle {
  void begin(std::int64_t) {}
  void step(std::int64_t) {}
};

// Of a dense row, visited once. With `kept`: powers[i] = exp(x[i] - tops[i / kRowPiece]).
// `meanwhile` does a step of something else beside each vector.
template <bool kept, class T, class Meanwhile = Idle>
static inline RowPowers<T> powers_of(const T* x, std::int64_t n, T* powers, T* tops,
                                     Meanwhile meanwhile = {}) {
  const Vec<T> lowest = simd::set1<T>(-static_cast<T>(__builtin_inf()));
  RowPowers<T> row{lowest, simd::zero<T>()};
  for (std::int64_t i = 0; i < n; i += kRowPiece) {
    const AlongRow<T, true> walk{n - i < kRowPiece ? n - i : kRowPiece};
    const T* piece = x + i;
    const Vec<T> top = simd::max_or_b(
        row.top, reduce_walk<TopOp, T>(walk, [&](Step at) { return walk.load(piece, 1, at); }));
    // Nothing but -inf so far: any base gives zeros.
    const Vec<T> base = simd::select(top == lowest, simd::zero<T>(), top);
    meanwhile.begin(i);
    const Vec<T> sum = reduce_walk<AddOp, T>(walk, [&](Step at) {
      simd::prefetch(piece + kRowPiece + at.index);
      meanwhile.step(at.index);
      const Vec<T> power = falling_exp(walk.load(piece, 1, at) - base);
      if constexpr (kept) walk.store(powers + i, 1, at, power);
      return power;
    });
    row.total = simd::fma(row.total, falling_exp(row.top - base), sum);
    row.top = top;
    if constexpr (kept) simd::store_n(tops + i / kRowPiece, top, 1);
  }
  // Nothing but -inf at all: 0 / 0, as the definition has it.
  return row;
}

// out = powers * exp(tops - top) * scale: the kept powers brought to one base. Meanwhile what comes
// `next` is read into L2: else nothing is read while a row is written.
template <bool stream, class T>
static inline void settle_powers(T* out, std::int64_t n, const T* powers, const T* tops, Vec<T> top,
                                 Vec<T> scale, const T* next) {
  for (std::int64_t i = 0; i < n; i += kRowPiece) {
    const std::int64_t count = n - i < kRowPiece ? n - i : kRowPiece;
    const Vec<T> own = simd::set1<T>(tops[i / kRowPiece]);
    const Vec<T> factor = simd::select(own == top, scale, falling_exp(own - top) * scale);
    if constexpr (stream) {
      const T* ahead = next + i;
      stream_row(out + i, count, [&](std::int64_t at, int lanes) {
        __builtin_prefetch(ahead + at, 0, 2);
        return simd::load_upto(powers + i + at, lanes) * factor;
      });
    } else {
      const AlongRow<T, true> walk{count};
      walk.each(
          [&](Step at) { walk.store(out + i, 1, at, walk.load(powers + i, 1, at) * factor); });
    }
  }
}

// The same around the caches, a piece and then a vector at a time, beside the powers of the next
// row of n elements: one loop keeps the memory busy both ways and the arithmetic too.
template <class T>
struct Settling {
  T* out;
  const T *powers, *tops;
  Vec<T> top, scale;
  std::int64_t n;
  // of the piece: its whole lines
  T* to = nullptr;
  const T* from = nullptr;
  std::int64_t whole = 0;
  Vec<T> factor = simd::zero<T>();

  [[gnu::always_inline]] inline void begin(std::int64_t i) {
    const std::int64_t count = n - i < kRowPiece ? n - i : kRowPiece;
    const Vec<T> own = simd::set1<T>(tops[i / kRowPiece]);
    factor = simd::select(own == top, scale, falling_exp(own - top) * scale);
    const auto address = reinterpret_cast<std::uintptr_t>(out + i);
    auto head = static_cast<std::int64_t>((-address & (simd::kBytes - 1)) / sizeof(T));
    if (head > count) head = count;
    part(i, head);
    to = out + i + head;
    from = powers + i + head;
    whole = (count - head) / Vec<T>::lanes * Vec<T>::lanes;
    part(i + head + whole, count - head - whole);
  }
  [[gnu::always_inline]] inline void step(std::int64_t i) const {
    if (i < whole) simd::stream(to + i, simd::load(from + i) * factor);
  }
  [[gnu::always_inline]] inline void part(std::int64_t i, std::int64_t count) const {
    if (count == 0) return;
    const int lanes = static_cast<int>(count);
    simd::store_n(out + i, simd::load_n(powers + i, lanes) * factor, lanes);
  }
};

}  // namespace
}  // namespace hotloop::HOTLOOP_LEVEL
