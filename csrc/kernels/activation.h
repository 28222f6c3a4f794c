// Activations: y = f(x) and dx = dy f'(x), element by element. One list for the kernels, the
// bindings, the Python functions and their tests.
#pragma once

#include "core/dispatch.h"
#include "kernels/map.h"

// name, default of its parameter (0: it has none), what the backward kernel reads: x or y
#define HOTLOOP_ACTIVATIONS(X) \
  X(relu, 0.0, y)              \
  X(leaky_relu, 0.01, y)       \
  X(elu, 1.0, y)               \
  X(gelu, 0.0, x)              \
  X(gelu_tanh, 0.0, x)         \
  X(silu, 0.0, x)              \
  X(sigmoid, 0.0, y)           \
  X(tanh, 0.0, y)              \
  X(softplus, 1.0, y)          \
  X(hardswish, 0.0, x)

namespace hotloop {

enum class Activation : std::int32_t {
  none,
#define HOTLOOP_X(name, parameter, saved) name,
  HOTLOOP_ACTIVATIONS(HOTLOOP_X)
#undef HOTLOOP_X
};

// Forward: data[1] is x. Backward: data[1] is dy, data[2] what was saved. scalar is the parameter.
#define HOTLOOP_X(name, parameter, saved) \
  HOTLOOP_KERNEL(name##_forward, MapArgs) \
  HOTLOOP_KERNEL(name##_backward, MapArgs)
HOTLOOP_ACTIVATIONS(HOTLOOP_X)
#undef HOTLOOP_X

}  // namespace hotloop
