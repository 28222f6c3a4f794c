// Plans a product of bf16 or bytes: what is packed, how it is cut into blocks and split over
// threads. A panel of B, all of k deep and 64 columns wide, stays in L2 while the rows of A pass
// by; one launch packs, the next multiplies. Where the rows are few each panel has one reader,
// which packs it into memory of its own. Nothing of it shows in the bits of C.
#include "kernels/dot.h"

#include <algorithm>

#include "core/arena.h"
#include "core/launch.h"
#include "core/threads.h"

namespace hotloop {

namespace {

constexpr std::int64_t kPanelBytes = 8ll << 20;  // packed B, and packed A of batches, at a time
constexpr std::int64_t kSliceWords = 256;        // of a panel, packed by one unit
constexpr std::int64_t kPackRows = 64;
constexpr std::int64_t kSlotBytes = 1ll << 20;  // of a panel that one unit packs for itself
constexpr double kShortFlops = 1e8;             // some 200 microseconds
constexpr double kWakeFlops = 1e7;              // worth waking threads for
constexpr double kPackFlops = 60;               // what packing an element of B is worth
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

std::int64_t words_of(DType dtype, std::int64_t k) {
  return blocks_of(k, 4 / item_of(dtype));
}

std::int64_t slices_of(std::int64_t words) {
  return std::max<std::int64_t>(blocks_of(words, kSliceWords), 1);
}

// Multiplying, and packing B for it.
double work_of(const DotProblem& p) {
  if (p.packed_panel > 0) return flops_of(p);
  const double batches = is_shared(p.b) ? 1 : static_cast<double>(p.batches);
  return flops_of(p) + kPackFlops * static_cast<double>(p.n) * static_cast<double>(p.k) * batches;
}

struct Plan {
  std::int64_t words, a_step;  // of packed rows, in words
  std::int64_t panel, nc;
  bool pack_a, row_sums, column_sums;
  bool own_b;     // each thread packs the panels of its units
  bool is_short;  // not worth a launch that packs first
  int threads;
};

Plan plan_of(const DotProblem& p) {
  Plan plan;
  plan.words = words_of(p.a_type, p.k);
  plan.a_step = plan.words + 16;  // never a multiple of a page
  plan.panel = p.packed_panel > 0 ? p.packed_panel : panel_columns();
  const std::int64_t panel_bytes = std::max<std::int64_t>(plan.words, 1) * plan.panel * 4;
  plan.nc = std::max<std::int64_t>(kPanelBytes / panel_bytes, 1) * plan.panel;
  plan.row_sums = !is_bf16(p) && (p.b_zero || p.b_type == DType::u8);
  plan.column_sums = !is_bf16(p) && (p.a_zero != 0 || p.a_type == DType::s8);
  // Rows of whole words are read where they lie.
  plan.pack_a = plan.row_sums || p.a.column_step != 1 || p.k % (4 / item_of(p.a_type)) != 0;
  plan.threads = dot_is_parallel(p) ? num_threads() : 1;
  const std::int64_t units = p.batches * blocks_of(p.n, plan.panel);
  plan.is_short = plan.threads > 1 && work_of(p) < kShortFlops && units % plan.threads == 0;
  const bool one_reader = p.m <= kDotRows && (plan.threads == 1 || units >= 4 * plan.threads);
  plan.own_b = p.packed_panel == 0 && panel_bytes <= kSlotBytes && (plan.is_short || one_reader);
  if (p.packed_panel > 0 || plan.own_b) plan.nc = p.n;
  return plan;
}

struct Memory {
  float *a, *b;  // b: the panels, or a slot for each thread
  std::int32_t *rows, *columns;
};

// The panel, the sums of its columns, and a little, so that the slots of two threads do not fall
// onto the same places.
std::int64_t slot_bytes(const Plan& plan) {
  return (plan.words + slices_of(plan.words)) * plan.panel * 4 + 256;
}

// What DotPackArgs says of B.
void describe_b(DotPackArgs& pack, const GemmMatrix& b, DType dtype, std::int64_t n, std::int64_t k,
                std::int64_t panel) {
  pack.n = n;
  pack.k = k;
  pack.words = words_of(dtype, k);
  pack.b = b;
  pack.b_flip = dtype == DType::u8 ? 0x80808080u : 0;
  pack.panel = panel;
  pack.panels = blocks_of(n, panel);
  pack.slice_words = kSliceWords;
  pack.slices = slices_of(pack.words);
}

// The columns [first, first + p.n) of C, a group of batches.
void run_columns(const DotProblem& p, const Plan& plan, const Memory& memory, bool a_is_packed) {
  DotPackArgs pack;
  describe_b(pack, p.b, p.b_type, p.n, p.k, plan.panel);
  pack.m = p.m;
  pack.a = p.a;
  const std::uint32_t a_flip = p.a_type == DType::s8 ? 0x80808080u : 0;
  pack.a_flip = a_flip;
  const std::int64_t a_batches = is_shared(p.a) ? 1 : p.batches;
  if (plan.pack_a && !a_is_packed) {
    pack.a_to = memory.a;
    pack.a_to_step = plan.a_step;
    pack.a_rows = kPackRows;
    pack.a_blocks = blocks_of(p.m, kPackRows);
    pack.a_batches = a_batches;
    pack.row_sums = plan.row_sums ? memory.rows : nullptr;
  }
  if (!plan.own_b && p.packed_panel == 0) {
    pack.b_to = memory.b;
    pack.b_batches = is_shared(p.b) ? 1 : p.batches;
    pack.column_sums = plan.column_sums ? memory.columns : nullptr;
  }
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
    args.a_flip = a_flip;
  }
  args.b = p.packed_panel > 0 ? p.packed_b : memory.b;
  args.panel = plan.panel;
  args.panels = pack.panels;
  args.slices = pack.slices;
  if (pack.b_batches > 1) {
    args.b_batch_step = pack.panels * plan.panel * plan.words;
    args.column_sums_step = pack.panels * pack.slices * plan.panel;
  }
  args.column_sums = p.packed_panel > 0 && plan.column_sums ? p.packed_sums : pack.column_sums;
  if (plan.own_b) {
    args.pack = &pack;
    args.own_sums = plan.column_sums;
    args.slots = reinterpret_cast<char*>(memory.b);
    args.slot_bytes = slot_bytes(plan);
    args.slot = thread_index;
  }
  args.row_sums = plan.row_sums ? memory.rows : nullptr;
  args.row_sums_step = a_batches == 1 ? 0 : p.m;
  std::int64_t most = kDotRows;
  while (!plan.own_b && most > 12 && p.batches * args.panels * blocks_of(p.m, most) < 16) most /= 2;
  args.row_blocks = blocks_of(p.m, most);
  args.row_block = blocks_of(p.m, args.row_blocks);
  if (args.row_block > 36) args.row_block = std::min(blocks_of(args.row_block, 6) * 6, kDotRows);
  args.row_blocks = blocks_of(p.m, args.row_block);
  const double work = plan.own_b ? work_of(p) : flops_of(p);
  Split split = split_of(p, p.batches * args.panels * args.row_blocks, work, grain_of(p));
  if (plan.own_b) split.max_threads = plan.threads;
  if (plan.is_short) {  // as few pieces as threads: each packs its first panel anew
    split.grain = blocks_of(split.units, plan.threads);
    split.is_short = work_of(p) < kWakeFlops;
  }
  launch(is_bf16(p) ? gemm_bf16_tiles_kernel() : quant_tiles_kernel(), args, split);
}

std::int64_t rounded(std::int64_t bytes) {
  return blocks_of(bytes, 64) * 64;
}

// ---- few rows of A: B is read once, where it lies
// ------------------------------------------------

constexpr double kReadFlops = 16;  // what reading an element of B is worth
constexpr std::int64_t kFewColumns = 256;

std::int64_t few_rows_step(const DotProblem& p) {  // words
  return blocks_of(words_of(p.a_type, p.k), kDotFewWords) * kDotFewWords;
}

bool lies_along(const DotProblem& p) {
  return p.b.row_step == 1 && (p.b.column_step != 1 || p.n == 1);
}

bool wants_column_sums(const DotProblem& p) {
  return !is_bf16(p) && (p.a_zero != 0 || p.a_type == DType::s8);
}

// Packing B would take longer than multiplying by it, and it has its rows or columns in memory.
bool few_rows(const DotProblem& p) {
  if (p.packed_panel > 0 || p.k <= 0 || p.m > kDotFewRows) return false;
  if (p.b.column_step != 1 && p.b.row_step != 1) return false;
  // A ninth row would take a third pass over B.
  if (!lies_along(p) && p.m == kDotFewRows && wants_column_sums(p)) return false;
  return p.batches * p.m * few_rows_step(p) * 4 <= kPanelBytes;
}

double few_rows_work(const DotProblem& p) {
  return flops_of(p) + kReadFlops * static_cast<double>(p.n) * static_cast<double>(p.k) *
                           static_cast<double>(p.batches);
}

// The words behind the end of each row of A are zeros.
void end_rows(float* a, std::int64_t rows, std::int64_t words, std::int64_t step) {
  for (std::int64_t i = 0; i < rows; ++i) std::fill(a + i * step + words, a + (i + 1) * step, 0.0f);
}

void run_few_rows(const DotProblem& p) {
  const Plan plan = plan_of(p);
  const std::int64_t step = few_rows_step(p);
  const std::int64_t a_batches = is_shared(p.a) ? 1 : p.batches, a_rows = a_batches * p.m;
  const std::int64_t sums_bytes = plan.row_sums ? rounded(a_rows * 4) : 0;
  Scratch scratch(static_cast<std::size_t>((a_rows + 1) * step * 4 + sums_bytes));
  float* const ones = scratch.as<float>() + a_rows * step;

  DotPackArgs pack;
  describe_b(pack, p.b, p.b_type, p.n, p.k, kDotPanel);
  pack.m = p.m;
  pack.a = p.a;
  pack.a_flip = p.a_type == DType::s8 ? 0x80808080u : 0;
  pack.a_to = scratch.as<float>();
  pack.a_to_step = step;
  pack.a_rows = kPackRows;
  pack.a_blocks = 1;
  pack.a_batches = a_batches;
  pack.row_sums = plan.row_sums ? reinterpret_cast<std::int32_t*>(ones + step) : nullptr;
  launch(is_bf16(p) ? gemm_bf16_pack_kernel() : quant_pack_kernel(), pack,
         split_of(p, a_batches, 4.0 * static_cast<double>(a_rows * step), kPackGrain));
  end_rows(pack.a_to, a_rows, plan.words, step);

  DotArgs args;
  args.p = p;
  args.words = plan.words;
  args.a = pack.a_to;
  args.a_step = 4 * step;
  args.a_batch_step = a_batches == 1 ? 0 : p.m * args.a_step;
  args.along = lies_along(p);
  args.b_flip = pack.b_flip;
  if (wants_column_sums(p)) {
    auto* const bytes = reinterpret_cast<std::uint8_t*>(ones);
    std::fill(bytes, bytes + p.k, std::uint8_t{1});
    std::fill(bytes + p.k, bytes + 4 * step, std::uint8_t{0});
    args.ones = ones;
  }
  args.slices = 1;
  args.row_sums = pack.row_sums;
  args.row_sums_step = a_batches == 1 ? 0 : p.m;
  // Long runs of B's rows; each sum is the same however the columns are cut.
  const std::int64_t threads = dot_is_parallel(p) ? num_threads() : 1;
  args.panel =
      args.along ? kDotPanel
                 : std::max(blocks_of(blocks_of(p.n, threads), kDotPanel) * kDotPanel, kFewColumns);
  args.panels = blocks_of(p.n, args.panel);
  launch(is_bf16(p) ? gemm_bf16_rows_kernel() : quant_rows_kernel(), args,
         split_of(p, p.batches * args.panels, few_rows_work(p), grain_of(p)));
}

}  // namespace

