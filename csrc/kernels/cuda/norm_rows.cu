// Layer norm: y = (x - mean) rstd weight + bias along a row; RMS norm: y = x rstd weight with
// rstd = 1 / sqrt(mean(x^2) + eps). Backward, with x^ = (x - mean) rstd and g = weight dy:
//   dx = rstd (g - mean(g) - x^ mean(g x^)), dweight = sum dy x^, dbias = sum dy
// (Ba et al., arXiv 1607.06450; Zhang and Sennrich, arXiv 1910.07467; RMS norm without mean(g)).
//
// Layout: dense rows. A warp or a block holds a row in registers, or reads it again. The variance
// is that of the differences from the mean, in a second pass. dweight and dbias are summed over
// chunks of rows, 32 columns of a block, and over the chunks in float64.
#include "kernels/cuda/activate.cuh"
#include "kernels/cuda/states.cuh"
#include "kernels/norm.h"

namespace hotloop::cuda {
namespace {

constexpr std::int64_t kLeastRows = 64, kMostBlocks = 1024;

template <class T>
struct Statistics {
  T mean, rstd;
};

template <class T, class Row>
__device__ __forceinline__ Statistics<T> statistics_of(const RowNormArgs& args, Row& row) {
  const double share = 1.0 / static_cast<double>(args.n);
  if (args.rms) {
    const T squares = row.template total<Sum>([](T x, std::int64_t) { return x * x; });
    return {T(0), static_cast<T>(1.0 / ::sqrt(static_cast<double>(squares) * share + args.eps))};
  }
  const T sum = row.template total<Sum>([](T x, std::int64_t) { return x; });
  const T near = static_cast<T>(static_cast<double>(sum) * share);
  const T rest = row.template total<Sum>([=](T x, std::int64_t) { return x - near; });
  const T squares =
      row.template total<Sum>([=](T x, std::int64_t) { return (x - near) * (x - near); });
  const double off = static_cast<double>(rest) * share;
  const double variance = static_cast<double>(squares) * share - off * off;
  return {static_cast<T>(static_cast<double>(near) + off),
          static_cast<T>(
              1.0 / ::sqrt((variance > 0.0 || variance != variance ? variance : 0.0) + args.eps))};
}

template <class T, class Row>
__device__ __forceinline__ void forward_row(const RowNormArgs& args, Row& row, Row& other,
                                            std::int64_t index, bool inside) {
  const T *weight = static_cast<const T*>(args.weight), *bias = static_cast<const T*>(args.bias);
  row.load(static_cast<const T*>(args.x) + index * args.x_stride, 1);
  if (args.other) {
    const T* more = static_cast<const T*>(args.other) + index * args.other_stride;
    T* total = static_cast<T*>(args.total) + index * args.n;
    if constexpr (Row::held) {
      other.load(more, 1);
      row.each_value(other, [](T& x, T y) { x += y; });
      row.store(total, 1, [](T x, std::int64_t) { return x; });
    } else {
      row.store(total, 1, [=](T x, std::int64_t i) { return x + more[i]; });
      row.load(total, 1);  // each thread reads what it wrote
    }
  }
  const Statistics<T> found = statistics_of<T>(args, row);
  if (row.team.rank() == 0 && inside) {
    if (args.mean) static_cast<T*>(args.mean)[index] = found.mean;
    static_cast<T*>(args.rstd)[index] = found.rstd;
  }
  row.store(static_cast<T*>(args.out) + index * args.out_stride, 1, [=](T x, std::int64_t i) {
    T y = (x - found.mean) * found.rstd;
    if (weight) y *= weight[i];
    if (bias) y += bias[i];
    // Rows in registers are unrolled: ten activations for each element would be too much code.
    if constexpr (!Row::held) y = activate(args.activation, y, args.alpha);
    return y;
  });
}

template <class T, class Row>
__device__ __forceinline__ void backward_row(const RowNormArgs& args, Row& row, Row& other,
                                             std::int64_t index, bool) {
  const T* weight = static_cast<const T*>(args.weight);
  const T* dy = static_cast<const T*>(args.other) + index * args.other_stride;
  T* dx = static_cast<T*>(args.out) + index * args.out_stride;
  const T rstd = static_cast<const T*>(args.rstd)[index];
  const T mean = args.rms ? T(0) : static_cast<const T*>(args.mean)[index];
  const T share = T(1) / static_cast<T>(args.n);
  const bool rms = args.rms;
  row.load(static_cast<const T*>(args.x) + index * args.x_stride, 1);
  if constexpr (Row::held) {
    other.load(dy, 1);
    if (weight) other.each([=](T& g, std::int64_t i) { g *= weight[i]; });
    const T plain = other.template total<Sum>([](T g, std::int64_t) { return g; });
    T product = T(0);
    row.each_value(other, [&](T& x, T g) {
      x = (x - mean) * rstd;
      product = fma_of(g, x, product);
    });
    const T slope = row.team.template total<Sum>(product) * share;
    const T shift = rms ? T(0) : plain * share;
    row.each_value(other, [=](T& x, T g) { x = rstd * (g - shift - x * slope); });
    row.store(dx, 1, [](T x, std::int64_t) { return x; });
  } else {
    const auto at = [=](std::int64_t i) { return weight ? dy[i] * weight[i] : dy[i]; };
    const T plain = row.template total<Sum>([=](T, std::int64_t i) { return at(i); });
    const T product =
        row.template total<Sum>([=](T x, std::int64_t i) { return at(i) * ((x - mean) * rstd); });
    const T slope = product * share, shift = rms ? T(0) : plain * share;
    row.store(dx, 1, [=](T x, std::int64_t i) {
      return rstd * (at(i) - shift - (x - mean) * rstd * slope);
    });
  }
}

template <class T, class Row, class Team, bool kBackward>
__global__ void __launch_bounds__(kTeam, 1) norm_rows(const __grid_constant__ RowNormArgs args) {
  __shared__ T shared[Team::shared_size];
  for (std::int64_t first = std::int64_t{1} * blockIdx.x * Team::rows; first < args.rows;
       first += std::int64_t{1} * gridDim.x * Team::rows) {
    Row row, other;
    row.team = other.team = Team{shared};
    const std::int64_t index = first + row.team.row();
    const bool inside = index < args.rows;
    row.n = other.n = inside ? args.n : 0;
    if constexpr (kBackward) {
      backward_row<T>(args, row, other, inside ? index : 0, inside);
    } else {
      forward_row<T>(args, row, other, inside ? index : 0, inside);
    }
  }
}

// Whether every row begins at a multiple of 16 bytes, and is whole packs.
template <class T>
bool packs(const RowNormArgs& args) {
  const std::int64_t pack = kPackOf<T>;
  return args.n % pack == 0 && aligned16(args.x) && aligned16(args.other) && aligned16(args.out) &&
         aligned16(args.total) && args.x_stride % pack == 0 && args.out_stride % pack == 0 &&
         (!args.other || args.other_stride % pack == 0);
}

template <class T, class Row, class Team, bool kBackward>
void launch_team(const RowNormArgs& args, cudaStream_t stream) {
  HOTLOOP_LAUNCH((norm_rows<T, Row, Team, kBackward>), blocks_for(args.rows, Team::rows), kTeam, 0,
                 stream, args);
}

template <class T, bool kBackward>
void launch_rows(const RowNormArgs& args, cudaStream_t stream) {
  using Warp = WarpTeam<T>;
  using Block = BlockTeam<T>;
  if constexpr (is_float<T>) {
    if (packs<T>(args) && (kBackward || args.activation == Activation::none)) {
      using Short = HeldRow<T, Warp, kPackOf<T>, 8>;
      using Middle = HeldRow<T, Block, kPackOf<T>, 8>;
      if (args.n <= Short::longest) return launch_team<T, Short, Warp, kBackward>(args, stream);
      if (args.n <= Middle::longest) return launch_team<T, Middle, Block, kBackward>(args, stream);
    }
  }
  if (args.n <= 1024) return launch_team<T, LongRow<T, Warp>, Warp, kBackward>(args, stream);
  launch_team<T, LongRow<T, Block>, Block, kBackward>(args, stream);
}

// ---- dweight and dbias ------------------------------------------------------------------------

struct Cut {
  std::int64_t chunk, chunks;  // rows
};

Cut cut_of(const RowNormArgs& args) {
  const std::int64_t strips = (args.n + kAcross - 1) / kAcross;
  const std::int64_t most = strips < kMostBlocks ? kMostBlocks / (strips > 0 ? strips : 1) : 1;
  Cut cut{(args.rows + most - 1) / most, 0};
  if (cut.chunk < kLeastRows) cut.chunk = kLeastRows;
  cut.chunks = (args.rows + cut.chunk - 1) / cut.chunk;
  return cut;
}

template <class T>
__global__ void __launch_bounds__(kTeam, 1)
    affine_chunks(const __grid_constant__ RowNormArgs args, const __grid_constant__ Cut cut) {
  __shared__ PairState<T> shared[kTeam];
  const int thread = static_cast<int>(threadIdx.x);
  const std::int64_t strips = (args.n + kAcross - 1) / kAcross;
  for (std::int64_t unit = blockIdx.x; unit < strips * cut.chunks; unit += gridDim.x) {
    const std::int64_t i = unit % strips * kAcross + thread % kAcross, chunk = unit / strips;
    const std::int64_t stop = (chunk + 1) * cut.chunk;
    const std::int64_t last = i >= args.n ? 0 : stop < args.rows ? stop : args.rows;
    PairState<T> state;
    state.start();
    for (std::int64_t r = chunk * cut.chunk + thread / kAcross; r < last; r += kTeam / kAcross) {
      const T g = static_cast<const T*>(args.other)[r * args.other_stride + i];
      const T x = static_cast<const T*>(args.x)[r * args.x_stride + i];
      const T mean = args.rms ? T(0) : static_cast<const T*>(args.mean)[r];
      state.first = fma_of(g, (x - mean) * static_cast<const T*>(args.rstd)[r], state.first);
      state.second += g;
    }
    merge_columns(state, shared, ReduceOp::sum);
    if (thread < kAcross && i < args.n) {
      static_cast<PairState<T>*>(args.scratch)[i * cut.chunks + chunk] = state;
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kTeam, 1)
    affine_merged(const __grid_constant__ RowNormArgs args, const __grid_constant__ Cut cut) {
  for (std::int64_t i = warp_index(); i < args.n; i += std::int64_t{kWarps} * gridDim.x) {
    const auto found = merged<PairState<double>>(
        static_cast<const PairState<T>*>(args.scratch) + i * cut.chunks, cut.chunks);
    if (threadIdx.x % kWarp != 0) continue;
    if (args.dweight) static_cast<T*>(args.dweight)[i] = static_cast<T>(found.first);
    if (args.dbias) static_cast<T*>(args.dbias)[i] = static_cast<T>(found.second);
  }
}

// First: dx may take the place of x or dy.
template <class T>
void launch_backward(const RowNormArgs& args, cudaStream_t stream) {
  if (args.dweight || args.dbias) {
    const Cut cut = cut_of(args);
    const std::int64_t strips = (args.n + kAcross - 1) / kAcross;
    if (cut.chunks > 0) {
      HOTLOOP_LAUNCH((affine_chunks<T>), blocks_for(strips * cut.chunks, 1), kTeam, 0, stream, args,
                     cut);
    }
    HOTLOOP_LAUNCH((affine_merged<T>), blocks_for(args.n, kWarps), kTeam, 0, stream, args, cut);
  }
  if (args.rows > 0) launch_rows<T, true>(args, stream);
}

}  // namespace

HOTLOOP_CUDA_KERNEL(row_norm, RowNormArgs) {
  if (args.n == 0) return;
  if (args.dtype == DType::f32) {
    launch_rows<float, false>(args, stream);
  } else {
    launch_rows<double, false>(args, stream);
  }
}

HOTLOOP_CUDA_WORKSPACE(row_norm_backward, RowNormArgs) {
  return 2 * args.n * cut_of(args).chunks * (args.dtype == DType::f32 ? 4 : 8);
}
HOTLOOP_CUDA_KERNEL(row_norm_backward, RowNormArgs) {
  if (args.n == 0) return;
  if (args.dtype == DType::f32) {
    launch_backward<float>(args, stream);
  } else {
    launch_backward<double>(args, stream);
  }
}

}  // namespace hotloop::cuda
