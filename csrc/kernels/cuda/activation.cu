// y = f(x) and dx = dy f'(x) for every activation of the list: the formulas of math/activation.h
// over the element-wise loop.
#include "kernels/activation.h"

#include "kernels/cuda/map.cuh"
#include "math/activation.h"

namespace hotloop::cuda {

#define HOTLOOP_X(name, parameter, saved, cost)                                                  \
  struct name##_value {                                                                          \
    template <class T>                                                                           \
    static __device__ __forceinline__ Lane<T> value(double alpha, Lane<T> x, Lane<T>, Lane<T>) { \
      return formula::name(x, alpha);                                                            \
    }                                                                                            \
  };                                                                                             \
  struct name##_slope {                                                                          \
    template <class T>                                                                           \
    static __device__ __forceinline__ Lane<T> value(double alpha, Lane<T> dy, Lane<T> kept,      \
                                                    Lane<T>) {                                   \
      return formula::name##_backward(dy, kept, alpha);                                          \
    }                                                                                            \
  };                                                                                             \
  HOTLOOP_CUDA_KERNEL(name##_forward, MapArgs) {                                                 \
    map<1, name##_value>(args, stream);                                                          \
  }                                                                                              \
  HOTLOOP_CUDA_KERNEL(name##_backward, MapArgs) {                                                \
    map<2, name##_slope>(args, stream);                                                          \
  }
HOTLOOP_ACTIVATIONS(HOTLOOP_X)
#undef HOTLOOP_X

}  // namespace hotloop::cuda
