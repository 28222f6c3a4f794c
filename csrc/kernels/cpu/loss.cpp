// cross entropy: loss = log(sum(exp(x - max))) - (x[label] - max), dx = (softmax(x) - onehot) *
// scale. In general, with t the target's weighted probabilities: loss = sum(t) log(sum(exp(x -
// max))) + sum(t (max - x)), dx = (sum(t) softmax(x) - t) * scale. Element losses: pair_value.
//
// Layout: logits of any strides, walked like softmax; element losses dense. Loss and gradient leave
// one visit of the row; probabilities are never stored. Sums over rows are ordered by the caller.
#include "kernels/loss.h"

#include "engines/exp_sum.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

template <class T>
struct LossRows {
  const T* x;
  T* dx;
  T* losses;
  const void* labels;
  const T* probabilities;
  std::int64_t losses_stride, labels_stride;  // from one row of the vector to the next
  int count;
};

static inline std::int64_t label_at(const CrossEntropyArgs& args, const void* labels,
                                    std::int64_t offset) {
  return args.wide_labels ? static_cast<const std::int64_t*>(labels)[offset]
                          : static_cast<const std::int32_t*>(labels)[offset];
}

// One row (AlongRow) or a vector of rows (DownRows).
template <class T, class Walk>
[[gnu::always_inline]] static inline void cross_entropy_rows(const CrossEntropyArgs& args,
                                                             Walk walk, const LossRows<T>& rows) {
  constexpr int most = Walk::most_rows;
  const int count = most == 1 ? 1 : rows.count;
  const std::int64_t stride = args.class_strides[0], dx_stride = args.class_strides[1];
  const Vec<T> top =
      reduce_walk<TopOp, T>(walk, [&](Step at) { return walk.load(rows.x, stride, at); });
  // The labelled logits first: dlogits may lie in the place of the logits.
  std::int64_t labels[most] = {};
  const T* weight = static_cast<const T*>(args.weight);
  T chosen[most] = {}, scales[most] = {}, factors[most] = {};
  for (int r = 0; r < count; ++r) {
    labels[r] = label_at(args, rows.labels, r * rows.labels_stride);
    const bool ignored = labels[r] == args.ignore_index;
    factors[r] = ignored ? T(0) : weight ? weight[labels[r]] : T(1);
    scales[r] = static_cast<T>(args.scale) * factors[r];
    if (ignored) scales[r] = T(0);  // where the scale is infinite: no row counts
    chosen[r] = ignored ? T(0) : rows.x[labels[r] * stride + r];
  }
  Vec<T> total;
  if (rows.dx) {
    total = reduce_walk<AddOp, T>(walk, [&](Step at) {
      const Vec<T> power = falling_exp(walk.load(rows.x, stride, at) - top);
      walk.store(rows.dx, dx_stride, at, power);
      return power;
    });
  } else {
    total = reduce_walk<AddOp, T>(
        walk, [&](Step at) { return falling_exp(walk.load(rows.x, stride, at) - top); });
  }
  T tops[most], logs[most];
  simd::store_n(tops, top, most);
  simd::store_n(logs, simd::log(total), most);
  for (int r = 0; r < count; ++r) {
    const bool ignored = labels[r] == args.ignore_index;
    rows.losses[r * rows.losses_stride] =
        ignored ? T(0) : factors[r] * (logs[r] - (chosen[r] - tops[r]));
  }
  if (!rows.dx) return;
  const Vec<T> scale = most == 1 ? simd::set1<T>(scales[0]) : simd::load_n(scales, most);
  const Vec<T> factor = scale / total;
  const auto skipped = scale == simd::zero<T>();  // an ignored row may hold NaN
  walk.each([&](Step at) {
    const Vec<T> power = walk.load(rows.dx, dx_stride, at);
    walk.store(rows.dx, dx_stride, at, simd::select(skipped, simd::zero<T>(), power * factor));
  });
  for (int r = 0; r < count; ++r) {
    if (labels[r] != args.ignore_index) rows.dx[labels[r] * dx_stride + r] -= scales[r];
  }
}

