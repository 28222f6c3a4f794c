// Products as dots, c[i][j] = a[i] . b[j], both contiguous (B^T row-major): sums over k in lanes,
// B read once where its bandwidth decides.
#include "engines/dots.h"
#include "engines/gemm_epilogue.h"
#include "kernels/gemm.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

using simd::Vec;

template <class T>
using DotLoop = void (*)(const T*, std::int64_t, const T*, std::int64_t, std::int64_t, int, int,
                         T*);

// AVX2 and generic have 16 registers: 2x4 sums, 4 of b and one of a.
constexpr int kDotRows = simd::kBytes == 64 ? 4 : 2;
constexpr int kDotColumns = 4;
constexpr int kMoreColumns = simd::kBytes == 64 ? 5 : 4;  // 10 are two fives, not three fours
constexpr std::int64_t kFarBytes = 1 << 20;               // of B

// A single row with as many columns as there are lanes: one sum of lanes for all of them.
template <class T>
constexpr int kWideDots = Vec<T>::lanes;

template <class T, int Columns>
inline DotLoop<T> dot_loop_for(std::int64_t rows) {
  if (rows == 1) return dot_loop<T, 1, Columns>;
  if constexpr (kDotRows == 4) {
    if (rows == 3) return dot_loop<T, 3, Columns>;
    if (rows == 4) return dot_loop<T, 4, Columns>;
  }
  return dot_loop<T, 2, Columns>;
}

template <class T>
inline DotLoop<T> dot_loop_for(std::int64_t rows, std::int64_t columns) {
  if constexpr (kMoreColumns != kDotColumns) {
    if (columns == kMoreColumns) return dot_loop_for<T, kMoreColumns>(rows);
  }
  return columns == kDotColumns ? dot_loop_for<T, kDotColumns>(rows) : dot_loop_for<T, 1>(rows);
}

// Eight rows of A times a B that comes from memory: with four rows at a time B came twice, and A
// from L2 for every four columns. Here pieces of k that L1 holds pass twelve columns, whose sums
// (of lanes, in the order of the dots above) wait in L1 meanwhile.
constexpr int kFarRows = 8, kFarColumns = 3, kFarGroups = 4;
constexpr std::int64_t kFarPiece = 2048;  // bytes of a row

// `line`: what comes next of these columns.
template <class T>
[[gnu::noinline]] void add_far_dots(const T* a, std::int64_t a_step, const T* b,
                                    std::int64_t b_step, std::int64_t depth, const T* line,
                                    Vec<T>* sums) {
  using V = Vec<T>;
  V sum[kFarRows][kFarColumns];
#pragma GCC unroll 8
  for (int i = 0; i < kFarRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kFarColumns; ++j) sum[i][j] = sums[i * kFarColumns + j];
  }
  for (std::int64_t at = 0; at < depth; at += V::lanes) {
    // With plain loads gcc reads each vector of A three times.
    const int some = static_cast<int>(least(V::lanes, depth - at));
    V bv[kFarColumns];
#pragma GCC unroll 4
    for (int j = 0; j < kFarColumns; ++j) {
      bv[j] = simd::load_n(b + j * b_step + at, some);
      __builtin_prefetch(line + j * b_step + at, 0, 2);
    }
#pragma GCC unroll 8
    for (int i = 0; i < kFarRows; ++i) {
      const V av = simd::load_n(a + i * a_step + at, some);
#pragma GCC unroll 4
      for (int j = 0; j < kFarColumns; ++j) sum[i][j] = simd::fma(av, bv[j], sum[i][j]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kFarRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kFarColumns; ++j) sums[i * kFarColumns + j] = sum[i][j];
  }
}

// c[i][j] for eight rows and twelve columns; `more` of them lie behind.
template <class T>
[[gnu::noinline]] void far_dots(const GemmProblem& p, std::int64_t batch, std::int64_t row,
                                std::int64_t column, bool more) {
  using V = Vec<T>;
  constexpr std::int64_t kPiece = kFarPiece / static_cast<std::int64_t>(sizeof(T));
  constexpr int kSums = kFarRows * kFarColumns;
  V sums[kFarGroups][kSums];
  for (auto& group : sums) {
    for (V& sum : group) sum = simd::zero<T>();
  }
  const T* a = element<T>(p.a, batch, row, 0);
  const std::int64_t b_step = p.b.column_step;
  for (std::int64_t at = 0; at < p.k; at += kPiece) {
    const std::int64_t depth = least(kPiece, p.k - at);
    for (int group = 0; group < kFarGroups; ++group) {
      const T* b = element<T>(p.b, batch, at, column + group * kFarColumns);
      const T* line = at + 2 * kPiece <= p.k ? b + kPiece
                      : more                 ? b + kFarGroups * kFarColumns * b_step - at
                                             : b;
      add_far_dots<T>(a + at, p.a.row_step, b, b_step, depth, line, sums[group]);
    }
  }
  for (int group = 0; group < kFarGroups; ++group) {
    alignas(64) T values[kSums];
    store_lane_sums<0, T>(sums[group], values);
    const std::int64_t j = column + group * kFarColumns;
    for (int i = 0; i < kFarRows; ++i) {
      T* c = element<T>(p.c, batch, row + i, j);
      const T* d = p.beta != 0 ? element<T>(p.d, batch, row + i, j) : c;
      const V sum = simd::load_n(values + i * kFarColumns, kFarColumns);
      simd::store_n(c, finish_sum<T>(p, sum, d, j, kFarColumns), kFarColumns);
    }
  }
}

