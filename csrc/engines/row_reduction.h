// Row reduction: what sums, softmax and losses share. Two walks over the elements of a row give one
// loop body: along the row, lanes being neighbours in it (lane totals are combined at the end), or
// down the rows, lanes being neighbouring rows. Sums are blocked: short chains in registers, block
// totals combined pairwise, so a sum of n terms errs like a few dozen additions, not like n.
// The order depends on sizes and memory layout alone.
#pragma once

#include <cstdint>
#include <type_traits>

#include "simd/simd.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

using simd::Vec;

// ---- operations that reduce --------------------------------------------------------------------

struct AddOp {
  template <class T>
  static T start() {
    return T(0);
  }
  template <class T>
  [[gnu::always_inline]] static inline Vec<T> combine(Vec<T> a, Vec<T> b) {
    return a + b;
  }
  template <class T>
  [[gnu::always_inline]] static inline T across(Vec<T> a) {
    return simd::reduce_add(a);
  }
};
struct MaxOp {
  template <class T>
  static T start() {
    return -static_cast<T>(__builtin_inf());
  }
  template <class T>
  [[gnu::always_inline]] static inline Vec<T> combine(Vec<T> a, Vec<T> b) {
    return simd::max(a, b);
  }
  template <class T>
  [[gnu::always_inline]] static inline T across(Vec<T> a) {
    return simd::reduce_max(a);
  }
};
struct MinOp {
  template <class T>
  static T start() {
    return static_cast<T>(__builtin_inf());
  }
  template <class T>
  [[gnu::always_inline]] static inline Vec<T> combine(Vec<T> a, Vec<T> b) {
    return simd::min(a, b);
  }
  template <class T>
  [[gnu::always_inline]] static inline T across(Vec<T> a) {
    return simd::reduce_min(a);
  }
};

struct MulOp {
  template <class T>
  static T start() {
    return T(1);
  }
  template <class T>
  [[gnu::always_inline]] static inline Vec<T> combine(Vec<T> a, Vec<T> b) {
    return a * b;
  }
  template <class T>
  [[gnu::always_inline]] static inline T across(Vec<T> a) {
    T lanes[Vec<T>::lanes];
    simd::store(lanes, a);
    for (int half = Vec<T>::lanes / 2; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) lanes[i] *= lanes[i + half];
    }
    return lanes[0];
  }
};

// The sum of the squares: AddOp, each element squared as it comes.
struct SquaresOp : AddOp {};
template <class Op, class T>
[[gnu::always_inline]] static inline Vec<T> term(Vec<T> x) {
  if constexpr (std::is_same_v<Op, SquaresOp>) {
    return x * x;
  } else {
    return x;
  }
}

// ---- walks -------------------------------------------------------------------------------------

// The first n lanes of v, `fill` in the others.
template <class T>
[[gnu::always_inline]] static inline Vec<T> keep_lanes(Vec<T> v, int n, T fill) {
  return simd::select(simd::first_lanes<T>(n), v, simd::set1<T>(fill));
}

// A place in a walk: where in memory, how many lanes count, and (constant after inlining) which of
// the independent accumulators is due.
struct Step {
  std::int64_t index;
  int lanes;
  int slot;
};
constexpr int kSlots =
    4;  // independent chains: addition takes 3 to 4 cycles, two can start in each

// Along one row of n elements.
template <class T, bool unit_stride>
struct AlongRow {
  static constexpr int lanes = Vec<T>::lanes;
  static constexpr int most_rows = 1;
  std::int64_t n;

  template <class Body>
  [[gnu::always_inline]] inline void each(Body body) const {
    std::int64_t i = 0;
    for (; i + kSlots * lanes <= n; i += kSlots * lanes) {
      body(Step{i, lanes, 0});
      body(Step{i + lanes, lanes, 1});
      body(Step{i + 2 * lanes, lanes, 2});
      body(Step{i + 3 * lanes, lanes, 3});
    }
    for (; i + lanes <= n; i += lanes) body(Step{i, lanes, 0});
    if (i < n) body(Step{i, static_cast<int>(n - i), 1});
  }
  [[gnu::always_inline]] inline Vec<T> load(const T* row, std::int64_t stride, Step at) const {
    if constexpr (unit_stride) {
      return at.lanes == lanes ? simd::load(row + at.index)
                               : simd::load_n(row + at.index, at.lanes);
    } else {
      return simd::load_strided(row + at.index * stride, stride, at.lanes);
    }
  }
  [[gnu::always_inline]] inline void store(T* row, std::int64_t stride, Step at, Vec<T> v) const {
    if constexpr (unit_stride) {
      if (at.lanes == lanes) {
        simd::store(row + at.index, v);
      } else {
        simd::store_n(row + at.index, v, at.lanes);
      }
    } else {
      simd::store_strided(row + at.index * stride, v, stride, at.lanes);
    }
  }
  // Lanes beyond the row's end hold `fill`.
  [[gnu::always_inline]] inline Vec<T> settle(Vec<T> v, Step at, T fill) const {
    return at.lanes == lanes ? v : keep_lanes(v, at.lanes, fill);
  }
  // The row's total in every lane.
  template <class Op>
  [[gnu::always_inline]] inline Vec<T> total(const Vec<T> (&slots)[kSlots]) const {
    return simd::set1<T>(
        Op::across(Op::combine(Op::combine(slots[0], slots[1]), Op::combine(slots[2], slots[3]))));
  }
};

