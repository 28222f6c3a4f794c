// An activation, named by its enum, on a vector in registers or on a row in memory: for the
// epilogues of products and convolutions.
//
// activate() inlines the cheap ones and calls a function for the others, which costs every vector
// register that is live: where accumulators are, store the tile first and use activate_row() while
// it is still in L1 (is_cheap() tells).
#pragma once

#include "math/activation.h"
#include "simd/gate.h"
#include "simd/math.h"

namespace hotloop::HOTLOOP_LEVEL {

// A handful of instructions: worth doing while the value is in a register.
[[maybe_unused]] static inline bool is_cheap(Activation kind) {
  return kind == Activation::none || kind == Activation::relu || kind == Activation::leaky_relu;
}

template <class T>
[[gnu::noinline]] static simd::Vec<T> activate_called(Activation kind, double alpha,
                                                      simd::Vec<T> v) {
  switch (kind) {
#define HOTLOOP_X(name, parameter, saved, cost) \
  case Activation::name:                        \
    return formula::name(v, alpha);
    HOTLOOP_ACTIVATIONS(HOTLOOP_X)
#undef HOTLOOP_X
    default:
      return v;
  }
}

template <class T>
[[gnu::always_inline]] static inline simd::Vec<T> activate(Activation kind, double alpha,
                                                           simd::Vec<T> v) {
  if (kind == Activation::none) return v;
  if (kind == Activation::relu) return formula::relu(v, alpha);
  if (kind == Activation::leaky_relu) return formula::leaky_relu(v, alpha);
  return activate_called(kind, alpha, v);
}

// In place over n contiguous elements.
template <class T>
[[gnu::noinline]] static void activate_row(Activation kind, double alpha, T* row, std::int64_t n) {
  switch (kind) {
#define HOTLOOP_X(name, parameter, saved, cost)                  \
  case Activation::name:                                         \
    for (std::int64_t i = 0; i < n; i += simd::Vec<T>::lanes) {  \
      const simd::Vec<T> v = simd::load_upto(row + i, n - i);    \
      simd::store_upto(row + i, formula::name(v, alpha), n - i); \
    }                                                            \
    break;
    HOTLOOP_ACTIVATIONS(HOTLOOP_X)
#undef HOTLOOP_X
    default:
      break;
  }
}

}  // namespace hotloop::HOTLOOP_LEVEL
