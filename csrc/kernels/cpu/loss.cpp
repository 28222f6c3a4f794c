// cross entropy: loss = log(sum(exp(x - max))) - (x[label] - max), dx = (softmax(x) - onehot) *
// scale. mse: loss = (x - target)^2, dx = 2 (x - target) * scale.
//
// Layout: logits of any strides, walked like softmax; mse dense. Loss and gradient leave one visit
// of the row; probabilities are never stored. Sums over rows are ordered by the caller.
#include "kernels/loss.h"

#include "engines/row_reduction.h"
#include "simd/math.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

template <class T>
struct LossRows {
  const T* x;
  T* dx;
  T* losses;
  const void* labels;
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
      reduce_walk<MaxOp, T>(walk, [&](Step at) { return walk.load(rows.x, stride, at); });
  // The labelled logits first: dlogits may lie in the place of the logits.
  std::int64_t labels[most] = {};
  T chosen[most] = {}, scales[most] = {};
  for (int r = 0; r < count; ++r) {
    labels[r] = label_at(args, rows.labels, r * rows.labels_stride);
    const bool ignored = labels[r] == args.ignore_index;
    scales[r] = ignored ? T(0) : static_cast<T>(args.scale);
    chosen[r] = ignored ? T(0) : rows.x[labels[r] * stride + r];
  }
  Vec<T> total;
  if (rows.dx) {
    total = reduce_walk<AddOp, T>(walk, [&](Step at) {
      const Vec<T> power = simd::exp(walk.load(rows.x, stride, at) - top);
      walk.store(rows.dx, dx_stride, at, power);
      return power;
    });
  } else {
    total = reduce_walk<AddOp, T>(
        walk, [&](Step at) { return simd::exp(walk.load(rows.x, stride, at) - top); });
  }
  T tops[most], logs[most];
  simd::store_n(tops, top, most);
  simd::store_n(logs, simd::log(total), most);
  for (int r = 0; r < count; ++r) {
    const bool ignored = labels[r] == args.ignore_index;
    rows.losses[r * rows.losses_stride] = ignored ? T(0) : logs[r] - (chosen[r] - tops[r]);
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

// Where the row `index` of the first `dims` row axes lies.
template <class T>
[[gnu::always_inline]] static inline LossRows<T> find_rows(const CrossEntropyArgs& args,
                                                           std::int32_t dims, std::int64_t index) {
  std::int64_t offsets[4];
  for (int k = 0; k < 4; ++k) {
    offsets[k] = offset_of(Axes{dims, args.row_sizes, args.row_strides[k]}, index);
  }
  const std::int64_t label_size = args.wide_labels ? 8 : 4;
  return {static_cast<const T*>(args.logits) + offsets[0],
          args.dlogits ? static_cast<T*>(args.dlogits) + offsets[1] : nullptr,
          static_cast<T*>(args.losses) + offsets[2],
          static_cast<const char*>(args.labels) + offsets[3] * label_size,
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
      rows.labels =
          static_cast<const char*>(rows.labels) + column * rows.labels_stride * label_size;
      cross_entropy_rows<T>(args, DownRows<T>{args.classes, rows.count}, rows);
    }
  }
}

template <class T>
static inline void cross_entropy_body(const CrossEntropyArgs& args, std::int64_t begin,
                                      std::int64_t end) {
  if (args.columns) return cross_entropy_columns<T>(args, begin, end);
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const LossRows<T> row = find_rows<T>(args, args.row_dims, unit);
    if (args.unit_stride) {
      cross_entropy_rows<T>(args, AlongRow<T, true>{args.classes}, row);
    } else {
      cross_entropy_rows<T>(args, AlongRow<T, false>{args.classes}, row);
    }
  }
}

template <class T>
static inline void mse_body(const MseArgs& args, std::int64_t begin, std::int64_t end) {
  const Vec<T> factor = simd::set1<T>(static_cast<T>(2 * args.scale));
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const std::int64_t first = unit * kMseChunk;
    const T* x = static_cast<const T*>(args.x) + first;
    const T* target = static_cast<const T*>(args.target) + first;
    T* dx = args.dx ? static_cast<T*>(args.dx) + first : nullptr;
    T* losses = args.losses ? static_cast<T*>(args.losses) + first : nullptr;
    const AlongRow<T, true> walk{args.n - first < kMseChunk ? args.n - first : kMseChunk};
    const auto one = [&](Step at) {
      const Vec<T> difference = walk.load(x, 1, at) - walk.load(target, 1, at);
      if (dx) walk.store(dx, 1, at, difference * factor);
      const Vec<T> square = difference * difference;
      if (losses) walk.store(losses, 1, at, square);
      return square;
    };
    const Vec<T> total = reduce_walk<AddOp, T>(walk, one);
    if (args.partials) simd::store_n(static_cast<T*>(args.partials) + unit, total, 1);
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

void mse(const MseArgs& args, std::int64_t begin, std::int64_t end) {
  if (args.dtype == DType::f32) {
    mse_body<float>(args, begin, end);
  } else {
    mse_body<double>(args, begin, end);
  }
}

}  // namespace hotloop::HOTLOOP_LEVEL
