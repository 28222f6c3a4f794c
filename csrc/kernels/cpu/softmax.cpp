// y = exp(x - max) / sum(exp(x - max)) and log y along one axis; dx from dy and y.
//
// Layout: any strides. Rows that are dense along the axis are walked along it; rows that lie side
// by side (the axis is not the last one) one vector of rows at a time, down the axis. Three passes
// over a row, the second leaving the exponentials in y: short rows fit L1, where passes are nearly
// free; long ones are visited by pieces (engines/exp_sum.h). Each pass reads an element before it
// is written, so out may be one of the inputs. Where the arrays exceed the caches, dense rows are
// written around them.
#include "kernels/softmax.h"

#include "engines/exp_sum.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

template <class T>
struct Row {
  const T* a;
  const T* b;
  T* out;
};

template <SoftmaxOp op>
constexpr bool is_forward = op == SoftmaxOp::softmax || op == SoftmaxOp::log_softmax;

// Where the exponentials of a row wait for their sum: in out, or in a dense buffer, which spares
// rows that lie side by side the long strides (a power of two fills one set of the cache) in all
// passes but the first and the last.
template <class T>
struct Work {
  T* data;
  std::int64_t stride;
};

template <class T, bool buffered, class Walk>
[[gnu::always_inline]] static inline void softmax_row(Walk walk, Row<T> row, Work<T> work,
                                                      const std::int64_t* strides) {
  const Vec<T> top = reduce_walk<TopOp, T>(walk, [&](Step at) {
    const Vec<T> x = walk.load(row.a, strides[0], at);
    if constexpr (buffered) walk.store(work.data, work.stride, at, x);
    return x;
  });
  const T* source = buffered ? work.data : row.a;
  const std::int64_t source_stride = buffered ? work.stride : strides[0];
  const Vec<T> total = reduce_walk<AddOp, T>(walk, [&](Step at) {
    const Vec<T> power = falling_exp(walk.load(source, source_stride, at) - top);
    walk.store(work.data, work.stride, at, power);
    return power;
  });
  const Vec<T> scale = simd::set1<T>(T(1)) / total;
  walk.each([&](Step at) {
    walk.store(row.out, strides[2], at, walk.load(work.data, work.stride, at) * scale);
  });
}

template <class T, bool buffered, class Walk>
[[gnu::always_inline]] static inline void log_softmax_row(Walk walk, Row<T> row, Work<T> work,
                                                          const std::int64_t* strides) {
  const Vec<T> top = reduce_walk<TopOp, T>(walk, [&](Step at) {
    const Vec<T> x = walk.load(row.a, strides[0], at);
    if constexpr (buffered) walk.store(work.data, work.stride, at, x);
    return x;
  });
  const T* source = buffered ? work.data : row.a;
  const std::int64_t source_stride = buffered ? work.stride : strides[0];
  const Vec<T> total = reduce_walk<AddOp, T>(
      walk, [&](Step at) { return falling_exp(walk.load(source, source_stride, at) - top); });
  const Vec<T> log_total = simd::log(total);
  // (x - top) first: top may be large, and its difference to x is exact where it matters.
  walk.each([&](Step at) {
    walk.store(row.out, strides[2], at, walk.load(source, source_stride, at) - top - log_total);
  });
}

template <class T, class Walk>
[[gnu::always_inline]] static inline void softmax_backward_row(Walk walk, Row<T> row,
                                                               const std::int64_t* strides) {
  const Vec<T> dot = reduce_walk<AddOp, T>(walk, [&](Step at) {
    // Lines to be written are asked for while those that are read arrive.
    if constexpr (Walk::most_rows == 1) __builtin_prefetch(row.out + at.index * strides[2], 1);
    return walk.load(row.a, strides[0], at) * walk.load(row.b, strides[1], at);
  });
  walk.each([&](Step at) {
    if constexpr (Walk::most_rows == 1) {  // the next row, while this one is in L1
      simd::prefetch(row.a + (at.index + walk.n) * strides[0]);
      simd::prefetch(row.b + (at.index + walk.n) * strides[1]);
    }
    const Vec<T> dy = walk.load(row.a, strides[0], at), y = walk.load(row.b, strides[1], at);
    walk.store(row.out, strides[2], at, y * (dy - dot));
  });
}

template <class T, class Walk>
[[gnu::always_inline]] static inline void log_softmax_backward_row(Walk walk, Row<T> row,
                                                                   const std::int64_t* strides) {
  const Vec<T> total =
      reduce_walk<AddOp, T>(walk, [&](Step at) { return walk.load(row.a, strides[0], at); });
  walk.each([&](Step at) {
    const Vec<T> dy = walk.load(row.a, strides[0], at), y = walk.load(row.b, strides[1], at);
    walk.store(row.out, strides[2], at, simd::fnma(simd::exp(y), total, dy));
  });
}

