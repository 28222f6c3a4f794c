// Products with few rows of a row-major B, which is read once and whose bandwidth decides: sums
// over k in memory that stays in L1. The sum over slices of k; products of one term; sums of
// columns.
#include "engines/gemm_epilogue.h"
#include "kernels/gemm.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

using simd::Vec;

// ---- rows: B streams through once, four of its rows at a time ----------------------------------

constexpr int kStreams = 4;       // rows of B read at a time
constexpr int kSumBytes = 65536;  // the sums of a block stay in L1 and L2, on the stack

// sum[r][j] += over s < Streams of x[r][s] * b[s][j], for `columns` columns.
// `ahead` elements further on lies what comes next, unless that is 0: fetched to L2 meanwhile,
// since the runs of one row are too short for the machine to see them coming.
template <class T, int Rows, int Streams>
[[gnu::noinline]] void stream_rows(const T* const* b, std::int64_t ahead, const T* x,
                                   std::int64_t columns, T* sums, std::int64_t pitch) {
  using V = Vec<T>;
  const bool fetch = Streams > 1 && ahead != 0;
  V factor[Rows][Streams];
#pragma GCC unroll 4
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int s = 0; s < Streams; ++s) factor[r][s] = simd::set1(x[r * kStreams + s]);
  }
  const T* row[Streams];
#pragma GCC unroll 8
  for (int s = 0; s < Streams; ++s) row[s] = b[s];
  std::int64_t j = 0;
  for (; j + V::lanes <= columns; j += V::lanes) {
    V sum[Rows];
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) sum[r] = simd::load(sums + r * pitch + j);
#pragma GCC unroll 8
    for (int s = 0; s < Streams; ++s) {
      const V bv = simd::load(row[s] + j);
      if (fetch) __builtin_prefetch(row[s] + j + ahead, 0, 2);
#pragma GCC unroll 4
      for (int r = 0; r < Rows; ++r) sum[r] = simd::fma(factor[r][s], bv, sum[r]);
    }
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) simd::store(sums + r * pitch + j, sum[r]);
  }
  if (j < columns) {
    const int some = static_cast<int>(columns - j);
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) {
      V sum = simd::load_n(sums + r * pitch + j, some);
#pragma GCC unroll 8
      for (int s = 0; s < Streams; ++s) {
        sum = simd::fma(factor[r][s], simd::load_n(row[s] + j, some), sum);
      }
      simd::store_n(sums + r * pitch + j, sum, some);
    }
  }
}

template <class T>
using StreamLoop = void (*)(const T* const*, std::int64_t, const T*, std::int64_t, T*,
                            std::int64_t);

template <class T, int Streams>
inline StreamLoop<T> stream_loop_for(std::int64_t rows) {
  switch (rows) {
    case 1:
      return stream_rows<T, 1, Streams>;
    case 2:
      return stream_rows<T, 2, Streams>;
    case 3:
      return stream_rows<T, 3, Streams>;
    default:
      return stream_rows<T, 4, Streams>;
  }
}

// Eight rows of A, eight of B at a time, for a B that comes from memory: the sums do not fit into
// L1, and are read and written half as often as with four (1.6 instead of 2.0 ms for 8x4096x4096;
// from the caches the factors' loads make it slower). Whole groups of vectors only.
constexpr int kManyRows = 8, kManyStreams = 8, kManyVectors = simd::kBytes == 64 ? 2 : 1;

