// sum, product, extremes, variance and logsumexp over any axes of an array of any strides; mean is
// a sum with a divisor. And along one axis: the place of the extreme, the running sum.
//
// The axes are sorted by the binding into kept and reduced ones, the innermost last. A unit is one
// chunk of the reduced elements for one output (rows) or for a block of neighbouring outputs
// (columns, narrow or wide). With several chunks the outputs are partial results, [chunk][output],
// which a second launch combines.
#pragma once

#include "core/dispatch.h"

namespace hotloop {

constexpr int kReduceDims = 16;
constexpr std::int64_t kReduceColumns = 128;     // outputs of a unit in column mode
constexpr std::int64_t kReduceWideBytes = 8192;  // of wide_reduce: a quarter of L1

// squares: the sum of the squares. The last two keep a pair of numbers for each output
// (pair_reduce).
enum class ReduceOp : std::int32_t { sum, max, min, prod, squares, var, logsumexp };

struct ReduceArgs {
  DType dtype;
  ReduceOp op;
  const void* x;
  void* out;
  void* second;          // pair_reduce: null, or the second numbers of partial results
  double divisor;        // of the totals; 1 for none
  bool columns;          // lanes are neighbouring outputs instead of neighbouring terms
  bool wide;             // columns, by wide_reduce
  std::int64_t reduced;  // terms of one output
  std::int64_t chunk;    // terms of one unit
  std::int64_t outputs;
  std::int64_t out_chunk_stride;
  std::int32_t kept_dims, reduced_dims;  // at least 1
  std::int64_t kept_sizes[kReduceDims], kept_strides[kReduceDims], out_strides[kReduceDims];
  std::int64_t reduced_sizes[kReduceDims], reduced_strides[kReduceDims];
  void* scratch;             // CUDA alone
  const double* divisor_at;  // CUDA alone: on the device, instead of divisor; null: not
};

// On CUDA `reduce` and `pair_reduce` take the whole reduction, as run_reduce and run_pair_reduce:
// they cut it into chunks of their own (what HOTLOOP_CUDA_WORKSPACE asks for) and ignore chunk,
// out_chunk_stride, second and the units. index_along takes its lines whole.
HOTLOOP_KERNEL(reduce, ReduceArgs)
// var: (mean, sum of squared distances); logsumexp: (maximum, sum of exp(x - maximum)).
HOTLOOP_KERNEL(pair_reduce, ReduceArgs)

// Columns of long dense rows: a unit is a chunk of rows for kReduceWideBytes of outputs. All ops
// but logsumexp; var writes pairs.
HOTLOOP_KERNEL(wide_reduce, ReduceArgs)

// Along one axis. A unit is one line, or a block of kReduceColumns neighbouring lines where those
// lie side by side.
struct AlongArgs {
  DType dtype;
  bool smallest;  // index_along: of the minimum
  bool columns;   // the last kept axis has stride 1 in x (and in out)
  const void* x;
  void* out;  // index_along: int64, contiguous over the lines; running_sum: any strides
  std::int64_t size, stride, out_stride;  // of the axis
  std::int32_t kept_dims;                 // at least 1
  std::int64_t kept_sizes[kReduceDims], kept_strides[kReduceDims], out_strides[kReduceDims];
};
HOTLOOP_KERNEL(index_along, AlongArgs)
HOTLOOP_KERNEL(running_sum, AlongArgs)
// Lines of both kernels.
std::int64_t units_along(const AlongArgs& args);

// Decides the chunks (from sizes alone), runs the kernel once or twice. `chunk` and
// `out_chunk_stride` of the arguments are set here.
void run_reduce(const ReduceArgs& whole);
void run_pair_reduce(const ReduceArgs& whole);
// index_along; long lines are cut into chunks too.
void run_index_along(const AlongArgs& whole);
// For out[0] = sum(x[0..n)) / divisor of a dense vector.
ReduceArgs sum_args(DType dtype, const void* x, std::int64_t n, double divisor, void* out);

}  // namespace hotloop
