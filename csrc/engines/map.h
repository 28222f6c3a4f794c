// The element-wise loop: out = f(in...) over the merged axes of MapArgs.
//
// Rows whose operands are dense, or one number each, run over whole vectors with one masked one at
// the end; rows with a strided operand load it as its stride asks, by a branch that never changes
// within a row. Outputs larger than the caches are written around them, which saves reading them
// first: 1.5 times as fast there (measured on Zen 4).
#pragma once

#include "kernels/map.h"
#include "simd/simd.h"

namespace hotloop::HOTLOOP_LEVEL {

template <class T>
[[gnu::always_inline]] static inline simd::Vec<T> load_any(const T* p, std::int64_t stride, int n) {
  if (stride == 1) return simd::load_upto(p, n);
  if (stride == 0) return simd::set1<T>(*p);
  return simd::load_strided(p, stride, n);
}

template <class T, class F>
[[gnu::always_inline]] static inline simd::Vec<T> apply(F f, const simd::Vec<T> (&v)[1]) {
  return f(v[0]);
}
template <class T, class F>
[[gnu::always_inline]] static inline simd::Vec<T> apply(F f, const simd::Vec<T> (&v)[2]) {
  return f(v[0], v[1]);
}
template <class T, class F>
[[gnu::always_inline]] static inline simd::Vec<T> apply(F f, const simd::Vec<T> (&v)[3]) {
  return f(v[0], v[1], v[2]);
}

// Vectors from which on whole lines are worth a step of their own: NumPy's large arrays begin 16
// bytes off, and every vector would be written to two.
constexpr std::int64_t kAlignFrom = 16;

// All bits set for an input that moves on with the output, none for one number in all lanes.
template <int Inputs>
struct Moves {
  std::int64_t mask[Inputs];
};
template <int Inputs>
[[gnu::always_inline]] static inline Moves<Inputs> all_move() {
  Moves<Inputs> moves;
  for (int k = 0; k < Inputs; ++k) moves.mask[k] = -1;
  return moves;
}

// The way over an operand's whole vectors: from the first of them up, or from the last down.
struct Walk {
  std::int64_t at, step;
};

// A load waits for an earlier store whose address agrees with its own in the last 12 bits. Where
// the output lies less than half of 4 KB behind an input, modulo 4 KB, going up loads what was just
// stored to in that sense, and going down does not (relu of 2^20 floats, 64 bytes behind: 50 us
// against 65; sigmoid's gradient, 80 bytes behind: 73 against 112). Arrays from one heap lie so.
template <int Inputs, class T>
static inline Walk walk(const T* out, const T* const (&in)[Inputs], const Moves<Inputs>& moves,
                        std::int64_t first, std::int64_t vectors) {
  constexpr std::uintptr_t kAlike = 4096;
  constexpr int lanes = simd::Vec<T>::lanes;
  std::uintptr_t behind = kAlike, ahead = kAlike;
  for (int k = 0; k < Inputs; ++k) {
    const std::uintptr_t apart =
        (reinterpret_cast<std::uintptr_t>(out) - reinterpret_cast<std::uintptr_t>(in[k])) % kAlike;
    if (apart == 0 || moves.mask[k] == 0) continue;
    if (apart < behind) behind = apart;
    if (kAlike - apart < ahead) ahead = kAlike - apart;
  }
  if (behind >= ahead) return {first, lanes};
  return {first + (vectors - 1) * lanes, -lanes};
}

// n elements, every operand dense; one that does not move holds a whole vector.
template <int Inputs, class T, class F>
[[gnu::always_inline]] static inline void map_dense(T* out, const T* const (&in)[Inputs],
                                                    const Moves<Inputs>& moves, std::int64_t n,
                                                    bool stream, F f) {
  constexpr int lanes = simd::Vec<T>::lanes;
  std::int64_t i = 0;
  const auto part = [&](int count) {  // at most a vector, through masks
    simd::Vec<T> v[Inputs];
    for (int k = 0; k < Inputs; ++k) v[k] = simd::load_n(in[k] + (i & moves.mask[k]), count);
    simd::store_n(out + i, apply<T>(f, v), count);
    i += count;
  };
  if (stream || n >= kAlignFrom * lanes) {
    const auto address = reinterpret_cast<std::uintptr_t>(out);
    const auto head = static_cast<std::int64_t>((-address & (simd::kBytes - 1)) / sizeof(T));
    if (head > 0) part(static_cast<int>(head < n ? head : n));
  }
  const std::int64_t vectors = (n - i) / lanes;
  auto [at, step] = walk(out, in, moves, i, vectors);
  i += vectors * lanes;
  for (std::int64_t left = vectors; left > 0; --left, at += step) {
    simd::Vec<T> v[Inputs];
    for (int k = 0; k < Inputs; ++k) v[k] = simd::load(in[k] + (at & moves.mask[k]));
    const simd::Vec<T> y = apply<T>(f, v);
    if (stream) {
      simd::stream(out + at, y);
    } else {
      simd::store(out + at, y);
    }
  }
  if (i < n) part(static_cast<int>(n - i));
}

// n elements of any strides; strides[0] is the output's.
template <int Inputs, class T, class F>
[[gnu::always_inline]] static inline void map_any(T* out, const T* const (&in)[Inputs],
                                                  const std::int64_t (&strides)[Inputs + 1],
                                                  std::int64_t n, F f) {
  constexpr int lanes = simd::Vec<T>::lanes;
  for (std::int64_t i = 0; i < n; i += lanes) {
    const int count = n - i < lanes ? static_cast<int>(n - i) : lanes;
    simd::Vec<T> v[Inputs];
    for (int k = 0; k < Inputs; ++k) {
      v[k] = load_any(in[k] + i * strides[k + 1], strides[k + 1], count);
    }
    const simd::Vec<T> y = apply<T>(f, v);
    if (strides[0] == 1) {
      simd::store_upto(out + i, y, count);
    } else {
      simd::store_strided(out + i * strides[0], y, strides[0], count);
    }
  }
}

// Calls row(offset, step, n) for every row, or part of one, that the units [begin, end) cover:
// where each operand begins and how far its elements lie apart.
template <int Operands, class Row>
[[gnu::always_inline]] static inline void each_row(const MapArgs& args, std::int64_t begin,
                                                   std::int64_t end, Row row) {
  const int last = args.ndim - 1;
  std::int64_t index[kMapDims];
  std::int64_t offset[Operands] = {};
  std::int64_t step[Operands];
  for (int k = 0; k < Operands; ++k) step[k] = args.strides[k][last];
  std::int64_t piece = begin % args.pieces;
  for (std::int64_t axis = last - 1, rest = begin / args.pieces; axis >= 0; --axis) {
    index[axis] = rest % args.shape[axis];
    rest /= args.shape[axis];
    for (int k = 0; k < Operands; ++k) offset[k] += index[axis] * args.strides[k][axis];
  }
  while (begin < end) {
    const std::int64_t left = args.pieces - piece;
    const std::int64_t taken = left < end - begin ? left : end - begin;
    const std::int64_t from = piece * args.piece;
    const std::int64_t rest = args.shape[last] - from;
    const std::int64_t n = rest < taken * args.piece ? rest : taken * args.piece;
    std::int64_t first[Operands];
    for (int k = 0; k < Operands; ++k) first[k] = offset[k] + from * step[k];
    row(first, step, n);
    begin += taken;
    piece = 0;
    for (int axis = last - 1; axis >= 0; --axis) {  // the next row
      for (int k = 0; k < Operands; ++k) offset[k] += args.strides[k][axis];
      if (++index[axis] < args.shape[axis]) break;
      for (int k = 0; k < Operands; ++k) offset[k] -= args.shape[axis] * args.strides[k][axis];
      index[axis] = 0;
    }
  }
}

template <int Inputs, class T, class F>
static inline void map_rows(const MapArgs& args, std::int64_t begin, std::int64_t end, F f) {
  const int last = args.ndim - 1;
  bool dense = args.strides[0][last] == 1;
  Moves<Inputs> moves = all_move<Inputs>();
  for (int k = 1; k <= Inputs; ++k) {
    const std::int64_t stride = args.strides[k][last];
    dense &= stride == 1 || (Inputs > 1 && stride == 0);
    if (Inputs > 1 && stride == 0) moves.mask[k - 1] = 0;
  }
  each_row<Inputs + 1>(args, begin, end,
                       [&](const std::int64_t(&first)[Inputs + 1],
                           const std::int64_t(&step)[Inputs + 1], std::int64_t n)
                           __attribute__((always_inline)) {
                             T* out = static_cast<T*>(args.data[0]) + first[0];
                             const T* in[Inputs];
                             for (int k = 0; k < Inputs; ++k) {
                               in[k] = static_cast<const T*>(args.data[k + 1]) + first[k + 1];
                             }
                             if (dense) {
                               alignas(simd::kBytes) T spread[Inputs][simd::Vec<T>::lanes];
                               for (int k = 0; k < Inputs; ++k) {
                                 if (Inputs == 1 || moves.mask[k] != 0) continue;
                                 simd::store(spread[k], simd::set1<T>(*in[k]));
                                 in[k] = spread[k];
                               }
                               map_dense<Inputs>(out, in, moves, n, args.stream, f);
                             } else {
                               map_any<Inputs>(out, in, step, n, f);
                             }
                           });
  if (args.stream) simd::stream_fence();
}

// f takes Inputs vectors and gives one; it is written once for both dtypes (a generic lambda).
template <int Inputs, class F>
static inline void map(const MapArgs& args, std::int64_t begin, std::int64_t end, F f) {
  static_assert(Inputs < kMapOperands);
  if (args.dtype == DType::f32) {
    map_rows<Inputs, float>(args, begin, end, f);
  } else {
    map_rows<Inputs, double>(args, begin, end, f);
  }
}

}  // namespace hotloop::HOTLOOP_LEVEL
