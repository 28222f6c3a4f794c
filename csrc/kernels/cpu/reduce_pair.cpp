// Variance and logsumexp over the reduced axes: a pair of numbers for each output.
//
// Blocks that fit L1 are visited twice, for the mean (the maximum) and then for the distances from
// it (the exponentials), so memory is read once; for a variance along dense rows only the first
// one is, and distances in the others are from the mean so far. Blocks merge by Chan, Golub and
// LeVeque's formula (1979); never E[x^2] - mean^2, which cancels. Layouts as in reduce.cpp: lanes
// along the reduced axis (rows) or across the outputs (columns).
#include <type_traits>

#include "engines/row_reduction.h"
#include "kernels/reduce.h"
#include "simd/math.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

constexpr std::int64_t kRowBlock = 4096;   // elements: 16 KB of float32
constexpr std::int64_t kColumnBlock = 32;  // rows

template <class T>
struct Pair {
  Vec<T> first, second;
};

// value(step) -> x; both numbers in every lane that counts.
struct Moments {
  template <class T, class Walk, class Value>
  [[gnu::always_inline]] static inline Pair<T> block(const Walk& walk, Value value) {
    const Vec<T> count = simd::set1<T>(static_cast<T>(walk.n));
    const Vec<T> mean = reduce_walk<AddOp, T>(walk, value) / count;
    const Vec<T> squares = reduce_walk<AddOp, T>(walk, [&](Step at) {
      const Vec<T> distance = value(at) - mean;
      return distance * distance;
    });
    return {mean, squares};
  }
  template <class T>
  [[gnu::always_inline]] static inline Pair<T> merge(Pair<T> a, Pair<T> b, std::int64_t have,
                                                     std::int64_t more) {
    const double share = static_cast<double>(more) / static_cast<double>(have + more);
    const Vec<T> apart = b.first - a.first;
    const Vec<T> between = apart * simd::set1<T>(static_cast<T>(static_cast<double>(have) * share));
    return {simd::fma(apart, simd::set1<T>(static_cast<T>(share)), a.first),
            (a.second + b.second) + apart * between};
  }
  template <class T>
  [[gnu::always_inline]] static inline Vec<T> result(Pair<T> a, Vec<T> divisor) {
    return a.second / divisor;
  }
};

struct LogSumExp {
  // What exponents are taken relative to; 0 where the maximum is infinite.
  template <class T>
  [[gnu::always_inline]] static inline Vec<T> base(Vec<T> most) {
    return simd::select(simd::abs(most) == simd::infinity<T>(), simd::zero<T>(), most);
  }
  template <class T, class Walk, class Value>
  [[gnu::always_inline]] static inline Pair<T> block(const Walk& walk, Value value) {
    const Vec<T> most = reduce_walk<MaxOp, T>(walk, value);
    const Vec<T> from = base(most);
    return {most,
            reduce_walk<AddOp, T>(walk, [&](Step at) { return simd::exp(value(at) - from); })};
  }
  template <class T>
  [[gnu::always_inline]] static inline Pair<T> merge(Pair<T> a, Pair<T> b, std::int64_t,
                                                     std::int64_t) {
    const Vec<T> most = simd::max(a.first, b.first), from = base(most);
    return {most, a.second * simd::exp(a.first - from) + b.second * simd::exp(b.first - from)};
  }
  template <class T>
  [[gnu::always_inline]] static inline Vec<T> result(Pair<T> a, Vec<T>) {
    return simd::log(a.second) + base(a.first);
  }
};

template <class Op, class T>
[[gnu::always_inline]] static inline void put(const ReduceArgs& args, std::int64_t place,
                                              Pair<T> pair, std::int64_t stride, int lanes) {
  T* out = static_cast<T*>(args.out) + place;
  if (args.second) {
    simd::store_upto(out, pair.first, lanes);
    simd::store_upto(static_cast<T*>(args.second) + place, pair.second, lanes);
    return;
  }
  const Vec<T> result = Op::result(pair, simd::set1<T>(static_cast<T>(args.divisor)));
  if (stride == 1) {
    simd::store_upto(out, result, lanes);
  } else {
    simd::store_strided(out, result, stride, lanes);
  }
}

