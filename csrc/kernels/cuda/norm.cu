// Statistics of channels, and what follows from them. With d = x - mean and x^ = d rstd:
//   y  = d (rstd weight) + bias
//   dx = rstd (weight dy - mean(weight dy) - x^ mean(weight dy x^)), dweight = sum dy x^,
//   dbias = sum dy (Ioffe and Szegedy, arXiv 1502.03167; Wu and He, arXiv 1803.08494).
//
// Layout: channels last (lanes are neighbouring channels) or first (lanes run along the positions).
// Chunks of a set's positions leave their states (Welford's moments, or two sums), which are merged
// in double, in an order that the sizes fix. Then one pass over the elements, 16 bytes at once
// where the strides allow it.
#include "kernels/norm.h"

#include "kernels/cuda/activate.cuh"
#include "kernels/cuda/states.cuh"

namespace hotloop::cuda {
namespace {

constexpr std::int64_t kLeastPositions = 256, kMostBlocks = 2048;

// How the positions of a set are cut, and where in the scratch things lie.
struct Plan {
  std::int64_t positions, chunk, chunks;  // of a set
  void* states;                           // [set][channel][chunk]
  double* sums;                           // backward: [dbias, dweight][set][channel]
  void* slopes;                           // backward: [shift, slope][set][group]
};

template <class T>
Plan plan_of(const NormArgs& args) {
  Plan plan{};
  plan.positions = args.sets == 1 ? args.n * args.s : args.s;
  const std::int64_t blocks =
      args.sets * (args.channels_last ? (args.c + kAcross - 1) / kAcross : args.c);
  const std::int64_t least = args.channels_last ? kLeastPositions : 8 * kLeastPositions;
  const std::int64_t most = blocks < kMostBlocks ? kMostBlocks / blocks : 1;
  plan.chunk = (plan.positions + most - 1) / most;
  if (plan.chunk < least) plan.chunk = least;
  plan.chunks = (plan.positions + plan.chunk - 1) / plan.chunk;
  char* at = static_cast<char*>(args.scratch);
  const std::int64_t channels = args.sets * args.c;
  plan.sums = reinterpret_cast<double*>(at);
  at += 2 * channels * 8;
  plan.slopes = at;
  at += 2 * channels * 8;
  plan.states = at;
  return plan;
}
std::int64_t scratch_of(const NormArgs& args) {
  const bool wide = args.dtype != DType::f32;
  const Plan plan = wide ? plan_of<double>(args) : plan_of<float>(args);
  return args.sets * args.c * (32 + plan.chunks * (wide ? 24 : 12));
}

__device__ __forceinline__ std::int64_t statistic_of(const NormArgs& args, std::int64_t set,
                                                     std::int64_t c) {
  return set * (args.c / args.per_group) + (args.per_group == 1 ? c : c / args.per_group);
}

// The state of positions first + rank, first + rank + members, ... of a channel.
template <class T, class State>
__device__ __forceinline__ State walk(const NormArgs& args, std::int64_t set, std::int64_t c,
                                      std::int64_t first, std::int64_t last, int rank,
                                      int members) {
  const T* x = static_cast<const T*>(args.x) + c * args.x_strides.c;
  const T* dy = static_cast<const T*>(args.other) + c * args.other_strides.c;
  const T center = kIsPair<State> && last > first
                       ? static_cast<const T*>(args.mean)[statistic_of(args, set, c)]
                       : T(0);
  const bool split = args.sets == 1 && args.n > 1;
  typename State::Chain state;
  state.start();
  constexpr int together = 4;
  const auto value = [&](std::int64_t at, T& v, T& g) {
    const std::int64_t n = split ? at / args.s : set, s = split ? at - n * args.s : at;
    v = x[n * args.x_strides.n + s * args.x_strides.s];
    if constexpr (kIsPair<State>) {
      g = dy[n * args.other_strides.n + s * args.other_strides.s];
    }
  };
  const auto add = [&](T v, [[maybe_unused]] T g) {
    if constexpr (kIsPair<State>) {
      state.first += g;
      state.second = fma_of(g, v - center, state.second);
    } else {
      state.add(v);
    }
  };
  std::int64_t at = first + rank;
  for (; at + std::int64_t{together - 1} * members < last; at += std::int64_t{together} * members) {
    T v[together], g[together];
    HOTLOOP_UNROLL_ALL
    for (int k = 0; k < together; ++k) value(at + std::int64_t{k} * members, v[k], g[k]);
    HOTLOOP_UNROLL_ALL
    for (int k = 0; k < together; ++k) add(v[k], g[k]);
  }
  for (; at < last; at += members) {
    T v, g = T(0);
    value(at, v, g);
    add(v, g);
  }
  return state.settled();
}

template <class T, class State, bool kLast>
__global__ void __launch_bounds__(kTeam, 1)
    norm_states(const __grid_constant__ NormArgs args, const __grid_constant__ Plan plan) {
  __shared__ State shared[kLast ? kTeam : kWarps];
  const int thread = static_cast<int>(threadIdx.x);
  const std::int64_t strips = kLast ? (args.c + kAcross - 1) / kAcross : args.c;
  for (std::int64_t unit = blockIdx.x; unit < args.sets * strips * plan.chunks; unit += gridDim.x) {
    const std::int64_t chunk = unit / strips % plan.chunks, set = unit / strips / plan.chunks;
    const std::int64_t c = unit % strips * (kLast ? kAcross : 1) + (kLast ? thread % kAcross : 0);
    const std::int64_t first = chunk * plan.chunk;
    std::int64_t last = first + plan.chunk < plan.positions ? first + plan.chunk : plan.positions;
    if (c >= args.c) last = first;
    State state =
        walk<T, State>(args, set, c < args.c ? c : 0, first, last,
                       kLast ? thread / kAcross : thread, kLast ? kTeam / kAcross : kTeam);
    if constexpr (kLast) {
      merge_columns(state, shared, ReduceOp::var);
    } else {
      merge_block(state, shared, ReduceOp::var);
    }
    if (thread < (kLast ? kAcross : 1) && c < args.c) {
      static_cast<State*>(plan.states)[(set * args.c + c) * plan.chunks + chunk] = state;
    }
  }
}

// A warp for each statistic.
template <class T>
__global__ void __launch_bounds__(kTeam, 1)
    norm_finish(const __grid_constant__ NormArgs args, const __grid_constant__ Plan plan) {
  const std::int64_t statistics = args.sets * (args.c / args.per_group);
  for (std::int64_t i = warp_index(); i < statistics; i += std::int64_t{kWarps} * gridDim.x) {
    const std::int64_t count = args.per_group * plan.chunks;
    const auto found = merged<MomentState<double>>(
        static_cast<const MomentState<T>*>(plan.states) + i * count, count);
    if (threadIdx.x % kWarp != 0) continue;
    const double variance = found.squares / found.count;
    args.moments[i] = found.mean;
    args.moments[statistics + i] = variance;
    static_cast<T*>(args.mean)[i] = static_cast<T>(found.mean);
    static_cast<T*>(args.rstd)[i] = static_cast<T>(1.0 / ::sqrt(variance + args.eps));
  }
}

// A warp for each channel of a set: what it adds to dbias and dweight.
template <class T>
__global__ void __launch_bounds__(kTeam, 1)
    norm_sums(const __grid_constant__ NormArgs args, const __grid_constant__ Plan plan) {
  const std::int64_t channels = args.sets * args.c;
  for (std::int64_t i = warp_index(); i < channels; i += std::int64_t{kWarps} * gridDim.x) {
    const auto found = merged<PairState<double>>(
        static_cast<const PairState<T>*>(plan.states) + i * plan.chunks, plan.chunks);
    if (threadIdx.x % kWarp != 0) continue;
    const T rstd = static_cast<const T*>(args.rstd)[statistic_of(args, i / args.c, i % args.c)];
    plan.sums[i] = found.first;
    plan.sums[channels + i] = found.second * static_cast<double>(rstd);
  }
}

// A warp for each statistic: the means of weight dy and weight dy x^ as shift and slope of dx. Then
// a warp for each channel: dbias and dweight.
template <class T>
__global__ void __launch_bounds__(kTeam, 1)
    norm_slopes(const __grid_constant__ NormArgs args, const __grid_constant__ Plan plan) {
  const std::int64_t groups = args.c / args.per_group, statistics = args.sets * groups;
  const std::int64_t channels = args.sets * args.c;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const T* weight = static_cast<const T*>(args.weight);
  for (std::int64_t unit = warp_index(); unit < statistics + args.c;
       unit += std::int64_t{kWarps} * gridDim.x) {
    const bool slopes = unit < statistics;
    const std::int64_t first = slopes ? unit * args.per_group : unit - statistics;
    const std::int64_t terms = slopes ? args.per_group : args.sets;
    double plain = 0.0, product = 0.0;
    for (std::int64_t k = lane; k < terms; k += kWarp) {
      const std::int64_t at = first + k * (slopes ? 1 : args.c);
      const double factor = slopes && weight ? static_cast<double>(weight[at % args.c]) : 1.0;
      plain += factor * plan.sums[at];
      product += factor * plan.sums[channels + at];
    }
    plain = total_of_warp<Sum>(plain);
    product = total_of_warp<Sum>(product);
    if (lane != 0) continue;
    if (slopes) {
      const double count = static_cast<double>(plan.positions * args.per_group);
      const double r = static_cast<double>(static_cast<const T*>(args.rstd)[unit]);
      T* const out = static_cast<T*>(plan.slopes);
      out[unit] = static_cast<T>(-r * plain / count);
      out[statistics + unit] = static_cast<T>(-r * r * product / count);
    } else {
      if (args.dbias) static_cast<T*>(args.dbias)[first] = static_cast<T>(plain);
      if (args.dweight) static_cast<T*>(args.dweight)[first] = static_cast<T>(product);
    }
  }
}

// ---- the result -------------------------------------------------------------------------------

// kPack elements at once along the channels (last) or the positions (first).
template <class T, int kPack, bool kBackward>
__global__ void __launch_bounds__(kTeam, 1)
    norm_apply(const __grid_constant__ NormArgs args, const __grid_constant__ Plan plan) {
  const bool last = args.channels_last;
  const std::int64_t fast = (last ? args.c : args.s) / kPack, middle = last ? args.s : args.c;
  const auto place = [&](const NormStrides& strides, std::int64_t n, std::int64_t m,
                         std::int64_t f) {
    return n * strides.n + (last ? m * strides.s + f * strides.c : m * strides.c + f * strides.s);
  };
  const T *weight = static_cast<const T*>(args.weight), *bias = static_cast<const T*>(args.bias);
  const T* slopes = static_cast<const T*>(plan.slopes);
  const std::int64_t statistics = args.sets * (args.c / args.per_group);
  using Elements = RowPack<T, kPack>;
  for (std::int64_t i = std::int64_t{kTeam} * blockIdx.x + threadIdx.x; i < args.n * middle * fast;
       i += std::int64_t{kTeam} * gridDim.x) {
    const std::int64_t row = i / fast, f = (i - row * fast) * kPack;
    const std::int64_t n = row / middle, m = row - n * middle;
    Elements x, other{};
    if (!kBackward || !args.constant) {
      x = *reinterpret_cast<const Elements*>(static_cast<const T*>(args.x) +
                                             place(args.x_strides, n, m, f));
    }
    if (args.other) {
      other = *reinterpret_cast<const Elements*>(static_cast<const T*>(args.other) +
                                                 place(args.other_strides, n, m, f));
    }
    Elements y;
    HOTLOOP_UNROLL_ALL
    for (int k = 0; k < kPack; ++k) {
      const std::int64_t c = last ? f + k : m;
      const std::int64_t at = statistic_of(args, args.sets == 1 ? 0 : n, c);
      const T center = static_cast<const T*>(args.mean)[at];
      const T rstd = static_cast<const T*>(args.rstd)[at];
      const T scale = weight ? rstd * weight[c] : rstd;
      if constexpr (kBackward) {
        y.at[k] = args.constant
                      ? other.at[k] * scale
                      : fma_of(other.at[k], scale,
                               fma_of(x.at[k] - center, slopes[statistics + at], slopes[at]));
      } else {
        y.at[k] = fma_of(x.at[k] - center, scale, bias ? bias[c] : T(0));
        if (args.other) y.at[k] += other.at[k];
      }
    }
    if constexpr (!kBackward) {
      HOTLOOP_UNROLL_ALL
      for (int k = 0; k < kPack; ++k) {
        if (args.activation == Activation::relu) {
          y.at[k] = formula::relu(Lane<T>{y.at[k]}, 0.0).value;
        } else if (args.activation != Activation::none) {
          y.at[k] = activate(args.activation, y.at[k], args.alpha);
        }
      }
    }
    *reinterpret_cast<Elements*>(static_cast<T*>(args.out) + place(args.out_strides, n, m, f)) = y;
  }
}

template <class T>
bool packs(const NormArgs& args) {
  const std::int64_t pack = kPackOf<T>;
  if (!is_float<T> || (args.channels_last ? args.c : args.s) % pack != 0) return false;
  bool fits = aligned16(args.x) && aligned16(args.other) && aligned16(args.out);
  const NormStrides* all[] = {&args.x_strides, &args.other_strides, &args.out_strides};
  const void* used[] = {args.x, args.other, args.out};
  for (int k = 0; k < 3; ++k) {
    if (!used[k]) continue;
    const std::int64_t fast = args.channels_last ? all[k]->c : all[k]->s;
    const std::int64_t middle = args.channels_last ? all[k]->s : all[k]->c;
    const bool one = (args.channels_last ? args.s : args.c) == 1;
    fits =
        fits && fast == 1 && (one || middle % pack == 0) && (args.n == 1 || all[k]->n % pack == 0);
  }
  return fits;
}

template <class T, bool kBackward>
void launch_apply(const NormArgs& args, const Plan& plan, cudaStream_t stream) {
  const std::int64_t elements = args.n * args.s * args.c;
  if constexpr (is_float<T>) {
    if (packs<T>(args)) {
      HOTLOOP_LAUNCH((norm_apply<T, kPackOf<T>, kBackward>),
                     blocks_for(elements / kPackOf<T>, kTeam), kTeam, 0, stream, args, plan);
      return;
    }
  }
  HOTLOOP_LAUNCH((norm_apply<T, 1, kBackward>), blocks_for(elements, kTeam), kTeam, 0, stream, args,
                 plan);
}

template <class T, class State>
void launch_states(const NormArgs& args, const Plan& plan, cudaStream_t stream) {
  if (args.channels_last) {
    const std::int64_t strips = (args.c + kAcross - 1) / kAcross;
    HOTLOOP_LAUNCH((norm_states<T, State, true>), blocks_for(args.sets * strips * plan.chunks, 1),
                   kTeam, 0, stream, args, plan);
  } else {
    HOTLOOP_LAUNCH((norm_states<T, State, false>), blocks_for(args.sets * args.c * plan.chunks, 1),
                   kTeam, 0, stream, args, plan);
  }
}

template <class T>
void launch_forward(const NormArgs& args, cudaStream_t stream) {
  const Plan plan = plan_of<T>(args);
  if (args.moments) {
    launch_states<T, MomentState<T>>(args, plan, stream);
    HOTLOOP_LAUNCH((norm_finish<T>), blocks_for(args.sets * (args.c / args.per_group), kWarps),
                   kTeam, 0, stream, args, plan);
  }
  launch_apply<T, false>(args, plan, stream);
}

template <class T>
void launch_backward(const NormArgs& args, cudaStream_t stream) {
  const Plan plan = plan_of<T>(args);
  const std::int64_t statistics = args.sets * (args.c / args.per_group);
  launch_states<T, PairState<T>>(args, plan, stream);
  HOTLOOP_LAUNCH((norm_sums<T>), blocks_for(args.sets * args.c, kWarps), kTeam, 0, stream, args,
                 plan);
  HOTLOOP_LAUNCH((norm_slopes<T>), blocks_for(statistics + args.c, kWarps), kTeam, 0, stream, args,
                 plan);
  launch_apply<T, true>(args, plan, stream);
}

// ---- running statistics -------------------------------------------------------------------------

template <class T>
__global__ void __launch_bounds__(kTeam)
    update_running(const __grid_constant__ NormRunningArgs args) {
  const std::int64_t c = std::int64_t{kTeam} * blockIdx.x + threadIdx.x;
  if (c >= args.c) return;
  double mean = 0.0, variance = 0.0;
  for (std::int64_t set = 0; set < args.sets; ++set) {
    mean += args.moments[set * args.c + c];
    variance += args.moments[(args.sets + set) * args.c + c];
  }
  const auto mix = [&](T& value, double fresh) {
    value = static_cast<T>((1.0 - args.momentum) * static_cast<double>(value) +
                           args.momentum * fresh / static_cast<double>(args.sets));
  };
  mix(static_cast<T*>(args.running_mean)[c * args.mean_stride], mean);
  mix(static_cast<T*>(args.running_var)[c * args.var_stride], args.factor * variance);
}

template <class T>
__global__ void __launch_bounds__(kTeam)
    settle_running(const __grid_constant__ NormRunningArgs args) {
  const std::int64_t c = std::int64_t{kTeam} * blockIdx.x + threadIdx.x;
  if (c >= args.c) return;
  const double variance =
      static_cast<double>(static_cast<const T*>(args.running_var)[c * args.var_stride]);
  static_cast<T*>(args.mean)[c] = static_cast<const T*>(args.running_mean)[c * args.mean_stride];
  static_cast<T*>(args.rstd)[c] = static_cast<T>(1.0 / ::sqrt(variance + args.eps));
}

}  // namespace

HOTLOOP_CUDA_WORKSPACE(norm_forward, NormArgs) {
  return scratch_of(args);
}
HOTLOOP_CUDA_KERNEL(norm_forward, NormArgs) {
  if (args.n * args.s * args.c == 0) return;
  if (args.dtype == DType::f32) {
    launch_forward<float>(args, stream);
  } else {
    launch_forward<double>(args, stream);
  }
}

HOTLOOP_CUDA_WORKSPACE(norm_backward, NormArgs) {
  return scratch_of(args);
}
HOTLOOP_CUDA_KERNEL(norm_backward, NormArgs) {
  if (args.n * args.s * args.c == 0) return;
  if (args.dtype == DType::f32) {
    launch_backward<float>(args, stream);
  } else {
    launch_backward<double>(args, stream);
  }
}

HOTLOOP_CUDA_KERNEL(norm_update, NormRunningArgs) {
  if (args.dtype == DType::f32) {
    HOTLOOP_LAUNCH((update_running<float>), blocks_for(args.c, kTeam), kTeam, 0, stream, args);
  } else {
    HOTLOOP_LAUNCH((update_running<double>), blocks_for(args.c, kTeam), kTeam, 0, stream, args);
  }
}
HOTLOOP_CUDA_KERNEL(norm_settle, NormRunningArgs) {
  if (args.dtype == DType::f32) {
    HOTLOOP_LAUNCH((settle_running<float>), blocks_for(args.c, kTeam), kTeam, 0, stream, args);
  } else {
    HOTLOOP_LAUNCH((settle_running<double>), blocks_for(args.c, kTeam), kTeam, 0, stream, args);
  }
}

}  // namespace hotloop::cuda
