// Optimizer steps: one pass over parameter, gradient and state, whatever the rule. Bound by memory:
// Adam moves 28 bytes an element in float32; the division and the square root hide behind the
// loads. LAMB alone takes two passes, since the length of its step follows from the whole tensor.
#include "kernels/optimizer.h"

#include "engines/multi_tensor.h"
#include "simd/dot.h"

namespace hotloop::HOTLOOP_LEVEL {

namespace simd {

template <class T>
HOTLOOP_SIMD Vec<T> signum(Vec<T> x) {  // 0 where x is, NaN where x is
  const Vec<T> one = copysign(set1<T>(T(1)), x);
  return select((x == zero<T>()) | is_nan(x), x, one);
}

}  // namespace simd

namespace {

using math::OptimizerScalars;
using multi_tensor::Piece;
using simd::Vec;

template <class T>
[[gnu::always_inline]] static inline OptimizerScalars<Vec<T>> spread(
    const OptimizerScalars<double>& c) {
  const auto every = [](double x) { return simd::set1<T>(static_cast<T>(x)); };
  return {every(c.gradient),   every(c.lr),    every(c.decay), every(c.eps),
          every(c.beta1),      every(c.rest1), every(c.beta2), every(c.rest2),
          every(c.root_scale), every(c.extra), c.kind,         c.first,
          c.nesterov};
}

template <class T, OptimizerRule rule>
[[gnu::always_inline]] static inline void update(const OptimizerScalars<Vec<T>>& c, Vec<T>* x) {
  using enum OptimizerRule;
  if constexpr (rule == sgd) math::sgd_update(c, x);
  if constexpr (rule == momentum) math::momentum_update(c, x);
  if constexpr (rule == adam) math::adam_update<false>(c, x);
  if constexpr (rule == amsgrad) math::adam_update<true>(c, x);
  if constexpr (rule == adamax) math::adamax_update(c, x);
  if constexpr (rule == nadam) math::nadam_update(c, x);
  if constexpr (rule == rmsprop) math::rmsprop_update<false, false>(c, x);
  if constexpr (rule == rmsprop_momentum) math::rmsprop_update<true, false>(c, x);
  if constexpr (rule == rmsprop_centered) math::rmsprop_update<false, true>(c, x);
  if constexpr (rule == rmsprop_momentum_centered) math::rmsprop_update<true, true>(c, x);
  if constexpr (rule == adagrad) math::adagrad_update(c, x);
  if constexpr (rule == adadelta) math::adadelta_update(c, x);
  if constexpr (rule == lion) math::lion_update(c, x);
  if constexpr (rule == scale) x[0] = c.gradient * x[0];
  if constexpr (rule == clamp) {  // NaN stays
    x[0] = simd::min(simd::max(x[0], -c.eps), c.eps);
  }
}

// The sums of a piece in four chains (sums of 256 terms each), added to the block's.
template <class T, class Term>
[[gnu::always_inline]] static inline double block_sum(std::int64_t n, Term term) {
  constexpr int lanes = Vec<T>::lanes;
  Vec<T> sums[4] = {simd::zero<T>(), simd::zero<T>(), simd::zero<T>(), simd::zero<T>()};
  std::int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    for (int s = 0; s < 4; ++s) sums[s] = sums[s] + term(i + s * lanes, lanes);
  }
  for (; i < n; i += lanes) {
    sums[0] = sums[0] + term(i, n - i < lanes ? static_cast<int>(n - i) : lanes);
  }
  return static_cast<double>(simd::reduce_add((sums[0] + sums[1]) + (sums[2] + sums[3])));
}

template <class T, OptimizerRule rule>
static void reduce_piece(const OptimizerArgs& args, const Piece& piece) {
  const T* g = static_cast<const T*>(piece.at[0]);
  double* partial = args.partials + piece.unit;
  if constexpr (rule == OptimizerRule::largest) {
    Vec<T> most = simd::zero<T>();
    for (std::int64_t i = 0; i < piece.n; i += Vec<T>::lanes) {
      most = simd::max(most, simd::abs(simd::load_upto(g + i, piece.n - i)));
    }
    const double largest = static_cast<double>(simd::reduce_max(most));
    if (largest > *partial || largest != largest) *partial = largest;  // a NaN stays
    return;
  }
  *partial += block_sum<T>(piece.n, [&](std::int64_t i, int n) {
    const Vec<T> x = simd::load_upto(g + i, n);
    return rule == OptimizerRule::sum_squares ? x * x : simd::abs(x);
  });
}

template <class T>
static void lamb_moments(const OptimizerArgs& args, const Piece& piece) {
  const OptimizerScalars<Vec<T>> c = spread<T>(args.scalars);
  multi_tensor::each<T, 4, 0xc>(piece, [&](Vec<T>* x) __attribute__((always_inline)) {
    math::moments(c, c.gradient * x[1], x[2], x[3]);
  });
  const auto at = [&](int k, std::int64_t i, int n) {
    return simd::load_upto(static_cast<const T*>(piece.at[k]) + i, n);
  };
  double* partial = args.partials + 2 * piece.unit;
  partial[0] += block_sum<T>(piece.n, [&](std::int64_t i, int n) {
    const Vec<T> p = at(0, i, n);
    return p * p;
  });
  // Lanes beyond the end hold zeros; 0 / eps adds nothing, and 0 / 0 must not.
  partial[1] += block_sum<T>(piece.n, [&](std::int64_t i, int n) {
    const Vec<T> u = math::lamb_direction(c, at(0, i, n), at(2, i, n), at(3, i, n));
    return simd::select(simd::first_lanes<T>(n), u * u, simd::zero<T>());
  });
}

template <class T>
static void lamb_apply(const OptimizerArgs& args, const Piece& piece) {
  const OptimizerScalars<Vec<T>> c = spread<T>(args.scalars);
  const Vec<T> length = simd::set1<T>(static_cast<T>(piece.tensor->factor));
  multi_tensor::each<T, 4, 0x1>(piece, [&](Vec<T>* x) __attribute__((always_inline)) {
    x[0] = simd::fnma(length, math::lamb_direction(c, x[0], x[2], x[3]), x[0]);
  });
}

// The new parameters once more as bf16, out of the first-level cache.
template <class T>
static void copy_piece(const Piece& piece) {
  if constexpr (simd::is_float<T>) {
    const T* p = static_cast<const T*>(piece.at[0]);
    for (std::int64_t i = 0; i < piece.n; i += Vec<T>::lanes) {
      const std::int64_t left = piece.n - i;
      simd::store_bf16_upto(piece.copy + i, simd::load_upto(p + i, left), left);
    }
  }
}

template <class T, OptimizerRule rule, int kArrays, unsigned kWritten>
static void piece_body(const OptimizerArgs& args, const Piece& piece) {
  using enum OptimizerRule;
  if constexpr (rule == lamb_moments) {
    HOTLOOP_LEVEL::lamb_moments<T>(args, piece);
  } else if constexpr (rule == lamb_apply) {
    HOTLOOP_LEVEL::lamb_apply<T>(args, piece);
  } else if constexpr (kWritten == 0) {
    reduce_piece<T, rule>(args, piece);
  } else {
    const OptimizerScalars<Vec<T>> c = spread<T>(args.scalars);
    multi_tensor::each<T, kArrays, kWritten>(
        piece, [&](Vec<T>* x) __attribute__((always_inline)) { update<T, rule>(c, x); });
  }
  if constexpr ((kWritten & 1) != 0 && kArrays > 1) {
    if (piece.copy) copy_piece<T>(piece);
  }
}

template <class T>
static void run_rule(const OptimizerArgs& args, std::int64_t begin, std::int64_t end) {
  switch (args.rule) {
#define HOTLOOP_RULE_CASE(name, arrays, written)                                                   \
  case OptimizerRule::name:                                                                        \
    return multi_tensor::run<T>(args, piece_body<T, OptimizerRule::name, arrays, written>, arrays, \
                                written, begin, end);
    HOTLOOP_OPTIMIZER_RULES(HOTLOOP_RULE_CASE)
#undef HOTLOOP_RULE_CASE
  }
}

}  // namespace

void optimizer(const OptimizerArgs& args, std::int64_t begin, std::int64_t end) {
  args.dtype == DType::f32 ? run_rule<float>(args, begin, end) : run_rule<double>(args, begin, end);
}

}  // namespace hotloop::HOTLOOP_LEVEL