bool dot_is_parallel(const DotProblem& p) {
  return (few_rows(p) ? few_rows_work(p) : work_of(p)) >= grain_of(p);
}

std::int64_t dot_packed_panel() {
  return panel_columns();
}

std::int64_t dot_packed_words(DType dtype, std::int64_t n, std::int64_t k, std::int64_t panel) {
  return blocks_of(n, panel) * panel * words_of(dtype, k);
}

std::int64_t dot_packed_sums(DType dtype, std::int64_t n, std::int64_t k, std::int64_t panel) {
  if (dtype == DType::bf16) return 0;
  return blocks_of(n, panel) * panel * slices_of(words_of(dtype, k));
}

void dot_pack_b(DType dtype, const GemmMatrix& b, std::int64_t n, std::int64_t k,
                std::int64_t panel, float* words, std::int32_t* sums) {
  DotPackArgs pack;
  describe_b(pack, b, dtype, n, k, panel);
  pack.b_to = words;
  pack.b_batches = 1;
  pack.column_sums = sums;
  DotProblem p;
  p.a_type = p.b_type = dtype;
  const double bytes = 4.0 * static_cast<double>(pack.words) * static_cast<double>(n);
  launch(dtype == DType::bf16 ? gemm_bf16_pack_kernel() : quant_pack_kernel(), pack,
         split_of(p, pack.panels * pack.slices, bytes, kPackGrain));
}

