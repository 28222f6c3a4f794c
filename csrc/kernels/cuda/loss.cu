// cross entropy: loss = log(sum(exp(x - max))) - (x[label] - max), dx = (softmax(x) - onehot) *
// scale. In general, with t the target's weighted probabilities: loss = sum(t) log(sum(exp(x -
// max))) + sum(t (max - x)), dx = (sum(t) softmax(x) - t) * scale. Element losses: pair_value.
//
// Layout: logits of any strides, walked like softmax (one read and one write of a row of up to 8192
// classes); element losses dense, a block for each partial sum.
#include "kernels/loss.h"

#include "kernels/cuda/index_check.cuh"
#include "kernels/cuda/row.cuh"

namespace hotloop::cuda {
namespace {

// Where a row lies.
template <class T>
struct LossRow {
  const T* x;
  T* dx;
  T* loss;
  const T* probabilities;
  std::int64_t label;
  bool ignored;  // also where the label is out of range
};

__device__ __forceinline__ std::int64_t label_at(const CrossEntropyArgs& args, std::int64_t index) {
  const std::int64_t at = offset_of(args.row_dims, args.row_sizes, args.row_strides[3], index);
  return args.wide_labels ? static_cast<const std::int64_t*>(args.labels)[at]
                          : static_cast<const std::int32_t*>(args.labels)[at];
}

template <class T>
__device__ __forceinline__ LossRow<T> find_row(const CrossEntropyArgs& args, std::int64_t index) {
  const auto at = [&](int k) {
    return offset_of(args.row_dims, args.row_sizes, args.row_strides[k], index);
  };
  LossRow<T> row{};
  row.x = static_cast<const T*>(args.logits) + at(0);
  if (args.dlogits) row.dx = static_cast<T*>(args.dlogits) + at(1);
  row.loss = static_cast<T*>(args.losses) + at(2);
  if (args.kind == RowLoss::probabilities) {
    row.probabilities = static_cast<const T*>(args.probabilities) + at(3);
  } else {
    row.label = label_at(args, index);
    row.ignored = row.label == args.ignore_index || !in_range(row.label, args.classes);
  }
  return row;
}

// What a row without a label adds.
template <class T>
__device__ __forceinline__ T loss_without_label(const CrossEntropyArgs& args,
                                                const LossRow<T>& row) {
  return row.label == args.ignore_index ? T(0) : static_cast<T>(__builtin_nan(""));
}

// The factor of every gradient.
template <class T>
__device__ __forceinline__ T scale_of(const CrossEntropyArgs& args) {
  return static_cast<T>(args.counted ? args.counted[1] : args.scale);
}

// The share of each class in the target: what smoothing spreads, and the row's own.
template <class T>
struct Shares {
  T spread, kept;
  const T* weight;
  const T* probabilities;
  std::int64_t stride, label;