template <class T>
void dots_body(const GemmArgs& g, std::int64_t begin, std::int64_t end) {
  using V = Vec<T>;
  const GemmProblem& p = g.p;
  const T alpha = static_cast<T>(p.alpha), beta = static_cast<T>(p.beta);
  const T* bias = static_cast<const T*>(p.bias);
  const bool is_plain = alpha == T(1) && beta == T(0) && !bias;
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const std::int64_t rest = unit / g.column_blocks, batch = rest / g.row_blocks;
    const std::int64_t first = unit % g.column_blocks * g.column_block;
    const std::int64_t past = least(first + g.column_block, p.n);
    const std::int64_t first_row = rest % g.row_blocks * g.row_block;
    const std::int64_t end_row = least(first_row + g.row_block, p.m);
    const std::int64_t rows = end_row - first_row;
    const T* a_rows = element<T>(p.a, batch, first_row, 0);
    // Few rows read B once from far away: what comes next is asked for, half of it by each of two
    // groups of rows.
    const std::int64_t b_bytes = p.k * p.n * static_cast<std::int64_t>(sizeof(T));
    const bool is_far = b_bytes > (p.m == 1 ? kGemmBeyondCaches : kFarBytes);
    const std::int64_t groups = (rows + kDotRows - 1) / kDotRows;
    const int ahead = !is_far ? 0 : groups == 1 ? kDotColumns : groups == 2 ? kDotColumns / 2 : 0;
    const int next = groups == 2 ? kDotColumns / 2 : 0;
    const bool wide_dots = p.m == 1 && kWideDots<T> > kDotColumns;
    for (std::int64_t j = first; j < past;) {
      if (wide_dots && past - j >= kWideDots<T>) {
        const V sum =
            dot_lanes<T, 1, kWideDots<T>>(a_rows, 0, element<T>(p.b, batch, 0, j), p.b.column_step,
                                          p.k, j + 2 * kWideDots<T> <= p.n ? ahead : 0);
        T* c = element<T>(p.c, batch, 0, j);
        const T* d = beta != T(0) ? element<T>(p.d, batch, 0, j) : c;
        simd::store(c, finish_sum<T>(p, sum, d, j, kWideDots<T>));
        j += kWideDots<T>;
        continue;
      }
      if constexpr (simd::kBytes == 64) {
        constexpr std::int64_t kTwelve = kFarGroups * kFarColumns;
        if (b_bytes > kGemmBeyondCaches && rows == kFarRows && past - j >= kTwelve) {
          far_dots<T>(p, batch, first_row, j, j + 2 * kTwelve <= p.n);
          j += kTwelve;
          continue;
        }
      }
      // Two or three columns at the end that make no fives with others go with those before them,
      // which are not written again.
      const std::int64_t left = past - j, odd = left % kDotColumns;
      std::int64_t wide = left >= kDotColumns ? kDotColumns : 1, known = 0;
      if (odd > 0 && left >= odd * kMoreColumns) {
        wide = kMoreColumns;
      } else if (left < kDotColumns && left > 1 && past >= kDotColumns) {
        wide = kDotColumns;
        known = kDotColumns - left;
        j -= known;
      }
      const bool more = j + wide + kDotColumns <= p.n;
      for (std::int64_t i = 0; i < rows; i += kDotRows) {
        const std::int64_t high = least(kDotRows, rows - i);
        alignas(64) T sums[kDotRows * kMoreColumns];
        dot_loop_for<T>(high, wide)(a_rows + i * p.a.row_step, p.a.row_step,
                                    element<T>(p.b, batch, 0, j), p.b.column_step, p.k,
                                    more ? ahead : 0, i == 0 ? 0 : next, sums);
        for (std::int64_t r = 0; r < high; ++r) {
          T* c = element<T>(p.c, batch, first_row + i + r, j);
          const T* d = beta != T(0) ? element<T>(p.d, batch, first_row + i + r, j) : c;
          if (is_plain && wide == kDotColumns && known == 0) {
            __builtin_memcpy(c, sums + r * kDotColumns, sizeof(T) * kDotColumns);
            continue;
          }
          for (std::int64_t at = known; at < wide; at += V::lanes) {
            const int some = static_cast<int>(least(V::lanes, wide - at));
            const V sum = simd::load_upto(sums + r * wide + at, some);
            simd::store_upto(c + at, finish_sum<T>(p, sum, d + at, j + at, some), some);
          }
        }
      }
      j += wide;
    }
    activate_block<T>(p, element<T>(p.c, batch, first_row, first), rows, past - first);
  }
}

}  // namespace

void gemm_dots(const GemmArgs& args, std::int64_t begin, std::int64_t end) {
  args.p.dtype == DType::f32 ? dots_body<float>(args, begin, end)
                             : dots_body<double>(args, begin, end);
}

}  // namespace hotloop::HOTLOOP_LEVEL