template <class T>
[[gnu::noinline]] void stream_many_rows(const T* b, std::int64_t b_step, std::int64_t ahead,
                                        const T* x, std::int64_t columns, T* sums) {
  using V = Vec<T>;
  constexpr std::int64_t kWide = kManyVectors * V::lanes;
  for (std::int64_t j = 0; j < columns; j += kWide) {
    V sum[kManyRows][kManyVectors];
#pragma GCC unroll 8
    for (int r = 0; r < kManyRows; ++r) {
#pragma GCC unroll 2
      for (int v = 0; v < kManyVectors; ++v) {
        sum[r][v] = simd::load(sums + r * columns + j + v * V::lanes);
      }
    }
    const T* line = b + j;
#pragma GCC unroll 8
    for (int s = 0; s < kManyStreams; ++s) {
      V bv[kManyVectors];
#pragma GCC unroll 2
      for (int v = 0; v < kManyVectors; ++v) {
        bv[v] = simd::load(line + v * V::lanes);
        __builtin_prefetch(line + ahead + v * V::lanes, 0, 2);
      }
      line += b_step;
#pragma GCC unroll 8
      for (int r = 0; r < kManyRows; ++r) {
        const V factor = simd::set1(x[s * kManyRows + r]);
#pragma GCC unroll 2
        for (int v = 0; v < kManyVectors; ++v) sum[r][v] = simd::fma(factor, bv[v], sum[r][v]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kManyRows; ++r) {
#pragma GCC unroll 2
      for (int v = 0; v < kManyVectors; ++v) {
        simd::store(sums + r * columns + j + v * V::lanes, sum[r][v]);
      }
    }
  }
}

// All rows of A times `columns` columns of B; at most kSumBytes of sums.
template <class T>
void rows_of_block(const GemmArgs& g, std::int64_t batch, std::int64_t first,
                   std::int64_t columns) {
  using V = Vec<T>;
  const GemmProblem& p = g.p;
  alignas(64) T sums[kSumBytes / sizeof(T)];
  for (std::int64_t j = 0; j < p.m * columns; j += V::lanes) {
    simd::store_upto(sums + j, simd::zero<T>(), p.m * columns - j);
  }
  // From the last level of the caches it comes as quickly without.
  const bool far = p.k * p.n * static_cast<std::int64_t>(sizeof(T)) > kGemmBeyondCaches;
  std::int64_t at = 0;
  if (far && p.m == kManyRows && columns % (kManyVectors * V::lanes) == 0) {
    for (; at + kManyStreams <= p.k; at += kManyStreams) {
      T x[kManyRows * kManyStreams];
      for (std::int64_t s = 0; s < kManyStreams; ++s) {
        for (std::int64_t r = 0; r < kManyRows; ++r) {
          x[s * kManyRows + r] = *element<T>(p.a, batch, r, at + s);
        }
      }
      const bool more = at + 2 * kManyStreams <= p.k;
      stream_many_rows<T>(element<T>(p.b, batch, at, first), p.b.row_step,
                          more ? kManyStreams * p.b.row_step : 0, x, columns, sums);
    }
  }
  // A single row: eight, so that the sums are read and written half as often.
  if constexpr (simd::kBytes == 64) {
    for (; p.m == 1 && at + kManyStreams <= p.k; at += kManyStreams) {
      const T* b[kManyStreams];
      T x[kManyStreams];
      for (std::int64_t s = 0; s < kManyStreams; ++s) {
        b[s] = element<T>(p.b, batch, at + s, first);
        x[s] = *element<T>(p.a, batch, 0, at + s);
      }
      const bool more = far && at + 2 * kManyStreams <= p.k;
      stream_rows<T, 1, kManyStreams>(b, more ? kManyStreams * p.b.row_step : 0, x, columns, sums,
                                      columns);
    }
  }
  while (at < p.k) {
    const std::int64_t streams = p.k - at >= kStreams ? kStreams : 1;
    const T* b[kStreams];
    for (std::int64_t s = 0; s < streams; ++s) b[s] = element<T>(p.b, batch, at + s, first);
    const std::int64_t ahead = far && at + 2 * kStreams <= p.k ? kStreams * p.b.row_step : 0;
    for (std::int64_t i = 0; i < p.m; i += 4) {
      const std::int64_t high = least(4, p.m - i);
      T x[4 * kStreams];
      for (std::int64_t r = 0; r < high; ++r) {
        for (std::int64_t s = 0; s < streams; ++s) {
          x[r * kStreams + s] = *element<T>(p.a, batch, i + r, at + s);
        }
      }
      const StreamLoop<T> loop =
          streams == kStreams ? stream_loop_for<T, kStreams>(high) : stream_loop_for<T, 1>(high);
      loop(b, i == 0 ? ahead : 0, x, columns, sums + i * columns, columns);
    }
    at += streams;
  }
  for (std::int64_t r = 0; r < p.m; ++r) {
    T* c = element<T>(p.c, batch, r, first);
    const T* d = p.beta != 0 ? element<T>(p.d, batch, r, first) : c;
    for (std::int64_t j = 0; j < columns; j += V::lanes) {
      const int some = static_cast<int>(least(V::lanes, columns - j));
      const V sum = simd::load_upto(sums + r * columns + j, some);
      simd::store_upto(c + j, finish_sum<T>(p, sum, d + j, first + j, some), some);
    }
  }
}

template <class T>
void rows_body(const GemmArgs& g, std::int64_t begin, std::int64_t end) {
  const GemmProblem& p = g.p;
  const std::int64_t most = kSumBytes / static_cast<std::int64_t>(sizeof(T)) / p.m;
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const std::int64_t batch = unit / g.column_blocks;
    const std::int64_t start = unit % g.column_blocks * g.column_block;
    const std::int64_t past = least(start + g.column_block, p.n);
    for (std::int64_t first = start; first < past; first += most) {
      rows_of_block<T>(g, batch, first, least(most, past - first));
    }
    activate_block<T>(p, element<T>(p.c, batch, 0, start), p.m, past - start);
  }
}

// ---- slices of k, added in order ---------------------------------------------------------------

template <class T>
void combine_body(const GemmArgs& g, std::int64_t begin, std::int64_t end) {
  using V = Vec<T>;
  const GemmProblem& p = g.p;
  for (std::int64_t row = begin; row < end; ++row) {
    T* c = element<T>(p.c, 0, row, 0);
    const T* d = p.beta != 0 ? element<T>(p.d, 0, row, 0) : c;
    for (std::int64_t j = 0; j < p.n; j += V::lanes) {
      const int some = static_cast<int>(least(V::lanes, p.n - j));
      V sum = simd::load_upto(element<T>(p.a, 0, row, j), some);
      for (std::int64_t slice = 1; slice < p.batches; ++slice) {
        sum = sum + simd::load_upto(element<T>(p.a, slice, row, j), some);
      }
      simd::store_upto(c + j, finish_sum<T>(p, sum, d + j, j, some), some);
    }
    activate_block<T>(p, c, 1, p.n);
  }
}

// ---- one term: a column times a row ------------------------------------------------------------

// Whole rows of C one after another: stores bound them, and a tile of one term spends a third of
// its time on its registers (512x4096: 113 to 70 us).
template <class T>
void outer_body(const GemmArgs& g, std::int64_t begin, std::int64_t end) {
  using V = Vec<T>;
  const GemmProblem& p = g.p;
  const bool is_plain = p.alpha == 1 && p.beta == 0 && !p.bias;
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const std::int64_t batch = unit / p.m, row = unit % p.m;
    const V factor = simd::set1(*element<T>(p.a, batch, row, 0));
    const T* b = element<T>(p.b, batch, 0, 0);
    T* c = element<T>(p.c, batch, row, 0);
    std::int64_t j = 0;
    if (g.stream) {
      for (; j + V::lanes <= p.n; j += V::lanes) simd::stream(c + j, factor * simd::load(b + j));
    } else if (is_plain) {
      for (; j + V::lanes <= p.n; j += V::lanes) simd::store(c + j, factor * simd::load(b + j));
    }
    const T* d = p.beta != 0 ? element<T>(p.d, batch, row, 0) : c;
    for (; j < p.n; j += V::lanes) {
      const int some = static_cast<int>(least(V::lanes, p.n - j));
      const V product = factor * simd::load_upto(b + j, some);
      simd::store_upto(c + j, finish_sum<T>(p, product, d + j, j, some), some);
    }
    activate_block<T>(p, c, 1, p.n);
  }
  if (g.stream) simd::stream_fence();
}

