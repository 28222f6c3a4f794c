// One element's optimizer update, PyTorch's formulas, over V = a vector of the CPU or a float of
// CUDA. fma and sqrt are found where V lives. Constants are made in double and rounded once.
#pragma once

#if defined(__CUDACC__)
#define HOTLOOP_OPTIMIZER_FN __host__ __device__ static inline
#else
#define HOTLOOP_OPTIMIZER_FN [[maybe_unused]] static inline
#endif

namespace hotloop::math {

template <class V>
struct SgdConstants {
  V lr, momentum, undamped, decay;  // undamped: 1 - dampening
  bool has_decay, first, nesterov;
};

// Without momentum: p -= lr d, where d = g + decay p.
template <class V>
HOTLOOP_OPTIMIZER_FN void sgd_update(const SgdConstants<V>& c, V& p, V g) {
  if (c.has_decay) g = fma(c.decay, p, g);
  p = fnma(c.lr, g, p);
}

// With momentum: b = d at the first step, momentum b + (1 - dampening) d later; p -= lr b, or, with
// Nesterov, p -= lr (d + momentum b).
template <class V>
HOTLOOP_OPTIMIZER_FN void momentum_update(const SgdConstants<V>& c, V& p, V g, V& b) {
  if (c.has_decay) g = fma(c.decay, p, g);
  b = c.first ? g : fma(c.momentum, b, c.undamped * g);
  p = fnma(c.lr, c.nesterov ? fma(c.momentum, b, g) : b, p);
}

template <class V>
struct AdamConstants {
  V one_minus_beta1, beta2, one_minus_beta2;
  V step_size;   // lr / (1 - beta1^step)
  V root_scale;  // 1 / sqrt(1 - beta2^step)
  V eps;
  V decay;  // added to the gradient (Adam), or 1 - lr decay, which scales p (AdamW)
  bool has_decay;
};

// m += (1 - beta1) (g - m); v = beta2 v + (1 - beta2) g^2; p -= step_size m / (sqrt(v) root_scale +
// eps). Decoupled weight decay (AdamW) shrinks p beforehand; otherwise it joins the gradient.
template <bool kDecoupled, class V>
HOTLOOP_OPTIMIZER_FN void adam_update(const AdamConstants<V>& c, V& p, V g, V& m, V& v) {
  if (c.has_decay) {
    if constexpr (kDecoupled) {
      p = c.decay * p;
    } else {
      g = fma(c.decay, p, g);
    }
  }
  m = fma(c.one_minus_beta1, g - m, m);
  v = fma(c.one_minus_beta2 * g, g, c.beta2 * v);
  p = p - c.step_size * m / fma(sqrt(v), c.root_scale, c.eps);
}

}  // namespace hotloop::math
