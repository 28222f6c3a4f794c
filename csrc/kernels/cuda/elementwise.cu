// Arithmetic, elementary functions, comparisons, selection: the lists of kernels/elementwise.h over
// the element-wise loop.
#include "kernels/elementwise.h"

#include "kernels/cuda/map.cuh"

namespace hotloop::cuda {

// sin, or for Quarters 1 cos.
template <int Quarters, class T>
__device__ __forceinline__ Lane<T> wave(Lane<T> x) {
  return Quarters == 0 ? sin(x) : cos(x);
}

#define HOTLOOP_FUNCTION(name, Result, expression)                                     \
  struct name##_value {                                                                \
    template <class T>                                                                 \
    static __device__ __forceinline__ Result value(double, [[maybe_unused]] Lane<T> x, \
                                                   [[maybe_unused]] Lane<T> y,         \
                                                   [[maybe_unused]] Lane<T> z) {       \
      return expression;                                                               \
    }                                                                                  \
  };

#define HOTLOOP_X(name, expression, cost)            \
  HOTLOOP_FUNCTION(name, Lane<T>, expression)        \
  HOTLOOP_CUDA_KERNEL(elementwise_##name, MapArgs) { \
    map<1, name##_value>(args, stream);              \
  }
HOTLOOP_UNARY(HOTLOOP_X)
#undef HOTLOOP_X

#define HOTLOOP_X(name, expression, cost)            \
  HOTLOOP_FUNCTION(name, Lane<T>, expression)        \
  HOTLOOP_CUDA_KERNEL(elementwise_##name, MapArgs) { \
    map<2, name##_value>(args, stream);              \
  }
HOTLOOP_BINARY(HOTLOOP_X)
#undef HOTLOOP_X

#define HOTLOOP_X(name, expression)                  \
  HOTLOOP_FUNCTION(name, bool, expression)           \
  HOTLOOP_CUDA_KERNEL(elementwise_##name, MapArgs) { \
    map<2, name##_value>(args, stream, 1);           \
  }
HOTLOOP_COMPARE(HOTLOOP_X)
#undef HOTLOOP_X

HOTLOOP_FUNCTION(clip, Lane<T>, min(max(x, y), z))
HOTLOOP_CUDA_KERNEL(elementwise_clip, MapArgs) {
  map<3, clip_value>(args, stream);
}

// The condition's bytes are not of the operands' type, so that the selection has a loop of its own.
template <class T>
__global__ void __launch_bounds__(kMapThreads)
    select_elements(const __grid_constant__ MapArgs args, std::int64_t count, std::int64_t row) {
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * kMapThreads;
  for (std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kMapThreads + threadIdx.x;
       index < count; index += stride) {
    std::int64_t offset[4];
    place<4, 1>(args, index, row, offset);
    const bool first = static_cast<const std::uint8_t*>(args.data[1])[offset[1]] != 0;
    const int taken = first ? 2 : 3;
    const void* const from = args.data[taken];
    const T value = from == nullptr ? static_cast<T>(args.scalar)
                                    : static_cast<const T*>(from)[first ? offset[2] : offset[3]];
    static_cast<T*>(args.data[0])[offset[0]] = value;
  }
}

HOTLOOP_CUDA_KERNEL(elementwise_where, MapArgs) {
  std::int64_t count = 1;
  for (int axis = 0; axis < args.ndim; ++axis) count *= args.shape[axis];
  const std::int64_t row = args.shape[args.ndim - 1];
  const unsigned blocks = blocks_for(count, kMapThreads);
  if (args.dtype == DType::f32) {
    HOTLOOP_LAUNCH((select_elements<float>), blocks, kMapThreads, 0, stream, args, count, row);
  } else {
    HOTLOOP_LAUNCH((select_elements<double>), blocks, kMapThreads, 0, stream, args, count, row);
  }
}

}  // namespace hotloop::cuda