// ---- sums of columns ---------------------------------------------------------------------------

// Partial sums over 64 rows each, added in order: the error grows with m / 64 instead of m.
template <class T>
void column_sums_body(const ColumnSumArgs& g, std::int64_t begin, std::int64_t end) {
  using V = Vec<T>;
  constexpr std::int64_t kRows = 64;
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const std::int64_t first = unit * kColumnSumBlock;
    const std::int64_t past = least(first + kColumnSumBlock, g.n);
    for (std::int64_t j = first; j < past; j += V::lanes) {
      const int some = static_cast<int>(least(V::lanes, past - j));
      V total = simd::zero<T>();
      for (std::int64_t start = 0; start < g.m; start += kRows) {
        const std::int64_t stop = least(start + kRows, g.m);
        V sum = simd::zero<T>();
        for (std::int64_t i = start; i < stop; ++i) {
          const T* a = static_cast<const T*>(g.a) + i * g.row_step + j * g.column_step;
          sum = sum + (g.column_step == 1 ? simd::load_upto(a, some)
                                          : simd::load_strided(a, g.column_step, some));
        }
        total = total + sum;
      }
      simd::store_upto(static_cast<T*>(g.c) + j, total, some);
    }
  }
}

}  // namespace

void gemm_rows(const GemmArgs& args, std::int64_t begin, std::int64_t end) {
  args.p.dtype == DType::f32 ? rows_body<float>(args, begin, end)
                             : rows_body<double>(args, begin, end);
}

void gemm_combine(const GemmArgs& args, std::int64_t begin, std::int64_t end) {
  args.p.dtype == DType::f32 ? combine_body<float>(args, begin, end)
                             : combine_body<double>(args, begin, end);
}

void gemm_outer(const GemmArgs& args, std::int64_t begin, std::int64_t end) {
  args.p.dtype == DType::f32 ? outer_body<float>(args, begin, end)
                             : outer_body<double>(args, begin, end);
}

void gemm_column_sums(const ColumnSumArgs& args, std::int64_t begin, std::int64_t end) {
  args.dtype == DType::f32 ? column_sums_body<float>(args, begin, end)
                           : column_sums_body<double>(args, begin, end);
}

}  // namespace hotloop::HOTLOOP_LEVEL
