// sum, max and min over any axes of an array of any strides; mean is a sum with a divisor.
//
// The axes are sorted by the binding into kept and reduced ones, the innermost last. A unit is one
// chunk of the reduced elements for one output (rows) or for a block of neighbouring outputs
// (columns). With several chunks the outputs are partial results, [chunk][output], which a second
// launch combines.
#pragma once

#include "core/dispatch.h"

namespace hotloop {

constexpr int kReduceDims = 16;
constexpr std::int64_t kReduceColumns = 128;  // outputs of a unit in column mode

enum class ReduceOp : std::int32_t { sum, max, min };

struct ReduceArgs {
  DType dtype;
  ReduceOp op;
  const void* x;
  void* out;
  double divisor;        // of the totals; 1 for none
  bool columns;          // lanes are neighbouring outputs instead of neighbouring terms
  std::int64_t reduced;  // terms of one output
  std::int64_t chunk;    // terms of one unit
  std::int64_t outputs;
  std::int64_t out_chunk_stride;
  std::int32_t kept_dims, reduced_dims;  // at least 1
  std::int64_t kept_sizes[kReduceDims], kept_strides[kReduceDims], out_strides[kReduceDims];
  std::int64_t reduced_sizes[kReduceDims], reduced_strides[kReduceDims];
};

HOTLOOP_KERNEL(reduce, ReduceArgs)

// Decides the chunks (from sizes alone), runs the kernel once or twice. `chunk` and
// `out_chunk_stride` of the arguments are set here.
void run_reduce(const ReduceArgs& whole);
// out[0] = sum(x[0..n)) / divisor, for a dense vector.
void run_sum(DType dtype, const void* x, std::int64_t n, double divisor, void* out);

}  // namespace hotloop
