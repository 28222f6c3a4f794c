// out = op over the reduced axes of x: sum, max, min, product, sum of squares.
//
// Layout: any strides. Rows: the lanes run along the reduced axis, four chains. Columns: the lanes
// run along the kept axis, up to eight vectors side by side, so that a sum over the rows of a
// matrix reads whole cache lines. Sums are blocked and cascaded (engines/row_reduction.h), as in
// NumPy's pairwise sum, but also down the columns, where NumPy adds naively.
#include "kernels/reduce.h"

#include "engines/row_reduction.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

constexpr int kBlock = 32;  // steps of a chain before its block is put on the cascade

template <class Op, class T>
struct RowTotal {
  static constexpr int lanes = Vec<T>::lanes;
  Cascade<Op, T, kSlots> cascade;
  Vec<T> slots[kSlots];
  int pending = 0;

  void start() {
    for (int s = 0; s < kSlots; ++s) slots[s] = simd::set1<T>(Op::template start<T>());
    pending = 0;
  }
  void flush() {
    cascade.push(slots);
    start();
  }
  void add(const T* p, std::int64_t n) {
    std::int64_t i = 0;
    while (n - i >= kSlots * lanes) {
      std::int64_t steps = (n - i) / (kSlots * lanes);
      if (steps > kBlock - pending) steps = kBlock - pending;
      Vec<T> a = slots[0], b = slots[1], c = slots[2], d = slots[3];
      for (std::int64_t s = 0; s < steps; ++s, i += kSlots * lanes) {
        a = Op::combine(a, term<Op>(simd::load(p + i)));
        b = Op::combine(b, term<Op>(simd::load(p + i + lanes)));
        c = Op::combine(c, term<Op>(simd::load(p + i + 2 * lanes)));
        d = Op::combine(d, term<Op>(simd::load(p + i + 3 * lanes)));
      }
      slots[0] = a;
      slots[1] = b;
      slots[2] = c;
      slots[3] = d;
      pending += static_cast<int>(steps);
      if (pending == kBlock) flush();
    }
    if (i == n) return;
    for (; n - i >= lanes; i += lanes)
      slots[0] = Op::combine(slots[0], term<Op>(simd::load(p + i)));
    if (i < n) {
      const int left = static_cast<int>(n - i);
      const Vec<T> tail =
          keep_lanes(term<Op>(simd::load_n(p + i, left)), left, Op::template start<T>());
      slots[1] = Op::combine(slots[1], tail);
    }
    if (++pending == kBlock) flush();
  }
  void add_strided(const T* p, std::int64_t stride, std::int64_t n) {
    for (std::int64_t i = 0; i < n; i += lanes) {
      const int left = n - i < lanes ? static_cast<int>(n - i) : lanes;
      Vec<T> v = term<Op>(simd::load_strided(p + i * stride, stride, left));
      if (left < lanes) v = keep_lanes(v, left, Op::template start<T>());
      slots[0] = Op::combine(slots[0], v);
      if (++pending == kBlock) flush();
    }
  }
  T total() {
    cascade.drain(slots);
    return Op::across(
        Op::combine(Op::combine(slots[0], slots[1]), Op::combine(slots[2], slots[3])));
  }
};

template <class Op, class T>
static inline void reduce_rows(const ReduceArgs& args, std::int64_t begin, std::int64_t end) {
  const Axes kept{args.kept_dims, args.kept_sizes, args.kept_strides};
  const Axes out_axes{args.kept_dims, args.kept_sizes, args.out_strides};
  const Axes reduced{args.reduced_dims, args.reduced_sizes, args.reduced_strides};
  const std::int64_t stride = args.reduced_strides[args.reduced_dims - 1];
  // One block at most: no cascade, and the chains stay in registers.
  const bool is_short = stride == 1 && args.reduced_dims == 1 && args.chunk == args.reduced &&
                        args.reduced <= kBlock * kSlots * Vec<T>::lanes;
  const Vec<T> divisor = simd::set1<T>(static_cast<T>(args.divisor));
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const std::int64_t chunk = unit < args.outputs ? 0 : unit / args.outputs;
    const std::int64_t output = unit - chunk * args.outputs;
    const T* x = static_cast<const T*>(args.x) + offset_of(kept, output);
    const std::int64_t first = chunk * args.chunk;
    const std::int64_t last = first + args.chunk < args.reduced ? first + args.chunk : args.reduced;
    T* out =
        static_cast<T*>(args.out) + chunk * args.out_chunk_stride + offset_of(out_axes, output);
    if (is_short) {
      const AlongRow<T, true> walk{args.reduced};
      const Vec<T> total =
          reduce_walk<Op, T>(walk, [&](Step at) { return term<Op>(walk.load(x, 1, at)); });
      simd::store_n(out, total / divisor, 1);
      continue;
    }
    RowTotal<Op, T> row;
    row.start();
    if (stride == 1) {
      each_run(reduced, first, last,
               [&](std::int64_t offset, std::int64_t count) { row.add(x + offset, count); });
    } else {
      each_run(reduced, first, last, [&](std::int64_t offset, std::int64_t count) {
        row.add_strided(x + offset, stride, count);
      });
    }
    *out = row.total() / static_cast<T>(args.divisor);
  }
}

