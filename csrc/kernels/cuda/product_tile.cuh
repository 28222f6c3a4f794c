// The main loop of every product: a block of threads makes a tile of C, rows x columns, from slices
// of k in shared memory. What the slices are, two loaders say: a matrix, or an image seen through
// the taps of a convolution (conv_load.cuh).
//
// A slice lies as [k][row]. A thread keeps 8x8 (or less) of C in registers, as blocks of 16 bytes a
// quarter or half of the tile apart, and reads 16 bytes of either slice at a time. A warp covers
// 4 x 8 such pieces, in the order of CUTLASS' SIMT warps (interleaved by two): of either slice,
// lanes i and i ^ 1, or i and i ^ 2, read the same piece, and then 16 lanes are served at once: two
// transfers for a load, where quarters of a warp with eight different pieces each take four.
// Shared memory is busy for half of the time that the multiply-adds take.
//
// While a slice is multiplied, the next one is on its way: straight into the other half of shared
// memory (cp.async), or, where it must be turned, into registers. One barrier for each slice.
#pragma once

#include "kernels/cuda/kernel.cuh"
#include "kernels/cuda/ptx/copy_async.cuh"

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
  // Of a multiprocessor, which has 65536 registers: one multiplies while another waits.
  static constexpr int kBlocks = thread_rows * thread_columns * sizeof(T) > 64 ? 2 : 3;
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
    const int place = warp / (columns / thread_columns / 8) * 4 + lane / 16 * 2 + lane % 2;
    return group * (rows / kRowGroups) + place * kPiece;
  }
  static __device__ __forceinline__ int column_of(int group) {
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    const int place = warp % (columns / thread_columns / 8) * 8 + lane / 2 % 8;
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
    a.load(begin, end, shared);
    b.load(begin, end, shared + depth * kRowPitch);
    int half = 0;
    for (std::int64_t k = begin; k < end; k += depth, half ^= 1) {
      T* const now = shared + half * kHalf;
      a.store(now);
      b.store(now + depth * kRowPitch);
      copies_wait();
      __syncthreads();
      if (k + depth < end) {  // nobody reads the other half any more
        T* const next = shared + (half ^ 1) * kHalf;
        a.load(k + depth, end, next);
        b.load(k + depth, end, next + depth * kRowPitch);
      }
      multiply(now, now + depth * kRowPitch);
    }
  }

  // All that the thread has, piece by piece: at_row(row) makes what takes (column, piece).
  template <class AtRow>
  __device__ __forceinline__ void each(std::int64_t row0, std::int64_t column0,
                                       std::int64_t row_count, AtRow at_row) const {
#pragma unroll
    for (int i = 0; i < thread_rows; ++i) {
      const std::int64_t row = row0 + row_of(i / kPiece) + i % kPiece;
      if (row >= row_count) continue;
      const auto take = at_row(row);
#pragma unroll
      for (int g = 0; g < kColumnGroups; ++g) {
        Piece<T> piece;
#pragma unroll
        for (int v = 0; v < kPiece; ++v) piece.at[v] = sum[i][g * kPiece + v];
        take(column0 + column_of(g), piece);
      }
    }
  }
};

// As many numbers as are `left`; as one where `whole` says that this place allows it.
template <class T>
__device__ __forceinline__ void put_piece(T* to, const Piece<T>& piece, std::int64_t left,
                                          bool whole) {
  if (whole && left >= Piece<T>::kSize) {
    *reinterpret_cast<Piece<T>*>(to) = piece;
    return;
  }
#pragma unroll
  for (int v = 0; v < Piece<T>::kSize; ++v) {
    if (v < left) to[v] = piece.at[v];
  }
}

