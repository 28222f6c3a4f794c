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
  T total;
  __device__ void start(ReduceOp) { total = T(0); }
  __device__ void add(T x, ReduceOp op) { total += op == ReduceOp::squares ? x * x : x; }
  __device__ void merge(const SumState& other, ReduceOp) { total += other.total; }
  __device__ SumState<T> above(int step) const { return {shuffle_down(total, step)}; }
  __device__ T result(T divisor) const { return total / divisor; }
};

// max, min (NaN is handed on) and prod.
template <class T>
struct ExtremeState {
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
  __device__ void merge(const ExtremeState& other, ReduceOp op) { add(other.best, op); }
  __device__ ExtremeState<T> above(int step) const { return {shuffle_down(best, step)}; }
  __device__ T result(T divisor) const { return best / divisor; }
};

// Mean and squared distances from it (Welford 1962; merged as Chan, Golub and LeVeque 1979).
template <class T>
struct MomentState {
  T count, mean, squares;
  __device__ void start(ReduceOp = ReduceOp::var) { count = mean = squares = T(0); }
  __device__ void add(T x, ReduceOp = ReduceOp::var) {
    count += T(1);
    const T apart = x - mean;
    mean += apart / count;
    squares = fma_of(apart, x - mean, squares);
  }
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

// The largest and the sum of e^(x - largest).
template <class T>
struct ExponentialState {
  T top, sum;
  __device__ void start(ReduceOp) {
    top = least_of<T>();
    sum = T(0);
  }
  __device__ void add(T x, ReduceOp) { merge_one(x, T(1)); }
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

}  // namespace hotloop::cuda