// The moments of n dense elements, in one visit: distances are taken from the mean of `have` others
// before. What that cancels lies below the square of the distance between the two means, of which
// the merged sum holds at least half, since the blocks before are no shorter.
template <class T>
[[gnu::always_inline]] static inline Pair<T> moments_after(const T* p, std::int64_t n,
                                                           Vec<T> base) {
  constexpr int lanes = Vec<T>::lanes;
  Vec<T> sum[kSlots], squares[kSlots];
  for (int s = 0; s < kSlots; ++s) sum[s] = squares[s] = simd::zero<T>();
  const auto add = [&](int s, Vec<T> distance) __attribute__((always_inline)) {
    sum[s] = sum[s] + distance;
    squares[s] = simd::fma(distance, distance, squares[s]);
  };
  std::int64_t i = 0;
  for (; i + kSlots * lanes <= n; i += kSlots * lanes) {
    HOTLOOP_UNROLL
    for (int s = 0; s < kSlots; ++s) add(s, simd::load(p + i + s * lanes) - base);
  }
  for (; i + lanes <= n; i += lanes) add(0, simd::load(p + i) - base);
  if (i < n) {
    const int left = static_cast<int>(n - i);
    add(1, keep_lanes(simd::load_n(p + i, left) - base, left, T(0)));
  }
  const auto all = [](Vec<T>(&v)[kSlots]) {
    return simd::set1<T>(simd::reduce_add((v[0] + v[1]) + (v[2] + v[3])));
  };
  const Vec<T> total = all(sum), shift = total / simd::set1<T>(static_cast<T>(n));
  const Vec<T> apart = simd::max_or_b(simd::fnma(shift, total, all(squares)), simd::zero<T>());
  return {base + shift, apart + (shift - shift)};  // NaN where the mean is no number
}

template <class Op, class T, bool unit_stride>
static inline void pair_rows(const ReduceArgs& args, std::int64_t begin, std::int64_t end) {
  const Axes kept{args.kept_dims, args.kept_sizes, args.kept_strides};
  const Axes out_axes{args.kept_dims, args.kept_sizes, args.out_strides};
  const Axes reduced{args.reduced_dims, args.reduced_sizes, args.reduced_strides};
  const std::int64_t stride = args.reduced_strides[args.reduced_dims - 1];
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const std::int64_t chunk = unit / args.outputs, output = unit - chunk * args.outputs;
    const T* x = static_cast<const T*>(args.x) + offset_of(kept, output);
    const std::int64_t first = chunk * args.chunk;
    const std::int64_t last = first + args.chunk < args.reduced ? first + args.chunk : args.reduced;
    Pair<T> total{};
    std::int64_t have = 0;
    each_run(reduced, first, last, [&](std::int64_t offset, std::int64_t count) {
      for (std::int64_t i = 0; i < count; i += kRowBlock) {
        const AlongRow<T, unit_stride> walk{count - i < kRowBlock ? count - i : kRowBlock};
        const T* p = x + offset + i * stride;
        Pair<T> block;
        if (std::is_same_v<Op, Moments> && unit_stride && have >= walk.n) {
          block = moments_after(p, walk.n, total.first);
        } else {
          block = Op::template block<T>(walk, [&](Step at) { return walk.load(p, stride, at); });
        }
        total = have == 0 ? block : Op::merge(total, block, have, walk.n);
        have += walk.n;
      }
    });
    put<Op>(args, chunk * args.out_chunk_stride + offset_of(out_axes, output), total, 1, 1);
  }
}

// The moments of `width` vectors of neighbouring outputs that are dense, in one visit: distances
// are taken from the block's first row. As it is one of the terms, its distance from the mean is in
// the sum of squares, and what is taken off for it cancels no more than `rows` roundings.
template <class T, int width>
static inline void moments_strip(const ReduceArgs& args, const T* x, std::int64_t first,
                                 std::int64_t last, Pair<T> (&total)[width]) {
  constexpr int lanes = Vec<T>::lanes;
  const std::int64_t down = args.reduced_strides[0];
  for (std::int64_t i = first; i < last; i += kColumnBlock) {
    const std::int64_t rows = last - i < kColumnBlock ? last - i : kColumnBlock;
    const T* p = x + i * down;
    Vec<T> base[width], sum[width], squares[width];
    HOTLOOP_UNROLL
    for (int w = 0; w < width; ++w) {
      base[w] = simd::load(p + w * lanes);
      sum[w] = squares[w] = simd::zero<T>();
    }
    for (std::int64_t row = 1; row < rows; ++row) {
      p += down;
      HOTLOOP_UNROLL
      for (int w = 0; w < width; ++w) {
        const Vec<T> distance = simd::load(p + w * lanes) - base[w];
        sum[w] = sum[w] + distance;
        squares[w] = simd::fma(distance, distance, squares[w]);
      }
    }
    const Vec<T> count = simd::set1<T>(static_cast<T>(rows));
    for (int w = 0; w < width; ++w) {
      const Vec<T> shift = sum[w] / count;
      const Vec<T> apart = simd::max_or_b(simd::fnma(shift, sum[w], squares[w]), simd::zero<T>());
      const Pair<T> block{base[w] + shift, simd::select(simd::is_nan(shift), shift, apart)};
      total[w] = i == first ? block : Moments::merge(total[w], block, i - first, rows);
    }
  }
}

