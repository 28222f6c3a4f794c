// The driver of the reductions: few outputs of many terms are cut into chunks, so that threads have
// something to share; the cut depends on sizes alone, hence the bits do not depend on the threads.
#include "kernels/reduce.h"

#include "core/arena.h"
#include "core/launch.h"

namespace hotloop {

namespace {

constexpr std::int64_t kChunkTerms = 32768;  // elements that are worth a unit of their own
constexpr std::int64_t kFewUnits = 32;       // above that the outputs alone occupy the threads
constexpr std::int64_t kMaxChunks = 64;
constexpr std::int64_t kGrainTerms = 65536;  // elements read in about 10 microseconds

std::int64_t columns_of(const ReduceArgs& args) {
  return args.columns ? args.kept_sizes[args.kept_dims - 1] : 1;
}

void start(const ReduceArgs& args) {
  const std::int64_t columns = columns_of(args);
  if (args.outputs == 0) return;
  const std::int64_t width = columns < kReduceColumns ? columns : kReduceColumns;
  const std::int64_t blocks = (columns + kReduceColumns - 1) / kReduceColumns;
  const std::int64_t chunks = args.reduced > 0 ? (args.reduced + args.chunk - 1) / args.chunk : 1;
  const std::int64_t terms = args.chunk * width;
  launch(reduce_kernel(), args,
         Split{.units = args.outputs / columns * blocks * chunks,
               .grain = terms >= kGrainTerms ? 1 : kGrainTerms / (terms > 0 ? terms : 1)});
}

}  // namespace

void run_reduce(const ReduceArgs& whole) {
  ReduceArgs args = whole;
  args.chunk = args.reduced > 0 ? args.reduced : 1;
  args.out_chunk_stride = 0;
  const std::int64_t columns = columns_of(args);
  const std::int64_t width = columns < kReduceColumns ? columns : kReduceColumns;
  if (args.outputs / (width > 0 ? width : 1) >= kFewUnits ||
      args.reduced < 2 * kChunkTerms / (width > 0 ? width : 1)) {
    start(args);
    return;
  }
  args.chunk = (args.reduced + kMaxChunks - 1) / kMaxChunks;
  if (args.chunk < kChunkTerms / width) args.chunk = kChunkTerms / width;
  args.chunk = (args.chunk + 255) / 256 * 256;  // whole blocks, whatever the lanes
  const std::int64_t chunks = (args.reduced + args.chunk - 1) / args.chunk;
  const std::int64_t item = args.dtype == DType::f32 ? 4 : 8;
  const Scratch partial(static_cast<std::size_t>(chunks * args.outputs * item));
  args.out = partial.get();
  args.divisor = 1;
  args.out_chunk_stride = args.outputs;
  std::int64_t step = 1;
  for (int d = args.kept_dims - 1; d >= 0; --d) {
    args.out_strides[d] = step;
    step *= args.kept_sizes[d];
  }
  start(args);

  ReduceArgs combine = whole;
  combine.x = partial.get();
  combine.columns = args.outputs > 1;
  combine.reduced = combine.chunk = chunks;
  combine.out_chunk_stride = 0;
  for (int d = 0; d < args.kept_dims; ++d) combine.kept_strides[d] = args.out_strides[d];
  combine.reduced_dims = 1;
  combine.reduced_sizes[0] = chunks;
  combine.reduced_strides[0] = args.outputs;
  start(combine);
}

void run_sum(DType dtype, const void* x, std::int64_t n, double divisor, void* out) {
  ReduceArgs args{};
  args.dtype = dtype;
  args.op = ReduceOp::sum;
  args.x = x;
  args.out = out;
  args.divisor = divisor;
  args.reduced = n;
  args.outputs = 1;
  args.kept_dims = args.reduced_dims = 1;
  args.kept_sizes[0] = 1;
  args.reduced_sizes[0] = n;
  args.reduced_strides[0] = 1;
  run_reduce(args);
}

}  // namespace hotloop
