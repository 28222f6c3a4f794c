// Random numbers that need no state: number i is a function of (seed, stream, i) alone. A work unit
// is 32 elements. kRandomUnit and the layout inside (engines/random.h) are part of what a seed
// means.
#pragma once

#include "core/dispatch.h"

namespace hotloop {

constexpr std::int64_t kRandomUnit = 32;

// CUDA alone, on the device: what a captured graph draws with when it is replayed, so that every
// replay draws anew. `stream` is added to that of the arguments, `seed` takes the place of theirs.
struct RandomDraws {
  std::uint64_t stream, seed;
};

struct RandomArgs {
  void* out;  // contiguous
  std::int64_t size;
  DType dtype;
  std::uint64_t seed, stream;
  double shift, scale;       // shift + scale * number
  const RandomDraws* draws;  // null: the numbers of `seed` and `stream`
};

HOTLOOP_KERNEL(random_uniform, RandomArgs)  // numbers in [0, 1)
HOTLOOP_KERNEL(random_normal, RandomArgs)   // mean 0, variance 1
// 1 where the uniform number is below `scale`, else 0; `shift` is not read.
HOTLOOP_KERNEL(random_bernoulli, RandomArgs)

// The numbers from 0 to size - 1 in random order. CUDA alone: the binding shuffles on the CPU.
struct PermutationArgs {
  std::int64_t* order;
  std::int64_t size;
  std::uint64_t seed, stream;
  const RandomDraws* draws;  // as in RandomArgs
  void* scratch;
};

}  // namespace hotloop
