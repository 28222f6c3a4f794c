// Products of bytes, the sums in int32 (kernels/dot.h): words of four bytes along k
// (engines/dot_pack.h), 6x64 tiles of vpdpbusd (engines/dot_tile.h); elsewhere bytes are widened to
// 16 bits and multiplied by vpmaddwd, which is exact. The same bits on every level.
// also compiled for: avx512bf16
#include "engines/dot_pack.h"
#include "engines/dot_rows.h"
#include "engines/dot_tile.h"
#include "engines/quantize.h"
#include "kernels/dot.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

using simd::ByteDot;
using simd::Int;
using simd::Vec;

// Sums of packed bytes: of A unsigned, of B signed.
struct ByteSums {
  void rows(const Word* words, std::int64_t step, std::int64_t rows, std::int64_t count,
            std::int32_t* to) {
    constexpr std::int64_t kLanes = Vec<float>::lanes;
    const auto ones = ByteDot::right(simd::set1_int<float>(0x01010101));
    for (std::int64_t i = 0; i < rows; ++i) {
      Int<float> sum = simd::set1_int<float>(0);
      for (std::int64_t w = 0; w < count; w += kLanes) {
        const Int<float> word = simd::as_int(simd::load_upto(words + i * step + w, count - w));
        sum = ByteDot::add(sum, ByteDot::left(word), ones);
      }
      std::uint32_t total = 0;
      for (int lane = 0; lane < kLanes; ++lane) total += static_cast<std::uint32_t>(sum.v[lane]);
      to[i] = static_cast<std::int32_t>(total);
    }
  }
  void columns(const Word* words, std::int64_t width, std::int64_t count, std::int32_t* to) {
    constexpr std::int64_t kLanes = Vec<float>::lanes;
    const auto ones = ByteDot::left(simd::set1_int<float>(0x01010101));
    for (std::int64_t j = 0; j < width; j += kLanes) {
      Int<float> sum = simd::set1_int<float>(0);
      for (std::int64_t w = 0; w < count; ++w) {
        const Int<float> word = simd::load_words(words + w * width + j);
        sum = ByteDot::add(sum, ones, ByteDot::right(word));
      }
      simd::store_sum(to + j, sum);
    }
  }
};

inline Int<float> times(Int<float> a, Int<float> b) {  // modulo 2^32
  typedef Int<float>::utype U;
  return {(Int<float>::type)((U)a.v * (U)b.v)};
}

// What is added to every sum of a column, and the zero points of B: k az bz - az sum_k b + bias.
void column_terms(const DotArgs& g, const DotBlock& block, std::int32_t* terms,
                  std::int32_t* zeros) {
  const DotProblem& p = g.p;
  const Int<float> a_zero = simd::set1_int<float>(p.a_zero + (p.a_type == DType::s8 ? 128 : 0));
  const Int<float> b_shift = simd::set1_int<float>(p.b_type == DType::u8 ? 128 : 0);
  const Int<float> depth = simd::set1_int<float>(static_cast<std::int32_t>(p.k));
  for (std::int64_t j = 0; j < block.columns; j += Vec<float>::lanes) {
    const std::int64_t column = block.column + j, left = block.columns - j;
    Int<float> zero = simd::set1_int<float>(0), term = zero;
    if (p.b_zero) zero = load_ints(p.b_zero + column, left);
    zero = zero - b_shift;
    if (block.column_sums) {
      term = times(depth, zero);
      for (std::int64_t s = 0; s < g.slices; ++s) {
        term = term - load_ints(block.column_sums + s * g.panel + j, Vec<float>::lanes);
      }
      term = times(a_zero, term);
    }
    if (p.int_bias) term = term + load_ints(p.int_bias + column, left);
    simd::store_sum(terms + j, term);
    simd::store_sum(zeros + j, zero);
  }
}

