// Runs a product as gemm_plan.cpp plans it: which loops, how they are split over threads.
//
// Blocking: a panel of B is kc x 64 f32 (256 KB at kc = 1024) and stays in L2 while the row tiles
// of A pass by. All of A and the panels of at most 8 MB of B are packed by one launch and read by
// the next; the launches are the barrier.
#include "kernels/gemm.h"

#include <algorithm>
#include <new>
#include <utility>

#include "core/arena.h"
#include "kernels/driver/gemm_plan.h"

namespace hotloop {

namespace {

constexpr std::int64_t kRowsAhead = 64;  // so many rows of A are fetched ahead
constexpr std::int64_t kFirstRows = 48;  // their tiles pack a large B

// Panels, and a little, so that the slots of two threads do not fall onto the same places.
std::int64_t place_bytes(const GemmPlan& plan, std::int64_t item) {
  return blocks_of(plan.kc * plan.columns * item, 64) * 64 + 256;
}
std::int64_t slot_bytes(const GemmPlan& plan, std::int64_t item) {
  return static_cast<std::int64_t>(sizeof(GemmSlot)) + 2 * place_bytes(plan, item);
}

struct PackRoom {
  void* a = nullptr;
  void* b = nullptr;  // all panels, or a slot for each thread
};

// Whether the tiles of the first rows pack the panels of B for the others: a launch of its own took
// 1 to 2 % of 2048^3.
bool first_rows_pack(const GemmArgs& args, const GemmPlan& plan) {
  return plan.pack_b && args.p.batches == 1 && args.p.b.column_step == 1 && args.row_blocks > 1 &&
         args.column_blocks >= 4 * plan.threads && args.column_blocks % plan.threads == 0;
}

void run_first_rows(GemmArgs& args, const GemmPlan& plan, void* panels) {
  GemmArgs first = args;
  first.p.m = first.row_block = kFirstRows;
  first.row_blocks = 1;
  first.shared_b = panels;
  launch(gemm_tiles_kernel(), first, split_of(first.p, first.column_blocks, flops_of(first.p)));
  args.first_row = kFirstRows;
  args.row_blocks = blocks_of(args.p.m - kFirstRows, args.row_block);
  args.panel_step = args.p.k * plan.columns;
  args.p.b = {panels, plan.columns, 1, 0, nullptr};
}

// Few panels, of which each thread packs those it needs.
bool shares_panels(const GemmProblem& p, const GemmPlan& plan) {
  return plan.own_b && plan.threads > 1 &&
         p.batches * blocks_of(p.n, plan.columns) < 4 * plan.threads;
}

// Blocks of rows: what a unit is.
void cut(const GemmProblem& p, const GemmPlan& plan, GemmArgs& args) {
  const std::int64_t item = bytes_of(p.dtype);
  std::int64_t most = plan.rows;
  const std::int64_t least = plan.threads > 1 ? 4 * plan.threads : 1;
  while (!plan.own_b && most > 9 && p.batches * args.column_blocks * blocks_of(p.m, most) < least) {
    most /= 2;
  }
  args.row_blocks = blocks_of(p.m, most);
  // The same number for each thread, where they are few: eleven would be five and six.
  const std::int64_t across = p.batches * args.column_blocks;
  const std::int64_t units = across * args.row_blocks;
  if (!plan.own_b && units >= least && units < 4 * least) {
    while (across * args.row_blocks % plan.threads != 0) ++args.row_blocks;
  }
  args.row_block = blocks_of(p.m, args.row_blocks);
  if (args.row_block > 36) args.row_block = blocks_of(args.row_block, 6) * 6;
  args.row_blocks = blocks_of(p.m, args.row_block);
  if (shares_panels(p, plan)) {
    const std::int64_t wanted = blocks_of(4 * plan.threads, across);
    args.row_block =
        std::max<std::int64_t>(blocks_of(p.m, std::max(wanted, blocks_of(p.m, plan.rows))), 8);
    args.row_blocks = blocks_of(p.m, args.row_block);
  }

  // Few terms: whole rows of C, one after the other.
  if (p.k <= kFewTerms && p.m * p.n * item > (1 << 20) && !plan.pack_b && !plan.own_b &&
      p.packed_columns == 0) {
    args.column_block = std::min<std::int64_t>(blocks_of(p.n, 64) * 64, 8192);
    args.column_blocks = blocks_of(p.n, args.column_block);
    args.panel_step = args.column_block * p.b.column_step;
    args.row_block = std::min<std::int64_t>(6, p.m);
    args.row_blocks = blocks_of(p.m, args.row_block);
    args.fetch = false;
  }
}

// The blocks of k before this one, and the terms of the next.
struct BlockOfK {
  std::int64_t number = 0, next_terms = 0;
};

// One block of k, the columns [first, first + columns) of C.
void run_block(const GemmProblem& p, const GemmPlan& plan, std::int64_t k_total, BlockOfK at,
               PackRoom room) {
  const std::int64_t item = bytes_of(p.dtype);
  GemmArgs args;
  args.p = p;
  args.k_total = k_total;
  args.column_block = plan.columns;
  args.column_blocks = blocks_of(p.n, plan.columns);
  args.panel_step = p.packed_columns > 0 ? p.k * plan.columns : plan.columns * p.b.column_step;
  args.stream = plan.stream;
  args.fetch = !args.stream && p.batches * p.m * p.n * item > (1 << 19);
  args.add_sums = at.number > 0;
  // Columns of A lie apart, where the machine sees nothing coming.
  const bool columns = p.a.row_step == 1 && p.a.column_step != 1 && !plan.pack_a;
  const bool rows = p.a.column_step == 1 && p.a.row_step == p.k;
  args.ahead = p.m > kRowsAhead && (rows || columns);
  args.sums_step = k_total > 0 ? p.m : 0;
  cut(p, plan, args);

  GemmPackArgs pack = pack_of(p);
  pack.k_total = k_total;
  if (plan.pack_a) pack_a(args.p, room.a, p.k + 16, 96, pack);  // never a multiple of a page
  const bool by_first_rows = first_rows_pack(args, plan);
  if (plan.pack_b && !by_first_rows) {
    const bool shared = p.b.batch_step == 0 && !p.b.offsets;
    pack_b(p.b, room.b, plan.columns, shared ? 1 : p.batches, pack);
    args.panel_step = p.k * plan.columns;
    args.p.b = {room.b, plan.columns, 1, shared ? 0 : args.column_blocks * args.panel_step,
                nullptr};
  }
  if (plan.own_b) {
    args.slots = static_cast<char*>(room.b);
    args.slot_bytes = slot_bytes(plan, item);
    args.place_bytes = place_bytes(plan, item);
    args.slot = thread_index;
    args.sharers = plan.threads;
    args.first_panel = at.number * p.batches * args.column_blocks;
    args.next_terms = at.next_terms;
    for (int t = 0; at.number == 0 && t < plan.threads; ++t) {
      new (args.slots + t * args.slot_bytes) GemmSlot;
    }
  }
  const std::int64_t pack_units =
      pack.a_batches * pack.a_blocks + pack.b_batches * pack.b_panels * pack.b_slices;
  if (pack_units > 0) {
    const double elements =
        static_cast<double>(pack.a_batches * p.m + pack.b_batches * p.n) * static_cast<double>(p.k);
    launch(gemm_pack_kernel(), pack, split_of(p, pack_units, 30 * elements));
  }
  if (by_first_rows) run_first_rows(args, plan, room.b);
  Split split = split_of(p, p.batches * args.column_blocks * args.row_blocks, flops_of(p));
  if (plan.own_b) split.max_threads = plan.threads;
  if (plan.own_b && args.row_blocks > 1) {
    // Each piece packs its first panel anew: as few pieces as threads where all is quick.
    const std::int64_t pieces = (!shares_panels(p, plan) ? 8
                                 : flops_of(p) < 3e7     ? 1
                                                         : 4) *
                                plan.threads;
    split.grain = even_grain(split.units, std::max(split.grain, blocks_of(split.units, pieces)));
  }
  // Too short to wake anybody, but not for two threads that are awake.
  if (plan.threads > 1 && !is_parallel(split) && split.units > 1) {
    split.grain = std::max<std::int64_t>(split.units / plan.threads, 1);
    split.is_short = true;
  }
  launch(gemm_tiles_kernel(), args, split);
}

// All blocks of k and n of a group of batches that share the packed memory.
void run_group(const GemmProblem& p, const GemmPlan& plan, std::int64_t k_total, PackRoom room) {
  const std::int64_t most = p.packed_columns > 0 || plan.own_b ? p.n : plan.nc;
  for (std::int64_t column = 0; column < p.n; column += most) {
    GemmProblem part = p;
    part.n = std::min(most, p.n - column);
    if (column > 0) {
      advance(part.b, column * p.b.column_step, p.dtype);
      advance(part.c, column, p.dtype);
      if (part.d.data) advance(part.d, column, p.dtype);
      if (p.bias) part.bias = static_cast<const char*>(p.bias) + column * bytes_of(p.dtype);
      part.a_sums = nullptr;
    }
    BlockOfK at;
    std::int64_t left = p.k;
    for_blocks_of_k(part, plan.kc, [&](const GemmProblem& block) {
      left -= block.k;
      at.next_terms = std::min(block.k, left);
      run_block(block, plan, k_total, at, room);
      ++at.number;
    });
  }
}

GemmMatrix transposed(GemmMatrix matrix) {
  std::swap(matrix.row_step, matrix.column_step);
  return matrix;
}

// How many rows A has where m is 1: one for all batches, or one for each.
std::int64_t rows_of_a(const GemmProblem& p) {
  return p.a.batch_step == 0 && !p.a.offsets ? 1 : p.batches;
}

// These rows without gaps.
void gather_rows(GemmProblem& p, void* to) {
  GemmPackArgs pack = pack_of(p);
  pack_a(p, to, p.k, 1, pack);
  launch(gemm_pack_kernel(), pack,
         split_of(p, pack.a_batches,
                  30.0 * static_cast<double>(p.k) * static_cast<double>(pack.a_batches)));
}

}  // namespace

void gemm_run_tiles(const GemmProblem& p, std::int64_t k_total) {
  const GemmPlan plan = gemm_plan(p);
  const std::int64_t item = bytes_of(p.dtype);
  const std::int64_t a_bytes = plan.pack_a ? p.m * (plan.kc + 16) * item : 0;
  const std::int64_t b_bytes =
      plan.pack_b ? blocks_of(std::min(p.n, plan.nc), plan.columns) * plan.columns * plan.kc * item
                  : 0;
  // As many batches at a time as fit into the packed memory; a slice of k is a batch.
  const std::int64_t bytes = std::max<std::int64_t>(a_bytes + b_bytes, 1);
  const std::int64_t group = std::clamp<std::int64_t>(
      a_bytes + b_bytes > 0 ? kPanelBytes / bytes : p.batches, 1, p.batches);
  const std::int64_t a_room = (a_bytes * group + 63) / 64 * 64;
  const std::int64_t b_room = plan.own_b ? slot_bytes(plan, item) * plan.threads : b_bytes * group;
  Scratch scratch(static_cast<std::size_t>(a_room + b_room));
  const PackRoom room{scratch.get(), scratch.as<char>() + a_room};
  for (std::int64_t first = 0; first < p.batches; first += group) {
    GemmProblem part = p;
    part.batches = std::min(group, p.batches - first);
    if (first > 0) {
      for (GemmMatrix* matrix : {&part.a, &part.b, &part.c, &part.d}) {
        if (matrix->offsets) {
          matrix->offsets += first;
        } else if (matrix->data) {
          advance(*matrix, first * matrix->batch_step, p.dtype);
        }
      }
      if (p.a_sums) part.a_sums = static_cast<char*>(p.a_sums) + first * p.m * item;  // of a slice
    }
    run_group(part, plan, k_total > 0 ? k_total - first * p.k : 0, room);
  }
}

bool gemm_is_long(const GemmProblem& p) {
  return flops_of(p) >= 4 * kGrainFlops;
}

void gemm_row_sums(const GemmProblem& p) {
  ColumnSumArgs args;
  args.dtype = p.dtype;
  args.m = p.k;
  args.n = p.m;
  args.a = p.a.data;
  args.row_step = p.a.column_step;
  args.column_step = p.m == 1 ? 1 : p.a.row_step;
  args.c = p.a_sums;
  const std::int64_t units = blocks_of(args.n, kColumnSumBlock);
  launch(gemm_column_sums_kernel(), args,
         split_of(p, units, 16.0 * static_cast<double>(p.m) * static_cast<double>(p.k)));
}

std::int64_t gemm_packed_size(std::int64_t n, std::int64_t k, std::int64_t columns) {
  return blocks_of(n, columns) * columns * k;
}

void gemm_pack_b(DType dtype, const GemmMatrix& b, std::int64_t n, std::int64_t k,
                 std::int64_t columns, void* to) {
  GemmProblem p;
  p.dtype = dtype;
  p.n = n;
  p.k = k;
  p.b = b;
  for_blocks_of_k(p, gemm_plan(p).kc, [&](const GemmProblem& block) {
    GemmPackArgs pack = pack_of(block);
    pack_b(block.b, to, columns, 1, pack);
    const double elements = static_cast<double>(n) * static_cast<double>(pack.k);
    launch(gemm_pack_kernel(), pack, split_of(p, pack.b_panels * pack.b_slices, 30 * elements));
    to = static_cast<char*>(to) + gemm_packed_size(n, block.k, columns) * bytes_of(dtype);
  });
}

void gemm(const GemmProblem& problem) {
  if (gemm_is_small(problem)) return gemm_small(problem);
  GemmProblem p = problem;
  if (p.m <= 0 || p.n <= 0 || p.batches <= 0) {
    if (p.a_sums && p.m > 0) gemm_row_sums(p);
    return;
  }
  // Steps along an axis of one element mean nothing: take what makes the matrix look contiguous.
  if (p.k == 1) p.a.column_step = 1;
  if (p.m == 1) p.a.row_step = p.a.column_step == 1 ? p.k : 1;
  if (p.packed_columns > 0) return gemm_run_tiles(p, 0);
  if (p.n == 1) p.b.column_step = p.b.row_step == 1 ? p.k : 1;
  if (p.k == 1) p.b.row_step = p.b.column_step == 1 ? p.n : 1;
  const auto sums = [&] {
    if (p.a_sums) gemm_row_sums(problem);
  };
  // A column of results is a row of them for the transposed product.
  if (p.n == 1 && p.m > 1 && p.c.row_step == 1 && !p.bias && !p.a_sums &&
      (p.beta == 0 || p.d.row_step == 1)) {
    std::swap(p.m, p.n);
    const GemmMatrix a = p.a;
    p.a = transposed(p.b);
    p.b = transposed(a);
    p.c.row_step = p.n;
    p.d.row_step = p.n;
    p.a.row_step = p.k;
  }
  const bool deep_b = p.b.row_step == 1 && (p.b.column_step != 1 || p.n == 1);
  // One row times the columns of B in memory is dots, wherever the row's elements lie.
  const std::int64_t gathered = rows_of_a(p) * p.k * bytes_of(p.dtype);
  const bool gathers =
      p.m == 1 && deep_b && p.k > 1 && p.a.column_step != 1 && gathered <= kPanelBytes;
  const Scratch row(gathers ? static_cast<std::size_t>(gathered) : std::size_t{0});
  if (gathers) gather_rows(p, row.get());
  if (p.k > 0 && deep_b && p.a.column_step == 1 && (p.m == 1 || gemm_prefers_dots(p))) {
    gemm_run_dots(p);
    sums();
  } else if (gemm_prefers_rows(p)) {
    gemm_run_rows(p);
    sums();
  } else if (gemm_prefers_slices(p)) {
    gemm_run_slices(p);
  } else if (gemm_is_outer(p)) {
    gemm_run_outer(p);
    sums();
  } else {
    gemm_run_tiles(p, 0);
  }
}

}  // namespace hotloop
