// SGD, Adam and AdamW: one pass over parameter, gradient and momenta. Bound by memory: Adam moves
// 28 bytes an element in float32. The division and the square root hide behind the loads.
#include "kernels/optimizer.h"

#include "engines/multi_tensor.h"
#include "math/optimizer.h"

namespace hotloop::HOTLOOP_LEVEL {

namespace {

template <class T>
simd::Vec<T> constant(double value) {
  return simd::set1<T>(static_cast<T>(value));
}

template <class T, bool kMomentum>
void sgd(const SgdArgs& args, std::int64_t begin, std::int64_t end) {
  using V = simd::Vec<T>;
  const math::SgdConstants<V> c{constant<T>(args.lr),
                                constant<T>(args.momentum),
                                constant<T>(1.0 - args.dampening),
                                constant<T>(args.weight_decay),
                                args.weight_decay != 0.0,
                                args.first,
                                args.nesterov};
  const auto update = [&](V* x) {
    if constexpr (kMomentum) {
      math::momentum_update(c, x[0], x[1], x[2]);
    } else {
      math::sgd_update(c, x[0], x[1]);
    }
  };
  multi_tensor::run<T, kMomentum ? 3 : 2>(update, args.tensors, args.count, begin, end);
}

template <class T, bool kDecoupled>
void adam(const AdamArgs& args, std::int64_t begin, std::int64_t end) {
  using V = simd::Vec<T>;
  const math::AdamConstants<V> c{constant<T>(args.one_minus_beta1), constant<T>(args.beta2),
                                 constant<T>(args.one_minus_beta2), constant<T>(args.step_size),
                                 constant<T>(args.root_scale),      constant<T>(args.eps),
                                 constant<T>(args.decay),           args.has_decay};
  const auto update = [&](V* x) { math::adam_update<kDecoupled>(c, x[0], x[1], x[2], x[3]); };
  multi_tensor::run<T, 4>(update, args.tensors, args.count, begin, end);
}

}  // namespace

void sgd_step(const SgdArgs& args, std::int64_t begin, std::int64_t end) {
  args.dtype == DType::f32 ? sgd<float, false>(args, begin, end)
                           : sgd<double, false>(args, begin, end);
}

void sgd_momentum_step(const SgdArgs& args, std::int64_t begin, std::int64_t end) {
  args.dtype == DType::f32 ? sgd<float, true>(args, begin, end)
                           : sgd<double, true>(args, begin, end);
}

void adam_step(const AdamArgs& args, std::int64_t begin, std::int64_t end) {
  args.dtype == DType::f32 ? adam<float, false>(args, begin, end)
                           : adam<double, false>(args, begin, end);
}

void adamw_step(const AdamArgs& args, std::int64_t begin, std::int64_t end) {
  args.dtype == DType::f32 ? adam<float, true>(args, begin, end)
                           : adam<double, true>(args, begin, end);
}

}  // namespace hotloop::HOTLOOP_LEVEL
