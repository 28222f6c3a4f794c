// out = op over the reduced axes of x: sum, max, min, product, squares, variance, logsumexp.
//
// Layout: any strides. Rows: a warp or a block walks the terms of an output, 16 bytes at once where
// they are neighbours. Columns: lanes are neighbouring outputs, eight threads down each of them.
// Few outputs of many terms are cut into chunks, whose states a second kernel merges in their
// order; sizes alone decide the cut.
#include "kernels/cuda/states.cuh"

namespace hotloop::cuda {
namespace {

constexpr int kChains = 4;                 // independent states of a thread
constexpr std::int64_t kBlockTerms = 512;  // from here on a block for an output, not a warp
constexpr std::int64_t kLeastChunk = 4096, kMostBlocks = 2048;

enum class Shape : std::int32_t { warps, blocks, columns };

// How a reduction is cut.
struct Cut {
  Shape shape;
  bool packed;  // the terms are neighbours, 16 bytes of them aligned
  std::int64_t chunk, chunks, outer, columns;
};

template <class T>
Cut cut(const ReduceArgs& args) {
  Cut c{};
  c.columns = args.columns ? args.kept_sizes[args.kept_dims - 1] : 1;
  c.outer = c.columns > 0 ? args.outputs / c.columns : 0;
  c.shape = args.columns                  ? Shape::columns
            : args.reduced >= kBlockTerms ? Shape::blocks
                                          : Shape::warps;
  c.packed = c.shape == Shape::blocks && args.reduced_dims == 1 && args.reduced_strides[0] == 1 &&
             aligned16(args.x);
  for (int d = 0; d < args.kept_dims; ++d) {
    c.packed = c.packed && (args.kept_sizes[d] == 1 || args.kept_strides[d] % kPackOf<T> == 0);
  }
  const std::int64_t blocks =
      args.columns ? c.outer * ((c.columns + kAcross - 1) / kAcross) : args.outputs;
  const std::int64_t least = args.columns ? kLeastChunk / kAcross : kLeastChunk;
  c.chunk = args.reduced > 0 ? args.reduced : 1;
  c.chunks = 1;
  if (blocks > 0 && blocks < kMostBlocks / 2 && args.reduced >= 2 * least) {
    const std::int64_t most = kMostBlocks / blocks;
    c.chunk = (args.reduced + most - 1) / most;
    c.chunk = ((c.chunk < least ? least : c.chunk) + 255) / 256 * 256;
    c.chunks = (args.reduced + c.chunk - 1) / c.chunk;
  }
  return c;
}

// The state of the terms rank, rank + members, ... of [first, last).
template <class T, class State>
__device__ __forceinline__ State walk(const ReduceArgs& args, const T* x, std::int64_t first,
                                      std::int64_t last, int rank, int members, bool packed) {
  typename State::Chain chain[kChains];
  HOTLOOP_UNROLL_ALL
  for (int k = 0; k < kChains; ++k) chain[k].start(args.op);
  std::int64_t i = first + rank;
  if (packed) {
    constexpr int width = kPackOf<T>;
    std::int64_t p = first + std::int64_t{width} * rank;
    for (; p + width <= last; p += std::int64_t{width} * members) {
      const auto pack = *reinterpret_cast<const RowPack<T, width>*>(x + p);
      HOTLOOP_UNROLL_ALL
      for (int k = 0; k < width; ++k) chain[k].add(pack.at[k], args.op);
    }
    i = first + (last - first) / width * width + rank;  // what is left over
  }
  const bool single = args.reduced_dims == 1;
  const auto term = [&](std::int64_t at) {
    return x[single ? at * args.reduced_strides[0]
                    : offset_of(args.reduced_dims, args.reduced_sizes, args.reduced_strides, at)];
  };
  for (; i + std::int64_t{kChains - 1} * members < last; i += std::int64_t{kChains} * members) {
    T value[kChains];
    HOTLOOP_UNROLL_ALL
    for (int k = 0; k < kChains; ++k) value[k] = term(i + std::int64_t{k} * members);
    HOTLOOP_UNROLL_ALL
    for (int k = 0; k < kChains; ++k) chain[k].add(value[k], args.op);
  }
  for (; i < last; i += members) chain[0].add(term(i), args.op);
  State state = chain[0].settled();
  HOTLOOP_UNROLL_ALL
  for (int k = 1; k < kChains; ++k) state.merge(chain[k].settled(), args.op);
  return state;
}

template <class T>
__device__ __forceinline__ T* place_of(const ReduceArgs& args, std::int64_t output) {
  return static_cast<T*>(args.out) +
         offset_of(args.kept_dims, args.kept_sizes, args.out_strides, output);
}

template <class T>
__device__ __forceinline__ T divisor_of(const ReduceArgs& args) {
  return static_cast<T>(args.divisor_at ? *args.divisor_at : args.divisor);
}

// A result, or, where there are chunks, their states: [output][chunk].
template <class T, class State>
__device__ __forceinline__ void put(const ReduceArgs& args, const Cut& c, const State& state,
                                    std::int64_t output, std::int64_t chunk) {
  if (c.chunks == 1) {
    *place_of<T>(args, output) = state.result(divisor_of<T>(args));
  } else {
    static_cast<State*>(args.scratch)[output * c.chunks + chunk] = state;
  }
}

template <class T, class State>
__global__ void __launch_bounds__(kTeam, 1)
    reduce_rows(const __grid_constant__ ReduceArgs args, const __grid_constant__ Cut c) {
  __shared__ State shared[kWarps];
  const bool warps = c.shape == Shape::warps;
  const std::int64_t units = args.outputs * c.chunks, each = warps ? kWarps : 1;
  const int thread = static_cast<int>(threadIdx.x);
  for (std::int64_t base = blockIdx.x * each; base < units; base += gridDim.x * each) {
    const std::int64_t unit = base + (warps ? thread / kWarp : 0);
    if (unit >= units) break;  // a whole warp
    const std::int64_t output = unit / c.chunks, first = unit % c.chunks * c.chunk;
    const std::int64_t last = first + c.chunk < args.reduced ? first + c.chunk : args.reduced;
    const T* x = static_cast<const T*>(args.x) +
                 offset_of(args.kept_dims, args.kept_sizes, args.kept_strides, output);
    State state = walk<T, State>(args, x, first, last, warps ? thread % kWarp : thread,
                                 warps ? kWarp : kTeam, c.packed);
    if (warps) {
      merge_warp(state, args.op);
    } else {
      merge_block(state, shared, args.op);
    }
    if (warps ? thread % kWarp == 0 : thread == 0) {
      put<T>(args, c, state, output, unit % c.chunks);
    }
  }
}

template <class T, class State>
__global__ void __launch_bounds__(kTeam, 1)
    reduce_columns(const __grid_constant__ ReduceArgs args, const __grid_constant__ Cut c) {
  __shared__ State shared[kTeam];
  const int inner = args.kept_dims - 1, lane = static_cast<int>(threadIdx.x) % kAcross;
  const std::int64_t strips = (c.columns + kAcross - 1) / kAcross;
  for (std::int64_t unit = blockIdx.x; unit < c.outer * strips * c.chunks; unit += gridDim.x) {
    const std::int64_t strip = unit / c.chunks, first = unit % c.chunks * c.chunk;
    const std::int64_t column = strip % strips * kAcross + lane;
    const bool inside = column < c.columns;
    const std::int64_t output = strip / strips * c.columns + (inside ? column : 0);
    const std::int64_t stop = first + c.chunk < args.reduced ? first + c.chunk : args.reduced;
    const T* x = static_cast<const T*>(args.x) + (inside ? column : 0) * args.kept_strides[inner];
    if (inner > 0) x += offset_of(inner, args.kept_sizes, args.kept_strides, strip / strips);
    State state = walk<T, State>(args, x, first, inside ? stop : first,
                                 static_cast<int>(threadIdx.x) / kAcross, kTeam / kAcross, false);
    merge_columns(state, shared, args.op);
    if (inside && threadIdx.x < kAcross) put<T>(args, c, state, output, unit % c.chunks);
  }
}

// A warp for each output merges the states of its chunks.
template <class T, class State>
__global__ void __launch_bounds__(kTeam, 1)
    reduce_chunks(const __grid_constant__ ReduceArgs args, const __grid_constant__ Cut c) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (std::int64_t output =
           std::int64_t{1} * blockIdx.x * kWarps + static_cast<int>(threadIdx.x) / kWarp;
       output < args.outputs; output += std::int64_t{1} * gridDim.x * kWarps) {
    const State* states = static_cast<const State*>(args.scratch) + output * c.chunks;
    State state;
    state.start(args.op);
    for (std::int64_t chunk = lane; chunk < c.chunks; chunk += kWarp) {
      state.merge(states[chunk], args.op);
    }
    merge_warp(state, args.op);
    if (lane == 0) *place_of<T>(args, output) = state.result(divisor_of<T>(args));
  }
}

template <class T, class State>
void launch_reduce(const ReduceArgs& args, cudaStream_t stream) {
  const Cut c = cut<T>(args);
  if (args.outputs == 0) return;
  if (c.shape == Shape::columns) {
    const std::int64_t strips = c.outer * ((c.columns + kAcross - 1) / kAcross);
    HOTLOOP_LAUNCH((reduce_columns<T, State>), blocks_for(strips * c.chunks, 1), kTeam, 0, stream,
                   args, c);
  } else {
    const std::int64_t each = c.shape == Shape::warps ? kWarps : 1;
    HOTLOOP_LAUNCH((reduce_rows<T, State>), blocks_for(args.outputs * c.chunks, each), kTeam, 0,
                   stream, args, c);
  }
  if (c.chunks > 1) {
    HOTLOOP_LAUNCH((reduce_chunks<T, State>), blocks_for(args.outputs, kWarps), kTeam, 0, stream,
                   args, c);
  }
}

template <class T>
void launch_op(const ReduceArgs& args, cudaStream_t stream) {
  switch (args.op) {
    case ReduceOp::sum:
    case ReduceOp::squares:
      return launch_reduce<T, SumState<T>>(args, stream);
    case ReduceOp::var:
      return launch_reduce<T, MomentState<T>>(args, stream);
    case ReduceOp::logsumexp:
      return launch_reduce<T, ExponentialState<T>>(args, stream);
    default:
      return launch_reduce<T, ExtremeState<T>>(args, stream);
  }
}

void launch_any(const ReduceArgs& args, cudaStream_t stream) {
  if (args.dtype == DType::f32) {
    launch_op<float>(args, stream);
  } else {
    launch_op<double>(args, stream);
  }
}

std::int64_t scratch_of(const ReduceArgs& args) {
  const bool wide = args.dtype != DType::f32;
  const Cut c = wide ? cut<double>(args) : cut<float>(args);
  return c.chunks > 1 ? args.outputs * c.chunks * (wide ? 24 : 12) : 0;
}

}  // namespace

HOTLOOP_CUDA_WORKSPACE(reduce, ReduceArgs) {
  return scratch_of(args);
}
HOTLOOP_CUDA_KERNEL(reduce, ReduceArgs) {
  launch_any(args, stream);
}
HOTLOOP_CUDA_WORKSPACE(pair_reduce, ReduceArgs) {
  return scratch_of(args);
}
HOTLOOP_CUDA_KERNEL(pair_reduce, ReduceArgs) {
  launch_any(args, stream);
}

}  // namespace hotloop::cuda
