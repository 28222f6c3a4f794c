// What the drivers of products share: sizes, work, and how it is split.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/launch.h"
#include "core/threads.h"
#include "kernels/gemm.h"

namespace hotloop {

constexpr double kGrainFlops = 5e5;                // about 4 microseconds
constexpr double kShareFlops = 8e4;                // 0.7: worth another thread that is awake
constexpr std::int64_t kDepthBytes = 4096;         // of a block of k at most: 1024 f32, 512 f64
constexpr std::int64_t kLeast = 8;                 // terms of a block of k
constexpr std::int64_t kPanelBytes = 8ll << 20;    // packed B at a time
constexpr std::int64_t kFewTerms = 8;              // writing C takes longer than the sums
constexpr std::int64_t kStreamBytes = 24ll << 20;  // of C, most of which leave the caches

inline std::int64_t blocks_of(std::int64_t size, std::int64_t block) {
  return (size + block - 1) / block;
}

inline std::int64_t bytes_of(DType dtype) {
  return dtype == DType::f32 ? 4 : 8;
}

// Few units: a somewhat larger grain where that shares them more evenly. 16 units by threes are
// nine for one thread of two, by fours eight; 13 by threes are six and seven.
inline std::int64_t even_grain(std::int64_t units, std::int64_t grain) {
  const std::int64_t threads = num_threads();
  if (units < 2 * grain || units >= 16 * threads * grain) return grain;
  const auto most = [&](std::int64_t each) {  // units of one thread, as run_pieces shares them
    const std::int64_t pieces = blocks_of(units, each), share = pieces / threads;
    if (pieces % threads == 0) return share * each;
    if (pieces % threads > 1) return (share + 1) * each;
    return std::max(share * each, units - (pieces - share - 1) * each);  // the last has one more
  };
  std::int64_t best = grain;
  for (std::int64_t each = grain + 1; each < 2 * grain && 2 * each <= units; ++each) {
    if (most(each) < most(best)) best = each;
  }
  return best;
}

inline Split split_of(const GemmProblem& p, std::int64_t units, double flops) {
  Split split{.units = units};
  const double per_unit = flops / static_cast<double>(std::max<std::int64_t>(units, 1));
  split.grain =
      per_unit >= kGrainFlops ? 1 : static_cast<std::int64_t>(kGrainFlops / (per_unit + 1)) + 1;
  split.grain = even_grain(units, split.grain);
  split.interruptible = p.interruptible;
  return split;
}

inline double flops_of(const GemmProblem& p) {
  // Writing an element of C is worth a few terms.
  return 2.0 * static_cast<double>(p.m) * static_cast<double>(p.n) *
         static_cast<double>(std::max<std::int64_t>(p.k, 4)) * static_cast<double>(p.batches);
}

// C is whole lines, written once, and most of them leave the caches before they are read again:
// around the caches, or each line is first read into them.
inline bool gemm_streams(const GemmProblem& p) {
  const std::int64_t item = bytes_of(p.dtype);
  return p.batches == 1 && p.m * p.n * item >= kStreamBytes && p.beta == 0 &&
         p.activation == Activation::none && p.c.row_step * item % 64 == 0 &&
         reinterpret_cast<std::uintptr_t>(p.c.data) % 64 == 0;
}

// Worth several threads.
inline bool gemm_is_parallel(const GemmProblem& p) {
  return flops_of(p) >= kGrainFlops;
}

// Elements of a row of k in panels: the last one is as wide as the others.
inline std::int64_t packed_row(const GemmProblem& p) {
  return blocks_of(p.n, p.packed_columns) * p.packed_columns;
}

// Moves where a matrix starts, in every batch.
inline void advance(GemmMatrix& matrix, std::int64_t elements, DType dtype) {
  matrix.data = static_cast<char*>(matrix.data) + elements * bytes_of(dtype);
}

inline GemmPackArgs pack_of(const GemmProblem& p) {
  GemmPackArgs pack;
  pack.dtype = p.dtype;
  pack.m = p.m;
  pack.n = p.n;
  pack.k = p.k;
  return pack;
}

// Packs the rows of A too, `step` elements apart from `to` on, so many rows a unit: the product
// reads them there. A that all batches share is packed once.
inline void pack_a(GemmProblem& p, void* to, std::int64_t step, std::int64_t rows,
                   GemmPackArgs& pack) {
  const bool shared = p.a.batch_step == 0 && !p.a.offsets;
  pack.a = p.a;
  pack.a_to = to;
  pack.a_to_step = step;
  pack.a_rows = rows;
  pack.a_blocks = blocks_of(p.m, rows);
  pack.a_batches = shared ? 1 : p.batches;
  p.a = {to, step, 1, shared ? 0 : p.m * step, nullptr};
}

// Packs the panels of B too.
inline void pack_b(const GemmMatrix& b, void* to, std::int64_t columns, std::int64_t batches,
                   GemmPackArgs& pack) {
  pack.b = b;
  pack.b_to = to;
  pack.b_columns = columns;
  pack.b_panels = blocks_of(pack.n, columns);
  pack.b_rows = 128;
  pack.b_slices = blocks_of(pack.k, pack.b_rows);
  pack.b_batches = batches;
}

// Calls `run` with a problem for each block of about `most` terms of the sum, in order: bias and D
// go with the first, the activation with the last.
template <class Run>
void for_blocks_of_k(const GemmProblem& p, std::int64_t most, Run run) {
  const std::int64_t blocks = std::max<std::int64_t>(blocks_of(p.k, std::max(most, kLeast)), 1);
  const std::int64_t depth = std::max<std::int64_t>(blocks_of(blocks_of(p.k, blocks), 8) * 8, 8);
  std::int64_t at = 0;
  do {
    GemmProblem block = p;
    block.k = std::min(depth, p.k - at);
    advance(block.a, at * p.a.column_step, p.dtype);
    advance(block.b, at * (p.packed_columns > 0 ? packed_row(p) : p.b.row_step), p.dtype);
    if (at > 0) {
      block.beta = 1;
      block.d = p.c;
      block.bias = nullptr;
    }
    at += block.k;
    if (at < p.k) block.activation = Activation::none;
    run(block);
  } while (at < p.k);
}

// How the tiles of a product are blocked and what is packed for them.
struct GemmPlan {
  std::int64_t kc = 0, nc = 0, columns = 0;
  std::int64_t rows = 0;                // of C in a unit, at most
  bool pack_a = false, pack_b = false;  // by a launch of their own
  bool own_b = false;                   // each unit packs its panel
  bool stream = false;                  // C goes around the caches
  int threads = 1;                      // with memory for that
};
GemmPlan gemm_plan(const GemmProblem& problem);

// Few rows or columns, B with its columns in memory: dot products (kernels/gemm_few.cpp).
bool gemm_prefers_dots(const GemmProblem& problem);
void gemm_run_dots(const GemmProblem& problem);
// Few rows, B with its rows in memory.
bool gemm_prefers_rows(const GemmProblem& problem);
void gemm_run_rows(const GemmProblem& problem);
// One term, B a row in memory.
bool gemm_is_outer(const GemmProblem& problem);
void gemm_run_outer(const GemmProblem& problem);

// The general way: tiles (kernels/gemm.cpp). k_total > 0: the batches are slices of so many terms.
void gemm_run_tiles(const GemmProblem& problem, std::int64_t k_total);
// Few outputs, many terms (kernels/gemm_slices.cpp).
bool gemm_prefers_slices(const GemmProblem& problem);
void gemm_run_slices(const GemmProblem& problem);

// As launch(). Where threads share a product of a few microseconds its arguments lie where the last
// one of this thread had them, and are not written again where they are the same: the other threads
// still have those lines, or fetch each of them, and each is taken back before the next call.
void launch_product(Kernel<GemmArgs> kernel, const GemmArgs& args, const Split& split);

// A product of a few microseconds (kernels/gemm_small.cpp).
bool gemm_is_small(const GemmProblem& problem);
void gemm_small(const GemmProblem& problem);

}  // namespace hotloop
