// Along one axis: the place of the extreme, and the running sum.
//
// The first extreme counts, and a NaN is more extreme than any number, as in PyTorch. Lines of
// neighbours: a warp or a block each; lines that lie side by side: lanes across them. Running sums
// are kept in float64.
#include "kernels/cuda/states.cuh"

namespace hotloop::cuda {
namespace {

// An extreme and its place; -1: none yet.
template <class T>
struct PlaceState {
  T best;
  std::int64_t place;
  bool smallest;

  __device__ void add(T x, std::int64_t at) {
    const bool mine = best != best, theirs = x != x;
    bool wins = place < 0;
    if (!wins && at >= 0) {
      const bool beats = smallest ? x < best : x > best;
      const bool equal = mine || theirs ? mine && theirs : x == best;
      wins = mine ? equal && at < place : theirs || beats || (equal && at < place);
    }
    if (!wins) return;
    best = x;
    place = at;
  }
  __device__ void merge(const PlaceState& other, ReduceOp) { add(other.best, other.place); }
  __device__ PlaceState above(int step) const {
    return {shuffle_down(best, step), shuffle_down(place, step), smallest};
  }
};

template <class T>
__device__ __forceinline__ const T* line_of(const AlongArgs& args, std::int64_t line) {
  return static_cast<const T*>(args.x) +
         offset_of(args.kept_dims, args.kept_sizes, args.kept_strides, line);
}

template <class T, bool kBlock>
__global__ void __launch_bounds__(kTeam, 1)
    index_lines(const __grid_constant__ AlongArgs args, std::int64_t lines) {
  __shared__ PlaceState<T> shared[kWarps];
  constexpr int each = kBlock ? 1 : kWarps, members = kBlock ? kTeam : kWarp;
  const int thread = static_cast<int>(threadIdx.x), rank = thread % members;
  for (std::int64_t line = std::int64_t{each} * blockIdx.x + thread / members; line < lines;
       line += std::int64_t{each} * gridDim.x) {
    const T* x = line_of<T>(args, line);
    PlaceState<T> state{T(0), -1, args.smallest};
    for (std::int64_t i = rank; i < args.size; i += members) state.add(x[i * args.stride], i);
    if constexpr (kBlock) {
      merge_block(state, shared, ReduceOp::max);
    } else {
      merge_warp(state, ReduceOp::max);
    }
    if (rank == 0) static_cast<std::int64_t*>(args.out)[line] = state.place;
  }
}

template <class T>
__global__ void __launch_bounds__(kTeam, 1)
    index_columns(const __grid_constant__ AlongArgs args, std::int64_t lines) {
  __shared__ PlaceState<T> shared[kTeam];
  const int thread = static_cast<int>(threadIdx.x);
  for (std::int64_t base = std::int64_t{kAcross} * blockIdx.x; base < lines;
       base += std::int64_t{kAcross} * gridDim.x) {
    const std::int64_t line = base + thread % kAcross;
    const bool inside = line < lines;
    const T* x = line_of<T>(args, inside ? line : 0);
    PlaceState<T> state{T(0), -1, args.smallest};
    for (std::int64_t i = thread / kAcross; inside && i < args.size; i += kTeam / kAcross) {
      state.add(x[i * args.stride], i);
    }
    merge_columns(state, shared, ReduceOp::max);
    if (inside && thread < kAcross) static_cast<std::int64_t*>(args.out)[line] = state.place;
  }
}

template <class T>
__device__ __forceinline__ T* sums_of(const AlongArgs& args, std::int64_t line) {
  return static_cast<T*>(args.out) +
         offset_of(args.kept_dims, args.kept_sizes, args.out_strides, line);
}

// A warp for each line, 32 terms at a time.
template <class T>
__global__ void __launch_bounds__(kTeam, 1)
    sum_lines(const __grid_constant__ AlongArgs args, std::int64_t lines) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (std::int64_t line =
           std::int64_t{kWarps} * blockIdx.x + static_cast<int>(threadIdx.x) / kWarp;
       line < lines; line += std::int64_t{kWarps} * gridDim.x) {
    const T* x = line_of<T>(args, line);
    T* out = sums_of<T>(args, line);
    double before = 0.0;
    for (std::int64_t first = 0; first < args.size; first += kWarp) {
      const std::int64_t i = first + lane;
      double sum = i < args.size ? static_cast<double>(x[i * args.stride]) : 0.0;
      HOTLOOP_UNROLL_ALL
      for (int step = 1; step < kWarp; step *= 2) {
        const double other = __shfl_up_sync(kAllLanes, sum, static_cast<unsigned>(step));
        if (lane >= step) sum += other;
      }
      if (i < args.size) out[i * args.out_stride] = static_cast<T>(before + sum);
      before += __shfl_sync(kAllLanes, sum, kWarp - 1);
    }
  }
}

// A thread for each line, neighbours side by side.
template <class T>
__global__ void __launch_bounds__(kTeam, 1)
    sum_columns(const __grid_constant__ AlongArgs args, std::int64_t lines) {
  for (std::int64_t line = std::int64_t{kTeam} * blockIdx.x + threadIdx.x; line < lines;
       line += std::int64_t{kTeam} * gridDim.x) {
    const T* x = line_of<T>(args, line);
    T* out = sums_of<T>(args, line);
    double sum = 0.0;
    for (std::int64_t i = 0; i < args.size; ++i) {
      sum += static_cast<double>(x[i * args.stride]);
      out[i * args.out_stride] = static_cast<T>(sum);
    }
  }
}

std::int64_t lines_of(const AlongArgs& args) {
  std::int64_t lines = 1;
  for (int d = 0; d < args.kept_dims; ++d) lines *= args.kept_sizes[d];
  return lines;
}

template <class T>
void launch_index(const AlongArgs& args, std::int64_t lines, cudaStream_t stream) {
  if (args.columns) {
    HOTLOOP_LAUNCH((index_columns<T>), blocks_for(lines, kAcross), kTeam, 0, stream, args, lines);
  } else if (args.size >= 512) {
    HOTLOOP_LAUNCH((index_lines<T, true>), blocks_for(lines, 1), kTeam, 0, stream, args, lines);
  } else {
    HOTLOOP_LAUNCH((index_lines<T, false>), blocks_for(lines, kWarps), kTeam, 0, stream, args,
                   lines);
  }
}
template <class T>
void launch_sums(const AlongArgs& args, std::int64_t lines, cudaStream_t stream) {
  if (args.columns) {
    HOTLOOP_LAUNCH((sum_columns<T>), blocks_for(lines, kTeam), kTeam, 0, stream, args, lines);
  } else {
    HOTLOOP_LAUNCH((sum_lines<T>), blocks_for(lines, kWarps), kTeam, 0, stream, args, lines);
  }
}

}  // namespace

HOTLOOP_CUDA_KERNEL(index_along, AlongArgs) {
  const std::int64_t lines = lines_of(args);
  if (lines == 0) return;
  if (args.dtype == DType::f32) {
    launch_index<float>(args, lines, stream);
  } else {
    launch_index<double>(args, lines, stream);
  }
}

HOTLOOP_CUDA_KERNEL(running_sum, AlongArgs) {
  const std::int64_t lines = lines_of(args);
  if (lines == 0) return;
  if (args.dtype == DType::f32) {
    launch_sums<float>(args, lines, stream);
  } else {
    launch_sums<double>(args, lines, stream);
  }
}

}  // namespace hotloop::cuda
