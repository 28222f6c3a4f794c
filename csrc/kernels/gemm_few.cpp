// Products with few rows, or few columns: nothing of B is packed. Its bandwidth decides, or the
// loads.
#include <algorithm>

#include "core/arena.h"
#include "kernels/driver/gemm_plan.h"

namespace hotloop {

namespace {

constexpr double kShortFlops = 2e6;           // about 20 microseconds of one thread
constexpr std::int64_t kNearBytes = 2 << 20;  // of B
constexpr std::int64_t kLine = 64;            // bytes of a cache line

// Other cores fetch the copy of many rows for few columns: that can take as long as the product.
bool copy_is_slow(const GemmProblem& p) {
  return p.m > 8 && p.n >= 16 && p.n < 256;
}

// Loads that cross cache lines bound the dots, and NumPy aligns to 16 bytes only: a copy of A,
// which is read for every column.
bool wants_copy(const GemmProblem& p) {
  const std::int64_t item = bytes_of(p.dtype);
  if (p.batches != 1 || p.m < 2 || p.n < 16 || p.k * item < kLine) return false;
  return reinterpret_cast<std::uintptr_t>(p.a.data) % kLine != 0 ||
         p.a.row_step * item % kLine != 0;
}

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

void gemm_run_dots(const GemmProblem& problem) {
  GemmProblem p = problem;
  const std::int64_t item = bytes_of(p.dtype);
  const std::int64_t step = blocks_of(p.k * item, kLine) * kLine / item + kLine / item;
  const bool is_short = p.batches == 1 && flops_of(p) < kShortFlops;
  // Where all is quick, each thread copies for itself what it reads next: what the caller has
  // written comes slowly from its core to another.
  const bool strips = is_short || copy_is_slow(p);
  const bool wants = wants_copy(p), copies = wants && !strips;
  const Scratch scratch(copies ? static_cast<std::size_t>(p.m * step * item) : 0);
  if (copies) {
    GemmPackArgs pack = pack_of(p);
    pack_a(p, scratch.get(), step, p.m, pack);
    gemm_pack_kernel()(pack, 0, 1);
  }
  GemmArgs args;
  args.row_block = p.m;
  // A unit of at least 16K products, and whole cache lines of C.
  args.column_block =
      std::clamp<std::int64_t>(16384 / std::max<std::int64_t>(p.k * p.m, 1), 16, 256);
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
  const std::int64_t most = p.m > 8 ? kDepthBytes / item : p.k;
  for_blocks_of_k(p, most, [&](const GemmProblem& block) {
    args.p = block;
    args.strips = wants && strips && block.k * item <= kDepthBytes;
    Split split = split_of(p, units, 4 * flops_of(block));
    if (is_short) {
      split.grain = 1;
      split.is_short = true;
    }
    launch(gemm_dots_kernel(), args, split);
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
  args.column_block = std::max<std::int64_t>(blocks_of(blocks_of(p.n, threads), 64) * 64, 128);
  args.column_blocks = blocks_of(p.n, args.column_block);
  Split split = split_of(p, p.batches * args.column_blocks, 4 * flops_of(p));
  if (is_short) {
    split.grain = 1;
    split.is_short = true;
  }
  launch(gemm_rows_kernel(), args, split);
}

// B is read once, in long runs: what counts where it comes from memory. From the caches it comes
// quickly enough for tiles, of which each element is read a few times (8x400x784: 37 to 24 us).
bool gemm_prefers_rows(const GemmProblem& p) {
  if (p.b.column_step != 1 || p.n < 64 || p.k < 16) return false;
  const std::int64_t near_bytes = p.m < 4 ? kNearBytes : kGemmBeyondCaches;
  return p.m == 1 || (p.m <= 16 && p.k * p.n * bytes_of(p.dtype) > near_bytes);
}

// B has its columns in rows: dots read them where they lie, tiles want them transposed first. In
// clock cycles for vectors of 64 bytes, as measured on Zen 4: rows of A are copied, a few at a
// time, to where loads cross no cache line. Shapes alone decide.
bool gemm_prefers_dots(const GemmProblem& p) {
  const std::int64_t lanes = 64 / bytes_of(p.dtype), vectors = blocks_of(p.n, lanes);
  const double m = static_cast<double>(p.m), n = static_cast<double>(p.n);
  const double depth = static_cast<double>(p.k) / static_cast<double>(lanes);
  const double elements = n * static_cast<double>(p.k);
  const bool far = elements * static_cast<double>(bytes_of(p.dtype)) > (512 << 10);
  const double pack = far || (p.n <= 64 && gemm_is_parallel(p)) ? 1.2 : 0.5;
  const bool near_a = m * static_cast<double>(p.k * bytes_of(p.dtype)) <= (128 << 10);
  // Rows that each thread copies read B anew for every four of them.
  const bool near_b = elements * static_cast<double>(bytes_of(p.dtype)) <= (32 << 10);
  const double dot = copy_is_slow(p)      ? (near_b ? 1.15 : 1.4) * depth + 4
                     : p.m > 32           ? 2.2 * depth + 25
                     : near_a || p.m <= 8 ? 1.3 * depth + 16
                                          : 1.6 * depth + 16;
  const double dots = m * n * dot;
  const double tiles = 1.05 * m * static_cast<double>(vectors * lanes) * depth + pack * elements;
  return dots < tiles;
}

}  // namespace hotloop