// A part of a slice that a thread brings: pieces of 16 bytes of one row or four, at several terms;
// along k (deep), by registers, or along the rows, as they come. Deep: a warp's stores of one
// number of each piece meet the banks once.
template <class T, int rows, int depth, int threads, bool deep>
struct SlicePart {
  static constexpr int kPiece = Piece<T>::kSize;
  static constexpr int kPieces = rows * depth / kPiece / threads;
  static constexpr int kPitch = rows + kPiece;
  // Threads side by side on a row (deep), or rows side by side in a term, in pieces.
  static constexpr int kSide = deep ? threads / rows : rows / kPiece;
  static constexpr int kTermStep = deep ? kSide * kPiece : threads / kSide;
  static_assert(threads % rows == 0 || !deep);
  static_assert(threads % kSide == 0 && kPieces * kTermStep == depth);

  Piece<T> stage[deep ? kPieces : 1];

  // In the tile: the first row of all the thread's pieces, and the first term of piece i.
  static __device__ __forceinline__ int row() {
    const int thread = static_cast<int>(threadIdx.x);
    return deep ? thread / kSide : thread % kSide * kPiece;
  }
  static __device__ __forceinline__ int term(int i) {
    const int thread = static_cast<int>(threadIdx.x);
    return (deep ? thread % kSide * kPiece : thread / kSide) + i * kTermStep;
  }

  __device__ __forceinline__ void store(T* to) const {
    if constexpr (deep) {
#pragma unroll
      for (int i = 0; i < kPieces; ++i) {
#pragma unroll
        for (int v = 0; v < kPiece; ++v) to[(term(i) + v) * kPitch + row()] = stage[i].at[v];
      }
    }
  }
};

// A slice of a matrix: row r, term k at data + r * row_step + k * term_step. Pieces of 16 bytes
// where `whole` says that they are aligned and dense; else number by number, zeros outside. Slices
// come one after the other, from `begin` on.
template <class T, int rows, int depth, int threads, bool deep>
struct MatrixSlice : SlicePart<T, rows, depth, threads, deep> {
  using Part = SlicePart<T, rows, depth, threads, deep>;
  const T* next;  // the thread's first piece of the slice to come
  std::int64_t row_step, term_step;
  int left;    // rows that there are from the thread's first one on
  bool whole;  // also: all rows of the thread's pieces are there

  // `data` is of the tile's first row, `row_count` so many follow.
  __device__ __forceinline__ MatrixSlice(const T* data, std::int64_t row_by, std::int64_t term_by,
                                         std::int64_t row_count, bool aligned, std::int64_t begin)
      : next(data + Part::row() * row_by + (begin + Part::term(0)) * term_by),
        row_step(row_by),
        term_step(term_by),
        left(static_cast<int>(row_count < rows ? row_count : rows) - Part::row()),
        whole(aligned && left >= (deep ? 1 : Part::kPiece)) {}

  __device__ __forceinline__ void load(std::int64_t begin, std::int64_t end, T* to) {
    const int terms = end - begin < depth ? static_cast<int>(end - begin) : depth;
    const T* from = next;
#pragma unroll
    for (int i = 0; i < Part::kPieces; ++i, from += Part::kTermStep * term_step) {
      const int term = Part::term(i);
      if constexpr (deep) {
        Piece<T>& piece = this->stage[i];
        if (whole && term + Part::kPiece <= terms) {
          piece = *reinterpret_cast<const Piece<T>*>(from);
        } else {
#pragma unroll
          for (int v = 0; v < Part::kPiece; ++v) {
            piece.at[v] = left > 0 && term + v < terms ? from[v * term_step] : T(0);
          }
        }
      } else {
        T* const at = to + term * Part::kPitch + Part::row();
        if (whole) {
          copy_async<16>(at, from, term < terms);
        } else {
#pragma unroll
          for (int v = 0; v < Part::kPiece; ++v) {
            copy_async<sizeof(T)>(at + v, from + v * row_step, v < left && term < terms);
          }
        }
      }
    }
    next += depth * term_step;
  }
};

}  // namespace hotloop::cuda
