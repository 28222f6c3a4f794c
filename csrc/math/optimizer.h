// One element's optimizer update, PyTorch's formulas, over V = a vector of the CPU or a float of
// CUDA. fma, fnma, sqrt, abs, max and signum are found where V lives. x holds the parameter, the
// gradient and the state, in the order of the rule. Constants are made in double and rounded once.
#pragma once

#if defined(__CUDACC__)
#define HOTLOOP_OPTIMIZER_FN __host__ __device__ static inline
#else
#define HOTLOOP_OPTIMIZER_FN [[maybe_unused]] static inline
#endif

namespace hotloop::math {

enum class Decay { none, l2, decoupled };

// What the rules read; each its part.
template <class V>
struct OptimizerScalars {
  V gradient;  // its factor: 1 / grad_scale, times the clipping, negative to maximize
  V lr;        // what the update is multiplied with: the bias correction is in it
  V decay;     // weight decay (l2), or 1 - lr * weight decay (decoupled); LAMB: weight decay
  V eps;
  V beta1, rest1;  // beta and 1 - beta; SGD: momentum and 1 - dampening
  V beta2, rest2;  // RMSprop: alpha; Adadelta: rho
  V root_scale;    // of the root of the second moment, 1 / sqrt(1 - beta2^step)
  V extra;         // RMSprop: momentum; NAdam: the step size of the gradient
  Decay kind;
  bool first, nesterov;
};

// The gradient that the rule sees; decoupled decay shrinks the parameter first.
template <class V>
HOTLOOP_OPTIMIZER_FN V seen_gradient(const OptimizerScalars<V>& c, V* x) {
  const V g = c.gradient * x[1];
  if (c.kind == Decay::l2) return fma(c.decay, x[0], g);
  if (c.kind == Decay::decoupled) x[0] = c.decay * x[0];
  return g;
}

// p -= lr d
template <class V>
HOTLOOP_OPTIMIZER_FN void sgd_update(const OptimizerScalars<V>& c, V* x) {
  const V g = seen_gradient(c, x);
  x[0] = fnma(c.lr, g, x[0]);
}

// b = d at the first step, momentum b + (1 - dampening) d later; p -= lr b, or, with Nesterov,
// p -= lr (d + momentum b). x: p g b
template <class V>
HOTLOOP_OPTIMIZER_FN void momentum_update(const OptimizerScalars<V>& c, V* x) {
  const V g = seen_gradient(c, x);
  x[2] = c.first ? g : fma(c.beta1, x[2], c.rest1 * g);
  x[0] = fnma(c.lr, c.nesterov ? fma(c.beta1, x[2], g) : x[2], x[0]);
}

// m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2
template <class V>
HOTLOOP_OPTIMIZER_FN void moments(const OptimizerScalars<V>& c, V g, V& m, V& v) {
  m = fma(c.beta1, m, c.rest1 * g);
  v = fma(c.rest2 * g, g, c.beta2 * v);
}

// p -= lr m / (sqrt(v) root_scale + eps). AMSGrad takes the largest v so far. x: p g m v [largest]
template <bool kAmsgrad, class V>
HOTLOOP_OPTIMIZER_FN void adam_update(const OptimizerScalars<V>& c, V* x) {
  const V g = seen_gradient(c, x);
  moments(c, g, x[2], x[3]);
  if constexpr (kAmsgrad) x[4] = max(x[4], x[3]);
  x[0] = x[0] - c.lr * x[2] / fma(sqrt(x[kAmsgrad ? 4 : 3]), c.root_scale, c.eps);
}

// p -= lr m / u, u = max(beta2 u, |g| + eps). x: p g m u
template <class V>
HOTLOOP_OPTIMIZER_FN void adamax_update(const OptimizerScalars<V>& c, V* x) {
  const V g = seen_gradient(c, x);
  x[2] = fma(c.beta1, x[2], c.rest1 * g);
  x[3] = max(c.beta2 * x[3], abs(g) + c.eps);
  x[0] = x[0] - c.lr * x[2] / x[3];
}

// p -= (extra g + lr m) / (sqrt(v) root_scale + eps). x: p g m v
template <class V>
HOTLOOP_OPTIMIZER_FN void nadam_update(const OptimizerScalars<V>& c, V* x) {
  const V g = seen_gradient(c, x);
  moments(c, g, x[2], x[3]);
  x[0] = x[0] - fma(c.extra, g, c.lr * x[2]) / fma(sqrt(x[3]), c.root_scale, c.eps);
}

// s = alpha s + (1 - alpha) g^2; d = g / (sqrt(s - mean(g)^2) + eps), the mean if centred; p -= lr
// d, or b = momentum b + d, p -= lr b. x: p g s [b] [mean]
template <bool kMomentum, bool kCentered, class V>
HOTLOOP_OPTIMIZER_FN void rmsprop_update(const OptimizerScalars<V>& c, V* x) {
  const V g = seen_gradient(c, x);
  x[2] = fma(c.rest2 * g, g, c.beta2 * x[2]);
  V spread = x[2];
  if constexpr (kCentered) {
    V& mean = x[kMomentum ? 4 : 3];
    mean = fma(c.beta2, mean, c.rest2 * g);
    spread = fnma(mean, mean, spread);
  }
  V d = g / (sqrt(spread) + c.eps);
  if constexpr (kMomentum) d = x[3] = fma(c.extra, x[3], d);
  x[0] = fnma(c.lr, d, x[0]);
}

// s += g^2; p -= lr g / (sqrt(s) + eps). x: p g s
template <class V>
HOTLOOP_OPTIMIZER_FN void adagrad_update(const OptimizerScalars<V>& c, V* x) {
  const V g = seen_gradient(c, x);
  x[2] = fma(g, g, x[2]);
  x[0] = x[0] - c.lr * g / (sqrt(x[2]) + c.eps);
}

// s = rho s + (1 - rho) g^2; d = sqrt(a + eps) / sqrt(s + eps) g; a likewise of d; p -= lr d.
// x: p g s a
template <class V>
HOTLOOP_OPTIMIZER_FN void adadelta_update(const OptimizerScalars<V>& c, V* x) {
  const V g = seen_gradient(c, x);
  x[2] = fma(c.rest2 * g, g, c.beta2 * x[2]);
  const V d = sqrt(x[3] + c.eps) / sqrt(x[2] + c.eps) * g;
  x[3] = fma(c.rest2 * d, d, c.beta2 * x[3]);
  x[0] = fnma(c.lr, d, x[0]);
}

// p -= lr signum(beta1 m + (1 - beta1) g); m = beta2 m + (1 - beta2) g. x: p g m
template <class V>
HOTLOOP_OPTIMIZER_FN void lion_update(const OptimizerScalars<V>& c, V* x) {
  const V g = seen_gradient(c, x);
  x[0] = fnma(c.lr, signum(fma(c.beta1, x[2], c.rest1 * g)), x[0]);
  x[2] = fma(c.beta2, x[2], c.rest2 * g);
}

// LAMB's direction, m's bias correction in extra: extra m / (sqrt(v) root_scale + eps) + decay p
template <class V>
HOTLOOP_OPTIMIZER_FN V lamb_direction(const OptimizerScalars<V>& c, V p, V m, V v) {
  return fma(c.decay, p, c.extra * m / fma(sqrt(v), c.root_scale, c.eps));
}

}  // namespace hotloop::math