// The same for smoothed labels and for probabilities: every class has its share t of the target.
template <class T, class Walk>
[[gnu::always_inline]] static inline void soft_rows(const CrossEntropyArgs& args, Walk walk,
                                                    const LossRows<T>& rows) {
  constexpr int most = Walk::most_rows;
  const int count = most == 1 ? 1 : rows.count;
  const std::int64_t stride = args.class_strides[0], dx_stride = args.class_strides[1];
  const bool smooth = args.kind == RowLoss::smooth;
  const T* weight = static_cast<const T*>(args.weight);
  const Vec<T> kept = simd::set1<T>(static_cast<T>(1 - args.smoothing));
  const Vec<T> spread =
      simd::set1<T>(static_cast<T>(args.smoothing / static_cast<double>(args.classes)));
  const auto share = [&](Step at) __attribute__((always_inline)) {
    Vec<T> t = spread;
    if (!smooth) t = simd::fma(kept, walk.load(rows.probabilities, args.class_strides[2], at), t);
    if (!weight) return t;
    // The classes lie along the vector, or each vector is of one class.
    return most == 1 ? t * simd::load_upto(weight + at.index, at.lanes)
                     : t * simd::set1<T>(weight[at.index]);
  };
  const Vec<T> top =
      reduce_walk<TopOp, T>(walk, [&](Step at) { return walk.load(rows.x, stride, at); });
  // All that needs the logits first: dlogits may lie in their place.
  const Vec<T> distance = reduce_walk<AddOp, T>(
      walk, [&](Step at) { return share(at) * (top - walk.load(rows.x, stride, at)); });
  const Vec<T> shares = smooth ? spread * simd::set1<T>(static_cast<T>(args.weight_sum))
                               : reduce_walk<AddOp, T>(walk, share);
  T sums[most], distances[most], tops[most], own[most] = {};
  std::int64_t labels[most] = {};
  bool ignored[most] = {};
  simd::store_n(sums, shares, most);
  simd::store_n(distances, distance, most);
  simd::store_n(tops, top, most);
  for (int r = 0; smooth && r < count; ++r) {
    labels[r] = label_at(args, rows.labels, r * rows.labels_stride);
    ignored[r] = labels[r] == args.ignore_index;
    if (ignored[r]) continue;
    own[r] = static_cast<T>(1 - args.smoothing) * (weight ? weight[labels[r]] : T(1));
    sums[r] += own[r];
    distances[r] += own[r] * (tops[r] - rows.x[labels[r] * stride + r]);
  }
  const Vec<T> total = reduce_walk<AddOp, T>(walk, [&](Step at) {
    const Vec<T> power = falling_exp(walk.load(rows.x, stride, at) - top);
    if (rows.dx) walk.store(rows.dx, dx_stride, at, power);
    return power;
  });
  T logs[most], scales[most] = {};
  simd::store_n(logs, simd::log(total), most);
  for (int r = 0; r < count; ++r) {
    rows.losses[r * rows.losses_stride] = ignored[r] ? T(0) : sums[r] * logs[r] + distances[r];
    scales[r] = ignored[r] ? T(0) : static_cast<T>(args.scale);
  }
  if (!rows.dx) return;
  const Vec<T> scale = most == 1 ? simd::set1<T>(scales[0]) : simd::load_n(scales, most);
  const Vec<T> factor =
      scale * (most == 1 ? simd::set1<T>(sums[0]) : simd::load_n(sums, most)) / total;
  const auto skipped = scale == simd::zero<T>();  // an ignored row may hold NaN
  walk.each([&](Step at) __attribute__((always_inline)) {
    const Vec<T> power = walk.load(rows.dx, dx_stride, at);
    const Vec<T> dx = power * factor - share(at) * scale;
    walk.store(rows.dx, dx_stride, at, simd::select(skipped, simd::zero<T>(), dx));
  });
  for (int r = 0; smooth && r < count; ++r) {
    if (!ignored[r]) rows.dx[labels[r] * dx_stride + r] -= own[r] * scales[r];
  }
}