// Down `rows` neighbouring rows (at most one vector of them) that lie side by side in memory.
template <class T>
struct DownRows {
  static constexpr int lanes = Vec<T>::lanes;
  static constexpr int most_rows = lanes;
  std::int64_t n;
  int rows;

  template <class Body>
  [[gnu::always_inline]] inline void each(Body body) const {
    std::int64_t i = 0;
    for (; i + kSlots <= n; i += kSlots) {
      body(Step{i, rows, 0});
      body(Step{i + 1, rows, 1});
      body(Step{i + 2, rows, 2});
      body(Step{i + 3, rows, 3});
    }
    for (; i < n; ++i) body(Step{i, rows, 0});
  }
  [[gnu::always_inline]] inline Vec<T> load(const T* row, std::int64_t stride, Step at) const {
    const T* p = row + at.index * stride;
    return at.lanes == lanes ? simd::load(p) : simd::load_n(p, at.lanes);
  }
  [[gnu::always_inline]] inline void store(T* row, std::int64_t stride, Step at, Vec<T> v) const {
    T* p = row + at.index * stride;
    if (at.lanes == lanes) {
      simd::store(p, v);
    } else {
      simd::store_n(p, v, at.lanes);
    }
  }
  [[gnu::always_inline]] inline Vec<T> settle(Vec<T> v, Step, T) const { return v; }
  template <class Op>
  [[gnu::always_inline]] inline Vec<T> total(const Vec<T> (&slots)[kSlots]) const {
    return Op::combine(Op::combine(slots[0], slots[1]), Op::combine(slots[2], slots[3]));
  }
};

// Op over what value(step) gives along the walk; every lane of the result holds its row's total.
template <class Op, class T, class Walk, class Value>
[[gnu::always_inline]] static inline Vec<T> reduce_walk(const Walk& walk, Value value) {
  Vec<T> slots[kSlots];
  for (int s = 0; s < kSlots; ++s) slots[s] = simd::set1<T>(Op::template start<T>());
  walk.each([&](Step at) __attribute__((always_inline)) {
    slots[at.slot] =
        Op::combine(slots[at.slot], walk.settle(value(at), at, Op::template start<T>()));
  });
  return walk.template total<Op>(slots);
}

// ---- long reductions ---------------------------------------------------------------------------

// Combines block totals pairwise, like a binary counter: 2^k blocks are k additions deep.
template <class Op, class T, int width>
struct Cascade {
  Vec<T> stack[40][width];
  std::uint64_t count = 0;

  void push(const Vec<T> (&block)[width]) {
    Vec<T> current[width];
    for (int w = 0; w < width; ++w) current[w] = block[w];
    int level = 0;
    for (std::uint64_t bits = count; bits & 1; bits >>= 1, ++level) {
      for (int w = 0; w < width; ++w) current[w] = Op::combine(stack[level][w], current[w]);
    }
    for (int w = 0; w < width; ++w) stack[level][w] = current[w];
    ++count;
  }
  // Adds what is on the stack to the (last, incomplete) block.
  void drain(Vec<T> (&block)[width]) const {
    int level = 0;
    for (std::uint64_t bits = count; bits; bits >>= 1, ++level) {
      if (!(bits & 1)) continue;
      for (int w = 0; w < width; ++w) block[w] = Op::combine(stack[level][w], block[w]);
    }
  }
};

// Where a flattened index lies in up to `dims` axes; strides in elements.
struct Axes {
  std::int32_t dims;
  const std::int64_t* sizes;
  const std::int64_t* strides;
};

// Calls body(offset, count) for the runs along the last axis that make up [begin, end).
template <class Body>
[[gnu::always_inline]] static inline void each_run(const Axes& axes, std::int64_t begin,
                                                   std::int64_t end, Body body) {
  if (begin >= end) return;
  const int last = axes.dims - 1;
  std::int64_t index[16] = {};
  std::int64_t rest = begin, offset = 0;
  for (int d = last; d >= 0 && rest > 0; --d) {
    index[d] = d > 0 ? rest % axes.sizes[d] : rest;
    rest = d > 0 ? rest / axes.sizes[d] : 0;
    offset += index[d] * axes.strides[d];
  }
  for (std::int64_t at = begin; at < end;) {
    const std::int64_t left = axes.sizes[last] - index[last];
    const std::int64_t count = left < end - at ? left : end - at;
    body(offset, count);
    at += count;
    offset -= index[last] * axes.strides[last];
    index[last] = 0;
    for (int d = last - 1; d >= 0; --d) {
      offset += axes.strides[d];
      if (++index[d] < axes.sizes[d]) break;
      offset -= axes.sizes[d] * axes.strides[d];
      index[d] = 0;
    }
  }
}

// The offset of a flattened index.
[[maybe_unused]] static inline std::int64_t offset_of(const Axes& axes, std::int64_t index) {
  std::int64_t offset = 0;
  for (int d = axes.dims - 1; d > 0;
       --d) {  // a division costs as much as a short row: none for one axis
    offset += index % axes.sizes[d] * axes.strides[d];
    index /= axes.sizes[d];
  }
  return axes.dims > 0 ? offset + index * axes.strides[0] : offset;
}

}  // namespace
}  // namespace hotloop::HOTLOOP_LEVEL
