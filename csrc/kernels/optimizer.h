// Optimizer steps over a list of tensors, in place, in one launch, and what goes with them: the
// norm of all gradients, their scaling and clamping. A work unit is a block of kOptimizerBlock
// elements of one tensor. Formulas: math/optimizer.h.
#pragma once

#include "core/dispatch.h"
#include "math/optimizer.h"

namespace hotloop {

constexpr std::int64_t kOptimizerBlock = 4096;
constexpr int kOptimizerArrays = 5;

// Each rule with the number of its arrays and which of them it writes (bit k: array k). The
// parameter comes first, then the gradient, then the state; norms, scaling and clamping take one
// array alone.
#define HOTLOOP_OPTIMIZER_RULES(X)      \
  X(sgd, 2, 0x1)                        \
  X(momentum, 3, 0x5)                   \
  X(adam, 4, 0xd)                       \
  X(amsgrad, 5, 0x1d)                   \
  X(adamax, 4, 0xd)                     \
  X(nadam, 4, 0xd)                      \
  X(rmsprop, 3, 0x5)                    \
  X(rmsprop_momentum, 4, 0xd)           \
  X(rmsprop_centered, 4, 0xd)           \
  X(rmsprop_momentum_centered, 5, 0x1d) \
  X(adagrad, 3, 0x5)                    \
  X(adadelta, 4, 0xd)                   \
  X(lion, 3, 0x5)                       \
  X(lamb_moments, 4, 0xc)               \
  X(lamb_apply, 4, 0x1)                 \
  X(scale, 1, 0x1)                      \
  X(clamp, 1, 0x1)                      \
  X(sum_abs, 1, 0x0)                    \
  X(sum_squares, 1, 0x0)                \
  X(largest, 1, 0x0)

enum class OptimizerRule : std::int32_t {
#define HOTLOOP_RULE_NAME(name, arrays, written) name,
  HOTLOOP_OPTIMIZER_RULES(HOTLOOP_RULE_NAME)
#undef HOTLOOP_RULE_NAME
};

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
  double factor;                                  // lamb_apply: of this tensor's step
  std::uint16_t* copy;                            // where new parameters also go as bf16, or null
  const std::int64_t* copy_strides;               // [ndim]
};

struct OptimizerArgs {
  const OptimizerTensor* tensors;
  std::int64_t count;
  DType dtype;
  OptimizerRule rule;
  math::OptimizerScalars<double> scalars;  // scale: gradient; clamp: eps is the bound
  double* partials;  // of each unit: one sum or maximum; lamb_moments: sums of p^2 and u^2

  // CUDA alone. The tensors' list is on the host all the same; what follows is on the device, so
  // that a captured step sees what it holds when it is replayed. Null: as in `scalars`.
  const void* lr;          // 0-d; scalars.lr is not read. NAdam's scalars cannot be made there.
  const void* step;        // 0-d; nor are bias corrections and `first`
  const void* grad_scale;  // 0-d, divides scalars.gradient
  bool wide_lr, wide_step, wide_scale;  // float64 instead of float32
  double given_lr, given_step;          // where one of the two is on the device, the other one
  double slowing;                       // weight decay if it is decoupled; Adagrad: decay of lr
  const double* clipping;               // of optimizer_norm, multiplies scalars.gradient
  const double* factors;  // lamb_apply: of optimizer_lengths; OptimizerTensor::factor is not read
  void* scratch;
};

HOTLOOP_KERNEL(optimizer, OptimizerArgs)

// CUDA alone, one unit: the norm that the partials of a list give, and what it clips to.
struct OptimizerNormArgs {
  OptimizerRule rule;      // sum_abs, sum_squares or largest
  const double* partials;  // all of them, of both dtypes one after the other
  std::int64_t count;
  double gradient;         // its size multiplies the norm
  const void* grad_scale;  // 0-d on the device, divides it as well; or null
  bool wide_scale;
  double most;       // that the norm may be; below 0: not clipped
  double* norm;      // null: not wanted
  double* clipping;  // null: not wanted
  double* scale;     // what divides the gradients, clipping included; null: not wanted
};

// CUDA alone, a unit: a tensor, whose LAMB step's length is lr |p| / |u|, lr where one of them is
// 0.
struct OptimizerLengthsArgs {
  const OptimizerTensor* tensors;
  std::int64_t count;
  const double* partials;  // of lamb_moments
  const void* lr;          // 0-d on the device, or null: given_lr
  bool wide_lr;
  double given_lr;
  double* factors;
};

}  // namespace hotloop
