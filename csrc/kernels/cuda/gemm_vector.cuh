// Products with few rows, which only read B once: what counts is the memory. And sums over the rows
// of a matrix, the gradient of a bias.
#pragma once

#include "kernels/cuda/product_finish.cuh"
#include "kernels/cuda/product_tile.cuh"

namespace hotloop::cuda {

inline constexpr int kVectorRows = 8;

// parts[slice][t][i][j] = sum over a slice of k of a[i][k] b[k][j], m <= kVectorRows.
template <class T>
struct VectorArgs {
  const T *a, *b;
  T* parts;
  Batch a_batch, b_batch;
  std::int64_t a_row, a_column, b_row, b_column;
  std::int64_t m, n, k, batches, inner, slice, slice_step;
  bool whole;  // rows of A and columns of B can be read 16 bytes at a time
};

// Columns of B lie along k: a warp for each of them, lane by lane along k.
template <class T>
__global__ void __launch_bounds__(256) gemm_dots(const __grid_constant__ VectorArgs<T> p) {
  constexpr int kPiece = Piece<T>::kSize;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const std::int64_t unit = static_cast<std::int64_t>(blockIdx.x) * 8 + threadIdx.x / 32;
  if (unit >= p.n * p.batches) return;  // whole warps
  const std::int64_t t = unit / p.n, j = unit % p.n;
  const std::int64_t begin = blockIdx.y * p.slice, last = begin + p.slice;
  const std::int64_t end = last < p.k ? last : p.k;
  const T* const a = p.a + batch_offset(p.a_batch, t, p.inner);
  const T* const b = p.b + batch_offset(p.b_batch, t, p.inner) + j * p.b_column;
  T sum[kVectorRows] = {};
  std::int64_t k = begin;
  if (p.whole) {
    for (k += lane * kPiece; k + kPiece <= end; k += 32 * kPiece) {
      const Piece<T> right = *reinterpret_cast<const Piece<T>*>(b + k);
#pragma unroll
      for (int i = 0; i < kVectorRows; ++i) {
        if (i >= p.m) break;
        const Piece<T> left = *reinterpret_cast<const Piece<T>*>(a + i * p.a_row + k);
#pragma unroll
        for (int v = 0; v < kPiece; ++v) sum[i] = fused(left.at[v], right.at[v], sum[i]);
      }
    }
    k = begin + (end - begin) / kPiece * kPiece;
  }
  for (k += lane; k < end; k += 32) {
    const T right = b[k * p.b_row];
#pragma unroll
    for (int i = 0; i < kVectorRows; ++i) {
      if (i < p.m) sum[i] = fused(a[i * p.a_row + k * p.a_column], right, sum[i]);
    }
  }
#pragma unroll
  for (int i = 0; i < kVectorRows; ++i) {
    if (i >= p.m) break;
    T total = sum[i];
#pragma unroll
    for (int by = 16; by > 0; by /= 2) total += __shfl_xor_sync(kAllLanes, total, by);
    if (lane == 0) p.parts[blockIdx.y * p.slice_step + (t * p.m + i) * p.n + j] = total;
  }
}

// Rows of B lie along n, or anyhow: a thread for each column, all rows of A at a time.
template <class T>
__global__ void __launch_bounds__(128) gemm_rows(const __grid_constant__ VectorArgs<T> p) {
  const std::int64_t unit = static_cast<std::int64_t>(blockIdx.x) * 128 + threadIdx.x;
  if (unit >= p.n * p.batches) return;
  const std::int64_t t = unit / p.n, j = unit % p.n;
  const std::int64_t begin = blockIdx.y * p.slice, last = begin + p.slice;
  const std::int64_t end = last < p.k ? last : p.k;
  const T* const a = p.a + batch_offset(p.a_batch, t, p.inner);
  const T* const b = p.b + batch_offset(p.b_batch, t, p.inner) + j * p.b_column;
  T sum[kVectorRows] = {};
#pragma unroll 4
  for (std::int64_t k = begin; k < end; ++k) {
    const T right = b[k * p.b_row];
#pragma unroll
    for (int i = 0; i < kVectorRows; ++i) {
      if (i < p.m) sum[i] = fused(a[i * p.a_row + k * p.a_column], right, sum[i]);
    }
  }
#pragma unroll
  for (int i = 0; i < kVectorRows; ++i) {
    if (i < p.m) p.parts[blockIdx.y * p.slice_step + (t * p.m + i) * p.n + j] = sum[i];
  }
}

// parts[slice][i] = sum over a slice of k of a[i][k]: 32 rows of A by 8 threads each.
template <class T>
struct RowSumArgs {
  const T* a;
  T* parts;
  std::int64_t row_step, term_step, m, k, slice;
  bool along_k;  // neighbouring threads take neighbouring terms
};

template <class T>
__global__ void __launch_bounds__(256) gemm_row_sums(const __grid_constant__ RowSumArgs<T> p) {
  __shared__ T part[32][9];
  const int thread = static_cast<int>(threadIdx.x);
  const int row = p.along_k ? thread / 8 : thread % 32, term = p.along_k ? thread % 8 : thread / 32;
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * 32 + row;
  const std::int64_t begin = blockIdx.y * p.slice, last = begin + p.slice;
  const std::int64_t end = last < p.k ? last : p.k;
  T sum = 0;
  if (i < p.m) {
    const T* const a = p.a + i * p.row_step;
#pragma unroll 4
    for (std::int64_t k = begin + term; k < end; k += 8) sum += a[k * p.term_step];
  }
  part[row][term] = sum;
  __syncthreads();
  const std::int64_t to = static_cast<std::int64_t>(blockIdx.x) * 32 + thread;
  if (thread >= 32 || to >= p.m) return;
  T total = part[thread][0];
#pragma unroll
  for (int j = 1; j < 8; ++j) total += part[thread][j];
  p.parts[blockIdx.y * p.m + to] = total;
}

}  // namespace hotloop::cuda
