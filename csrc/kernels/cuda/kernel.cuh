// What every kernel of the CUDA level includes first, and the rules that let the same source run on
// a GPU and, compiled by the host compiler against csrc/emulation/, in the tests.
//
//   template <class T>
//   __global__ void __launch_bounds__(256) scale_rows(const __grid_constant__ ScaleArgs args) {...}
//
//   HOTLOOP_CUDA_KERNEL(scale, ScaleArgs) {  // args, units and stream are in sight
//     HOTLOOP_LAUNCH((scale_rows<float>), grid, 256, 0, stream, args);
//   }
//
// - CUDA is one more level of the contract in kernels/<family>.h: the argument structs are those of
//   the CPU with device pointers, the formulas those of math/ (over Lane, kernels/cuda/lane.cuh).
//   A kernel named in HOTLOOP_KERNEL(name, Args) has its twin under the same name here.
// - The body only launches: no allocation, synchronization or read-back, so that all of it can be
//   captured in a graph. Scratch comes in the argument struct; how much, HOTLOOP_CUDA_WORKSPACE
//   says. It never sees units <= 0. Its result is what cudaGetLastError says after it.
// - HOTLOOP_LAUNCH is the only way a kernel starts; a template's name goes in parentheses. Argument
//   structs are taken by value as __grid_constant__ parameters (4 KB at most).
// - HOTLOOP_SHARED(type, name) is the only dynamic shared memory: one array of a block, aligned to
//   16 bytes. Above 48 KB: allow_shared(kernel, bytes) before the launch.
// - Barriers are reached by all threads of a block; shuffles are the *_sync ones with the mask of
//   all lanes that take part; nothing relies on a warp's timing. No float atomics: results are the
//   same bits from run to run. No asm, but in kernels/cuda/ptx/. Only what is in <cuda_runtime.h>.
#pragma once

// The level's name in namespaces: hotloop::cuda.
#define HOTLOOP_LEVEL cuda

#include <cstddef>
#include <cstdint>

// emulation/cuda.h gives what <cuda_runtime.h> gives: its language (__global__, __device__,
// __host__, __shared__, __forceinline__, __launch_bounds__, __grid_constant__, threadIdx ...),
// vector types, intrinsics, and, by emulation/runtime.h, its calls and types (cudaError_t,
// cudaStream_t, cudaMalloc ...). Besides, HOTLOOP_LAUNCH and HOTLOOP_SHARED.
#if defined(HOTLOOP_CUDA_EMULATE)
#include "emulation/cuda.h"
#else
#include <cuda_runtime.h>

#define HOTLOOP_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  kernel<<<grid, block, shared_bytes, stream>>>(__VA_ARGS__)
#define HOTLOOP_SHARED(type, name)                                 \
  extern __shared__ __align__(16) unsigned char hotloop_shared_[]; \
  type* const name = reinterpret_cast<type*>(hotloop_shared_)
#endif

#include "core/dispatch.h"

#define HOTLOOP_CUDA_EXPORT extern "C" __attribute__((visibility("default")))

// Defines hotloop_cuda_<name>, which the library's users find by its name; 0 is success.
#define HOTLOOP_CUDA_KERNEL(name, Args)                                                         \
  static void hotloop_launch_##name(const Args& args, std::int64_t units, cudaStream_t stream); \
  HOTLOOP_CUDA_EXPORT int hotloop_cuda_##name(const void* args, std::int64_t units,             \
                                              void* stream) {                                   \
    if (units <= 0) return 0;                                                                   \
    hotloop_launch_##name(*static_cast<const Args*>(args), units,                               \
                          static_cast<cudaStream_t>(stream));                                   \
    return static_cast<int>(cudaGetLastError());                                                \
  }                                                                                             \
  static void hotloop_launch_##name([[maybe_unused]] const Args& args,                          \
                                    [[maybe_unused]] std::int64_t units, cudaStream_t stream)

// Defines hotloop_cuda_<name>_workspace: the bytes of scratch for these arguments. A caller that
// finds it allocates them and sets the struct's scratch pointer before the launch.
#define HOTLOOP_CUDA_WORKSPACE(name, Args)                                             \
  static std::int64_t hotloop_workspace_##name(const Args& args);                      \
  HOTLOOP_CUDA_EXPORT std::int64_t hotloop_cuda_##name##_workspace(const void* args) { \
    return hotloop_workspace_##name(*static_cast<const Args*>(args));                  \
  }                                                                                    \
  static std::int64_t hotloop_workspace_##name([[maybe_unused]] const Args& args)

namespace hotloop::cuda {

inline constexpr int kWarp = 32;
inline constexpr unsigned kAllLanes = 0xffffffffu;
inline constexpr std::int64_t kMaxGrid = 0x7fffffff;  // blocks along x; y and z end at 65535

// Blocks of `each` units, as many as the grid may have: kernels walk on by gridDim.x.
inline unsigned blocks_for(std::int64_t units, std::int64_t each) {
  const std::int64_t blocks = units / each + (units % each != 0);
  return static_cast<unsigned>(blocks < kMaxGrid ? blocks : kMaxGrid);
}

// Lets a kernel take more dynamic shared memory than 48 KB; a refusal is the launch's error.
template <class Function>
inline void allow_shared(Function* kernel, std::size_t bytes) {
  if (bytes > 48u * 1024u) {
    (void)cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                               cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(bytes));
  }
}

}  // namespace hotloop::cuda
