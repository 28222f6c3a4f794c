// C = activation(alpha * A B + bias + beta * D), batched; A is m x k, B k x n, C and D m x n with
// their rows contiguous, bias a row of n; D is C itself or a residual. gemm() is the driver
// (kernels/gemm.cpp): it plans, packs and launches. For one level and one problem the bits of C do
// not depend on the number of threads.
#pragma once

#include "core/dispatch.h"
#include "kernels/activation.h"

namespace hotloop {

// One operand of a batched product. Element (i, j) of matrix number t lies at
// data + batch(t) + i * row_step + j * column_step, all in elements; batch(t) is t * batch_step, or
// offsets[t] where the batch axes do not fold into one stride.
struct GemmMatrix {
  void* data = nullptr;
  std::int64_t row_step = 0;
  std::int64_t column_step = 0;
  std::int64_t batch_step = 0;
  const std::int64_t* offsets = nullptr;
  bool operator==(const GemmMatrix&) const = default;
};

struct GemmProblem {
  DType dtype = DType::f32;
  Activation activation = Activation::none;
  double activation_alpha = 0;  // the activation's parameter
  std::int64_t m = 0, n = 0, k = 0;
  std::int64_t batches = 1;
  GemmMatrix a, b, c;          // any steps in a and b; c.column_step must be 1
  GemmMatrix d;                // like c, and may be c; data is null only where beta == 0
  const void* bias = nullptr;  // n contiguous elements
  double alpha = 1, beta = 0;  // beta == 0: what D holds, NaN too, is not read
  void* a_sums = nullptr;      // m elements: the sums of A's rows (of a single batch)
  bool interruptible = true;   // false where C is the caller's own array
  // B in panels of packed_columns, made by gemm_pack_b: blocks of kc rows, one after another, in
  // each of them all panels. 0: B is what p.b says.
  std::int64_t packed_columns = 0;
  void* scratch = nullptr;  // CUDA: what hotloop_cuda_gemm_workspace asks for
  bool operator==(const GemmProblem&) const = default;
};

#ifndef HOTLOOP_LEVEL
void gemm(const GemmProblem& problem);
// Only the sums of A's rows.
void gemm_row_sums(const GemmProblem& problem);
// Packs B (k x n) ahead of products with it: gemm_packed_size elements, panels of as many columns
// as gemm_packed_columns says (for the level in force; any level reads them).
std::int64_t gemm_packed_columns(DType dtype);
std::int64_t gemm_packed_size(std::int64_t n, std::int64_t k, std::int64_t columns);
void gemm_pack_b(DType dtype, const GemmMatrix& b, std::int64_t n, std::int64_t k,
                 std::int64_t columns, void* to);
// Worth releasing the GIL for.
bool gemm_is_long(const GemmProblem& problem);
#endif

// A larger B comes from memory, not from the last level of the caches.
inline constexpr std::int64_t kGemmBeyondCaches = 12 << 20;
inline constexpr std::int64_t kGemmTinyBytes = 32 << 10;  // of B, packed on the stack

// What a thread has in its slot, before the memory of two panels: the one its tiles read, and the
// first rows of the one that comes next, copied meanwhile. Panels are numbered through all blocks
// of k.
struct alignas(64) GemmSlot {
  std::int64_t panel = -1;
  std::int64_t next = -1;
  std::int64_t rows = 0;   // of `next`
  std::int64_t place = 0;  // of `panel`
};

// What the kernels below take: a problem whose blocks are laid out.
struct GemmArgs {
  GemmProblem p;
  std::int64_t k_total = 0;        // > 0: the batches are slices of k; the last one may be short
  std::int64_t row_block = 0;      // rows of C in a unit
  std::int64_t row_blocks = 0;     // units along m
  std::int64_t column_block = 0;   // columns of C in a unit
  std::int64_t column_blocks = 0;  // units along n
  std::int64_t panel_step = 0;     // elements from one column block of B to the next
  bool fetch = false;              // C lies beyond L2
  bool ahead = false;              // A has many rows, dense or as columns: fetched ahead
  bool stream = false;             // C is aligned, and larger than what stays in the caches
  bool add_sums = false;           // a_sums holds the sums of earlier blocks of k
  std::int64_t sums_step = 0;      // elements of a_sums from batch (slice of k) to batch
  // Each thread packs the panels of its units into a slot of its own: nobody waits for anybody.
  char* slots = nullptr;  // of slot_bytes: a GemmSlot, two panels of place_bytes
  std::int64_t slot_bytes = 0, place_bytes = 0;
  int (*slot)() = nullptr;
  int sharers = 1;               // threads, each of which takes the units of its share in order
  std::int64_t first_panel = 0;  // number of this block's first panel
  std::int64_t next_terms = 0;   // of the next block of k; 0: there is none
  // Panels for all threads, which the tiles of the first rows pack; first_row: of the others.
  void* shared_b = nullptr;
  std::int64_t first_row = 0;
  bool operator==(const GemmArgs&) const = default;
};

// Packs blocks of A, then panels of B: units are a_batches * a_blocks, then b_batches * b_panels *
// b_slices (of b_rows of k).
struct GemmPackArgs {
  DType dtype = DType::f32;
  std::int64_t m = 0, n = 0, k = 0, k_total = 0;
  GemmMatrix a, b;
  void* a_to = nullptr;  // m rows of k elements, a_to_step apart
  std::int64_t a_to_step = 0, a_rows = 0, a_blocks = 0, a_batches = 0;
  void* b_to = nullptr;  // panels of k rows of b_columns elements
  std::int64_t b_columns = 0, b_panels = 0, b_rows = 0, b_slices = 0, b_batches = 0;
};

// gemm_combine adds the slices of k in order: units are rows of C. p.a holds the partial sums, its
// batch_step from slice to slice; p.batches is the number of slices.
HOTLOOP_KERNEL(gemm_pack, GemmPackArgs)
// units: batch, row block, column block (the fastest); with slots column block, row block
HOTLOOP_KERNEL(gemm_tiles, GemmArgs)
// Rows of A and of B^T contiguous in k; units: batch, row block, column block (the fastest).
HOTLOOP_KERNEL(gemm_dots, GemmArgs)
// One batch, no sums of A, B's rows contiguous, or no more than kGemmTinyBytes with rows of whole
// 16 elements, which each call packs; units: row block, column block (the fastest).
HOTLOOP_KERNEL(gemm_small_tiles, GemmArgs)
HOTLOOP_KERNEL(gemm_rows, GemmArgs)  // m <= 16, rows of B contiguous; units: batch, column block
HOTLOOP_KERNEL(gemm_combine, GemmArgs)
HOTLOOP_KERNEL(gemm_outer, GemmArgs)  // k = 1, B contiguous; units: batch, row of C

// Sums over the rows of A (m x n): c[j] = sum over i; units are blocks of kColumnSumBlock columns.
inline constexpr std::int64_t kColumnSumBlock = 64;
struct ColumnSumArgs {
  DType dtype = DType::f32;
  std::int64_t m = 0, n = 0;
  const void* a = nullptr;
  std::int64_t row_step = 0, column_step = 0;
  void* c = nullptr;
};
HOTLOOP_KERNEL(gemm_column_sums, ColumnSumArgs)

}  // namespace hotloop