// loss = -weight[label] x[label]
template <class T, class Walk>
[[gnu::always_inline]] static inline void nll_rows(const CrossEntropyArgs& args, Walk walk,
                                                   const LossRows<T>& rows) {
  const int count = Walk::most_rows == 1 ? 1 : rows.count;
  const T* weight = static_cast<const T*>(args.weight);
  std::int64_t labels[Walk::most_rows] = {};
  for (int r = 0; r < count; ++r) {
    const std::int64_t label = labels[r] = label_at(args, rows.labels, r * rows.labels_stride);
    T loss = T(0);
    if (label != args.ignore_index) {
      loss = -rows.x[label * args.class_strides[0] + r] * (weight ? weight[label] : T(1));
    }
    rows.losses[r * rows.losses_stride] = loss;
  }
  if (!rows.dx) return;
  walk.each([&](Step at) __attribute__((always_inline)) {
    walk.store(rows.dx, args.class_strides[1], at, simd::zero<T>());
  });
  for (int r = 0; r < count; ++r) {
    if (labels[r] == args.ignore_index) continue;
    const T factor = weight ? weight[labels[r]] : T(1);
    rows.dx[labels[r] * args.class_strides[1] + r] = -static_cast<T>(args.scale) * factor;
  }
}

template <class T, class Walk>
[[gnu::always_inline]] static inline void any_rows(const CrossEntropyArgs& args, Walk walk,
                                                   const LossRows<T>& rows) {
  if (args.kind == RowLoss::labels) return cross_entropy_rows<T>(args, walk, rows);
  if (args.kind == RowLoss::nll) return nll_rows<T>(args, walk, rows);
  soft_rows<T>(args, walk, rows);
}

// A dense row with labels that is long, or larger, with its like, than the caches. The exponentials
// wait in `powers`: those of this thread, or dlogits.
template <bool stream, class T>
static inline void long_row(const CrossEntropyArgs& args, const LossRows<T>& row, T* tops,
                            T* powers) {
  const std::int64_t label = label_at(args, row.labels, 0);
  const T* weight = static_cast<const T*>(args.weight);
  if (label == args.ignore_index) {
    *row.losses = T(0);
    if (row.dx) stream_row(row.dx, args.classes, [](std::int64_t, int) { return simd::zero<T>(); });
    return;
  }
  const T chosen = row.x[label];  // first: dlogits may lie in the place of the logits
  const RowPowers<T> found = row.dx ? powers_of<true>(row.x, args.classes, powers, tops)
                                    : powers_of<false, T>(row.x, args.classes, nullptr, nullptr);
  T top, total, log_total;
  simd::store_n(&top, found.top, 1);
  simd::store_n(&total, found.total, 1);
  simd::store_n(&log_total, simd::log(found.total), 1);
  const T factor = weight ? weight[label] : T(1);
  *row.losses = factor * (log_total - (chosen - top));
  if (!row.dx) return;
  // A line just written around the caches is dear to change: the label's share goes off before,
  // where its power has the final base.
  const bool early = tops[label / kRowPiece] == top;
  if (early) powers[label] -= total;
  const T scale = static_cast<T>(args.scale) * factor;
  settle_powers<stream>(row.dx, args.classes, powers, tops, found.top,
                        simd::set1<T>(scale) / found.total, row.x + args.classes);
  if (!early) row.dx[label] -= scale;
}

// Where the row `index` of the first `dims` row axes lies.
template <class T>
[[gnu::always_inline]] static inline LossRows<T> find_rows(const CrossEntropyArgs& args,
                                                           std::int32_t dims, std::int64_t index) {
  std::int64_t offsets[4];
  for (int k = 0; k < 4; ++k) {
    offsets[k] = offset_of(Axes{dims, args.row_sizes, args.row_strides[k]}, index);
  }
  const bool soft = args.kind == RowLoss::probabilities;
  const std::int64_t label_size = args.wide_labels ? 8 : 4;
  return {static_cast<const T*>(args.logits) + offsets[0],
          args.dlogits ? static_cast<T*>(args.dlogits) + offsets[1] : nullptr,
          static_cast<T*>(args.losses) + offsets[2],
          soft ? nullptr : static_cast<const char*>(args.labels) + offsets[3] * label_size,
          soft ? static_cast<const T*>(args.probabilities) + offsets[3] : nullptr,
          0,
          0,
          1};
}

