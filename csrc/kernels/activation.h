// Activations: y = f(x) and dx = dy f'(x), element by element. One list for the kernels, the
// bindings, the Python functions and their tests.
#pragma once

#include "core/dispatch.h"
#include "kernels/map.h"

// name, default of its parameter (0: it has none), what the backward kernel reads (x or y), cost in
// nanoseconds per float32 element in cache
#define HOTLOOP_ACTIVATIONS(X) \
  X(relu, 0.0, y, 0.08)        \
  X(leaky_relu, 0.01, y, 0.08) \
  X(elu, 1.0, y, 0.4)          \
  X(gelu, 0.0, x, 0.7)         \
  X(gelu_tanh, 0.0, x, 0.6)    \
  X(silu, 0.0, x, 0.5)         \
  X(sigmoid, 0.0, y, 0.5)      \
  X(tanh, 0.0, y, 0.5)         \
  X(softplus, 1.0, y, 0.9)     \
  X(hardswish, 0.0, x, 0.08)

namespace hotloop {

enum class Activation : std::int32_t {
  none,
#define HOTLOOP_X(name, parameter, saved, cost) name,
  HOTLOOP_ACTIVATIONS(HOTLOOP_X)
#undef HOTLOOP_X
};

// Forward: data[1] is x. Backward: data[1] is dy, data[2] what was saved. scalar is the parameter.
#define HOTLOOP_X(name, parameter, saved, cost) \
  HOTLOOP_KERNEL(name##_forward, MapArgs)       \
  HOTLOOP_KERNEL(name##_backward, MapArgs)
HOTLOOP_ACTIVATIONS(HOTLOOP_X)
#undef HOTLOOP_X

}  // namespace hotloop
