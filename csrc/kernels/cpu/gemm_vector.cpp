// Products with few rows, where B is read once and its bandwidth decides: dots (B^T row-major: sums
// over k in lanes) and rows (B row-major: sums over k in memory that stays in L1); the sum over
// slices of k; sums of columns.
#include "engines/dots.h"
#include "engines/gemm_epilogue.h"
#include "kernels/gemm.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

using simd::Vec;

// ---- dots: c[i][j] = a[i] . b[j], both contiguous ----------------------------------------------

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

void gemm_dots(const GemmArgs& args, std::int64_t begin, std::int64_t end) {
  args.p.dtype == DType::f32 ? dots_body<float>(args, begin, end)
                             : dots_body<double>(args, begin, end);
}

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
