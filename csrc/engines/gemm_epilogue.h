// What the loops of kernels/cpu/gemm*.cpp share: addresses in a problem, and what happens to C
// after the sums: scale, add, activate.
#pragma once

#include "engines/activate.h"
#include "kernels/gemm.h"
#include "simd/simd.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

inline std::int64_t least(std::int64_t a, std::int64_t b) {
  return a < b ? a : b;
}

template <class T>
inline T* element(const GemmMatrix& matrix, std::int64_t batch, std::int64_t row,
                  std::int64_t column) {
  const std::int64_t start = matrix.offsets ? matrix.offsets[batch] : batch * matrix.batch_step;
  return static_cast<T*>(matrix.data) + start + row * matrix.row_step + column * matrix.column_step;
}

// Terms of the sum in this batch: all of k, or a slice of it.
inline std::int64_t depth_of(std::int64_t k, std::int64_t k_total, std::int64_t batch) {
  return k_total > 0 ? least(k, k_total - batch * k) : k;
}

// alpha * sum + bias + beta * d, in the order in which the tiles do it.
template <class T>
inline simd::Vec<T> finish_sum(const GemmProblem& p, simd::Vec<T> sum, const T* d,
                               std::int64_t column, int lanes) {
  if (p.alpha != 1) sum = sum * simd::set1(static_cast<T>(p.alpha));
  if (p.bias) sum = sum + simd::load_upto(static_cast<const T*>(p.bias) + column, lanes);
  if (p.beta != 0) {
    sum = simd::fma(simd::set1(static_cast<T>(p.beta)), simd::load_upto(d, lanes), sum);
  }
  return sum;
}

// A second pass over a block that is still in L1: in the tile itself there are no registers left
// for a polynomial.
template <class T>
inline void activate_block(const GemmProblem& p, T* c, std::int64_t rows, std::int64_t columns) {
  if (p.activation == Activation::none) return;
  for (std::int64_t i = 0; i < rows; ++i) {
    activate_row<T>(p.activation, p.activation_alpha, c + i * p.c.row_step, columns);
  }
}

}  // namespace
}  // namespace hotloop::HOTLOOP_LEVEL
