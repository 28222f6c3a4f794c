// y = exp(x - max) / sum(exp(x - max)) and log y along one axis; dx from dy and y.
//
// Layout: any strides. A warp holds a row of up to 1024 neighbours in registers, a block one of up
// to 8192: each element is read once and written once. Longer rows, and rows that lie side by side
// (the axis is not the last one), are read twice.
#include "kernels/softmax.h"

#include "kernels/cuda/row.cuh"

namespace hotloop::cuda {
namespace {

template <class T, class Row>
__device__ __forceinline__ void forward_row(const SoftmaxArgs& args, Row& row, const T* x, T* out,
                                            bool log_wanted) {
  row.load(x, args.axis_strides[0]);
  const T top = row.top();
  if (log_wanted) {
    const T log_total = log_of(row.template powers<false>(top));
    // (x - top) first: top may be large, and its difference to x is exact where it matters.
    row.store(out, args.axis_strides[2], [=](T v, std::int64_t) { return v - top - log_total; });
  } else {
    const T scale = T(1) / row.template powers<true>(top);
    row.store(out, args.axis_strides[2],
              [=, &row](T v, std::int64_t) { return row.power(v, top) * scale; });
  }
}

template <class T, class Row>
__device__ __forceinline__ void backward_row(const SoftmaxArgs& args, Row& row, Row& saved,
                                             const T* dy, const T* y, T* out, bool log_wanted) {
  row.load(dy, args.axis_strides[0]);
  const std::int64_t y_stride = args.axis_strides[1];
  if constexpr (Row::held) {
    saved.load(y, y_stride);
    T sum = T(0);
    row.each_value(saved, [&](T& g, T v) { sum += log_wanted ? g : g * v; });
    const T total = row.team.template total<Sum>(sum);
    row.each_value(
        saved, [&](T& g, T v) { g = log_wanted ? fma_of(-exp_of(v), total, g) : v * (g - total); });
    row.store(out, args.axis_strides[2], [](T g, std::int64_t) { return g; });
  } else {
    const T total = row.template total<Sum>(
        [=](T g, std::int64_t i) { return log_wanted ? g : g * y[i * y_stride]; });
    row.store(out, args.axis_strides[2], [=](T g, std::int64_t i) {
      const T v = y[i * y_stride];
      return log_wanted ? fma_of(-exp_of(v), total, g) : v * (g - total);
    });
  }
}

template <class T, class Row, class Team, bool kBackward>
__global__ void __launch_bounds__(kTeam, 1)
    softmax_rows(const __grid_constant__ SoftmaxArgs args, std::int64_t rows) {
  __shared__ T shared[Team::shared_size];
  const Team team{shared};
  const bool log_wanted =
      args.op == SoftmaxOp::log_softmax || args.op == SoftmaxOp::log_softmax_backward;
  // A block's rows: all of them for threads that meet at barriers, which walk on together.
  for (std::int64_t first = std::int64_t{1} * blockIdx.x * Team::rows; first < rows;
       first += std::int64_t{1} * gridDim.x * Team::rows) {
    const std::int64_t index = first + team.row();
    const bool inside = index < rows;
    const auto at = [&](int k) {
      return offset_of(args.row_dims, args.row_sizes, args.row_strides[k], inside ? index : 0);
    };
    Row row, saved;
    row.team = saved.team = team;
    row.n = saved.n = inside ? args.n : 0;
    const T* a = static_cast<const T*>(args.a) + at(0);
    T* out = static_cast<T*>(args.out) + at(2);
    if constexpr (kBackward) {
      backward_row<T>(args, row, saved, a, static_cast<const T*>(args.b) + at(1), out, log_wanted);
    } else {
      forward_row<T>(args, row, a, out, log_wanted);
    }
  }
}

template <class T>
void launch_softmax(const SoftmaxArgs& args, cudaStream_t stream) {
  std::int64_t rows = 1;
  for (int d = 0; d < args.row_dims; ++d) rows *= args.row_sizes[d];
  const bool packed = whole_packs<T>(args, args.n, {args.a, args.b, args.out});
  choose_walk<T>(args.columns, packed, args.n, [&](auto walk) {
    using Row = typename decltype(walk)::Row;
    using Team = typename decltype(walk)::Team;
    const unsigned grid = blocks_for(rows, Team::rows);
    if (args.op == SoftmaxOp::softmax || args.op == SoftmaxOp::log_softmax) {
      HOTLOOP_LAUNCH((softmax_rows<T, Row, Team, false>), grid, kTeam, 0, stream, args, rows);
    } else {
      HOTLOOP_LAUNCH((softmax_rows<T, Row, Team, true>), grid, kTeam, 0, stream, args, rows);
    }
  });
}

}  // namespace

HOTLOOP_CUDA_KERNEL(softmax, SoftmaxArgs) {
  if (args.dtype == DType::f32) {
    launch_softmax<float>(args, stream);
  } else {
    launch_softmax<double>(args, stream);
  }
}

}  // namespace hotloop::cuda