template <class T>
static inline void cross_entropy_columns(const CrossEntropyArgs& args, std::int64_t begin,
                                         std::int64_t end) {
  constexpr int lanes = Vec<T>::lanes;
  const int inner = args.row_dims - 1;
  const std::int64_t columns = args.row_sizes[inner];
  const std::int64_t blocks = (columns + kLossColumns - 1) / kLossColumns;
  const std::int64_t label_size = args.wide_labels ? 8 : 4;
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const LossRows<T> first = find_rows<T>(args, inner, unit / blocks);
    std::int64_t column = unit % blocks * kLossColumns;
    const std::int64_t stop = column + kLossColumns < columns ? column + kLossColumns : columns;
    for (; column < stop; column += lanes) {
      LossRows<T> rows = first;
      rows.count = stop - column < lanes ? static_cast<int>(stop - column) : lanes;
      rows.losses_stride = args.row_strides[2][inner];
      rows.labels_stride = args.row_strides[3][inner];
      rows.x += column;
      if (rows.dx) rows.dx += column;
      rows.losses += column * rows.losses_stride;
      if (rows.probabilities) {
        rows.probabilities += column;
      } else {
        rows.labels =
            static_cast<const char*>(rows.labels) + column * rows.labels_stride * label_size;
      }
      any_rows<T>(args, DownRows<T>{args.classes, rows.count}, rows);
    }
  }
}

template <class T>
static inline void cross_entropy_body(const CrossEntropyArgs& args, std::int64_t begin,
                                      std::int64_t end) {
  if (args.columns) return cross_entropy_columns<T>(args, begin, end);
  const bool in_pieces =
      args.kind == RowLoss::labels && args.unit_stride && args.classes > kRowPiece;
  if (args.stream || in_pieces) {
    const LongRow<T> own = own_row<T>(args.memory);
    for (std::int64_t unit = begin; unit < end; ++unit) {
      const LossRows<T> row = find_rows<T>(args, args.row_dims, unit);
      if (args.stream) {
        long_row<true>(args, row, own.tops, own.powers);
      } else {
        long_row<false>(args, row, own.tops, row.dx);
      }
    }
    return simd::stream_fence();
  }
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const LossRows<T> row = find_rows<T>(args, args.row_dims, unit);
    if (args.unit_stride) {
      any_rows<T>(args, AlongRow<T, true>{args.classes}, row);
    } else {
      any_rows<T>(args, AlongRow<T, false>{args.classes}, row);
    }
  }
}

template <class T>
struct LossAndSlope {
  Vec<T> loss, slope;
};

// What PyTorch computes, and its derivative by x. `a` is the parameter.
template <PairLoss op, class T>
[[gnu::always_inline]] static inline LossAndSlope<T> pair_value(Vec<T> x, Vec<T> t, Vec<T> a,
                                                                Vec<T> pos_weight) {
  using simd::select;
  const Vec<T> zero = simd::zero<T>(), one = simd::set1<T>(T(1)), half = simd::set1<T>(T(0.5));
  const auto sign = [&](Vec<T> d) { return select(d == zero, zero, simd::copysign(one, d)); };
  if constexpr (op == PairLoss::mse) {
    const Vec<T> d = x - t;
    return {d * d, d + d};
  } else if constexpr (op == PairLoss::l1) {
    const Vec<T> d = x - t;
    return {simd::abs(d), select(simd::is_nan(d), d, sign(d))};
  } else if constexpr (op == PairLoss::huber) {
    const Vec<T> d = x - t, z = simd::abs(d);
    const auto near = z <= a;
    return {select(near, half * d * d, a * (z - half * a)),
            select(near | simd::is_nan(d), d, a * sign(d))};
  } else if constexpr (op == PairLoss::smooth_l1) {
    const Vec<T> d = x - t, z = simd::abs(d);
    const auto near = z < a;
    return {select(near, half * d * d / a, z - half * a),
            select(near | simd::is_nan(d), d / a, sign(d))};
  } else if constexpr (op == PairLoss::bce) {
    const Vec<T> least = simd::set1<T>(T(-100)), tiny = simd::set1<T>(T(1e-12));
    return {(t - one) * simd::max(simd::log1p(-x), least) - t * simd::max(simd::log(x), least),
            (x - t) / simd::max((one - x) * x, tiny)};
  } else if constexpr (op == PairLoss::bce_with_logits) {
    const Vec<T> positive = pos_weight * t, negative = one - t;
    const Vec<T> soft = simd::log1p(simd::exp(-simd::abs(x))) + simd::max(-x, zero);
    return {negative * x + (positive + negative) * soft,
            (positive + negative) * simd::sigmoid(x) - positive};
  } else if constexpr (op == PairLoss::hinge_embedding) {
    const Vec<T> gap = a - x;
    const auto is_one = t == one, is_minus = t == -one;
    return {select(is_one, zero, simd::max(gap, zero)) + select(is_minus, zero, x),
            select(is_minus, zero, one) - select(is_one | (gap < zero), zero, one)};
  } else if constexpr (op == PairLoss::kl_div) {
    // t log t is 0 at 0; t x follows PyTorch, NaN for 0 times an infinity.
    const Vec<T> self = select(t == zero, zero, t * simd::log(t));
    return {self - t * x, -t};
  } else {
    const Vec<T> e = simd::exp(t);
    return {e * (t - x), -e};
  }
}

