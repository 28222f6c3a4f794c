// The main loop of every product: a block of threads makes a tile of C, rows x columns, from slices
// of k in shared memory. What the slices are, two loaders say: a matrix, or an image seen through
// the taps of a convolution (conv_load.cuh).
//
// A slice lies as [k][row]. A thread keeps 8x8 (or less) of C in registers, as blocks of 16 bytes a
// quarter or half of the tile apart, and reads 16 bytes of either slice at a time: a warp covers
// 4 x 8 such pieces, so no bank is asked twice. While it multiplies, the next slice is on its way
// from global memory into registers and then into the other half of shared memory: one barrier
// for each slice.
#pragma once

#include "kernels/cuda/kernel.cuh"

namespace hotloop::cuda {

inline constexpr std::int64_t kBlocksWanted = 120;  // nine tenths of an H100's multiprocessors

constexpr std::int64_t ceil_div(std::int64_t value, std::int64_t by) {
  return (value + by - 1) / by;
}

// 16 bytes that are moved as one.
template <class T>
struct alignas(16) Piece {
  static constexpr int kSize = 16 / sizeof(T);
  T at[kSize];
};

__device__ __forceinline__ float fused(float a, float b, float c) {
  return ::fmaf(a, b, c);
}
__device__ __forceinline__ double fused(double a, double b, double c) {
  return ::fma(a, b, c);
}

// Sizes of a tile: rows, columns, terms of a slice; rows and columns of a thread.
template <class T, int rows, int columns, int depth, int thread_rows, int thread_columns>
struct Tile {
  using Number = T;
  static constexpr int kRows = rows, kColumns = columns, kDepth = depth;
  static constexpr int kThreadRows = thread_rows, kThreadColumns = thread_columns;
  static constexpr int kPiece = Piece<T>::kSize;
  static constexpr int kRowGroups = thread_rows / kPiece, kColumnGroups = thread_columns / kPiece;
  static constexpr int kThreads = rows / thread_rows * (columns / thread_columns);
  // A piece more than the tile is wide: what is written along k falls onto other banks.
  static constexpr int kRowPitch = rows + kPiece, kColumnPitch = columns + kPiece;
  static constexpr int kSharedNumbers = 2 * depth * (kRowPitch + kColumnPitch);
  static constexpr int kSharedBytes = kSharedNumbers * static_cast<int>(sizeof(T));
  static_assert(kThreads % 32 == 0 && columns / thread_columns % 8 == 0);
  static_assert(rows * depth / kPiece % kThreads == 0 && columns * depth / kPiece % kThreads == 0);

  T sum[thread_rows][thread_columns];

  // Where the thread's piece (i, j) of the tile begins.
  static __device__ __forceinline__ int row_of(int group) {
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    const int place = warp / (columns / thread_columns / 8) * 4 + lane / 8;
    return group * (rows / kRowGroups) + place * kPiece;
  }
  static __device__ __forceinline__ int column_of(int group) {
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    const int place = warp % (columns / thread_columns / 8) * 8 + lane % 8;
    return group * (columns / kColumnGroups) + place * kPiece;
  }

  __device__ __forceinline__ void multiply(const T* a, const T* b) {
#pragma unroll
    for (int k = 0; k < depth; ++k) {
      Piece<T> left[kRowGroups], right[kColumnGroups];
#pragma unroll
      for (int i = 0; i < kRowGroups; ++i) {
        left[i] = *reinterpret_cast<const Piece<T>*>(a + k * kRowPitch + row_of(i));
      }
#pragma unroll
      for (int j = 0; j < kColumnGroups; ++j) {
        right[j] = *reinterpret_cast<const Piece<T>*>(b + k * kColumnPitch + column_of(j));
      }
#pragma unroll
      for (int i = 0; i < thread_rows; ++i) {
#pragma unroll
        for (int j = 0; j < thread_columns; ++j) {
          sum[i][j] =
              fused(left[i / kPiece].at[i % kPiece], right[j / kPiece].at[j % kPiece], sum[i][j]);
        }
      }
    }
  }

