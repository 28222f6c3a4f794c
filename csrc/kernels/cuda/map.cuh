// The element-wise loop: out = f(in...) over the merged axes of MapArgs, one thread for 16 bytes of
// the last axis where all operands allow it (dense or repeated there, aligned), else for one
// element. One read and one write per operand: bound by bandwidth. An operand whose data is null is
// the number args.scalar.
#pragma once

#include "kernels/cuda/lane.cuh"
#include "kernels/map.h"

namespace hotloop::cuda {

inline constexpr int kMapThreads = 256;

// What a function gives: the lane's number, or a byte of truth.
template <class T>
__device__ __forceinline__ T stored(Lane<T> lane) {
  return lane.value;
}
__device__ __forceinline__ std::uint8_t stored(bool flag) {
  return flag;
}

template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T item[N];
};

// N elements of operand `data` at element `offset`, `step` (0 or, for N > 1, 1) apart.
template <int N, class T, class S>
__device__ __forceinline__ void load_lanes(Lane<T> (&to)[N], const void* data, std::int64_t offset,
                                           std::int64_t step, S number) {
  if (data == nullptr) {
    for (int i = 0; i < N; ++i) to[i] = {static_cast<T>(number)};
  } else if (N == 1 || step == 0) {
    const T value = static_cast<const T*>(data)[offset];
    for (int i = 0; i < N; ++i) to[i] = {value};
  } else {
    const auto pack = *reinterpret_cast<const Pack<T, N>*>(static_cast<const T*>(data) + offset);
    for (int i = 0; i < N; ++i) to[i] = {pack.item[i]};
  }
}

// Where the operands' elements of this thread begin. `vectors` of N elements make a row.
template <int Operands, int N>
__device__ __forceinline__ void place(const MapArgs& args, std::int64_t index, std::int64_t vectors,
                                      std::int64_t (&offset)[Operands]) {
  const int last = args.ndim - 1;
  std::int64_t rest = 0, column = index;
  if (last > 0) {
    rest = index / vectors;
    column = index - rest * vectors;
  }
  for (int k = 0; k < Operands; ++k) offset[k] = column * N * args.strides[k][last];
  for (int axis = last - 1; axis >= 0; --axis) {
    const std::int64_t size = args.shape[axis], next = axis > 0 ? rest / size : 0;
    const std::int64_t at = rest - next * size;
    for (int k = 0; k < Operands; ++k) offset[k] += at * args.strides[k][axis];
    rest = next;
  }
}

template <class T, int Inputs, int N, class F>
__global__ void __launch_bounds__(kMapThreads)
    map_elements(const __grid_constant__ MapArgs args, std::int64_t count, std::int64_t vectors) {
  using Result =
      decltype(stored(F::template value<T>(args.scalar, Lane<T>{}, Lane<T>{}, Lane<T>{})));
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * kMapThreads;
  for (std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kMapThreads + threadIdx.x;
       index < count; index += stride) {
    std::int64_t offset[Inputs + 1];
    place<Inputs + 1, N>(args, index, vectors, offset);
    const int last = args.ndim - 1;
    Lane<T> in[3][N];
    for (int k = 0; k < Inputs; ++k) {
      load_lanes<N, T>(in[k], args.data[k + 1], offset[k + 1], args.strides[k + 1][last],
                       args.scalar);
    }
    Pack<Result, N> out;
    for (int i = 0; i < N; ++i) {
      out.item[i] = stored(F::template value<T>(args.scalar, in[0][i], in[Inputs > 1 ? 1 : 0][i],
                                                in[Inputs > 2 ? 2 : 0][i]));
    }
    Result* const to = static_cast<Result*>(args.data[0]) + offset[0];
    if constexpr (N == 1) {
      *to = out.item[0];
    } else {
      *reinterpret_cast<Pack<Result, N>*>(to) = out;
    }
  }
}

// Whether threads may take N elements of the last axis at once.
inline bool takes_vectors(const MapArgs& args, int operands, int n, std::int64_t item,
                          std::int64_t out_item) {
  const int last = args.ndim - 1;
  if (args.shape[last] % n != 0) return false;
  for (int k = 0; k < operands; ++k) {
    if (args.data[k] == nullptr) continue;
    const std::int64_t bytes = n * (k == 0 ? out_item : item), step = args.strides[k][last];
    if (step == 0 && k > 0) {
      continue;
    }
    if (step != 1 || reinterpret_cast<std::uintptr_t>(args.data[k]) % bytes != 0) return false;
    for (int axis = 0; axis < last; ++axis) {
      if (args.strides[k][axis] % n != 0) return false;
    }
  }
  return true;
}

template <class T, int Inputs, int N, class F>
void launch_elements(const MapArgs& args, cudaStream_t stream) {
  const std::int64_t vectors = args.shape[args.ndim - 1] / N;
  std::int64_t count = vectors;
  for (int axis = 0; axis < args.ndim - 1; ++axis) count *= args.shape[axis];
  if (count == 0) return;
  HOTLOOP_LAUNCH((map_elements<T, Inputs, N, F>), blocks_for(count, kMapThreads), kMapThreads, 0,
                 stream, args, count, vectors);
}

// F::value<T>(scalar, a, b, c), of which the first Inputs are set, gives a Lane<T>, or a bool.
template <int Inputs, class F>
void map(const MapArgs& args, cudaStream_t stream, std::int64_t out_item = 0) {
  if (args.dtype == DType::f32) {
    if (takes_vectors(args, Inputs + 1, 4, 4, out_item ? out_item : 4)) {
      launch_elements<float, Inputs, 4, F>(args, stream);
    } else {
      launch_elements<float, Inputs, 1, F>(args, stream);
    }
  } else {
    launch_elements<double, Inputs, 1, F>(args, stream);
  }
}

}  // namespace hotloop::cuda
