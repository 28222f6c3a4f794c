// Activations and their derivatives, as formulas that CPU and CUDA share: no loops, no memory.
//
// V is a vector of lanes (simd/simd.h) or one number wrapped like it; everything it can do is found
// by its namespace. name(x, alpha) is the forward value, name_backward(dy, saved, alpha) the
// gradient, where saved is y or x as HOTLOOP_ACTIVATIONS says. NaN passes through; at the
// infinities the limits come out, which is what the clamps before products are for (inf * 0).
// Sources: Hendrycks and Gimpel 2016 (gelu, silu), Clevert et al. 2015 (elu), Howard et al. 2019
// (hardswish).
#pragma once

#include "kernels/activation.h"

namespace hotloop::HOTLOOP_LEVEL::formula {

#if defined(__CUDACC__)
#define HOTLOOP_FORMULA \
  template <class V>    \
  __device__ __forceinline__ static V
#else
#define HOTLOOP_FORMULA \
  template <class V>    \
  [[gnu::always_inline]] static inline V
#endif

HOTLOOP_FORMULA relu(V x, double) {
  return max_or_b(splat(x, 0), x);
}
HOTLOOP_FORMULA relu_backward(V dy, V y, double) {
  return select(y <= splat(y, 0), splat(y, 0), dy);
}

HOTLOOP_FORMULA leaky_relu(V x, double slope) {
  return select(x < splat(x, 0), x * splat(x, slope), x);
}
HOTLOOP_FORMULA leaky_relu_backward(V dy, V y, double slope) {
  return select(y <= splat(y, 0), dy * splat(y, slope), dy);
}

HOTLOOP_FORMULA elu(V x, double alpha) {
  return select(x < splat(x, 0), expm1(x) * splat(x, alpha), x);
}
HOTLOOP_FORMULA elu_backward(V dy, V y, double alpha) {
  return select(y <= splat(y, 0), dy * (y + splat(y, alpha)), dy);
}

HOTLOOP_FORMULA gelu(V x, double) {
  return gelu(x);
}
HOTLOOP_FORMULA gelu_backward(V dy, V x, double) {
  const V near = min_or_b(splat(x, 40), max_or_b(splat(x, -40), x));
  const V density = exp(near * near * splat(x, -0.5)) * splat(x, 0.39894228040143267794);
  return dy * fma(near, density, normal_cdf(x));
}

// x (1 + tanh u) / 2 = x sigmoid(2u) with u = sqrt(2/pi) (x + 0.044715 x^3)
HOTLOOP_FORMULA gelu_tanh(V x, double) {
  const V near = min_or_b(splat(x, 40), max_or_b(splat(x, -40), x));
  const V inner = fma(near * near, splat(x, 0.0713548162726009), splat(x, 1.5957691216057308));
  return max_or_b(splat(x, -40), x) * sigmoid(near * inner);
}
HOTLOOP_FORMULA gelu_tanh_backward(V dy, V x, double) {
  const V near = min_or_b(splat(x, 40), max_or_b(splat(x, -40), x));
  const V square = near * near;
  const V s =
      sigmoid(near * fma(square, splat(x, 0.0713548162726009), splat(x, 1.5957691216057308)));
  const V slope = fma(square, splat(x, 0.2140644488178027), splat(x, 1.5957691216057308));
  return dy * fma(near * s * (splat(x, 1) - s), slope, s);
}

HOTLOOP_FORMULA silu(V x, double) {
  return silu(x);
}
HOTLOOP_FORMULA silu_backward(V dy, V x, double) {
  const V near = min_or_b(splat(x, 1000), max_or_b(splat(x, -1000), x));
  const V s = sigmoid(x);
  return dy * s * fma(near, splat(x, 1) - s, splat(x, 1));
}

HOTLOOP_FORMULA sigmoid(V x, double) {
  return sigmoid(x);
}
HOTLOOP_FORMULA sigmoid_backward(V dy, V y, double) {
  return dy * y * (splat(y, 1) - y);
}

HOTLOOP_FORMULA tanh(V x, double) {
  return tanh(x);
}
HOTLOOP_FORMULA tanh_backward(V dy, V y, double) {
  return dy * fnma(y, y, splat(y, 1));
}

// log(1 + exp(beta x)) / beta
HOTLOOP_FORMULA softplus(V x, double beta) {
  const V rest = log1p(exp(abs(x) * splat(x, -beta))) * splat(x, 1 / beta);
  return max_or_b(splat(x, 0), x) + rest;
}
HOTLOOP_FORMULA softplus_backward(V dy, V y, double beta) {
  return -dy * expm1(y * splat(y, -beta));
}

// x min(max(x + 3, 0), 6) / 6
HOTLOOP_FORMULA hardswish(V x, double) {
  const V gate = min_or_b(splat(x, 6), max_or_b(splat(x, 0), x + splat(x, 3)));
  return max_or_b(splat(x, -3), x) * gate * splat(x, 1.0 / 6.0);
}
HOTLOOP_FORMULA hardswish_backward(V dy, V x, double) {
  const V inside = dy * fma(x, splat(x, 1.0 / 3.0), splat(x, 0.5));
  const V right = select(x >= splat(x, 3), dy, inside);
  return select(x <= splat(x, -3), splat(x, 0), right);
}

#undef HOTLOOP_FORMULA

}  // namespace hotloop::HOTLOOP_LEVEL::formula