// `lanes` neighbouring outputs.
template <class Op, class T>
static inline Pair<T> pair_strip(const ReduceArgs& args, const T* x, std::int64_t first,
                                 std::int64_t last, int lanes) {
  const Axes reduced{args.reduced_dims, args.reduced_sizes, args.reduced_strides};
  const std::int64_t down = args.reduced_strides[args.reduced_dims - 1];
  const std::int64_t across = args.kept_strides[args.kept_dims - 1];
  Pair<T> total{};
  std::int64_t have = 0;
  each_run(reduced, first, last, [&](std::int64_t offset, std::int64_t count) {
    for (std::int64_t i = 0; i < count; i += kColumnBlock) {
      const DownRows<T> walk{count - i < kColumnBlock ? count - i : kColumnBlock, lanes};
      const T* p = x + offset + i * down;
      const Pair<T> block = Op::template block<T>(walk, [&](Step at) {
        return across == 1 ? walk.load(p, down, at)
                           : simd::load_strided(p + at.index * down, across, at.lanes);
      });
      total = have == 0 ? block : Op::merge(total, block, have, walk.n);
      have += walk.n;
    }
  });
  return total;
}

template <class Op, class T>
static inline void pair_columns(const ReduceArgs& args, std::int64_t begin, std::int64_t end) {
  constexpr int lanes = Vec<T>::lanes;
  const int inner = args.kept_dims - 1;
  const Axes kept{inner, args.kept_sizes, args.kept_strides};
  const Axes out_axes{inner, args.kept_sizes, args.out_strides};
  const std::int64_t columns = args.kept_sizes[inner];
  const std::int64_t blocks = (columns + kReduceColumns - 1) / kReduceColumns;
  const std::int64_t units = args.outputs / columns * blocks;  // of one chunk
  const std::int64_t across = args.kept_strides[inner], out_across = args.out_strides[inner];
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const std::int64_t chunk = unit / units, outer = unit % units / blocks;
    const std::int64_t first = chunk * args.chunk;
    const std::int64_t last = first + args.chunk < args.reduced ? first + args.chunk : args.reduced;
    const T* x = static_cast<const T*>(args.x) + offset_of(kept, outer);
    const std::int64_t to = chunk * args.out_chunk_stride + offset_of(out_axes, outer);
    std::int64_t column = unit % blocks * kReduceColumns;
    const std::int64_t stop = column + kReduceColumns < columns ? column + kReduceColumns : columns;
    constexpr int width = 4;
    if (std::is_same_v<Op, Moments> && across == 1 && args.reduced_dims == 1) {
      for (; column + width * lanes <= stop; column += width * lanes) {
        Pair<T> total[width] = {};
        moments_strip<T, width>(args, x + column, first, last, total);
        for (int w = 0; w < width; ++w) {
          put<Op>(args, to + (column + w * lanes) * out_across, total[w], out_across, lanes);
        }
      }
    }
    for (; column < stop; column += lanes) {
      const int left = stop - column < lanes ? static_cast<int>(stop - column) : lanes;
      put<Op>(args, to + column * out_across,
              pair_strip<Op>(args, x + column * across, first, last, left), out_across, left);
    }
  }
}

template <class Op, class T>
static inline void pair_body(const ReduceArgs& args, std::int64_t begin, std::int64_t end) {
  if (args.columns) {
    pair_columns<Op, T>(args, begin, end);
  } else if (args.reduced_strides[args.reduced_dims - 1] == 1) {
    pair_rows<Op, T, true>(args, begin, end);
  } else {
    pair_rows<Op, T, false>(args, begin, end);
  }
}

template <class T>
static inline void pair_op(const ReduceArgs& args, std::int64_t begin, std::int64_t end) {
  if (args.op == ReduceOp::var) {
    pair_body<Moments, T>(args, begin, end);
  } else {
    pair_body<LogSumExp, T>(args, begin, end);
  }
}

}  // namespace

void pair_reduce(const ReduceArgs& args, std::int64_t begin, std::int64_t end) {
  if (args.dtype == DType::f32) {
    pair_op<float>(args, begin, end);
  } else {
    pair_op<double>(args, begin, end);
  }
}

}  // namespace hotloop::HOTLOOP_LEVEL