  // The sum over [begin, end) of k.
  template <class A, class B>
  __device__ __forceinline__ void run(A& a, B& b, std::int64_t begin, std::int64_t end, T* shared) {
#pragma unroll
    for (int i = 0; i < thread_rows; ++i) {
#pragma unroll
      for (int j = 0; j < thread_columns; ++j) sum[i][j] = T(0);
    }
    if (begin >= end) return;
    constexpr int kHalf = depth * (kRowPitch + kColumnPitch);
    a.load(begin, end);
    b.load(begin, end);
    int half = 0;
    for (std::int64_t k = begin; k < end; k += depth, half ^= 1) {
      T* const to = shared + half * kHalf;
      a.store(to);
      b.store(to + depth * kRowPitch);
      __syncthreads();
      if (k + depth < end) {
        a.load(k + depth, end);
        b.load(k + depth, end);
      }
      multiply(to, to + depth * kRowPitch);
    }
  }
};

// A part of a slice that a thread brings: pieces of 16 bytes along k (deep) or along the rows.
template <class T, int rows, int depth, int threads, bool deep>
struct SlicePart {
  static constexpr int kPiece = Piece<T>::kSize;
  static constexpr int kPieces = rows * depth / kPiece / threads;
  static constexpr int kPitch = rows + kPiece;
  static constexpr int kAlong = (deep ? depth : rows) / kPiece;

  Piece<T> stage[kPieces];

  // Of piece i, in the tile: its first row and its first term.
  static __device__ __forceinline__ int row(int i) {
    const int index = static_cast<int>(threadIdx.x) + i * threads;
    return deep ? index / kAlong : index % kAlong * kPiece;
  }
  static __device__ __forceinline__ int term(int i) {
    const int index = static_cast<int>(threadIdx.x) + i * threads;
    return deep ? index % kAlong * kPiece : index / kAlong;
  }

  __device__ __forceinline__ void store(T* to) const {
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      if constexpr (deep) {
#pragma unroll
        for (int v = 0; v < kPiece; ++v) to[(term(i) + v) * kPitch + row(i)] = stage[i].at[v];
      } else {
        *reinterpret_cast<Piece<T>*>(to + term(i) * kPitch + row(i)) = stage[i];
      }
    }
  }
};

// A slice of a matrix: row r, term k at data + r * row_step + k * term_step. Pieces of 16 bytes
// where `whole` says that they are aligned and dense; else number by number, zeros outside.
template <class T, int rows, int depth, int threads, bool deep>
struct MatrixSlice : SlicePart<T, rows, depth, threads, deep> {
  using Part = SlicePart<T, rows, depth, threads, deep>;
  const T* data;  // of the tile's first row
  std::int64_t row_step, term_step;
  std::int64_t left;  // rows that there are
  bool whole;

  __device__ __forceinline__ void load(std::int64_t begin, std::int64_t end) {
#pragma unroll
    for (int i = 0; i < Part::kPieces; ++i) {
      const std::int64_t row = Part::row(i), k = begin + Part::term(i);
      const T* const from = data + row * row_step + k * term_step;
      constexpr int kLast = Part::kPiece - 1;
      if (whole && row + (deep ? 0 : kLast) < left && k + (deep ? kLast : 0) < end) {
        this->stage[i] = *reinterpret_cast<const Piece<T>*>(from);
      } else {
#pragma unroll
        for (int v = 0; v < Part::kPiece; ++v) {
          const bool inside = row + (deep ? 0 : v) < left && k + (deep ? v : 0) < end;
          this->stage[i].at[v] = inside ? from[v * (deep ? term_step : row_step)] : T(0);
        }
      }
    }
  }
};

}  // namespace hotloop::cuda
