// Copies from global to shared memory that pass no register and go on while the thread computes:
// cp.async of sm_80 and newer (PTX ISA, "Data Movement: cp.async"). Done, for the thread itself,
// after copies_wait; for its block, after a barrier that follows.
#pragma once

#include "kernels/cuda/kernel.cuh"

namespace hotloop::cuda {

// 4, 8 or 16 bytes, aligned to as many; zeros, and nothing is read, where `there` is false.
template <int bytes>
__device__ __forceinline__ void copy_async(void* to, const void* from, bool there) {
  static_assert(bytes == 4 || bytes == 8 || bytes == 16);
#if defined(HOTLOOP_CUDA_EMULATE)
  emulation::copy_async(to, there ? from : nullptr, bytes);
#else
  const auto at = static_cast<unsigned>(__cvta_generic_to_shared(to));
  const int size = there ? bytes : 0;
  if constexpr (bytes == 16) {  // past L1
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(size)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(at), "l"(from), "n"(bytes),
                 "r"(size)
                 : "memory");
  }
#endif
}

// Waits for all copies that this thread has begun.
__device__ __forceinline__ void copies_wait() {
#if defined(HOTLOOP_CUDA_EMULATE)
  emulation::copies_wait();
#else
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

}  // namespace hotloop::cuda
