// What the drivers of products share: sizes, work, and how it is split.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/launch.h"
#include "core/threads.h"
#include "kernels/gemm.h"

namespace hotloop {

constexpr double kGrainFlops = 5e5;  // about 4 microseconds

inline std::int64_t blocks_of(std::int64_t size, std::int64_t block) {
  return (size + block - 1) / block;
}

inline std::int64_t bytes_of(DType dtype) {
  return dtype == DType::f32 ? 4 : 8;
}

inline Split split_of(const GemmProblem& p, std::int64_t units, double flops) {
  Split split{.units = units};
  const double per_unit = flops / static_cast<double>(std::max<std::int64_t>(units, 1));
  split.grain =
      per_unit >= kGrainFlops ? 1 : static_cast<std::int64_t>(kGrainFlops / (per_unit + 1)) + 1;
  split.interruptible = p.interruptible;
  return split;
}

inline double flops_of(const GemmProblem& p) {
  // Writing an element of C is worth a few terms.
  return 2.0 * static_cast<double>(p.m) * static_cast<double>(p.n) *
         static_cast<double>(std::max<std::int64_t>(p.k, 4)) * static_cast<double>(p.batches);
}

// Worth several threads.
inline bool gemm_is_parallel(const GemmProblem& p) {
  return flops_of(p) >= kGrainFlops;
}

// A product of a few microseconds (kernels/gemm_small.cpp).
bool gemm_is_small(const GemmProblem& problem);
void gemm_small(const GemmProblem& problem);

}  // namespace hotloop