// Inlined into the loop over rows: a row handed over in memory cost as much as a row of 64.
template <SoftmaxOp op, class T, bool buffered, class Walk>
[[gnu::always_inline]] static inline void any_row(Walk walk, Row<T> row, Work<T> work,
                                                  const std::int64_t* strides) {
  if constexpr (op == SoftmaxOp::softmax) {
    softmax_row<T, buffered>(walk, row, work, strides);
  } else if constexpr (op == SoftmaxOp::log_softmax) {
    log_softmax_row<T, buffered>(walk, row, work, strides);
  } else if constexpr (op == SoftmaxOp::softmax_backward) {
    softmax_backward_row<T>(walk, row, strides);
  } else {
    log_softmax_backward_row<T>(walk, row, strides);
  }
}

// The row `index` of the first `dims` row axes.
template <class T>
[[gnu::always_inline]] static inline Row<T> find_row(const SoftmaxArgs& args, std::int32_t dims,
                                                     std::int64_t index) {
  const Axes a{dims, args.row_sizes, args.row_strides[0]};
  const Axes b{dims, args.row_sizes, args.row_strides[1]};
  const Axes out{dims, args.row_sizes, args.row_strides[2]};
  return {static_cast<const T*>(args.a) + offset_of(a, index),
          static_cast<const T*>(args.b) + offset_of(b, index),
          static_cast<T*>(args.out) + offset_of(out, index)};
}

template <SoftmaxOp op, class T>
static inline void softmax_columns(const SoftmaxArgs& args, std::int64_t begin, std::int64_t end) {
  constexpr int lanes = Vec<T>::lanes;
  constexpr std::int64_t kBuffered = 256;  // vectors, half of L1
  T buffer[kBuffered * lanes];
  const std::int64_t columns = args.row_sizes[args.row_dims - 1];
  const std::int64_t blocks = (columns + kSoftmaxColumns - 1) / kSoftmaxColumns;
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const Row<T> row = find_row<T>(args, args.row_dims - 1, unit / blocks);
    std::int64_t column = unit % blocks * kSoftmaxColumns;
    const std::int64_t stop =
        column + kSoftmaxColumns < columns ? column + kSoftmaxColumns : columns;
    for (; column < stop; column += lanes) {
      const int rows = stop - column < lanes ? static_cast<int>(stop - column) : lanes;
      const Row<T> strip{row.a + column, row.b + column, row.out + column};
      const DownRows<T> walk{args.n, rows};
      if (args.n <= kBuffered) {
        any_row<op, T, true>(walk, strip, Work<T>{buffer, lanes}, args.axis_strides);
      } else {
        any_row<op, T, false>(walk, strip, Work<T>{strip.out, args.axis_strides[2]},
                              args.axis_strides);
      }
    }
  }
}

// A dense row of arrays larger than the caches, or a long one. Softmax leaves the exponentials in
// `powers`: those of this thread, or out.
template <SoftmaxOp op, bool stream, class T>
[[gnu::always_inline]] static inline void long_row(std::int64_t n, Row<T> row, T* tops, T* powers) {
  if constexpr (op == SoftmaxOp::softmax) {
    const RowPowers<T> found = powers_of<true>(row.a, n, powers, tops);
    const Vec<T> scale = simd::set1<T>(T(1)) / found.total;
    settle_powers<stream>(row.out, n, powers, tops, found.top, scale, row.a + n);
  } else {
    const RowPowers<T> found = powers_of<false, T>(row.a, n, nullptr, nullptr);
    const Vec<T> log_total = simd::log(found.total);
    const auto value = [&](std::int64_t i, int lanes) __attribute__((always_inline)) {
      return simd::load_upto(row.a + i, lanes) - found.top - log_total;
    };
    if constexpr (stream) {
      stream_row(row.out, n, value);
    } else {
      const AlongRow<T, true> walk{n};
      walk.each([&](Step at) { walk.store(row.out, 1, at, value(at.index, at.lanes)); });
    }
  }
}