  __device__ __forceinline__ T operator()(std::int64_t i) const {
    const T own = probabilities ? probabilities[i * stride] : i == label ? T(1) : T(0);
    const T share = fma_of(kept, own, spread);
    return weight ? share * weight[i] : share;
  }
};

template <class T, class Row>
__device__ __forceinline__ void soft_row(const CrossEntropyArgs& args, Row& row,
                                         const LossRow<T>& at) {
  const Shares<T> share{static_cast<T>(args.smoothing / static_cast<double>(args.classes)),
                        static_cast<T>(1 - args.smoothing),
                        static_cast<const T*>(args.weight),
                        at.probabilities,
                        args.class_strides[2],
                        at.label};
  const T top = row.top();
  // All that needs the logits first: dlogits may lie in their place.
  const T distance =
      row.template total<Sum>([=](T x, std::int64_t i) { return share(i) * (top - x); });
  const T shares = row.template total<Sum>([=](T, std::int64_t i) { return share(i); });
  const T total = row.template powers<true>(top);
  if (row.team.rank() == 0 && row.n > 0) {
    *at.loss = at.ignored ? loss_without_label(args, at) : shares * log_of(total) + distance;
  }
  if (!at.dx) return;
  const T scale = at.ignored ? T(0) : scale_of<T>(args);
  const T factor = scale * shares / total;
  row.store(at.dx, args.class_strides[1], [=, &row](T x, std::int64_t i) {
    return at.ignored ? T(0) : row.power(x, top) * factor - share(i) * scale;
  });
}

template <class T, class Row>
__device__ __forceinline__ void label_row(const CrossEntropyArgs& args, Row& row,
                                          const LossRow<T>& at) {
  const T* weight = static_cast<const T*>(args.weight);
  const bool counts = row.n > 0 && !at.ignored;
  // Read before the gradient, which may lie in the logits' place, is written: totals are barriers.
  const T chosen = counts ? at.x[at.label * args.class_strides[0]] : T(0);
  const T share = !counts ? T(0) : weight ? weight[at.label] : T(1);
  const T scale = counts ? scale_of<T>(args) * share : T(0);
  const T loss = counts ? T(0) : loss_without_label(args, at);  // NaN stays so below
  if (args.kind == RowLoss::nll) {
    if (row.team.rank() == 0 && row.n > 0) {
      *at.loss = loss - chosen * share;
    }
    if (!at.dx) return;
    row.team.sync();
    row.store(at.dx, args.class_strides[1],
              [=](T, std::int64_t i) { return i == at.label ? -scale : T(0); });
    return;
  }
  const T top = row.top();
  const T total = row.template powers<true>(top);
  if (row.team.rank() == 0 && row.n > 0) {
    *at.loss = at.ignored ? loss : share * (log_of(total) - (chosen - top));
  }
  if (!at.dx) return;
  const T factor = scale / total;
  row.store(at.dx, args.class_strides[1], [=, &row](T x, std::int64_t i) {
    // The row may be ignored because it holds NaN.
    return scale == T(0) ? T(0) : row.power(x, top) * factor - (i == at.label ? scale : T(0));
  });
}

// ---- how many labels count ----------------------------------------------------------------------

__device__ __forceinline__ void put_count(const CrossEntropyArgs& args, double total) {
  args.counted[0] = total;
  args.counted[1] = args.scale / total;
}

// Their weights in two steps of fixed order: of each block, then of all. Here they are checked too,
// which would cost the kernels of rows registers.
template <class T>
__global__ void __launch_bounds__(kTeam)
    weigh_labels(const __grid_constant__ CrossEntropyArgs args, std::int64_t rows) {
  __shared__ double shared[kWarps];
  const T* weight = static_cast<const T*>(args.weight);
  double total = 0.0;
  for (std::int64_t i = std::int64_t{kTeam} * blockIdx.x + threadIdx.x; i < rows;
       i += std::int64_t{kTeam} * gridDim.x) {
    const std::int64_t label = label_at(args, i);
    if (label == args.ignore_index || !in_range(args.check, label, args.classes, i)) continue;
    total += weight ? static_cast<double>(weight[label]) : 1.0;
  }
  total = total_of_block<Sum>(total, shared);
  if (threadIdx.x != 0 || !args.counted) return;
  if (gridDim.x == 1) {
    put_count(args, total);
  } else {
    args.counted[2 + blockIdx.x] = total;
  }
}

__global__ void __launch_bounds__(kTeam)
    sum_weights(const __grid_constant__ CrossEntropyArgs args, int count) {
  __shared__ double shared[kWarps];
  const int i = static_cast<int>(threadIdx.x);
  const double total = total_of_block<Sum>(i < count ? args.counted[2 + i] : 0.0, shared);
  if (i == 0) put_count(args, total);
}

template <class T>
void launch_weighing(const CrossEntropyArgs& args, std::int64_t rows, cudaStream_t stream) {
  static_assert(kLabelBlocks <= kTeam);
  const std::int64_t wanted = (rows + 8 * kTeam - 1) / (8 * kTeam);
  const int blocks = static_cast<int>(wanted < kLabelBlocks ? wanted : kLabelBlocks);
  HOTLOOP_LAUNCH((weigh_labels<T>), static_cast<unsigned>(blocks), kTeam, 0, stream, args, rows);
  if (blocks > 1 && args.counted) {
    HOTLOOP_LAUNCH(sum_weights, 1, kTeam, 0, stream, args, blocks);
  }
}

// ---- rows --------------------------------------------------------------------------------------

// Two blocks of a processor at a time, where 128 registers are enough.
template <class T, class Row, class Team, bool kSoft>
__global__ void __launch_bounds__(kTeam, is_float<T> && !kSoft ? 2 : 1)
    cross_entropy_rows(const __grid_constant__ CrossEntropyArgs args, std::int64_t rows) {
  __shared__ T shared[Team::shared_size];
  for (std::int64_t first = std::int64_t{1} * blockIdx.x * Team::rows; first < rows;
       first += std::int64_t{1} * gridDim.x * Team::rows) {
    Row row;
    row.team = Team{shared};
    const std::int64_t index = first + row.team.row();
    const bool inside = index < rows;
    row.n = inside ? args.classes : 0;
    const LossRow<T> at = find_row<T>(args, inside ? index : 0);
    row.load(at.x, args.class_strides[0]);
    if constexpr (kSoft) {
      soft_row<T>(args, row, at);
    } else {
      label_row<T>(args, row, at);
    }
  }
}

template <class T, class Row, class Team, bool kSoft = false>
void launch_rows(const CrossEntropyArgs& args, std::int64_t rows, cudaStream_t stream) {
  HOTLOOP_LAUNCH((cross_entropy_rows<T, Row, Team, kSoft>), blocks_for(rows, Team::rows), kTeam, 0,
                 stream, args, rows);
}

// Smoothed labels and probabilities, always read again: fewer kernels to compile.
template <class T>
void launch_soft(const CrossEntropyArgs& args, std::int64_t rows, cudaStream_t stream) {
  using Warp = WarpTeam<T>;
  using Block = BlockTeam<T>;
  using Column = ColumnTeam<T>;
  if (args.columns) return launch_rows<T, LongRow<T, Column>, Column, true>(args, rows, stream);
  if (args.classes <= 2048) return launch_rows<T, LongRow<T, Warp>, Warp, true>(args, rows, stream);
  launch_rows<T, LongRow<T, Block>, Block, true>(args, rows, stream);
}

template <class T>
void launch_cross_entropy(const CrossEntropyArgs& args, cudaStream_t stream) {
  std::int64_t rows = 1;
  for (int d = 0; d < args.row_dims; ++d) rows *= args.row_sizes[d];
  const bool has_labels = args.kind != RowLoss::probabilities;
  if (args.counted || (has_labels && args.check.fault)) launch_weighing<T>(args, rows, stream);
  if (args.kind == RowLoss::smooth || args.kind == RowLoss::probabilities) {
    return launch_soft<T>(args, rows, stream);
  }
  const bool packed = whole_packs<T>(args, args.classes, {args.logits, args.dlogits});
  choose_walk<T>(args.columns, packed, args.classes, [&](auto walk) {
    launch_rows<T, typename decltype(walk)::Row, typename decltype(walk)::Team>(args, rows, stream);
  });
}

// ---- element by element -----------------------------------------------------------------------

template <class T>
struct LossAndSlope {
  Lane<T> loss, slope;
};

// What PyTorch computes, and its derivative by x. `a` is the parameter.
template <class T>
__device__ __forceinline__ LossAndSlope<T> pair_value(PairLoss op, Lane<T> x, Lane<T> t, Lane<T> a,
                                                      Lane<T> pos_weight) {
  const Lane<T> zero{T(0)}, one{T(1)}, half{T(0.5)};
  const Lane<T> d = x - t, z = abs(d);
  const bool is_nan = !(d == d);
  switch (op) {
    case PairLoss::mse:
      return {d * d, d + d};
    case PairLoss::l1:
      return {z, is_nan ? d : sign_of(d)};
    case PairLoss::huber:
      return {z <= a ? half * d * d : a * (z - half * a), z <= a || is_nan ? d : a * sign_of(d)};
    case PairLoss::smooth_l1:
      return {z < a ? half * d * d / a : z - half * a, z < a || is_nan ? d / a : sign_of(d)};
    case PairLoss::bce: {
      const Lane<T> least{T(-100)}, tiny{T(1e-12)};
      return {(t - one) * max(log1p(-x), least) - t * max(log(x), least),
              d / max((one - x) * x, tiny)};
    }
    case PairLoss::bce_with_logits: {
      const Lane<T> positive = pos_weight * t, negative = one - t;
      const Lane<T> soft = log1p(exp(-abs(x))) + max(-x, zero);
      return {negative * x + (positive + negative) * soft,
              (positive + negative) * sigmoid(x) - positive};
    }
    case PairLoss::hinge_embedding: {
      const Lane<T> gap = a - x;
      const bool is_one = t == one, is_minus = t == -one;
      return {select(is_one, zero, max(gap, zero)) + select(is_minus, zero, x),
              select(is_minus, zero, one) - select(is_one || gap < zero, zero, one)};
    }
    case PairLoss::kl_div: {
      // t log t is 0 at 0; t x follows PyTorch, NaN for 0 times an infinity.
      const Lane<T> self = t == zero ? zero : t * log(t);
      return {self - t * x, -t};
    }
    case PairLoss::kl_div_log: {
      const Lane<T> e = exp(t);
      return {e * (t - x), -e};
    }
  }
  return {zero, zero};
}

// A block for each unit. Neighbouring threads take neighbours: 128 bytes of a warp, eight in turn.
template <class T>
__global__ void __launch_bounds__(kTeam)
    pair_chunks(const __grid_constant__ PairLossArgs args, std::int64_t units) {
  __shared__ T shared[kWarps];
  const Lane<T> scale{static_cast<T>(args.scale)}, a{static_cast<T>(args.parameter)};
  const auto from = [](const void* p, std::int64_t i) {
    return Lane<T>{p ? static_cast<const T*>(p)[i] : T(1)};
  };
  for (std::int64_t unit = blockIdx.x; unit < units; unit += gridDim.x) {
    const std::int64_t first = unit * kPairChunk;
    const std::int64_t stop = first + kPairChunk < args.n ? first + kPairChunk : args.n;
    Lane<T> total{T(0)};
    for (std::int64_t i = first + threadIdx.x; i < stop; i += kTeam) {
      const auto y = pair_value<T>(args.op, from(args.x, i), from(args.target, i), a,
                                   from(args.pos_weight, i));
      const Lane<T> weight = from(args.weight, i);
      const Lane<T> loss = args.weight ? y.loss * weight : y.loss;
      if (args.dx) {
        const Lane<T> slope = args.weight ? y.slope * weight : y.slope;
        static_cast<T*>(args.dx)[i] = (slope * scale).value;
      }
      if (args.losses) static_cast<T*>(args.losses)[i] = loss.value;
      total = total + loss;
    }
    const T sum = total_of_block<Sum>(total.value, shared);
    if (args.partials && threadIdx.x == 0) static_cast<T*>(args.partials)[unit] = sum;
  }
}

}  // namespace

HOTLOOP_CUDA_KERNEL(cross_entropy, CrossEntropyArgs) {
  if (args.dtype == DType::f32) {
    launch_cross_entropy<float>(args, stream);
  } else {
    launch_cross_entropy<double>(args, stream);
  }
}

HOTLOOP_CUDA_KERNEL(pair_loss, PairLossArgs) {
  const std::int64_t chunks = (args.n + kPairChunk - 1) / kPairChunk;
  const unsigned grid = blocks_for(chunks, 1);
  if (args.dtype == DType::f32) {
    HOTLOOP_LAUNCH((pair_chunks<float>), grid, kTeam, 0, stream, args, chunks);
  } else {
    HOTLOOP_LAUNCH((pair_chunks<double>), grid, kTeam, 0, stream, args, chunks);
  }
}

}  // namespace hotloop::cuda
