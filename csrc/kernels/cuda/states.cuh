// What a reduction carries from element to element: add() takes one, merge() another state, in an
// order that the shapes fix.
#pragma once

#include "kernels/cuda/row.cuh"
#include "kernels/reduce.h"

namespace hotloop::cuda {

template <class T>
__device__ __forceinline__ T shuffle_down(T value, int step) {
  return __shfl_down_sync(kAllLanes, value, static_cast<unsigned>(step));
}

template <class T>
struct SumState {
  using Chain = SumState;
  T total;
  __device__ void start(ReduceOp) { total = T(0); }
  __device__ void add(T x, ReduceOp op) { total += op == ReduceOp::squares ? x * x : x; }
  __device__ SumState settled() const { return *this; }
  __device__ void merge(const SumState& other, ReduceOp) { total += other.total; }
  __device__ SumState<T> above(int step) const { return {shuffle_down(total, step)}; }
  __device__ T result(T divisor) const { return total / divisor; }
};

// max, min (NaN is handed on) and prod.
template <class T>
struct ExtremeState {
  using Chain = ExtremeState;
  T best;
  __device__ void start(ReduceOp op) {
    best = op == ReduceOp::prod ? T(1) : op == ReduceOp::max ? least_of<T>() : -least_of<T>();
  }
  __device__ void add(T x, ReduceOp op) {
    if (op == ReduceOp::prod) {
      best *= x;
    } else if (best == best) {
      best = (op == ReduceOp::max ? best > x : best < x) ? best : x;
    }
  }
  __device__ ExtremeState settled() const { return *this; }
  __device__ void merge(const ExtremeState& other, ReduceOp op) { add(other.best, op); }
  __device__ ExtremeState<T> above(int step) const { return {shuffle_down(best, step)}; }
  __device__ T result(T divisor) const { return best / divisor; }
};

// The same while a thread adds elements: sums around its first one. (Welford's running mean stops
// to move where 1 / count is less than its last digit.)
template <class T>
struct MomentChain;

// Mean and squared distances from it, merged as Chan, Golub and LeVeque 1979.
template <class T>
struct MomentState {
  using Chain = MomentChain<T>;
  T count, mean, squares;
  __device__ void start(ReduceOp = ReduceOp::var) { count = mean = squares = T(0); }
  __device__ void merge(const MomentState& other, ReduceOp = ReduceOp::var) {
    if (other.count == T(0)) return;
    const T both = count + other.count, share = other.count / both;
    const T apart = other.mean - mean;
    mean = count == T(0) ? other.mean : fma_of(apart, share, mean);
    squares += other.squares + apart * apart * (count * share);
    count = both;
  }
  __device__ MomentState<T> above(int step) const {
    return {shuffle_down(count, step), shuffle_down(mean, step), shuffle_down(squares, step)};
  }
  __device__ T result(T divisor) const { return squares / divisor; }
};
template <class T>
struct MomentChain {
  T count, pilot, sum, squares;
  __device__ void start(ReduceOp = ReduceOp::var) { count = pilot = sum = squares = T(0); }
  __device__ void add(T x, ReduceOp = ReduceOp::var) {
    if (count == T(0)) pilot = x;
    const T apart = x - pilot;
    count += T(1);
    sum += apart;
    squares = fma_of(apart, apart, squares);
  }
  __device__ MomentState<T> settled() const {
    if (count == T(0)) return {T(0), T(0), T(0)};
    const T off = sum / count, rest = fma_of(-off, sum, squares);
    return {count, pilot + off, rest < T(0) ? T(0) : rest};
  }
};

// The largest and the sum of e^(x - largest).
template <class T>
struct ExponentialState {
  using Chain = ExponentialState;
  T top, sum;
  __device__ void start(ReduceOp) {
    top = least_of<T>();
    sum = T(0);
  }
  __device__ void add(T x, ReduceOp) { merge_one(x, T(1)); }
  __device__ ExponentialState settled() const { return *this; }
  __device__ void merge(const ExponentialState& other, ReduceOp) {
    merge_one(other.top, other.sum);
  }
  __device__ ExponentialState<T> above(int step) const {
    return {shuffle_down(top, step), shuffle_down(sum, step)};
  }
  __device__ T result(T) const { return log_of(sum) + base_of(top); }
  // Infinite differences would be NaN; a NaN or +inf in x comes out through its exponential.
  static __device__ T base_of(T x) { return x == least_of<T>() || x == -least_of<T>() ? T(0) : x; }
  __device__ void merge_one(T x, T count) {
    const T before = top;
    top = x != x || x > top ? x : top;
    const T base = base_of(top);
    sum = sum * exp_of(before - base) + count * exp_of(x - base);
  }
};

// Two sums.
template <class T>
struct PairState {
  using Chain = PairState;
  T first, second;
  __device__ PairState settled() const { return *this; }
  __device__ void start(ReduceOp = ReduceOp::sum) { first = second = T(0); }
  __device__ void merge(const PairState& other, ReduceOp = ReduceOp::sum) {
    first += other.first;
    second += other.second;
  }
  __device__ PairState<T> above(int step) const {
    return {shuffle_down(first, step), shuffle_down(second, step)};
  }
};
template <class State>
inline constexpr bool kIsPair = false;
template <class T>
inline constexpr bool kIsPair<PairState<T>> = true;

template <class T>
__device__ __forceinline__ MomentState<double> widen(const MomentState<T>& s) {
  return {static_cast<double>(s.count), static_cast<double>(s.mean),
          static_cast<double>(s.squares)};
}
template <class T>
__device__ __forceinline__ PairState<double> widen(const PairState<T>& s) {
  return {static_cast<double>(s.first), static_cast<double>(s.second)};
}

// ---- merged across threads --------------------------------------------------------------------

// Lane 0 gets the state of its warp.
template <class State>
__device__ __forceinline__ void merge_warp(State& state, ReduceOp op) {
  HOTLOOP_UNROLL_ALL
  for (int step = kWarp / 2; step > 0; step /= 2) state.merge(state.above(step), op);
}
// Thread 0 gets the state of its block; `shared` holds kWarps of them, free again on return.
template <class State>
__device__ __forceinline__ void merge_block(State& state, State* shared, ReduceOp op) {
  const int thread = static_cast<int>(threadIdx.x);
  merge_warp(state, op);
  if (thread % kWarp == 0) shared[thread / kWarp] = state;
  __syncthreads();
  if (thread == 0) {
    for (int warp = 1; warp < kWarps; ++warp) state.merge(shared[warp], op);
  }
  __syncthreads();
}
// The first kAcross threads get the states of the columns; `shared` holds one for each thread.
template <class State>
__device__ __forceinline__ void merge_columns(State& state, State* shared, ReduceOp op) {
  const int thread = static_cast<int>(threadIdx.x);
  shared[thread] = state;
  __syncthreads();
  if (thread < kAcross) {
    for (int at = thread + kAcross; at < kTeam; at += kAcross) state.merge(shared[at], op);
  }
  __syncthreads();
}

// Merges `count` neighbouring states in float64; lane 0 of the warp gets the result.
template <class Wide, class State>
__device__ __forceinline__ Wide merged(const State* states, std::int64_t count) {
  Wide total;
  total.start();
  for (std::int64_t i = threadIdx.x % kWarp; i < count; i += kWarp) {
    total.merge(widen(states[i]));
  }
  merge_warp(total, ReduceOp::var);
  return total;
}
__device__ __forceinline__ std::int64_t warp_index() {
  return std::int64_t{kWarps} * blockIdx.x + threadIdx.x / kWarp;
}

}  // namespace hotloop::cuda