// A row of a gradient larger than the caches.
template <SoftmaxOp op, class T>
[[gnu::always_inline]] static inline void streamed_backward(std::int64_t n, Row<T> row) {
  const AlongRow<T, true> walk{n};
  const auto a = [&](std::int64_t i, int count) { return simd::load_upto(row.a + i, count); };
  const auto b = [&](std::int64_t i, int count) { return simd::load_upto(row.b + i, count); };
  if constexpr (op == SoftmaxOp::softmax_backward) {
    const Vec<T> dot = reduce_walk<AddOp, T>(
        walk, [&](Step at) { return walk.load(row.a, 1, at) * walk.load(row.b, 1, at); });
    stream_row(row.out, n,
               [&](std::int64_t i, int count) { return b(i, count) * (a(i, count) - dot); });
  } else {
    const Vec<T> total =
        reduce_walk<AddOp, T>(walk, [&](Step at) { return walk.load(row.a, 1, at); });
    stream_row(row.out, n, [&](std::int64_t i, int count) {
      return simd::fnma(simd::exp(b(i, count)), total, a(i, count));
    });
  }
}

// Softmax of such rows, each written while the next is computed.
template <class T>
static inline void settled_rows(const SoftmaxArgs& args, std::int64_t begin, std::int64_t end) {
  RowMemory memory = args.memory;
  const LongRow<T> first = own_row<T>(memory);
  memory.data += memory.stride / 2;
  const LongRow<T> second = own_row<T>(memory);
  Settling<T> before{};
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const LongRow<T>& own = (unit - begin) % 2 ? second : first;
    const Row<T> row = find_row<T>(args, args.row_dims, unit);
    const RowPowers<T> found = unit == begin
                                   ? powers_of<true>(row.a, args.n, own.powers, own.tops)
                                   : powers_of<true>(row.a, args.n, own.powers, own.tops, before);
    before = {row.out, own.powers, own.tops, found.top, simd::set1<T>(T(1)) / found.total, args.n};
  }
  if (begin == end) return;
  settle_powers<true>(before.out, args.n, before.powers, before.tops, before.top, before.scale,
                      before.powers);
}

template <SoftmaxOp op, class T>
static inline void streamed_rows(const SoftmaxArgs& args, std::int64_t begin, std::int64_t end) {
  if constexpr (op == SoftmaxOp::softmax) {
    if (keeps_two_rows(args.n, sizeof(T))) {
      settled_rows<T>(args, begin, end);
      simd::stream_fence();
      return;
    }
  }
  const LongRow<T> own = own_row<T>(args.memory);
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const Row<T> row = find_row<T>(args, args.row_dims, unit);
    if constexpr (is_forward<op>) {
      long_row<op, true>(args.n, row, own.tops, own.powers);
    } else {
      streamed_backward<op>(args.n, row);
    }
  }
  simd::stream_fence();
}

template <SoftmaxOp op, class T, bool unit_stride>
static inline void softmax_rows(const SoftmaxArgs& args, std::int64_t begin, std::int64_t end) {
  const AlongRow<T, unit_stride> walk{args.n};
  if constexpr (unit_stride && is_forward<op>) {
    if (args.n > kRowPiece) {
      const LongRow<T> own = own_row<T>(args.memory);
      for (std::int64_t unit = begin; unit < end; ++unit) {
        const Row<T> row = find_row<T>(args, args.row_dims, unit);
        long_row<op, false>(args.n, row, own.tops, row.out);
      }
      return;
    }
  }
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const Row<T> row = find_row<T>(args, args.row_dims, unit);
    any_row<op, T, false>(walk, row, Work<T>{row.out, args.axis_strides[2]}, args.axis_strides);
  }
}

template <SoftmaxOp op, class T>
static inline void softmax_body(const SoftmaxArgs& args, std::int64_t begin, std::int64_t end) {
  if (args.columns) return softmax_columns<op, T>(args, begin, end);
  if (args.stream) return streamed_rows<op, T>(args, begin, end);
  if (args.unit_stride) return softmax_rows<op, T, true>(args, begin, end);
  softmax_rows<op, T, false>(args, begin, end);
}

template <class T>
static inline void softmax_op(const SoftmaxArgs& args, std::int64_t begin, std::int64_t end) {
  switch (args.op) {
    case SoftmaxOp::softmax:
      return softmax_body<SoftmaxOp::softmax, T>(args, begin, end);
    case SoftmaxOp::log_softmax:
      return softmax_body<SoftmaxOp::log_softmax, T>(args, begin, end);
    case SoftmaxOp::softmax_backward:
      return softmax_body<SoftmaxOp::softmax_backward, T>(args, begin, end);
    case SoftmaxOp::log_softmax_backward:
      return softmax_body<SoftmaxOp::log_softmax_backward, T>(args, begin, end);
  }
}

}  // namespace

void softmax(const SoftmaxArgs& args, std::int64_t begin, std::int64_t end) {
  if (args.dtype == DType::f32) {
    softmax_op<float>(args, begin, end);
  } else {
    softmax_op<double>(args, begin, end);
  }
}

}  // namespace hotloop::HOTLOOP_LEVEL
