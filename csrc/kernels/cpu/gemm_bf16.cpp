// Products of bf16, the sums in f32: C = activation(alpha * A B + beta * C + bias), C in bf16 or
// f32. Words of two bf16 along k (engines/dot_pack.h), 6x64 tiles of vdpbf16ps
// (engines/dot_tile.h); elsewhere the halves are widened to f32, which is exact.
// also compiled for: avx512bf16
#include "engines/activate.h"
#include "engines/dot_pack.h"
#include "engines/dot_rows.h"
#include "engines/dot_tile.h"
#include "kernels/dot.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

using simd::Bf16Dot;
using simd::Vec;

struct NoSums {
  void rows(const Word*, std::int64_t, std::int64_t, std::int64_t, std::int32_t*) {}
  void columns(const Word*, std::int64_t, std::int64_t, std::int32_t*) {}
};

inline Vec<float> load_c(const DotProblem& p, const void* c, std::int64_t at, std::int64_t n) {
  if (p.c_type == DType::f32) return simd::load_upto(static_cast<const float*>(c) + at, n);
  return simd::load_bf16_upto(static_cast<const std::uint16_t*>(c) + at, n);
}

bool is_plain(const DotProblem& p) {
  return p.alpha == 1 && p.beta == 0 && !p.bias && p.activation == Activation::none;
}

void round_row(const float* sum, std::uint16_t* c, std::int64_t columns) {
  constexpr std::int64_t kLanes = Vec<float>::lanes;
  std::int64_t j = 0;
  for (; j + 2 * kLanes <= columns; j += 2 * kLanes) {
    simd::store_bf16_pair(c + j, simd::load(sum + j), simd::load(sum + j + kLanes));
  }
  for (; j < columns; j += kLanes) simd::store_bf16_upto(c + j, simd::load(sum + j), columns - j);
}

void finish_row(const DotProblem& p, float* sum, void* c, std::int64_t column,
                std::int64_t columns) {
  constexpr int kLanes = Vec<float>::lanes;
  const bool plain = p.alpha == 1 && p.beta == 0 && !p.bias;
  const Vec<float> alpha = simd::set1(static_cast<float>(p.alpha));
  const Vec<float> beta = simd::set1(static_cast<float>(p.beta));
  if (!plain) {
    for (std::int64_t j = 0; j < columns; j += kLanes) {
      Vec<float> v = simd::load(sum + j);
      if (p.alpha != 1) v = v * alpha;
      if (p.bias) v = v + simd::load_upto(p.bias + column + j, columns - j);
      if (p.beta != 0) v = simd::fma(beta, load_c(p, c, j, columns - j), v);
      simd::store(sum + j, v);
    }
  }
  if (p.activation != Activation::none) {
    activate_row<float>(p.activation, p.activation_alpha, sum, columns);
  }
  if (p.c_type != DType::f32) return round_row(sum, static_cast<std::uint16_t*>(c), columns);
  for (std::int64_t j = 0; j < columns; j += kLanes) {
    simd::store_upto(static_cast<float*>(c) + j, simd::load(sum + j), columns - j);
  }
}

// Writes a block of C from its sums.
void finish_block(const DotProblem& p, const DotBlock& block, float* sums) {
  const std::int64_t item = p.c_type == DType::f32 ? 4 : 2;
  const std::int64_t start =
      (p.c.offsets ? p.c.offsets[block.batch] : block.batch * p.c.batch_step) +
      block.row * p.c.row_step + block.column;
  char* c = static_cast<char*>(p.c.data) + start * item;
  if (is_plain(p) && p.c_type != DType::f32) {
    for (std::int64_t i = 0; i < block.rows; ++i) {
      round_row(sums + i * kDotPanel, reinterpret_cast<std::uint16_t*>(c) + i * p.c.row_step,
                block.columns);
    }
    return;
  }
  for (std::int64_t i = 0; i < block.rows; ++i) {
    finish_row(p, sums + i * kDotPanel, c + i * p.c.row_step * item, block.column, block.columns);
  }
}

}  // namespace

void gemm_bf16_pack(const DotPackArgs& args, std::int64_t begin, std::int64_t end) {
  dot_pack<Bf16Dot>(args, begin, end, NoSums{});
}

void gemm_bf16_tiles(const DotArgs& args, std::int64_t begin, std::int64_t end) {
  const DotProblem& p = args.p;
  const auto start_of = [&p](const DotBlock& block) {
    const std::int64_t start =
        p.c.offsets ? p.c.offsets[block.batch] : block.batch * p.c.batch_step;
    return start + block.row * p.c.row_step + block.column;
  };
  const bool plain = p.c_type == DType::f32 && is_plain(p);
  const auto prepare = [&](const DotBlock& block, float* sums) -> DotTarget<float> {
    if (plain && block.columns % Vec<float>::lanes == 0) {
      return {static_cast<float*>(p.c.data) + start_of(block), p.c.row_step, nullptr};
    }
    return {sums, kDotPanel, nullptr};
  };
  const auto finish = [&](const DotBlock& block, float* sums) { finish_block(p, block, sums); };
  dot_blocks<Bf16Dot>(args, begin, end, NoSums{}, prepare, finish);
}

void gemm_bf16_rows(const DotArgs& args, std::int64_t begin, std::int64_t end) {
  dot_few_rows<Bf16Dot>(args, begin, end, [&](const DotBlock& block, float* sums) {
    finish_block(args.p, block, sums);
  });
}

void gemm_bf16_probe(const ProbeDotArgs& args, std::int64_t begin, std::int64_t end) {
  probe_dots<Bf16Dot>(args, begin, end);
}

}  // namespace hotloop::HOTLOOP_LEVEL
