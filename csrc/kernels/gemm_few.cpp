// Products with few rows, or few columns: nothing of B is packed. Its bandwidth decides, or the
// loads.
#include <algorithm>

#include "kernels/driver/gemm_plan.h"

namespace hotloop {

namespace {

constexpr double kShortFlops = 2e6;           // about 20 microseconds of one thread
constexpr std::int64_t kNearBytes = 2 << 20;  // of B

// Threads that are awake for a short product; a single row is worth another at half the work.
std::int64_t short_threads(const GemmProblem& p) {
  const double shares = flops_of(p) * (p.m == 1 ? 2 : 1) / kShareFlops;
  return std::min<std::int64_t>(num_threads(), static_cast<std::int64_t>(shares));
}

// As few units as threads where all is quick: blocks of columns, of rows where those are few.
void split_short_dots(const GemmProblem& p, GemmArgs& args) {
  const std::int64_t threads = short_threads(p);
  if (threads <= 1) {
    args.column_block = p.n;
  } else if (p.n >= 32 * threads || p.m < 4 * threads) {
    args.column_block = blocks_of(blocks_of(p.n, threads), 16) * 16;
  } else {
    args.column_block = p.n;
    args.row_block = blocks_of(blocks_of(p.m, threads), 4) * 4;
  }
}

}  // namespace

void gemm_run_dots(const GemmProblem& p) {
  const bool is_short = p.batches == 1 && flops_of(p) < kShortFlops;
  GemmArgs args;
  args.row_block = p.m;
  // A unit of at least 16K products; of a single row whole vectors of results.
  const std::int64_t least = p.m == 1                                                        ? 16
                             : p.m == 8 && p.n * p.k * bytes_of(p.dtype) > kGemmBeyondCaches ? 24
                                                                                             : 8;
  const std::int64_t columns = 16384 / std::max<std::int64_t>(p.k * p.m, 1);
  args.column_block = std::clamp<std::int64_t>(columns / least * least, least, 256);
  const std::int64_t all = gemm_is_parallel(p) ? num_threads() : 1;
  if (is_short) {
    split_short_dots(p, args);
  } else if (p.batches == 1 && p.n < 4 * all * args.column_block && p.m >= 8 * all) {
    args.row_block = blocks_of(blocks_of(p.m, 2 * all), 4) * 4;  // few columns: blocks of rows
    args.column_block = p.n;
  }
  args.column_blocks = blocks_of(p.n, args.column_block);
  args.row_blocks = blocks_of(p.m, args.row_block);
  const std::int64_t units = p.batches * args.row_blocks * args.column_blocks;
  // Several passes over the rows of B: as much of them as L1 holds beside A.
  const std::int64_t most = p.m > 8 ? kDepthBytes / bytes_of(p.dtype) : p.k;
  for_blocks_of_k(p, most, [&](const GemmProblem& block) {
    args.p = block;
    Split split = split_of(p, units, 4 * flops_of(block));
    if (is_short) {
      split.grain = 1;
      split.is_short = true;
    }
    launch_product(gemm_dots_kernel(), args, split);
  });
}

void gemm_run_rows(const GemmProblem& p) {
  GemmArgs args;
  args.p = p;
  // Whole rows where one thread is enough: each column's sum is the same however they are cut.
  const bool is_short = p.batches == 1 && flops_of(p) < kShortFlops;
  const std::int64_t threads = is_short              ? std::max<std::int64_t>(short_threads(p), 1)
                               : gemm_is_parallel(p) ? num_threads()
                                                     : 1;
  args.column_block = std::max<std::int64_t>(blocks_of(blocks_of(p.n, threads), 16) * 16, 128);
  args.column_blocks = blocks_of(p.n, args.column_block);
  Split split = split_of(p, p.batches * args.column_blocks, 4 * flops_of(p));
  if (is_short) {
    split.grain = 1;
    split.is_short = true;
  }
  launch_product(gemm_rows_kernel(), args, split);
}

// B is read once, in long runs: what counts where it comes from memory. From the caches it comes
// quickly enough for tiles, of which each element is read a few times (8x400x784: 37 to 24 us).
bool gemm_prefers_rows(const GemmProblem& p) {
  if (p.b.column_step != 1 || p.n < 64 || p.k < 16) return false;
  const std::int64_t near_bytes = p.m < 4 ? kNearBytes : kGemmBeyondCaches;
  return p.m == 1 || (p.m <= 16 && p.k * p.n * bytes_of(p.dtype) > near_bytes);
}

// B has its columns in rows: dots read them where they lie, tiles want them transposed first. In
// clock cycles for vectors of 64 bytes, as measured on Zen 4 for 300 shapes. Shapes alone decide.
bool gemm_prefers_dots(const GemmProblem& p) {
  const std::int64_t item = bytes_of(p.dtype), lanes = 64 / item, vectors = blocks_of(p.n, lanes);
  const double m = static_cast<double>(p.m), n = static_cast<double>(p.n);
  const double depth = static_cast<double>(p.k) / static_cast<double>(lanes);
  const bool far_a = p.m * p.k * item > (448 << 10), passes = p.m > 8 && p.k * item > kDepthBytes;
  const double step = far_a ? 1.4 : passes ? 1.25 : 1.05;
  const double pack = p.n <= 64 && gemm_is_parallel(p) ? 1.2
                      : p.n * p.k * item > (512 << 10) ? 0.6
                                                       : 0.5;
  const double dots = m * n * (step * depth + 6);
  const double tiles =
      1.08 * m * static_cast<double>(vectors * lanes) * depth + pack * n * static_cast<double>(p.k);
  return dots < tiles;
}

bool gemm_is_outer(const GemmProblem& p) {
  return p.k == 1 && p.b.column_step == 1 && p.batches * p.m >= 16;
}

void gemm_run_outer(const GemmProblem& p) {
  GemmArgs args;
  args.p = p;
  args.stream = gemm_streams(p) && p.alpha == 1 && !p.bias;
  const std::int64_t units = p.batches * p.m;
  Split split = split_of(p, units, flops_of(p));
  if (!is_parallel(split)) {
    const std::int64_t threads = short_threads(p);
    if (threads > 1) split.grain = blocks_of(units, threads);
    split.is_short = true;
  }
  launch_product(gemm_outer_kernel(), args, split);
}

}  // namespace hotloop
