// Activations of float32 under AVX-512: polynomials in pieces (simd/piecewise.h) near 0, the
// formulas of math/activation.h for lanes beyond and for NaN. Each lane is computed the same way
// whoever stands beside it, so layouts and threads do not change a bit.
#pragma once

#include <type_traits>

#include "engines/map.h"
#include "math/activation.h"
#include "simd/gate.h"
#include "simd/math.h"

#if defined(HOTLOOP_LEVEL_AVX512) || defined(HOTLOOP_LEVEL_AVX512BF16)
#define HOTLOOP_HAS_PIECES 1
#include "simd/piecewise.h"
#endif

namespace hotloop::HOTLOOP_LEVEL {

namespace pieces {

struct None {};
using relu_forward = None;
using relu_backward = None;
using leaky_relu_forward = None;
using leaky_relu_backward = None;
using elu_backward = None;
using sigmoid_backward = None;
using tanh_backward = None;
using hardswish_forward = None;
using hardswish_backward = None;

#if defined(HOTLOOP_HAS_PIECES)

using V = simd::Vec<float>;
using M = simd::Mask<float>;
using simd::abs, simd::copysign, simd::fma, simd::fnma, simd::max_or_b, simd::select, simd::set1;

#define HOTLOOP_PIECES [[gnu::always_inline]] inline

HOTLOOP_PIECES V ramp(V x) {
  return max_or_b(simd::zero<float>(), x);
}
// The whole function, from its tail at |x|: tail + f(|x|) = 1.
HOTLOOP_PIECES V mirrored(V tail, V x) {
  const __mmask16 right = _mm512_cmp_ps_mask(x.v, _mm512_setzero_ps(), _CMP_GE_OQ);
  return {_mm512_mask_sub_ps(tail.v, right, set1(1.0f).v, tail.v)};  // one step: gcc makes two
}

template <int kDegree, int kSixteenths>
using Falling = simd::Piecewise<kDegree, kSixteenths, simd::Expanded::at_upper_end>;
template <int kDegree, int kSixteenths>
using Rising = simd::Piecewise<kDegree, kSixteenths, simd::Expanded::at_middle>;

template <class Table>
HOTLOOP_PIECES M lies_within(V x) {
  return abs(x) < set1(Table::kEnd);
}

struct Logistic {
  Falling<7, 16> tail{simd::tables::kLogisticTail};
  HOTLOOP_PIECES explicit Logistic(double) {}
  HOTLOOP_PIECES static M is_near(V x) { return lies_within<Falling<7, 16>>(x); }
  HOTLOOP_PIECES static M is_near(V, V x) { return is_near(x); }
};

struct sigmoid_forward : Logistic {
  using Logistic::Logistic;
  HOTLOOP_PIECES V operator()(V x) const { return mirrored(tail(abs(x)), x); }
};

struct silu_forward : Logistic {
  using Logistic::Logistic;
  HOTLOOP_PIECES V operator()(V x) const {
    V lost;
    const V size = abs(x), value = tail(size, &lost);
    return fnma(size, value, fnma(size, lost, ramp(x)));
  }
};
struct silu_backward : Logistic {
  using Logistic::Logistic;
  HOTLOOP_PIECES V operator()(V dy, V x) const {
    const V s = mirrored(tail(abs(x)), x);
    return dy * s * fma(x, set1(1.0f) - s, set1(1.0f));
  }
};

// x sigmoid(2 u), as in math/activation.h, the gate straight from x; and its slope.
struct gelu_tanh_forward {
  Falling<7, 5> tail{simd::tables::kTanhGateTail};
  HOTLOOP_PIECES explicit gelu_tanh_forward(double) {}
  HOTLOOP_PIECES static M is_near(V x) { return lies_within<Falling<7, 5>>(x); }
  HOTLOOP_PIECES V operator()(V x) const {
    const V size = abs(x);
    return fnma(size, tail(size), ramp(x));
  }
};
struct gelu_tanh_backward {
  Falling<10, 8> slope{simd::tables::kTanhGateSlope};
  HOTLOOP_PIECES explicit gelu_tanh_backward(double) {}
  HOTLOOP_PIECES static M is_near(V, V x) { return abs(x) < set1(6.5f); }  // beyond: 25 ULP
  HOTLOOP_PIECES V operator()(V dy, V x) const { return dy * mirrored(slope(abs(x)), x); }
};

struct gelu_forward {
  Falling<7, 5> tail{simd::tables::kNormalTail};
  HOTLOOP_PIECES explicit gelu_forward(double) {}
  HOTLOOP_PIECES static M is_near(V x) { return lies_within<Falling<7, 5>>(x); }
  HOTLOOP_PIECES V operator()(V x) const {
    const V size = abs(x);
    return fnma(size, tail(size), ramp(x));
  }
};
struct gelu_backward {
  Falling<10, 8> slope{simd::tables::kNormalSlope};
  HOTLOOP_PIECES explicit gelu_backward(double) {}
  HOTLOOP_PIECES static M is_near(V, V x) { return lies_within<Falling<10, 8>>(x); }
  HOTLOOP_PIECES V operator()(V dy, V x) const { return dy * mirrored(slope(abs(x)), x); }
};

struct tanh_forward {
  Rising<7, 8> table{simd::tables::kTanh};
  HOTLOOP_PIECES explicit tanh_forward(double) {}
  HOTLOOP_PIECES static M is_near(V x) { return lies_within<Rising<7, 8>>(x); }
  HOTLOOP_PIECES V operator()(V x) const { return copysign(table(abs(x)), x); }
};

struct softplus_forward {
  Falling<7, 16> tail{simd::tables::kSoftplusTail};
  V beta, inverse;
  HOTLOOP_PIECES explicit softplus_forward(double b)
      : beta(set1(static_cast<float>(b))), inverse(set1(static_cast<float>(1 / b))) {}
  HOTLOOP_PIECES M is_near(V x) const { return abs(x) * beta < set1(Falling<7, 16>::kEnd); }
  HOTLOOP_PIECES V operator()(V x) const { return fma(tail(abs(x) * beta), inverse, ramp(x)); }
};
struct softplus_backward {
  Rising<7, 16> table{simd::tables::kExpm1};
  V beta;
  HOTLOOP_PIECES explicit softplus_backward(double b) : beta(set1(static_cast<float>(b))) {}
  HOTLOOP_PIECES M is_near(V, V y) const { return abs(y) * beta < set1(Rising<7, 16>::kEnd); }
  HOTLOOP_PIECES V operator()(V dy, V y) const { return -dy * table(abs(y) * beta); }
};

struct elu_forward {
  Rising<7, 16> table{simd::tables::kExpm1};
  V alpha;
  HOTLOOP_PIECES explicit elu_forward(double a) : alpha(set1(static_cast<float>(a))) {}
  HOTLOOP_PIECES static M is_near(V x) { return x > set1(-15.0f); }
  HOTLOOP_PIECES V operator()(V x) const {
    return select(x < simd::zero<float>(), table(abs(x)) * alpha, x);
  }
};

// At most a vector, of which some lanes may lie beyond the pieces.
template <class Near, class F, class... In>
[[gnu::noinline]] static V both(double scalar, F f, In... v) {
  const Near near(scalar);
  return select(near.is_near(v...), near(v...), f(v...));
}

template <class Near, class F>
[[gnu::always_inline]] static inline auto each_lane(double scalar, F f) {
  return [=](auto... v) __attribute__((always_inline)) { return both<Near>(scalar, f, v...); };
}

// n dense elements. The tables stay in registers until a vector comes that is not all near.
template <class Near, int Inputs, class F>
[[gnu::always_inline]] static inline void dense(float* out, const float* const (&in)[Inputs],
                                                std::int64_t n, bool stream, double scalar, F f) {
  constexpr int lanes = V::lanes;
  const auto full = each_lane<Near>(scalar, f);
  std::int64_t i = 0;
  const auto part = [&](std::int64_t at, int count) {
    V v[Inputs];
    for (int k = 0; k < Inputs; ++k) v[k] = simd::load_n(in[k] + at, count);
    simd::store_n(out + at, apply<float>(full, v), count);
  };
  if (stream || n >= kAlignFrom * lanes) {
    const auto address = reinterpret_cast<std::uintptr_t>(out);
    const auto head = static_cast<std::int64_t>((-address & (simd::kBytes - 1)) / sizeof(float));
    if (head > 0) part(0, static_cast<int>(i = head < n ? head : n));
  }
  std::int64_t left = (n - i) / lanes;
  auto [at, step] = walk(out, in, all_move<Inputs>(), i, left);
  i += left * lanes;
  while (left > 0) {
    const Near near(scalar);
    for (; left > 0; --left, at += step) {
      V v[Inputs];
      for (int k = 0; k < Inputs; ++k) v[k] = simd::load(in[k] + at);
      bool all_near;
      V y;
      if constexpr (Inputs == 1) {
        all_near = simd::all(near.is_near(v[0]));
        y = near(v[0]);
      } else {
        all_near = simd::all(near.is_near(v[0], v[1]));
        y = near(v[0], v[1]);
      }
      if (!all_near) break;
      if (stream) {
        simd::stream(out + at, y);
      } else {
        simd::store(out + at, y);
      }
    }
    if (left > 0) {
      part(at, lanes);
      --left, at += step;
    }
  }
  if (i < n) part(i, static_cast<int>(n - i));
}

template <class Near, int Inputs, class F>
static inline void rows(const MapArgs& args, std::int64_t begin, std::int64_t end, F f) {
  bool is_dense = true;
  for (int k = 0; k <= Inputs; ++k) is_dense &= args.strides[k][args.ndim - 1] == 1;
  each_row<Inputs + 1>(args, begin, end,
                       [&](const std::int64_t(&first)[Inputs + 1],
                           const std::int64_t(&step)[Inputs + 1], std::int64_t n)
                           __attribute__((always_inline)) {
                             float* out = static_cast<float*>(args.data[0]) + first[0];
                             const float* in[Inputs];
                             for (int k = 0; k < Inputs; ++k) {
                               in[k] = static_cast<const float*>(args.data[k + 1]) + first[k + 1];
                             }
                             if (is_dense) {
                               dense<Near, Inputs>(out, in, n, args.stream, args.scalar, f);
                             } else {
                               map_any<Inputs>(out, in, step, n, each_lane<Near>(args.scalar, f));
                             }
                           });
  if (args.stream) simd::stream_fence();
}

#undef HOTLOOP_PIECES

#else

using elu_forward = None;
using gelu_forward = None;
using gelu_backward = None;
using gelu_tanh_forward = None;
using gelu_tanh_backward = None;
using silu_forward = None;
using silu_backward = None;
using sigmoid_forward = None;
using tanh_forward = None;
using softplus_forward = None;
using softplus_backward = None;

#endif

}  // namespace pieces

// f for the whole range; Near, where there is one, for what lies near 0.
template <class Near, int Inputs, class F>
static inline void map_activation(const MapArgs& args, std::int64_t begin, std::int64_t end, F f) {
#if defined(HOTLOOP_HAS_PIECES)
  if constexpr (!std::is_same_v<Near, pieces::None>) {
    if (args.dtype == DType::f32) {
      pieces::rows<Near, Inputs>(args, begin, end, f);
    } else {
      map_rows<Inputs, double>(args, begin, end, f);
    }
    return;
  }
#endif
  map<Inputs>(args, begin, end, f);
}

}  // namespace hotloop::HOTLOOP_LEVEL
