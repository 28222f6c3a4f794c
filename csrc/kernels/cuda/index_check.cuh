// Whether an index is in range; one that is not is noted for the host (kernels/index_check.h).
#pragma once

#include "kernels/cuda/kernel.cuh"
#include "kernels/index_check.h"

namespace hotloop::cuda {

__device__ __forceinline__ bool in_range(std::int64_t value, std::int64_t bound) {
  return static_cast<std::uint64_t>(value) < static_cast<std::uint64_t>(bound);
}

__device__ __forceinline__ bool in_range(const IndexCheck& check, std::int64_t value,
                                         std::int64_t bound, std::int64_t position) {
  if (in_range(value, bound)) return true;
  using Word = unsigned long long;
  const Word rule = static_cast<Word>(reinterpret_cast<std::uintptr_t>(check.rule));
  if (check.fault && atomicCAS(reinterpret_cast<Word*>(&check.fault->rule), Word{0}, rule) == 0) {
    check.fault->op = check.op;
    check.fault->value = value;
    check.fault->bound = bound;
    check.fault->position = position;
  }
  return false;
}

}  // namespace hotloop::cuda
