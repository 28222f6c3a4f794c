// Along one axis: the place of the extreme, and the running sum.
//
// The first extreme counts, and a NaN is more extreme than any number, as in PyTorch. Lines that
// lie side by side are walked together, lanes across; a line of its own is scanned for the extreme
// in blocks, and the place looked for in one block only. Running sums of float32 are kept in
// float64.
#include "engines/row_reduction.h"
#include "kernels/reduce.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

constexpr std::int64_t kBlock = 2048;

template <class T>
[[gnu::always_inline]] inline bool beats(T x, T best, bool smallest) {
  if (best != best) return false;
  return x != x || (smallest ? x < best : x > best);
}

template <class Op, class T>
std::int64_t index_of_line(const T* x, std::int64_t n, std::int64_t stride, bool smallest) {
  T best = x[0];
  std::int64_t from = 0, length = 1;
  for (std::int64_t i = 0; i < n; i += kBlock) {
    const std::int64_t count = n - i < kBlock ? n - i : kBlock;
    const T* p = x + i * stride;
    T extreme;
    if (stride == 1) {
      const AlongRow<T, true> walk{count};
      extreme = reduce_walk<Op, T>(walk, [&](Step at) { return walk.load(p, 1, at); }).v[0];
    } else {
      const AlongRow<T, false> walk{count};
      extreme = reduce_walk<Op, T>(walk, [&](Step at) { return walk.load(p, stride, at); }).v[0];
    }
    if (i > 0 && !beats(extreme, best, smallest)) continue;
    best = extreme;
    from = i;
    length = count;
  }
  constexpr int lanes = Vec<T>::lanes;
  for (std::int64_t i = from; i < from + length; i += lanes) {
    const std::int64_t rest = from + length - i;
    const int left = rest < lanes ? static_cast<int>(rest) : lanes;
    const Vec<T> v = stride == 1 ? simd::load_upto(x + i, left)
                                 : simd::load_strided(x + i * stride, stride, left);
    const auto hit = best != best ? simd::is_nan(v) : v == simd::set1<T>(best);
    const unsigned bits = simd::to_bits(hit) & ((1u << left) - 1u);
    if (bits != 0) return i + __builtin_ctz(bits);
  }
  return from;
}

// `width` vectors of lines side by side, of which the last has `lanes`.
template <class T, int width>
void index_of_columns(const T* x, std::int64_t n, std::int64_t stride, int lanes, bool smallest,
                      std::int64_t* out) {
  typedef typename simd::Int<T>::scalar I;
  constexpr int full = Vec<T>::lanes;
  Vec<T> best[width];
  simd::Int<T> place[width];
  HOTLOOP_UNROLL
  for (int w = 0; w < width; ++w) {
    best[w] = width == 1 ? simd::load_upto(x, lanes) : simd::load(x + w * full);
    place[w] = simd::set1_int<T>(0);
  }
  for (std::int64_t i = 1; i < n; ++i) {
    x += stride;
    const simd::Int<T> here = simd::set1_int<T>(static_cast<I>(i));
    HOTLOOP_UNROLL
    for (int w = 0; w < width; ++w) {
      const Vec<T> v = width == 1 ? simd::load_upto(x, lanes) : simd::load(x + w * full);
      const Vec<T> low = smallest ? v : best[w], high = smallest ? best[w] : v;
      const auto better = (low < high) | (simd::is_nan(v) & !simd::is_nan(best[w]));
      best[w] = simd::select(better, v, best[w]);
      place[w] = simd::select(better, here, place[w]);
    }
  }
  I places[width * full];
  for (int w = 0; w < width; ++w) {
    __builtin_memcpy(places + w * full, &place[w].v, sizeof place[w].v);
  }
  for (int lane = 0; lane < (width - 1) * full + lanes; ++lane) out[lane] = places[lane];
}

template <class T>
void index_lines(const AlongArgs& args, std::int64_t begin, std::int64_t end) {
  constexpr int lanes = Vec<T>::lanes;
  const int inner = args.kept_dims - 1;
  const Axes axes{args.columns ? inner : args.kept_dims, args.kept_sizes, args.kept_strides};
  const std::int64_t columns = args.columns ? args.kept_sizes[inner] : 1;
  const std::int64_t blocks = (columns + kReduceColumns - 1) / kReduceColumns;
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const T* x = static_cast<const T*>(args.x) + offset_of(axes, unit / blocks);
    std::int64_t* out = static_cast<std::int64_t*>(args.out) + unit / blocks * columns;
    if (!args.columns) {
      *out = args.smallest ? index_of_line<MinOp>(x, args.size, args.stride, true)
                           : index_of_line<MaxOp>(x, args.size, args.stride, false);
      continue;
    }
    const std::int64_t first = unit % blocks * kReduceColumns;
    const std::int64_t stop = first + kReduceColumns < columns ? first + kReduceColumns : columns;
    std::int64_t c = first;
    for (; c + 4 * lanes <= stop; c += 4 * lanes) {
      index_of_columns<T, 4>(x + c, args.size, args.stride, lanes, args.smallest, out + c);
    }
    for (; c < stop; c += lanes) {
      const int left = stop - c < lanes ? static_cast<int>(stop - c) : lanes;
      index_of_columns<T, 1>(x + c, args.size, args.stride, left, args.smallest, out + c);
    }
  }
}

template <class T>
void sum_lines(const AlongArgs& args, std::int64_t begin, std::int64_t end) {
  const int inner = args.kept_dims - 1;
  const int outer = args.columns ? inner : args.kept_dims;
  const Axes axes{outer, args.kept_sizes, args.kept_strides};
  const Axes out_axes{outer, args.kept_sizes, args.out_strides};
  const std::int64_t columns = args.columns ? args.kept_sizes[inner] : 1;
  const std::int64_t blocks = (columns + kReduceColumns - 1) / kReduceColumns;
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const std::int64_t first = unit % blocks * kReduceColumns;
    const std::int64_t width = columns - first < kReduceColumns ? columns - first : kReduceColumns;
    const T* x = static_cast<const T*>(args.x) + offset_of(axes, unit / blocks) + first;
    T* out = static_cast<T*>(args.out) + offset_of(out_axes, unit / blocks) + first;
    if (width == 1) {
      double sum = 0;
      for (std::int64_t i = 0; i < args.size; ++i) {
        sum += static_cast<double>(x[i * args.stride]);
        out[i * args.out_stride] = static_cast<T>(sum);
      }
      continue;
    }
    double sums[kReduceColumns] = {};
    for (std::int64_t i = 0; i < args.size; ++i, x += args.stride, out += args.out_stride) {
      for (std::int64_t c = 0; c < width; ++c) {
        sums[c] += static_cast<double>(x[c]);
        out[c] = static_cast<T>(sums[c]);
      }
    }
  }
}

}  // namespace

void index_along(const AlongArgs& args, std::int64_t begin, std::int64_t end) {
  if (args.dtype == DType::f32) {
    index_lines<float>(args, begin, end);
  } else {
    index_lines<double>(args, begin, end);
  }
}

void running_sum(const AlongArgs& args, std::int64_t begin, std::int64_t end) {
  if (args.dtype == DType::f32) {
    sum_lines<float>(args, begin, end);
  } else {
    sum_lines<double>(args, begin, end);
  }
}

}  // namespace hotloop::HOTLOOP_LEVEL
