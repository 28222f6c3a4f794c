// Arithmetic and elementary functions, element by element, with NumPy's broadcasting.
#pragma once

#include "core/dispatch.h"
#include "kernels/map.h"

// name, value for x, cost in nanoseconds per float32 element outside of the memory's
#define HOTLOOP_UNARY(X)               \
  X(neg, -x, 0.08)                     \
  X(abs, abs(x), 0.08)                 \
  X(sign, sign_of(x), 0.08)            \
  X(square, x* x, 0.08)                \
  X(reciprocal, splat(x, 1) / x, 0.2)  \
  X(sqrt, sqrt(x), 0.3)                \
  X(rsqrt, splat(x, 1) / sqrt(x), 0.5) \
  X(exp, exp(x), 0.3)                  \
  X(expm1, expm1(x), 0.4)              \
  X(log, log(x), 0.5)                  \
  X(log1p, log1p(x), 0.6)              \
  X(sin, wave<0>(x), 0.9)              \
  X(cos, wave<1>(x), 0.9)              \
  X(erf, erf(x), 0.6)

// name, value for x and y, cost likewise
#define HOTLOOP_BINARY(X)     \
  X(add, x + y, 0.12)         \
  X(sub, x - y, 0.12)         \
  X(mul, x* y, 0.12)          \
  X(div, x / y, 0.2)          \
  X(maximum, max(x, y), 0.12) \
  X(minimum, min(x, y), 0.12) \
  X(pow, power(x, y), 3.0)

// name, mask for x and y
#define HOTLOOP_COMPARE(X) \
  X(eq, x == y)            \
  X(ne, !(x == y))         \
  X(lt, x < y)             \
  X(le, x <= y)            \
  X(gt, x > y)             \
  X(ge, x >= y)

namespace hotloop {

#define HOTLOOP_X(name, ...) HOTLOOP_KERNEL(elementwise_##name, MapArgs)
HOTLOOP_UNARY(HOTLOOP_X)
HOTLOOP_BINARY(HOTLOOP_X)
HOTLOOP_COMPARE(HOTLOOP_X)  // data[0]: bytes, 0 or 1
#undef HOTLOOP_X
HOTLOOP_KERNEL(elementwise_where, MapArgs)  // data[1]: bytes, the condition
HOTLOOP_KERNEL(elementwise_clip, MapArgs)   // data[1] limited to data[2] .. data[3]

}  // namespace hotloop
