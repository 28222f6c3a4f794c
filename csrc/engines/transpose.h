// Square blocks of Vec<T>::lanes rows transposed in registers: log2(lanes) rounds of exchanging
// halves between rows 1, 2, 4, 8 apart, a shuffle of two registers each; about 100 cycles for 16x16
// floats.
#pragma once

#include "simd/simd.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

template <int... I>
struct LaneList {};
template <int N, int... I>
struct MakeLanes : MakeLanes<N - 1, N - 1, I...> {};
template <int... I>
struct MakeLanes<0, I...> {
  using type = LaneList<I...>;
};

// Lane l of the upper row: its own where (l & Step) == 0, else what the lower row has Step to the
// left.
template <int Step, class T, int... I>
HOTLOOP_SIMD simd::Vec<T> exchange_upper(simd::Vec<T> a, simd::Vec<T> b, LaneList<I...>) {
  constexpr int kLanes = simd::Vec<T>::lanes;
  return {__builtin_shufflevector(a.v, b.v, ((I & Step) ? kLanes + I - Step : I)...)};
}
template <int Step, class T, int... I>
HOTLOOP_SIMD simd::Vec<T> exchange_lower(simd::Vec<T> a, simd::Vec<T> b, LaneList<I...>) {
  constexpr int kLanes = simd::Vec<T>::lanes;
  return {__builtin_shufflevector(a.v, b.v, ((I & Step) ? kLanes + I : I + Step)...)};
}

template <int Step, class T>
HOTLOOP_SIMD void exchange_rows(simd::Vec<T> (&row)[simd::Vec<T>::lanes]) {
  using V = simd::Vec<T>;
  using Lanes = typename MakeLanes<V::lanes>::type;
  if constexpr (Step < V::lanes) {
#pragma GCC unroll 16
    for (int i = 0; i < V::lanes; ++i) {
      if (i & Step) continue;
      const V upper = row[i];
      const V lower = row[i + Step];
      row[i] = exchange_upper<Step>(upper, lower, Lanes{});
      row[i + Step] = exchange_lower<Step>(upper, lower, Lanes{});
    }
    exchange_rows<2 * Step, T>(row);
  }
}

template <class T>
HOTLOOP_SIMD void transpose_registers(simd::Vec<T> (&row)[simd::Vec<T>::lanes]) {
  exchange_rows<1, T>(row);
}

// to[j * to_step + i] = from[i * from_step + j], a whole block of lanes x lanes.
template <class T>
[[gnu::noinline]] void transpose_block(const T* from, std::int64_t from_step, T* to,
                                       std::int64_t to_step) {
  using V = simd::Vec<T>;
  V row[V::lanes];
#pragma GCC unroll 16
  for (int i = 0; i < V::lanes; ++i) row[i] = simd::load(from + i * from_step);
  transpose_registers<T>(row);
#pragma GCC unroll 16
  for (int i = 0; i < V::lanes; ++i) simd::store(to + i * to_step, row[i]);
}

// The same for rows x columns elements of `from`, rows and columns at most lanes; writes `width` >=
// rows elements (at most lanes) of each of the `columns` rows of `to`, zeros beyond `rows`.
template <class T>
[[gnu::noinline]] void transpose_edge(const T* from, std::int64_t from_step, int rows, int columns,
                                      T* to, std::int64_t to_step, int width) {
  using V = simd::Vec<T>;
  V row[V::lanes];
#pragma GCC unroll 16
  for (int i = 0; i < V::lanes; ++i) {
    row[i] = i < rows ? simd::load_n(from + i * from_step, columns) : simd::zero<T>();
  }
  transpose_registers<T>(row);
#pragma GCC unroll 16
  for (int i = 0; i < V::lanes; ++i) {
    if (i < columns) simd::store_n(to + i * to_step, row[i], width);
  }
}

}  // namespace
}  // namespace hotloop::HOTLOOP_LEVEL
