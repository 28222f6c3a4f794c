// Products of a few microseconds, where planning would take as long: nothing is allocated, at most
// one unit for each thread, and only threads that are awake.
#include <algorithm>
#include <cmath>

#include "kernels/driver/gemm_plan.h"

namespace hotloop {

namespace {

constexpr std::int64_t kNearBytes = 128 << 10;     // of B, read where it lies
constexpr std::int64_t kRowNearBytes = 256 << 10;  // likewise, for a single row
constexpr double kSmallFlops = 5e6;                // about 40 microseconds of one thread
constexpr std::int64_t kLeastRows = 8;             // of a thread
constexpr std::int64_t kLeastColumns = 64;         // of a thread where rows are few: whole tiles

// == takes 0.0 for -0.0.
bool same_signs(const GemmProblem& a, const GemmProblem& b) {
  return std::signbit(a.alpha) == std::signbit(b.alpha) &&
         std::signbit(a.activation_alpha) == std::signbit(b.activation_alpha);
}

}  // namespace

void launch_product(Kernel<GemmArgs> kernel, const GemmArgs& args, const Split& split) {
  static thread_local GemmArgs kept;
  if (!split.is_short || !is_parallel(split)) return launch(kernel, args, split);
  if (!(kept == args) || !same_signs(kept.p, args.p)) kept = args;
  Split whole = split;
  whole.interruptible = false;  // a handler of signals may multiply: `kept` would be its own then
  launch(kernel, kept, whole);
}

bool gemm_is_small(const GemmProblem& p) {
  if (p.batches != 1 || p.packed_columns > 0 || p.n <= 1 || p.k <= 1) return false;
  if (p.m <= 1) {
    // A row of few terms, or a B near enough; others have ways of their own.
    if (p.m < 1 || p.b.column_step != 1) return false;
    return (p.k < 16 && p.n <= 512) ||
           (p.k <= 512 && p.k * p.n * bytes_of(p.dtype) <= kRowNearBytes &&
            p.b.row_step * bytes_of(p.dtype) % 4096 != 0);
  }
  const std::int64_t item = bytes_of(p.dtype);
  if (p.b.column_step == 1) {
    return p.k <= 512 && p.n <= 512 && p.m <= 512 && p.k * p.n * item <= kNearBytes &&
           flops_of(p) <= kSmallFlops && (p.k <= 128 || p.b.row_step * item % 4096 != 0);
  }
  return p.m <= 128 && p.n <= 128 && p.k <= 128 && p.m * p.n * p.k <= 70 * 70 * 70 &&
         (p.n + 15) / 16 * 16 * p.k * item <= kGemmTinyBytes;
}

void gemm_small(const GemmProblem& p) {
  GemmArgs args;
  args.p = p;
  args.column_block = p.n;
  args.column_blocks = 1;
  const bool packs = p.b.column_step != 1;
  // Each thread packs B; a single row waits for loads.
  const double share = kShareFlops * (packs ? 3 : p.m == 1 ? 0.5 : 1);
  const std::int64_t threads =
      std::min<std::int64_t>(num_threads(), static_cast<std::int64_t>(flops_of(p) / share));
  const std::int64_t row_threads = std::min(threads, p.m / kLeastRows);
  args.row_block = blocks_of(p.m, std::max<std::int64_t>(row_threads, 1));
  args.row_blocks = blocks_of(p.m, args.row_block);
  if (row_threads < threads && row_threads <= 1 && !packs) {
    const std::int64_t least = p.m == 1 ? 16 : kLeastColumns;
    args.column_block = blocks_of(blocks_of(p.n, threads), least) * least;
    args.column_blocks = blocks_of(p.n, args.column_block);
  }
  const std::int64_t units = args.row_blocks * args.column_blocks;
  if (units == 1) {
    gemm_small_tiles_kernel()(args, 0, 1);
  } else {
    Split split{.units = units};
    split.max_threads = static_cast<int>(units);
    split.interruptible = false;
    split.is_short = true;
    launch_product(gemm_small_tiles_kernel(), args, split);
  }
  if (p.a_sums) gemm_row_sums(p);
}

}  // namespace hotloop