// `width` vectors of neighbouring outputs; only the last vector of a unit has fewer than all lanes.
template <class Op, class T, int width>
static inline void reduce_strip(const ReduceArgs& args, const T* x, T* out, std::int64_t first,
                                std::int64_t last, int lanes) {
  const Axes reduced{args.reduced_dims, args.reduced_sizes, args.reduced_strides};
  const std::int64_t down = args.reduced_strides[args.reduced_dims - 1];
  const std::int64_t across = args.kept_strides[args.kept_dims - 1];
  constexpr int full = Vec<T>::lanes;
  Cascade<Op, T, width> cascade;
  Vec<T> sums[width];
  const Vec<T> start = simd::set1<T>(Op::template start<T>());
  for (int w = 0; w < width; ++w) sums[w] = start;
  int pending = 0;
  each_run(reduced, first, last, [&](std::int64_t offset, std::int64_t count) {
    const T* p = x + offset;
    for (std::int64_t i = 0; i < count;) {
      std::int64_t steps = count - i;
      if (steps > kBlock - pending) steps = kBlock - pending;
      Vec<T> local[width];
      for (int w = 0; w < width; ++w) local[w] = sums[w];
      if (across == 1 && lanes == full) {
        for (std::int64_t s = 0; s < steps; ++s, p += down) {
          for (int w = 0; w < width; ++w) {
            local[w] = Op::combine(local[w], term<Op>(simd::load(p + w * full)));
          }
        }
      } else if (across == 1) {
        for (std::int64_t s = 0; s < steps; ++s, p += down) {
          local[0] = Op::combine(local[0], term<Op>(simd::load_n(p, lanes)));
        }
      } else {
        for (std::int64_t s = 0; s < steps; ++s, p += down) {
          for (int w = 0; w < width; ++w) {
            local[w] = Op::combine(
                local[w], term<Op>(simd::load_strided(p + w * full * across, across, lanes)));
          }
        }
      }
      for (int w = 0; w < width; ++w) sums[w] = local[w];
      i += steps;
      pending += static_cast<int>(steps);
      if (pending == kBlock) {
        cascade.push(sums);
        for (int w = 0; w < width; ++w) sums[w] = start;
        pending = 0;
      }
    }
  });
  cascade.drain(sums);
  const Vec<T> divisor = simd::set1<T>(static_cast<T>(args.divisor));
  const std::int64_t out_stride = args.out_strides[args.kept_dims - 1];
  for (int w = 0; w < width; ++w) {
    T* p = out + w * full * out_stride;
    const Vec<T> v = sums[w] / divisor;
    if (out_stride != 1) {
      simd::store_strided(p, v, out_stride, lanes);
    } else {
      simd::store_upto(p, v, lanes);
    }
  }
}

template <class Op, class T>
static inline void reduce_columns(const ReduceArgs& args, std::int64_t begin, std::int64_t end) {
  constexpr int lanes = Vec<T>::lanes;
  const int inner = args.kept_dims - 1;  // the axis that the lanes run along
  const Axes kept{inner, args.kept_sizes, args.kept_strides};
  const Axes out_axes{inner, args.kept_sizes, args.out_strides};
  const std::int64_t columns = args.kept_sizes[inner];
  const std::int64_t blocks = (columns + kReduceColumns - 1) / kReduceColumns;
  const std::int64_t units = args.outputs / columns * blocks;  // of one chunk
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const std::int64_t chunk = unit / units, outer = unit % units / blocks;
    const std::int64_t first = chunk * args.chunk;
    const std::int64_t last = first + args.chunk < args.reduced ? first + args.chunk : args.reduced;
    const T* x = static_cast<const T*>(args.x) + offset_of(kept, outer);
    T* out = static_cast<T*>(args.out) + chunk * args.out_chunk_stride + offset_of(out_axes, outer);
    std::int64_t column = unit % blocks * kReduceColumns;
    const std::int64_t stop = column + kReduceColumns < columns ? column + kReduceColumns : columns;
    const std::int64_t across = args.kept_strides[inner], out_across = args.out_strides[inner];
    for (; column + 8 * lanes <= stop; column += 8 * lanes) {
      reduce_strip<Op, T, 8>(args, x + column * across, out + column * out_across, first, last,
                             lanes);
    }
    for (; column + 4 * lanes <= stop; column += 4 * lanes) {
      reduce_strip<Op, T, 4>(args, x + column * across, out + column * out_across, first, last,
                             lanes);
    }
    for (; column < stop; column += lanes) {
      const int left = stop - column < lanes ? static_cast<int>(stop - column) : lanes;
      reduce_strip<Op, T, 1>(args, x + column * across, out + column * out_across, first, last,
                             left);
    }
  }
}

template <class Op, class T>
static inline void reduce_body(const ReduceArgs& args, std::int64_t begin, std::int64_t end) {
  if (args.columns) {
    reduce_columns<Op, T>(args, begin, end);
  } else {
    reduce_rows<Op, T>(args, begin, end);
  }
}

template <class T>
static inline void reduce_op(const ReduceArgs& args, std::int64_t begin, std::int64_t end) {
  switch (args.op) {
    case ReduceOp::sum:
      return reduce_body<AddOp, T>(args, begin, end);
    case ReduceOp::max:
      return reduce_body<MaxOp, T>(args, begin, end);
    case ReduceOp::min:
      return reduce_body<MinOp, T>(args, begin, end);
    case ReduceOp::prod:
      return reduce_body<MulOp, T>(args, begin, end);
    case ReduceOp::squares:
      return reduce_body<SquaresOp, T>(args, begin, end);
    case ReduceOp::var:
    case ReduceOp::logsumexp:
      return;  // pair_reduce
  }
}

}  // namespace

void reduce(const ReduceArgs& args, std::int64_t begin, std::int64_t end) {
  if (args.dtype == DType::f32) {
    reduce_op<float>(args, begin, end);
  } else {
    reduce_op<double>(args, begin, end);
  }
}

}  // namespace hotloop::HOTLOOP_LEVEL
