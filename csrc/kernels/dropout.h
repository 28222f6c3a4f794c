// Dropout: element i survives when word i of the stream is at least `threshold`. The backward pass
// is the same kernel on dy with the same key: recomputing the mask is cheaper than keeping it. A
// work unit is kRandomUnit elements.
#pragma once

#include "core/dispatch.h"
#include "kernels/random.h"

namespace hotloop {

struct DropoutArgs {
  const void* x;  // contiguous
  void* y;        // contiguous; may be x
  std::int64_t size;
  DType dtype;
  std::uint64_t seed, stream;
  std::uint64_t threshold;   // p * 2^32, rounded up
  double scale;              // 1 / (1 - p)
  const RandomDraws* draws;  // as in RandomArgs
  bool stream_stores;        // CPU: write around the caches, which the arrays exceed
};

HOTLOOP_KERNEL(dropout_apply, DropoutArgs)

}  // namespace hotloop
