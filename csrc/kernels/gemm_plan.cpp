// Plans a product: which blocks, what is packed and what is read where it lies. Sums over k are cut
// by shape alone (kc, slices), so the bits do not depend on the number of threads.
#include <algorithm>
#include <cstdlib>

#include "kernels/driver/gemm_plan.h"

namespace hotloop {

namespace {

constexpr std::int64_t kDepth = 1024;             // terms of a block of k at most
constexpr std::int64_t kRowBytes = 576ll << 10;   // A of a unit, which stays in L2
constexpr std::int64_t kNearBytes = 640ll << 10;  // B this small is read from L2 where it lies
constexpr std::int64_t kFewRows = 64;             // more of B is near for them
constexpr std::int64_t kTallRows = 1152;          // B is then small beside A and C
constexpr std::int64_t kSharedBytes = 2ll << 20;  // B that two threads have in L2
constexpr std::int64_t kOwnBlocks = 8;            // of rows of C, that a thread's own panel serves

}  // namespace

// Columns of a tile at the level in force. The kernels take any width, so nothing breaks when
// another thread forces another level meanwhile.
std::int64_t gemm_packed_columns(DType dtype) {
#if HOTLOOP_X86
  const int vectors_bytes[kLevels] = {2 * 16, 2 * 32, 4 * 64, 4 * 64};
  return vectors_bytes[static_cast<int>(level_in_force())] / bytes_of(dtype);
#else
  return 2 * 16 / bytes_of(dtype);
#endif
}

GemmPlan gemm_plan(const GemmProblem& p) {
  GemmPlan plan;
  const std::int64_t item = bytes_of(p.dtype);
  plan.threads = gemm_is_parallel(p) ? num_threads() : 1;
  plan.columns = p.packed_columns > 0 ? p.packed_columns : gemm_packed_columns(p.dtype);
  // Seven and eight rows are one tile of three vectors, or two of four, which read B twice: in
  // f64 1.15 times as fast where B is larger than L2. Pairs of panels are counted, so that two
  // threads have the same number; shapes alone decide.
  const std::int64_t pair = 2 * plan.columns, less = pair / 4 * 3;
  if (plan.columns * item == 256 && p.packed_columns == 0 && (p.m == 7 || p.m == 8) &&
      p.n * p.k * item > kSharedBytes &&
      20 * blocks_of(p.n, less) * less <= 21 * blocks_of(p.n, pair) * pair) {
    plan.columns = less / 2;
  }
  const std::int64_t slices = std::max<std::int64_t>(blocks_of(p.k, kDepth), 1);
  plan.kc = std::min(p.k, blocks_of(blocks_of(p.k, slices), 8) * 8);
  const std::int64_t depth_bytes = std::max<std::int64_t>(plan.kc, 1) * item;
  plan.nc = std::max<std::int64_t>(kPanelBytes / (depth_bytes * plan.columns), 1) * plan.columns;
  plan.rows = std::clamp<std::int64_t>(kRowBytes / depth_bytes, 72, 1152) / 6 * 6;
  if (p.k == 0) return plan;
  plan.stream = gemm_streams(p) && plan.kc >= p.k;

  // A: its rows are read where they lie, also those a power of two apart: a tile takes six lines of
  // one place in L1, which has eight, and what another core has packed comes slowly from there. Its
  // columns too (six neighbours of each), unless that takes a cache line from elsewhere for each k
  // and more of them than stay for the next tiles (400x784x32 105 us packed, 98 in place).
  if (p.a.column_step != 1) {
    const std::int64_t a_step = std::abs(p.a.column_step) * item;
    const bool far =
        a_step % 4096 == 0 && p.n >= plan.columns;  // one place of the caches for all k
    const bool wide = p.n > 4 * plan.columns && a_step >= 512;
    const std::int64_t stay = a_step % 2048 == 0 ? 32 : 256;
    plan.pack_a =
        p.m > 6 && (p.a.row_step != 1 ? p.n > 2 * plan.columns : far || (wide && p.k > stay));
  }
  if (p.packed_columns > 0) return plan;
  // B: packed unless its rows are contiguous and what a thread reads of it stays in its L2, the
  // more of it the fewer tiles come by (32x784x400 99 us packed, 89 in place; 384^3 534 and 506;
  // 1000x300x300 930 and 820), or too few do.
  const std::int64_t sharers = p.batches > 1 ? 1 : plan.threads;
  std::int64_t near_bytes = kNearBytes;
  if (p.m <= kFewRows) {
    near_bytes = (p.m <= 36 ? 2ll << 20 : 1ll << 20) * sharers;
  } else if (sharers > 1 && p.m <= 384) {
    near_bytes = kNearBytes * sharers;
  }
  const bool one_b = p.batches == 1 || (p.b.batch_step == 0 && !p.b.offsets);
  const bool tall = one_b && p.batches * p.m > kTallRows;
  const bool near = depth_bytes * p.n <= near_bytes &&
                    (p.k <= kFewTerms || p.m <= kFewRows ||
                     (!(tall && p.n > plan.columns) && p.b.row_step * item % 4096 != 0));
  plan.pack_b = p.b.column_step != 1 || (p.m > 24 && !near);
  const std::int64_t units = p.batches * blocks_of(p.n, plan.columns);
  const bool many = units >= 4 * plan.threads;
  // Far more rows than columns, of all batches that share B: a block of A is read from memory once,
  // then passes all panels, and units are many: 256 to 64 channels of 25,088 pixels, 74 to 91 % of
  // the FMA ceiling.
  if (plan.pack_b && tall && depth_bytes * p.n <= kSharedBytes) return plan;
  if (plan.pack_b && (p.m <= kOwnBlocks * plan.rows || (plan.threads > 1 && !many))) {
    plan.own_b = true;
    plan.pack_b = false;
    // A single panel for few rows: halves of it, or two threads would pack the whole of it each.
    // Not where the second has few columns, which may become dot products: the bits would depend
    // on it.
    const std::int64_t second = p.n - plan.columns / 2;
    if (plan.threads > 1 && p.batches == 1 && p.m <= 64 && p.n <= plan.columns && second > 3 &&
        second >= plan.columns / 4) {
      plan.columns /= 2;
    }
  }
  return plan;
}

}  // namespace hotloop
