// Columns of a matrix, each reduced over a chunk of rows: out[c] = op over r of x[r][c].
//
// Layout: dense rows, read from left to right as memory has them, four at a time (for variances
// eight); the totals of 8 KB of columns stay in L1. Walking down a strip of columns with the totals
// in registers reads a few lines of every page, and reached 27 to 46 % of the bandwidth; this
// reaches what a plain read does. Sums: trees of four rows, chains of 32 trees, and the totals of
// such blocks in a chain again. Variance: distances from the mean of the blocks before (of the
// first: from its first row), merged after every block (Chan, Golub and LeVeque 1979).
#include "engines/row_reduction.h"
#include "kernels/reduce.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

constexpr std::int64_t kBlock = 128;  // rows
constexpr std::int64_t kTogether = 4;
constexpr std::int64_t kMomentsTogether = 8;  // 1.12 times as fast as four

// The next rows, some 32 KB ahead: more than L1 holds.
template <class T>
[[gnu::always_inline]] static inline void prefetch_l2(const T* p) {
  __builtin_prefetch(p, 0, 2);
}

// body(column, lanes) for `columns` neighbours; only the last call has fewer than all lanes.
template <class T, class Body>
[[gnu::always_inline]] static inline void across(std::int64_t columns, Body body) {
  constexpr int lanes = Vec<T>::lanes;
  std::int64_t c = 0;
  for (; c + lanes <= columns; c += lanes) body(c, lanes);
  if (c < columns) body(c, static_cast<int>(columns - c));
}

template <class T>
struct Rows {
  const T* x;
  std::int64_t down, count, columns;
};

// What is added to `totals`, or becomes them: up to kBlock rows.
template <class Op, class T>
static inline void add_block(const Rows<T>& rows, T* totals) {
  const std::int64_t down = rows.down;
  std::int64_t row = 0;
  for (; row + kTogether <= rows.count; row += kTogether) {
    const T* x = rows.x + row * down;
    across<T>(rows.columns, [&](std::int64_t c, int lanes) __attribute__((always_inline)) {
      Vec<T> v[kTogether];
      HOTLOOP_UNROLL
      for (int r = 0; r < kTogether; ++r) {
        prefetch_l2(x + c + (r + kTogether) * down);
        v[r] = term<Op>(simd::load_upto(x + c + r * down, lanes));
      }
      const Vec<T> sum = Op::combine(Op::combine(v[0], v[1]), Op::combine(v[2], v[3]));
      simd::store(totals + c, row == 0 ? sum : Op::combine(simd::load(totals + c), sum));
    });
  }
  for (; row < rows.count; ++row) {
    const T* x = rows.x + row * down;
    across<T>(rows.columns, [&](std::int64_t c, int lanes) __attribute__((always_inline)) {
      const Vec<T> v = term<Op>(simd::load_upto(x + c, lanes));
      simd::store(totals + c, row == 0 ? v : Op::combine(simd::load(totals + c), v));
    });
  }
}

template <class Op, class T>
static inline void reduce_unit(const ReduceArgs& args, const Rows<T>& rows, T* out) {
  alignas(64) T totals[kReduceWideBytes / sizeof(T)], block[kReduceWideBytes / sizeof(T)];
  for (std::int64_t row = 0; row < rows.count; row += kBlock) {
    const std::int64_t count = rows.count - row < kBlock ? rows.count - row : kBlock;
    const Rows<T> part{rows.x + row * rows.down, rows.down, count, rows.columns};
    add_block<Op>(part, row == 0 ? totals : block);
    if (row == 0) continue;
    across<T>(rows.columns, [&](std::int64_t c, int) __attribute__((always_inline)) {
      simd::store(totals + c, Op::combine(simd::load(totals + c), simd::load(block + c)));
    });
  }
  const Vec<T> divisor = simd::set1<T>(static_cast<T>(args.divisor));
  across<T>(rows.columns, [&](std::int64_t c, int lanes) __attribute__((always_inline)) {
    simd::store_upto(out + c, simd::load(totals + c) / divisor, lanes);
  });
}

// Sums of distances from `base` and of their squares, for up to kBlock rows.
template <class T>
static inline void add_distances(const Rows<T>& rows, const T* base, T* sums, T* squares) {
  const std::int64_t down = rows.down;
  std::int64_t row = 0;
  for (; row + kMomentsTogether <= rows.count; row += kMomentsTogether) {
    const T* x = rows.x + row * down;
    across<T>(rows.columns, [&](std::int64_t c, int lanes) __attribute__((always_inline)) {
      const Vec<T> from = simd::load(base + c);
      Vec<T> d[kMomentsTogether];
      HOTLOOP_UNROLL
      for (int r = 0; r < kMomentsTogether; ++r) {
        prefetch_l2(x + c + (r + kMomentsTogether) * down);
        d[r] = simd::load_upto(x + c + r * down, lanes) - from;
      }
      Vec<T> sum = (d[0] + d[1]) + (d[2] + d[3]);
      Vec<T> square = simd::fma(d[0], d[0], d[1] * d[1]) + simd::fma(d[2], d[2], d[3] * d[3]);
      sum = sum + ((d[4] + d[5]) + (d[6] + d[7]));
      square = square + (simd::fma(d[4], d[4], d[5] * d[5]) + simd::fma(d[6], d[6], d[7] * d[7]));
      simd::store(sums + c, row == 0 ? sum : simd::load(sums + c) + sum);
      simd::store(squares + c, row == 0 ? square : simd::load(squares + c) + square);
    });
  }
  for (; row < rows.count; ++row) {
    const T* x = rows.x + row * down;
    across<T>(rows.columns, [&](std::int64_t c, int lanes) __attribute__((always_inline)) {
      const Vec<T> d = simd::load_upto(x + c, lanes) - simd::load(base + c);
      simd::store(sums + c, row == 0 ? d : simd::load(sums + c) + d);
      simd::store(squares + c, row == 0 ? d * d : simd::fma(d, d, simd::load(squares + c)));
    });
  }
}

