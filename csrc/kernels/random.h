// Random numbers that need no state: number i is a function of (seed, stream, i) alone. A work unit
// is 32 elements. kRandomUnit and the layout inside (engines/random.h) are part of what a seed
// means.
#pragma once

#include "core/dispatch.h"

namespace hotloop {

constexpr std::int64_t kRandomUnit = 32;

struct RandomArgs {
  void* out;  // contiguous
  std::int64_t size;
  DType dtype;
  std::uint64_t seed, stream;
  double shift, scale;  // shift + scale * number
  // CUDA alone, on the device: added to `stream`, so that a captured step draws anew. Null: 0.
  const std::uint64_t* counter;
};

HOTLOOP_KERNEL(random_uniform, RandomArgs)  // numbers in [0, 1)
HOTLOOP_KERNEL(random_normal, RandomArgs)   // mean 0, variance 1
// 1 where the uniform number is below `scale`, else 0; `shift` is not read.
HOTLOOP_KERNEL(random_bernoulli, RandomArgs)

}  // namespace hotloop
