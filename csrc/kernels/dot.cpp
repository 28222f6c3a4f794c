// Plans a product of bf16 or bytes: what is packed, how it is cut into blocks and split over
// threads. A panel of B, all of k deep and 64 columns wide, stays in L2 while the rows of A pass
// by; one launch packs, the next multiplies. Nothing of it shows in the bits of C.
#include "kernels/dot.h"

#include <algorithm>

#include "core/arena.h"
#include "core/launch.h"

namespace hotloop {

namespace {

constexpr std::int64_t kPanelBytes = 8ll << 20;  // packed B, and packed A of batches, at a time
constexpr std::int64_t kSliceWords = 256;        // of a panel, packed by one unit
constexpr std::int64_t kPackRows = 64;
constexpr std::int64_t kPackGrain = 20
                                    << 10;  // bytes: about 2 microseconds, the other thread waits
constexpr double kGrainFlops = 2e6;         // likewise, of bf16; bytes take half of it each

std::int64_t blocks_of(std::int64_t size, std::int64_t block) {
  return (size + block - 1) / block;
}

bool is_bf16(const DotProblem& p) {
  return p.a_type == DType::bf16;
}

std::int64_t item_of(DType dtype) {
  return dtype == DType::f32 || dtype == DType::s32 ? 4 : dtype == DType::bf16 ? 2 : 1;
}

double flops_of(const DotProblem& p) {
  return 2.0 * static_cast<double>(p.m) * static_cast<double>(p.n) *
         static_cast<double>(std::max<std::int64_t>(p.k, 1)) * static_cast<double>(p.batches);
}

double grain_of(const DotProblem& p) {
  return is_bf16(p) ? kGrainFlops : 2 * kGrainFlops;
}

// Columns of a panel: what a tile takes at the level in force, at least 16. The kernels take any
// multiple of 16, so nothing breaks when another thread forces another level meanwhile.
std::int64_t panel_columns() {
#if HOTLOOP_X86
  static constexpr std::int64_t kColumns[kLevels] = {16, 16, 32, kDotPanel};
  return kColumns[static_cast<int>(level_in_force())];
#else
  return 16;
#endif
}

Split split_of(const DotProblem& p, std::int64_t units, double work, double grain) {
  Split split{.units = units};
  const double each = work / static_cast<double>(std::max<std::int64_t>(units, 1));
  split.grain = each >= grain ? 1 : static_cast<std::int64_t>(grain / (each + 1)) + 1;
  split.interruptible = p.interruptible;
  return split;
}

void advance(GemmMatrix& matrix, std::int64_t elements, DType dtype) {
  matrix.data = static_cast<char*>(matrix.data) + elements * item_of(dtype);
}

bool is_shared(const GemmMatrix& matrix) {
  return matrix.batch_step == 0 && !matrix.offsets;
}

struct Plan {
  std::int64_t per_word, words, a_step;  // of packed rows, in words
  std::int64_t panel, nc;
  bool pack_a, row_sums, column_sums;
};

Plan plan_of(const DotProblem& p) {
  Plan plan;
  plan.per_word = 4 / item_of(p.a_type);
  plan.words = blocks_of(p.k, plan.per_word);
  plan.a_step = plan.words + 16;  // never a multiple of a page
  plan.panel = panel_columns();
  const std::int64_t panel_bytes = std::max<std::int64_t>(plan.words, 1) * plan.panel * 4;
  plan.nc = std::max<std::int64_t>(kPanelBytes / panel_bytes, 1) * plan.panel;
  plan.row_sums = !is_bf16(p) && (p.b_zero || p.b_type == DType::u8);
  plan.column_sums = !is_bf16(p) && (p.a_zero != 0 || p.a_type == DType::s8);
  // Rows of whole words are read where they lie.
  plan.pack_a =
      p.a_type == DType::s8 || plan.row_sums || p.a.column_step != 1 || p.k % plan.per_word != 0;
  return plan;
}

struct Memory {
  float *a, *b;
  std::int32_t *rows, *columns;
};

// The columns [first, first + p.n) of C, a group of batches.
void run_columns(const DotProblem& p, const Plan& plan, const Memory& memory, bool a_is_packed) {
  DotPackArgs pack;
  pack.m = p.m;
  pack.n = p.n;
  pack.k = p.k;
  pack.words = plan.words;
  pack.a = p.a;
  pack.b = p.b;
  pack.a_flip = p.a_type == DType::s8 ? 0x80808080u : 0;
  pack.b_flip = p.b_type == DType::u8 ? 0x80808080u : 0;
  const std::int64_t a_batches = is_shared(p.a) ? 1 : p.batches;
  if (plan.pack_a && !a_is_packed) {
    pack.a_to = memory.a;
    pack.a_to_step = plan.a_step;
    pack.a_rows = kPackRows;
    pack.a_blocks = blocks_of(p.m, kPackRows);
    pack.a_batches = a_batches;
    pack.row_sums = plan.row_sums ? memory.rows : nullptr;
  }
  pack.b_to = memory.b;
  pack.panel = plan.panel;
  pack.panels = blocks_of(p.n, plan.panel);
  pack.slice_words = kSliceWords;
  pack.slices = std::max<std::int64_t>(blocks_of(plan.words, kSliceWords), 1);
  pack.b_batches = is_shared(p.b) ? 1 : p.batches;
  pack.column_sums = plan.column_sums ? memory.columns : nullptr;
  const std::int64_t pack_units =
      pack.a_batches * pack.a_blocks + pack.b_batches * pack.panels * pack.slices;
  const double bytes =
      4.0 * static_cast<double>(plan.words) *
      static_cast<double>(pack.a_batches * p.m + pack.b_batches * pack.panels * plan.panel);
  launch(is_bf16(p) ? gemm_bf16_pack_kernel() : quant_pack_kernel(), pack,
         split_of(p, pack_units, bytes, kPackGrain));

  DotArgs args;
  args.p = p;
  args.words = plan.words;
  if (plan.pack_a) {
    args.a = memory.a;
    args.a_step = 4 * plan.a_step;
    args.a_batch_step = a_batches == 1 ? 0 : p.m * args.a_step;
  } else {
    args.a = p.a.data;
    args.a_step = p.a.row_step * item_of(p.a_type);
    args.a_batch_step = p.a.batch_step * item_of(p.a_type);
    args.a_offsets = p.a.offsets;
  }
  args.b = memory.b;
  args.panel = plan.panel;
  args.panels = pack.panels;
  args.slices = pack.slices;
  if (pack.b_batches > 1) {
    args.b_batch_step = pack.panels * plan.panel * plan.words;
    args.column_sums_step = pack.panels * pack.slices * plan.panel;
  }
  args.column_sums = pack.column_sums;
  args.row_sums = plan.row_sums ? memory.rows : nullptr;
  args.row_sums_step = a_batches == 1 ? 0 : p.m;
  std::int64_t most = kDotRows;
  while (most > 12 && p.batches * args.panels * blocks_of(p.m, most) < 16) most /= 2;
  args.row_blocks = blocks_of(p.m, most);
  args.row_block = blocks_of(p.m, args.row_blocks);
  if (args.row_block > 36) args.row_block = std::min(blocks_of(args.row_block, 6) * 6, kDotRows);
  args.row_blocks = blocks_of(p.m, args.row_block);
  launch(is_bf16(p) ? gemm_bf16_tiles_kernel() : quant_tiles_kernel(), args,
         split_of(p, p.batches * args.panels * args.row_blocks, flops_of(p), grain_of(p)));
}

std::int64_t rounded(std::int64_t bytes) {
  return blocks_of(bytes, 64) * 64;
}

}  // namespace

bool dot_is_parallel(const DotProblem& p) {
  return flops_of(p) >= grain_of(p);
}

void dot_product(const DotProblem& problem) {
  const DotProblem& p = problem;
  if (p.m <= 0 || p.n <= 0 || p.batches <= 0) return;
  const Plan plan = plan_of(p);
  const std::int64_t columns = std::min(blocks_of(p.n, plan.panel) * plan.panel, plan.nc);
  const std::int64_t slices = std::max<std::int64_t>(blocks_of(plan.words, kSliceWords), 1);
  const std::int64_t a_bytes = plan.pack_a ? rounded(p.m * plan.a_step * 4) : 0;
  const std::int64_t b_bytes = rounded(columns * plan.words * 4);
  const std::int64_t rows_bytes = plan.row_sums ? rounded(p.m * 4) : 0;
  const std::int64_t columns_bytes = plan.column_sums ? rounded(columns * slices * 4) : 0;
  const std::int64_t each = a_bytes + b_bytes + rows_bytes + columns_bytes;
  const std::int64_t group =
      std::clamp<std::int64_t>(kPanelBytes / std::max<std::int64_t>(each, 1), 1, p.batches);
  Scratch scratch(static_cast<std::size_t>(each * group));
  char* const base = scratch.as<char>();
  const Memory memory{
      reinterpret_cast<float*>(base), reinterpret_cast<float*>(base + a_bytes * group),
      reinterpret_cast<std::int32_t*>(base + (a_bytes + b_bytes) * group),
      reinterpret_cast<std::int32_t*>(base + (a_bytes + b_bytes + rows_bytes) * group)};
  for (std::int64_t first = 0; first < p.batches; first += group) {
    DotProblem part = p;
    part.batches = std::min(group, p.batches - first);
    const DType types[3] = {p.a_type, p.b_type, p.c_type};
    GemmMatrix* const matrices[3] = {&part.a, &part.b, &part.c};
    for (int i = 0; i < 3; ++i) {
      if (matrices[i]->offsets) {
        matrices[i]->offsets += first;
      } else {
        advance(*matrices[i], first * matrices[i]->batch_step, types[i]);
      }
    }
    for (std::int64_t column = 0; column < p.n; column += plan.nc) {
      DotProblem block = part;
      block.n = std::min(plan.nc, p.n - column);
      advance(block.b, column * p.b.column_step, p.b_type);
      advance(block.c, column, p.c_type);
      if (p.bias) block.bias = p.bias + column;
      if (p.b_zero) block.b_zero = p.b_zero + column;
      if (p.int_bias) block.int_bias = p.int_bias + column;
      if (p.scale) block.scale = p.scale + column;
      run_columns(block, plan, memory, column > 0);
    }
  }
}

}  // namespace hotloop