template <PairLoss op, class T>
[[gnu::noinline]] static void pair_chunks(const PairLossArgs& args, std::int64_t begin,
                                          std::int64_t end) {
  const Vec<T> scale = simd::set1<T>(static_cast<T>(args.scale));
  const Vec<T> parameter = simd::set1<T>(static_cast<T>(args.parameter));
  const auto part = [](const void* p, std::int64_t first) {
    return p ? static_cast<const T*>(p) + first : nullptr;
  };
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const std::int64_t first = unit * kPairChunk;
    const T *x = part(args.x, first), *target = part(args.target, first);
    const T *weight = part(args.weight, first), *positive = part(args.pos_weight, first);
    T* dx = args.dx ? static_cast<T*>(args.dx) + first : nullptr;
    T* losses = args.losses ? static_cast<T*>(args.losses) + first : nullptr;
    const AlongRow<T, true> walk{args.n - first < kPairChunk ? args.n - first : kPairChunk};
    const Vec<T> total = reduce_walk<AddOp, T>(walk, [&](Step at) __attribute__((always_inline)) {
      const Vec<T> one = simd::set1<T>(T(1));
      LossAndSlope<T> y = pair_value<op, T>(walk.load(x, 1, at), walk.load(target, 1, at),
                                            parameter, positive ? walk.load(positive, 1, at) : one);
      if (weight) {
        const Vec<T> w = walk.load(weight, 1, at);
        y = {y.loss * w, y.slope * w};
      }
      if (dx) walk.store(dx, 1, at, y.slope * scale);
      if (losses) walk.store(losses, 1, at, y.loss);
      return y.loss;
    });
    if (args.partials) simd::store_n(static_cast<T*>(args.partials) + unit, total, 1);
  }
}

template <class T>
static inline void pair_body(const PairLossArgs& args, std::int64_t begin, std::int64_t end) {
  switch (args.op) {
    case PairLoss::mse:
      return pair_chunks<PairLoss::mse, T>(args, begin, end);
    case PairLoss::l1:
      return pair_chunks<PairLoss::l1, T>(args, begin, end);
    case PairLoss::huber:
      return pair_chunks<PairLoss::huber, T>(args, begin, end);
    case PairLoss::smooth_l1:
      return pair_chunks<PairLoss::smooth_l1, T>(args, begin, end);
    case PairLoss::bce:
      return pair_chunks<PairLoss::bce, T>(args, begin, end);
    case PairLoss::bce_with_logits:
      return pair_chunks<PairLoss::bce_with_logits, T>(args, begin, end);
    case PairLoss::hinge_embedding:
      return pair_chunks<PairLoss::hinge_embedding, T>(args, begin, end);
    case PairLoss::kl_div:
      return pair_chunks<PairLoss::kl_div, T>(args, begin, end);
    case PairLoss::kl_div_log:
      return pair_chunks<PairLoss::kl_div_log, T>(args, begin, end);
  }
}

}  // namespace

void cross_entropy(const CrossEntropyArgs& args, std::int64_t begin, std::int64_t end) {
  if (args.dtype == DType::f32) {
    cross_entropy_body<float>(args, begin, end);
  } else {
    cross_entropy_body<double>(args, begin, end);
  }
}

void pair_loss(const PairLossArgs& args, std::int64_t begin, std::int64_t end) {
  if (args.dtype == DType::f32) {
    pair_body<float>(args, begin, end);
  } else {
    pair_body<double>(args, begin, end);
  }
}

}  // namespace hotloop::HOTLOOP_LEVEL