template <class T>
static inline void moments_unit(const Rows<T>& rows, T* means, T* apart) {
  constexpr std::int64_t kMost = kReduceWideBytes / sizeof(T);
  alignas(64) T mean[kMost], total[kMost], sums[kMost], squares[kMost];
  across<T>(rows.columns, [&](std::int64_t c, int lanes) __attribute__((always_inline)) {
    simd::store(mean + c, simd::load_upto(rows.x + c, lanes));
    simd::store(total + c, simd::zero<T>());
  });
  for (std::int64_t row = 0; row < rows.count; row += kBlock) {
    const std::int64_t count = rows.count - row < kBlock ? rows.count - row : kBlock;
    const Rows<T> part{rows.x + row * rows.down, rows.down, count, rows.columns};
    add_distances(part, mean, sums, squares);
    // The block's mean lies sum / count from the base, which is the mean of the rows before.
    const double all = static_cast<double>(row + count);
    const Vec<T> share = simd::set1<T>(static_cast<T>(1.0 / static_cast<double>(count)));
    const Vec<T> weight = simd::set1<T>(static_cast<T>(static_cast<double>(count) / all));
    const Vec<T> both =
        simd::set1<T>(static_cast<T>(static_cast<double>(row) * static_cast<double>(count) / all));
    across<T>(rows.columns, [&](std::int64_t c, int) __attribute__((always_inline)) {
      const Vec<T> sum = simd::load(sums + c), shift = sum * share;
      const Vec<T> own =
          simd::max_or_b(simd::fnma(shift, sum, simd::load(squares + c)), simd::zero<T>());
      // The last term is NaN where the mean is no number, else 0.
      const Vec<T> more = simd::fma(shift * shift, both, own) + (shift - shift);
      simd::store(total + c, simd::load(total + c) + more);
      simd::store(mean + c, simd::fma(shift, weight, simd::load(mean + c)));
    });
  }
  across<T>(rows.columns, [&](std::int64_t c, int lanes) __attribute__((always_inline)) {
    simd::store_upto(means + c, simd::load(mean + c), lanes);
    simd::store_upto(apart + c, simd::load(total + c), lanes);
  });
}

template <class T>
static inline void wide_body(const ReduceArgs& args, std::int64_t begin, std::int64_t end) {
  constexpr std::int64_t kWidth = kReduceWideBytes / static_cast<std::int64_t>(sizeof(T));
  const int inner = args.kept_dims - 1;
  const Axes kept{inner, args.kept_sizes, args.kept_strides};
  const Axes out_axes{inner, args.kept_sizes, args.out_strides};
  const std::int64_t columns = args.kept_sizes[inner], blocks = (columns + kWidth - 1) / kWidth;
  const std::int64_t units = args.outputs / columns * blocks;  // of one chunk
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const std::int64_t chunk = unit / units, outer = unit % units / blocks;
    const std::int64_t column = unit % blocks * kWidth, first = chunk * args.chunk;
    const std::int64_t down = args.reduced_strides[0];
    const Rows<T> rows{
        static_cast<const T*>(args.x) + offset_of(kept, outer) + column + first * down, down,
        args.reduced - first < args.chunk ? args.reduced - first : args.chunk,
        columns - column < kWidth ? columns - column : kWidth};
    const std::int64_t to = chunk * args.out_chunk_stride + offset_of(out_axes, outer) + column;
    T* out = static_cast<T*>(args.out) + to;
    switch (args.op) {
      case ReduceOp::sum:
        reduce_unit<AddOp>(args, rows, out);
        break;
      case ReduceOp::max:
        reduce_unit<MaxOp>(args, rows, out);
        break;
      case ReduceOp::min:
        reduce_unit<MinOp>(args, rows, out);
        break;
      case ReduceOp::prod:
        reduce_unit<MulOp>(args, rows, out);
        break;
      case ReduceOp::squares:
        reduce_unit<SquaresOp>(args, rows, out);
        break;
      case ReduceOp::var:
        moments_unit(rows, out, static_cast<T*>(args.second) + to);
        break;
      case ReduceOp::logsumexp:
        break;  // pair_reduce
    }
  }
}

}  // namespace

void wide_reduce(const ReduceArgs& args, std::int64_t begin, std::int64_t end) {
  if (args.dtype == DType::f32) {
    wide_body<float>(args, begin, end);
  } else {
    wide_body<double>(args, begin, end);
  }
}

}  // namespace hotloop::HOTLOOP_LEVEL