// The sums of a block, which began with the terms of their columns, to what C is.
void finish_block(const DotArgs& g, const DotBlock& block, const std::int32_t* sums, char* c,
                  std::int64_t item, const std::int32_t* zeros) {
  const DotProblem& p = g.p;
  constexpr std::int64_t kLanes = Vec<float>::lanes;
  for (std::int64_t i = 0; i < block.rows; ++i) {
    const Int<float> row_sum = simd::set1_int<float>(
        g.row_sums ? g.row_sums[block.batch * g.row_sums_step + block.row + i] : 0);
    for (std::int64_t j = 0; j < block.columns; j += kLanes) {
      const std::int64_t left = block.columns - j;
      Int<float> sum = load_ints(sums + j, kLanes);
      if (g.row_sums) sum = sum - times(row_sum, load_ints(zeros + j, kLanes));
      if (p.c_type == DType::s32) {
        store_words_upto(c + 4 * j, sum, left);
        continue;
      }
      const Vec<float> scaled =
          simd::float_of(sum) * simd::load_upto(p.scale + block.column + j, left);
      if (p.c_type == DType::f32) {
        simd::store_upto(reinterpret_cast<float*>(c) + j, scaled, left);
      } else {
        const Int<float> zero = simd::set1_int<float>(p.c_zero);
        store_quantized(c + j, scaled, zero, p.c_type == DType::u8, left);
      }
    }
    sums += kDotPanel;
    c += p.c.row_step * item;
  }
}

}  // namespace

void quant_pack(const DotPackArgs& args, std::int64_t begin, std::int64_t end) {
  dot_pack<ByteDot>(args, begin, end, ByteSums{});
}

void quant_rows(const DotArgs& args, std::int64_t begin, std::int64_t end) {
  const DotProblem& p = args.p;
  constexpr std::int64_t kLanes = Vec<float>::lanes;
  alignas(64) std::int32_t terms[kDotPanel];
  alignas(64) std::int32_t zeros[kDotPanel];
  const std::int64_t item = p.c_type == DType::f32 || p.c_type == DType::s32 ? 4 : 1;
  dot_few_rows<ByteDot>(args, begin, end, [&](const DotBlock& block, std::int32_t* sums) {
    if (block.column_sums || p.int_bias || args.row_sums) {
      column_terms(args, block, terms, zeros);
      for (std::int64_t i = 0; i < block.rows; ++i) {
        std::int32_t* row = sums + i * kDotPanel;
        for (std::int64_t j = 0; j < block.columns; j += kLanes) {
          simd::store_sum(row + j, load_ints(row + j, kLanes) + load_ints(terms + j, kLanes));
        }
      }
    }
    const std::int64_t start =
        (p.c.offsets ? p.c.offsets[block.batch] : block.batch * p.c.batch_step) + block.column;
    finish_block(args, block, sums, static_cast<char*>(p.c.data) + start * item, item, zeros);
  });
}

void quant_tiles(const DotArgs& args, std::int64_t begin, std::int64_t end) {
  const DotProblem& p = args.p;
  alignas(64) std::int32_t terms[kDotPanel];
  alignas(64) std::int32_t zeros[kDotPanel];
  const std::int64_t item = p.c_type == DType::f32 || p.c_type == DType::s32 ? 4 : 1;
  const auto c_of = [&](const DotBlock& block) {
    const std::int64_t start =
        p.c.offsets ? p.c.offsets[block.batch] : block.batch * p.c.batch_step;
    return static_cast<char*>(p.c.data) + (start + block.row * p.c.row_step + block.column) * item;
  };
  const auto prepare = [&](const DotBlock& block, std::int32_t* sums) -> DotTarget<std::int32_t> {
    const bool starts = block.column_sums || p.int_bias || args.row_sums;
    if (starts) column_terms(args, block, terms, zeros);
    const std::int32_t* const start = starts ? terms : nullptr;
    if (p.c_type == DType::s32 && !args.row_sums && block.columns % Vec<float>::lanes == 0) {
      return {reinterpret_cast<std::int32_t*>(c_of(block)), p.c.row_step, start};
    }
    return {sums, kDotPanel, start};
  };
  const auto finish = [&](const DotBlock& block, const std::int32_t* sums) {
    finish_block(args, block, sums, c_of(block), item, zeros);
  };
  dot_blocks<ByteDot>(args, begin, end, ByteSums{}, prepare, finish);
}

void quant_probe(const ProbeDotArgs& args, std::int64_t begin, std::int64_t end) {
  probe_dots<ByteDot>(args, begin, end);
}

}  // namespace hotloop::HOTLOOP_LEVEL
