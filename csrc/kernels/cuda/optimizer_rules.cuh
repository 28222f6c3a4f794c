// The rules of optimizers element by element, what an element adds to its block's sums, and what
// all kernels of a launch see. For optimizer.cu alone.
#pragma once

#include "kernels/cuda/row.cuh"
#include "kernels/optimizer.h"

namespace hotloop::cuda {

template <class T>
__device__ __forceinline__ Lane<T> signum(Lane<T> x) {  // 0 where x is, NaN where x is
  return x == x ? sign_of(x) : x;
}

namespace {

using math::OptimizerScalars;

template <class T>
__device__ __forceinline__ OptimizerScalars<Lane<T>> spread(const OptimizerScalars<double>& c) {
  const auto every = [](double x) { return Lane<T>{static_cast<T>(x)}; };
  return {every(c.gradient),   every(c.lr),    every(c.decay), every(c.eps),
          every(c.beta1),      every(c.rest1), every(c.beta2), every(c.rest2),
          every(c.root_scale), every(c.extra), c.kind,         c.first,
          c.nesterov};
}

// Arrays of a rule, and which of them it writes, as bits.
struct RuleArrays {
  int count;
  unsigned written;
};
constexpr RuleArrays arrays_of(OptimizerRule rule) {
  switch (rule) {
#define HOTLOOP_RULE_CASE(name, arrays, written) \
  case OptimizerRule::name:                      \
    return {arrays, written};
    HOTLOOP_OPTIMIZER_RULES(HOTLOOP_RULE_CASE)
#undef HOTLOOP_RULE_CASE
  }
  return {0, 0};
}
template <OptimizerRule rule>
constexpr int kArraysOf = arrays_of(rule).count;
constexpr bool sums_up(OptimizerRule rule) {
  return arrays_of(rule).written == 0 || rule == OptimizerRule::lamb_moments;
}

// One element of a rule with kArrays arrays; 0: of any.
template <int kArrays, class V>
__device__ __forceinline__ void update(OptimizerRule rule, const OptimizerScalars<V>& c, V length,
                                       V* x) {
#define HOTLOOP_UPDATE(name, body)                                           \
  if constexpr (kArrays == 0 || kArrays == kArraysOf<OptimizerRule::name>) { \
    if (rule == OptimizerRule::name) {                                       \
      body;                                                                  \
      return;                                                                \
    }                                                                        \
  }
  HOTLOOP_UPDATE(sgd, math::sgd_update(c, x))
  HOTLOOP_UPDATE(momentum, math::momentum_update(c, x))
  HOTLOOP_UPDATE(adam, math::adam_update<false>(c, x))
  HOTLOOP_UPDATE(amsgrad, math::adam_update<true>(c, x))
  HOTLOOP_UPDATE(adamax, math::adamax_update(c, x))
  HOTLOOP_UPDATE(nadam, math::nadam_update(c, x))
  HOTLOOP_UPDATE(rmsprop, (math::rmsprop_update<false, false>(c, x)))
  HOTLOOP_UPDATE(rmsprop_momentum, (math::rmsprop_update<true, false>(c, x)))
  HOTLOOP_UPDATE(rmsprop_centered, (math::rmsprop_update<false, true>(c, x)))
  HOTLOOP_UPDATE(rmsprop_momentum_centered, (math::rmsprop_update<true, true>(c, x)))
  HOTLOOP_UPDATE(adagrad, math::adagrad_update(c, x))
  HOTLOOP_UPDATE(adadelta, math::adadelta_update(c, x))
  HOTLOOP_UPDATE(lion, math::lion_update(c, x))
  HOTLOOP_UPDATE(lamb_moments, math::moments(c, c.gradient * x[1], x[2], x[3]))
  HOTLOOP_UPDATE(lamb_apply, x[0] = fnma(length, math::lamb_direction(c, x[0], x[2], x[3]), x[0]))
  HOTLOOP_UPDATE(scale, x[0] = c.gradient * x[0])
  HOTLOOP_UPDATE(clamp, x[0] = min(max(x[0], -c.eps), c.eps))  // NaN stays
#undef HOTLOOP_UPDATE
}

// What an element adds to its block's sums, and how.
struct Sums {
  double first, second;

  template <class V>
  __device__ __forceinline__ void add(OptimizerRule rule, const OptimizerScalars<V>& c,
                                      const V* x) {
    if (rule == OptimizerRule::lamb_moments) {
      const V u = math::lamb_direction(c, x[0], x[2], x[3]);
      first += static_cast<double>((x[0] * x[0]).value);
      second += static_cast<double>((u * u).value);
    } else if (rule == OptimizerRule::sum_squares) {
      first += static_cast<double>((x[0] * x[0]).value);
    } else if (rule == OptimizerRule::sum_abs) {
      first += static_cast<double>(abs(x[0]).value);
    } else {
      first = larger(first, static_cast<double>(abs(x[0]).value));
    }
  }
  static __device__ __forceinline__ double larger(double a, double b) {  // NaN stays
    return a != a || a > b ? a : b;
  }
};
struct Larger {
  template <class T>
  __device__ static T combine(T a, T b) {
    return Sums::larger(a, b);
  }
};

__device__ __forceinline__ void store_sums(OptimizerRule rule, const Sums& sums, double* partials,
                                           std::int64_t unit, double* shared) {
  const bool pairs = rule == OptimizerRule::lamb_moments;
  const double first = rule == OptimizerRule::largest ? total_of_block<Larger>(sums.first, shared)
                                                      : total_of_block<Sum>(sums.first, shared);
  const double second = pairs ? total_of_block<Sum>(sums.second, shared) : 0.0;
  if (threadIdx.x != 0) return;
  partials[pairs ? 2 * unit : unit] = first;
  if (pairs) partials[2 * unit + 1] = second;
}

// What all kernels of a launch see.
struct Common {
  OptimizerScalars<double> scalars;
  const OptimizerScalars<double>* moved;  // instead, on the device
  OptimizerRule rule;
  unsigned written;
  double* partials;
  const double* factors;
};

template <class T>
__device__ __forceinline__ OptimizerScalars<Lane<T>> scalars_of(const Common& common) {
  return spread<T>(common.moved ? *common.moved : common.scalars);
}

}  // namespace
}  // namespace hotloop::cuda