void dot_product(const DotProblem& problem) {
  const DotProblem& p = problem;
  if (p.m <= 0 || p.n <= 0 || p.batches <= 0) return;
  if (few_rows(p)) return run_few_rows(p);
  const Plan plan = plan_of(p);
  const std::int64_t columns = std::min(blocks_of(p.n, plan.panel) * plan.panel, plan.nc);
  const std::int64_t slices = slices_of(plan.words);
  const bool shares_b = !plan.own_b && p.packed_panel == 0;  // packed by a launch of its own
  const std::int64_t a_bytes = plan.pack_a ? rounded(p.m * plan.a_step * 4) : 0;
  const std::int64_t b_bytes = shares_b ? rounded(columns * plan.words * 4) : 0;
  const std::int64_t rows_bytes = plan.row_sums ? rounded(p.m * 4) : 0;
  const std::int64_t columns_bytes =
      shares_b && plan.column_sums ? rounded(columns * slices * 4) : 0;
  const std::int64_t each = a_bytes + b_bytes + rows_bytes + columns_bytes;
  const std::int64_t group =
      std::clamp<std::int64_t>(kPanelBytes / std::max<std::int64_t>(each, 1), 1, p.batches);
  const std::int64_t slots = plan.own_b ? rounded(slot_bytes(plan)) * plan.threads : 0;
  Scratch scratch(static_cast<std::size_t>(each * group + slots));
  char* const base = scratch.as<char>();
  char* const b_memory = base + (plan.own_b ? each * group : a_bytes * group);
  const Memory memory{
      reinterpret_cast<float*>(base), reinterpret_cast<float*>(b_memory),
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
