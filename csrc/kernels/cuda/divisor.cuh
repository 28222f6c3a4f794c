// Indices taken apart without dividing.
#pragma once

#include "kernels/cuda/kernel.cuh"

namespace hotloop::cuda {

// Division by a number known before the launch (Granlund and Montgomery 1994), for 0 <= n < 2^31.
struct Divisor {
  unsigned by, magic, shift;

  Divisor() = default;
  explicit Divisor(std::int64_t number) : by(static_cast<unsigned>(number)), magic(0), shift(0) {
    while ((std::uint64_t{1} << shift) < by) ++shift;
    const std::uint64_t rest = (std::uint64_t{1} << shift) - by;
    magic = static_cast<unsigned>((rest << 32) / by + 1);
  }
  // Returns the quotient and leaves the remainder.
  __device__ __forceinline__ unsigned split(unsigned& n) const {
    const unsigned quotient = (__umulhi(n, magic) + n) >> shift;
    n -= quotient * by;
    return quotient;
  }
};

}  // namespace hotloop::cuda
