// An activation chosen at run time, for the second pass after a product.
#pragma once

#include "kernels/cuda/lane.cuh"
#include "math/activation.h"

namespace hotloop::cuda {

// What a product's epilogue does itself: one comparison. The others cost registers and code that
// would be there sixty-four times.
inline bool is_cheap(Activation kind) {
  return kind == Activation::none || kind == Activation::relu || kind == Activation::leaky_relu;
}
// slope 0: relu. NaN passes through.
template <class T>
__device__ __forceinline__ T cheap_activation(T x, bool active, T slope) {
  return active && x < T(0) ? (slope == T(0) ? T(0) : x * slope) : x;
}

template <class T>
__device__ __forceinline__ T activate(Activation kind, T x, double alpha) {
  switch (kind) {
#define HOTLOOP_X(name, parameter, saved, cost) \
  case Activation::name:                        \
    return formula::name(Lane<T>{x}, alpha).value;
    HOTLOOP_ACTIVATIONS(HOTLOOP_X)
#undef HOTLOOP_X
    default:
      return x;
  }
}

}  // namespace hotloop::cuda
