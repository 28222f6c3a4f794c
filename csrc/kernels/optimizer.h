// Optimizer steps over a list of tensors, in place, in one launch. A work unit is a block of
// kOptimizerBlock elements of one tensor. PyTorch's semantics: math/optimizer.h.
#pragma once

#include "core/dispatch.h"

namespace hotloop {

constexpr std::int64_t kOptimizerBlock = 4096;
constexpr int kOptimizerArrays = 4;

// One tensor and what belongs to it (gradient, momenta), all of one shape. The axes are merged as
// far as the strides of all arrays allow; one axis of stride 1 is the usual case.
struct OptimizerTensor {
  void* array[kOptimizerArrays];
  std::int64_t first_unit;
  std::int64_t size;
  int ndim;
  const std::int64_t* shape;                      // [ndim]
  const std::int64_t* strides[kOptimizerArrays];  // [ndim] each, in elements
  bool dense;                                     // one axis of stride 1 in every array
};

struct SgdArgs {
  const OptimizerTensor* tensors;
  std::int64_t count;
  DType dtype;
  double lr, momentum, dampening, weight_decay;
  bool first;  // the momentum buffer takes the gradient
  bool nesterov;
};

struct AdamArgs {
  const OptimizerTensor* tensors;
  std::int64_t count;
  DType dtype;
  double one_minus_beta1, beta2, one_minus_beta2, step_size, root_scale, eps;
  double decay;  // weight_decay, or 1 - lr * weight_decay where it is decoupled
  bool has_decay;
};

HOTLOOP_KERNEL(sgd_step, SgdArgs)           // arrays: p, g
HOTLOOP_KERNEL(sgd_momentum_step, SgdArgs)  // arrays: p, g, buffer
HOTLOOP_KERNEL(adam_step, AdamArgs)         // arrays: p, g, m, v
HOTLOOP_KERNEL(adamw_step, AdamArgs)

}  // namespace hotloop
