// Products whose operands are narrower than their sums: bf16 into f32, bytes into int32. Two
// contracts over one plan (kernels/dot.cpp):
//
//   bf16    C = activation(alpha * A B + beta * C + bias)          C in bf16 or f32, bias in f32
//   bytes   C = (A - a_zero) (B - b_zero) + bias, in int32         C in s32, or times scale in f32,
//           or that rounded, plus c_zero, saturated                or in s8 or u8
//
// Both operands become words of 32 bits, two bf16 or four bytes along k, filled up with zeros
// (simd/dot.h). Bytes of A are multiplied unsigned, those of B signed: the others are shifted by
// 128 (exclusive or) while they are packed, and their zero points with them:
//   sum (a - az)(b - bz) = sum a b - az sum_k b - bz sum_k a + k az bz
// whose sums are made while packing. All of it modulo 2^32, so the order does not matter; bf16 sums
// run along k in one order. The bits of C do not depend on the number of threads.
#pragma once

#include "core/dispatch.h"
#include "kernels/activation.h"
#include "kernels/gemm.h"

namespace hotloop {

struct DotProblem {
  DType a_type = DType::bf16, b_type = DType::bf16, c_type = DType::bf16;
  std::int64_t m = 0, n = 0, k = 0;
  std::int64_t batches = 1;
  GemmMatrix a, b, c;  // steps in elements, any in a and b; c.column_step must be 1
  bool interruptible = true;
  // bf16
  Activation activation = Activation::none;
  double activation_alpha = 0;
  double alpha = 1, beta = 0;
  const float* bias = nullptr;
  // bytes; what has one value for each column of C is contiguous
  std::int32_t a_zero = 0, c_zero = 0;
  const std::int32_t* b_zero = nullptr;  // by column, or null for 0
  const std::int32_t* int_bias = nullptr;
  const float* scale = nullptr;  // by column; null for C in s32
  // What dot_pack_b made of B, in panels of packed_panel columns. 0: B is what `b` says.
  std::int64_t packed_panel = 0;
  const float* packed_b = nullptr;
  const std::int32_t* packed_sums = nullptr;  // of bytes
};

#ifndef HOTLOOP_LEVEL
void dot_product(const DotProblem& problem);
bool dot_is_parallel(const DotProblem& problem);
// Packs B (k x n) ahead of products with it: dot_packed_words words, and dot_packed_sums sums (none
// for bf16), in panels of as many columns as dot_packed_panel says (for the level in force; any
// level reads them).
std::int64_t dot_packed_panel();
std::int64_t dot_packed_words(DType dtype, std::int64_t n, std::int64_t k, std::int64_t panel);
std::int64_t dot_packed_sums(DType dtype, std::int64_t n, std::int64_t k, std::int64_t panel);
void dot_pack_b(DType dtype, const GemmMatrix& b, std::int64_t n, std::int64_t k,
                std::int64_t panel, float* words, std::int32_t* sums);
#endif

// Words and columns that are packed at a time; columns of a panel are a multiple of 16.
inline constexpr std::int64_t kDotBlock = 64;
inline constexpr std::int64_t kDotRows = 72;      // rows of C in a unit, at most
inline constexpr std::int64_t kDotPanel = 64;     // columns of a panel, at most
inline constexpr std::int64_t kDotFewRows = 8;    // of A: B is read where it lies
inline constexpr std::int64_t kDotFewWords = 16;  // zeros fill its rows up to a multiple of these

// Units: a_batches * a_blocks blocks of A, then b_batches * panels * slices parts of B.
struct DotPackArgs {
  std::int64_t m = 0, n = 0, k = 0, words = 0;
  GemmMatrix a, b;
  std::uint32_t a_flip = 0, b_flip = 0;  // added without carry to each word
  float* a_to = nullptr;
  std::int64_t a_to_step = 0, a_rows = 0, a_blocks = 0, a_batches = 0;
  float* b_to = nullptr;
  std::int64_t panel = 0, panels = 0, slice_words = 0, slices = 0, b_batches = 0;
  std::int32_t* row_sums = nullptr;
  std::int32_t* column_sums = nullptr;
};

struct DotArgs {
  DotProblem p;
  std::int64_t words = 0;   // of a row of A
  const void* a = nullptr;  // rows of words, a_step bytes apart
  std::int64_t a_step = 0, a_batch_step = 0;
  const std::int64_t* a_offsets = nullptr;  // where A is not packed: as in GemmMatrix
  const float* b = nullptr;                 // panels of `words` rows of `panel` words
  std::int64_t b_batch_step = 0;            // words
  std::int64_t panel = 0, panels = 0;
  std::int64_t row_block = 0, row_blocks = 0;
  std::uint32_t a_flip = 0;                              // added without carry to each word of A
  std::int64_t slices = 0;                               // parts of k whose column sums lie apart
  const std::int32_t* row_sums = nullptr;                // [batch, m], or null
  const std::int32_t* column_sums = nullptr;             // [batch, panel, slice, column], or null
  std::int64_t row_sums_step = 0, column_sums_step = 0;  // from batch to batch
  // Where few units read a panel, each thread packs it into a slot of its own (words, then the
  // column sums of the slices, where asked for): how, or null.
  const DotPackArgs* pack = nullptr;
  bool own_sums = false;
  char* slots = nullptr;
  std::int64_t slot_bytes = 0;
  int (*slot)() = nullptr;
  // Few rows of A, and B as p.b says: a unit is `panel` of its columns.
  bool along = false;           // its columns lie in memory one after the other, else its rows
  std::uint32_t b_flip = 0;     // added without carry to each word of B
  const float* ones = nullptr;  // a row of A whose sums are those of B's columns, or null
};

HOTLOOP_KERNEL_BF16(gemm_bf16_pack, DotPackArgs)
HOTLOOP_KERNEL_BF16(gemm_bf16_tiles, DotArgs)  // units: batch, panel, row block (the fastest)
HOTLOOP_KERNEL_BF16(gemm_bf16_rows, DotArgs)   // units: batch, block of columns
HOTLOOP_KERNEL_BF16(quant_pack, DotPackArgs)
HOTLOOP_KERNEL_BF16(quant_tiles, DotArgs)
HOTLOOP_KERNEL_BF16(quant_rows, DotArgs)

// The ceilings: units of kProbeDotFlops operations of dot products in registers.
inline constexpr std::int64_t kProbeDotFlops = std::int64_t{3} << 19;
struct ProbeDotArgs {
  double* sink;  // one element per unit
};
HOTLOOP_KERNEL_BF16(gemm_bf16_probe, ProbeDotArgs)
HOTLOOP_KERNEL_BF16(quant_probe, ProbeDotArgs)

}  // namespace hotloop
