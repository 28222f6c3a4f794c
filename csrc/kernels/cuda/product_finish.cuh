// The second pass after a product: partial sums added in order, then alpha, bias, residual and
// activation. Serves slices of k, products with a vector, and activations that are too large for
// the tile's own epilogue.
#pragma once

#include "kernels/cuda/activate.cuh"
#include "kernels/gemm.h"

namespace hotloop::cuda {

// Matrix number t of a batch lies at (t / inner) * outer_step + (t % inner) * inner_step.
struct Batch {
  std::int64_t outer_step, inner_step;
};
__device__ __forceinline__ std::int64_t batch_offset(Batch batch, std::int64_t t,
                                                     std::int64_t inner) {
  return t / inner * batch.outer_step + t % inner * batch.inner_step;
}

// x = sum over slices of parts[slice][t][i][j]; c = activation(alpha x + bias[j] + beta d).
template <class T>
struct FinishArgs {
  const T* parts;
  std::int64_t slices, slice_step, part_step, part_row, part_column;
  T* c;
  const T* d;
  const T* bias;
  Batch c_batch, d_batch;
  std::int64_t c_row, c_column, d_row, d_column;
  std::int64_t m, n, batches, inner;
  T alpha, beta;
  Activation activation;
  double activation_alpha;
};

template <class T>
__global__ void __launch_bounds__(256) product_finish(const __grid_constant__ FinishArgs<T> p) {
  const std::int64_t count = p.batches * p.m * p.n;
  std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * 256 + threadIdx.x;
  for (; at < count; at += static_cast<std::int64_t>(gridDim.x) * 256) {
    const std::int64_t j = at % p.n, row = at / p.n, i = row % p.m, t = row / p.m;
    const T* part = p.parts + t * p.part_step + i * p.part_row + j * p.part_column;
    T sum = *part;
    for (std::int64_t slice = 1; slice < p.slices; ++slice) {
      part += p.slice_step;
      sum += *part;
    }
    sum *= p.alpha;
    if (p.bias) sum += p.bias[j];
    if (p.d) {
      const std::int64_t from = batch_offset(p.d_batch, t, p.inner) + i * p.d_row + j * p.d_column;
      sum = fma(Lane<T>{p.beta}, Lane<T>{p.d[from]}, Lane<T>{sum}).value;
    }
    p.c[batch_offset(p.c_batch, t, p.inner) + i * p.c_row + j * p.c_column] =
        activate(p.activation, sum, p.activation_alpha);
  }
}

template <class T>
void finish_product(const FinishArgs<T>& p, cudaStream_t stream) {
  const std::int64_t count = p.batches * p.m * p.n;
  if (count > 0) HOTLOOP_LAUNCH((product_finish<T>), blocks_for(count, 256), 256, 0, stream, p);
}

}  // namespace hotloop::cuda
