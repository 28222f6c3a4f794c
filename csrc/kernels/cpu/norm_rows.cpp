// Layer norm: y = (x - mean) rstd weight + bias along a row; RMS norm: y = x rstd weight with
// rstd = 1 / sqrt(mean(x^2) + eps). Backward, with x^ = (x - mean) rstd and g = weight dy:
//   dx = rstd (g - mean(g) - x^ mean(g x^)), dweight = sum dy x^, dbias = sum dy
// (Ba et al., arXiv 1607.06450; Zhang and Sennrich, arXiv 1910.07467; RMS norm without mean(g)).
//
// Layout: dense rows, which stay in L1 between the passes. Mean and squares are taken in one pass
// around the mean of the row's first sixteenth, which bounds what cancels (see norm.cpp). Backward
// takes two rows at a time, so that the running dweight and dbias are loaded and stored once for
// both; chunks of rows are summed in their order.
#include "engines/activate.h"
#include "engines/row_reduction.h"
#include "kernels/norm.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

constexpr std::int64_t kRowRun = 8192;  // elements summed in the row's own type
constexpr int kTogether = 2;            // rows of a backward step; four do not fit L1
constexpr std::int64_t kPilot = 16;

// sums[k] = the sum over the row of term k.
template <int terms, class T, class Body>
[[gnu::always_inline]] static inline void sum_row(std::int64_t n, double (&sums)[terms],
                                                  Body body) {
  for (int k = 0; k < terms; ++k) sums[k] = 0.0;
  for (std::int64_t first = 0; first < n; first += kRowRun) {
    const AlongRow<T, true> walk{n - first < kRowRun ? n - first : kRowRun};
    Vec<T> slots[terms][kSlots];
    for (int k = 0; k < terms; ++k) {
      for (int i = 0; i < kSlots; ++i) slots[k][i] = simd::zero<T>();
    }
    walk.each([&](Step at) __attribute__((always_inline)) {
      Vec<T> term[terms];
      at.index += first;
      body(walk, at, term);
      for (int k = 0; k < terms; ++k) {
        slots[k][at.slot] = slots[k][at.slot] + walk.settle(term[k], at, T(0));
      }
    });
    for (int k = 0; k < terms; ++k) {
      sums[k] += static_cast<double>(
          simd::reduce_add((slots[k][0] + slots[k][1]) + (slots[k][2] + slots[k][3])));
    }
  }
}

template <class T>
struct Statistics {
  T mean, rstd;
};

template <class T>
[[gnu::always_inline]] static inline Statistics<T> statistics_of(const RowNormArgs& args,
                                                                 const T* x) {
  using Walk = AlongRow<T, true>;
  const double share = 1.0 / static_cast<double>(args.n);
  double sum[1], rest[2];
  if (args.rms) {
    sum_row<1, T>(args.n, sum, [&](const Walk& walk, Step at, Vec<T>(&term)[1]) {
      const Vec<T> v = walk.load(x, 1, at);
      term[0] = v * v;
    });
    return {T(0), static_cast<T>(1.0 / __builtin_sqrt(sum[0] * share + args.eps))};
  }
  const std::int64_t first = (args.n + kPilot - 1) / kPilot;
  sum_row<1, T>(first, sum, [&](const Walk& walk, Step at, Vec<T>(&term)[1]) {
    term[0] = walk.load(x, 1, at);
  });
  const T pilot = static_cast<T>(sum[0] / static_cast<double>(first));
  const Vec<T> center = simd::set1<T>(pilot);
  sum_row<2, T>(args.n, rest, [&](const Walk& walk, Step at, Vec<T>(&term)[2]) {
    term[0] = walk.load(x, 1, at) - center;
    term[1] = term[0] * term[0];
  });
  const double off = rest[0] * share;
  const double variance = rest[1] * share - off * off;
  return {static_cast<T>(static_cast<double>(pilot) + off),
          static_cast<T>(1.0 / __builtin_sqrt(variance + args.eps))};
}

template <class T>
static inline void forward_body(const RowNormArgs& args, std::int64_t begin, std::int64_t end) {
  const T *weight = static_cast<const T*>(args.weight), *bias = static_cast<const T*>(args.bias);
  const bool plain = args.activation == Activation::none;
  const AlongRow<T, true> walk{args.n};
  for (std::int64_t row = begin; row < end; ++row) {
    const T* x = static_cast<const T*>(args.x) + row * args.x_stride;
    if (args.other) {
      const T* other = static_cast<const T*>(args.other) + row * args.other_stride;
      T* total = static_cast<T*>(args.total) + row * args.n;
      walk.each([&](Step at) __attribute__((always_inline)) {
        walk.store(total, 1, at, walk.load(x, 1, at) + walk.load(other, 1, at));
      });
      x = total;
    }
    const Statistics<T> found = statistics_of<T>(args, x);
    if (args.mean) static_cast<T*>(args.mean)[row] = found.mean;
    static_cast<T*>(args.rstd)[row] = found.rstd;
    const Vec<T> mean = simd::set1<T>(found.mean), rstd = simd::set1<T>(found.rstd);
    T* y = static_cast<T*>(args.out) + row * args.out_stride;
    if (plain && weight && bias) {
      walk.each([&](Step at) __attribute__((always_inline)) {
        const Vec<T> v = (walk.load(x, 1, at) - mean) * rstd;
        walk.store(y, 1, at, simd::fma(v, walk.load(weight, 1, at), walk.load(bias, 1, at)));
      });
      continue;
    }
    for (std::int64_t i = 0; i < args.n; i += walk.lanes) {
      const std::int64_t left = args.n - i;
      Vec<T> v = (simd::load_upto(x + i, left) - mean) * rstd;
      if (weight) v = v * simd::load_upto(weight + i, left);
      if (bias) v = v + simd::load_upto(bias + i, left);
      if (!plain) v = activate(args.activation, args.alpha, v);
      simd::store_upto(y + i, v, left);
    }
  }
}

// `rows` neighbouring rows, at most kTogether: dx, and what they add to dweight and dbias.
template <int rows, class T>
static inline void backward_rows(const RowNormArgs& args, std::int64_t first, T* dweight,
                                 T* dbias) {
  constexpr int lanes = Vec<T>::lanes, chains = 2;
  const T* weight = static_cast<const T*>(args.weight);
  const T* x = static_cast<const T*>(args.x) + first * args.x_stride;
  const T* dy = static_cast<const T*>(args.other) + first * args.other_stride;
  T* dx = static_cast<T*>(args.out) + first * args.out_stride;
  Vec<T> mean[rows], rstd[rows];
  double sums[rows][2] = {};
  for (int r = 0; r < rows; ++r) {
    mean[r] = simd::set1<T>(args.rms ? T(0) : static_cast<const T*>(args.mean)[first + r]);
    rstd[r] = simd::set1<T>(static_cast<const T*>(args.rstd)[first + r]);
  }
  for (std::int64_t begin = 0; begin < args.n; begin += kRowRun) {
    const std::int64_t end = args.n - begin < kRowRun ? args.n : begin + kRowRun;
    Vec<T> slots[rows][2][chains];
    HOTLOOP_UNROLL
    for (int i = 0; i < rows * 2 * chains; ++i) {
      slots[i / (2 * chains)][i / chains % 2][i % chains] = simd::zero<T>();
    }
    const auto column = [&](std::int64_t i, std::int64_t left,
                            int chain) __attribute__((always_inline)) {
      Vec<T> total = simd::load_upto(dweight + i, left), plain = simd::load_upto(dbias + i, left);
      HOTLOOP_UNROLL
      for (int r = 0; r < rows; ++r) {
        const Vec<T> g = simd::load_upto(dy + r * args.other_stride + i, left);
        Vec<T> d = simd::load_upto(x + r * args.x_stride + i, left) - mean[r];
        const Vec<T> scaled = weight ? g * simd::load_upto(weight + i, left) : g;
        slots[r][0][chain] = slots[r][0][chain] + scaled;  // lanes beyond the row hold g = 0
        slots[r][1][chain] = simd::fma(scaled, d, slots[r][1][chain]);
        total = simd::fma(g, d * rstd[r], total);
        plain = plain + g;
      }
      simd::store_upto(dweight + i, total, left);
      simd::store_upto(dbias + i, plain, left);
    };
    std::int64_t i = begin;
    for (; i + chains * lanes <= end; i += chains * lanes) {
      column(i, lanes, 0);
      column(i + lanes, lanes, 1);
    }
    for (; i < end; i += lanes) column(i, end - i, 0);
    for (int r = 0; r < rows; ++r) {
      for (int k = 0; k < 2; ++k) {
        sums[r][k] += static_cast<double>(simd::reduce_add(slots[r][k][0] + slots[r][k][1]));
      }
    }
  }
  const AlongRow<T, true> walk{args.n};
  const bool stream = args.stream && reinterpret_cast<std::uintptr_t>(dx) % simd::kBytes == 0 &&
                      args.out_stride % lanes == 0;
  for (int r = 0; r < rows; ++r) {
    const double wide = static_cast<double>(static_cast<const T*>(args.rstd)[first + r]);
    const double share = wide / static_cast<double>(args.n);
    const Vec<T> shift = simd::set1<T>(args.rms ? T(0) : static_cast<T>(-share * sums[r][0]));
    const Vec<T> slope = simd::set1<T>(static_cast<T>(-share * wide * wide * sums[r][1]));
    const Vec<T> center = mean[r], scale = rstd[r];
    const T *its_x = x + r * args.x_stride, *its_dy = dy + r * args.other_stride;
    T* its_dx = dx + r * args.out_stride;
    walk.each([&](Step at) __attribute__((always_inline)) {
      if (stream) {  // the next rows, into L2, since L1 is full: nothing else foresees two at a
                     // time
        __builtin_prefetch(its_dy + rows * args.other_stride + at.index, 0, 2);
        __builtin_prefetch(its_x + rows * args.x_stride + at.index, 0, 2);
      }
      Vec<T> g = walk.load(its_dy, 1, at);
      if (weight) g = g * walk.load(weight, 1, at);
      const Vec<T> rest = simd::fma(walk.load(its_x, 1, at) - center, slope, shift);
      const Vec<T> v = simd::fma(g, scale, rest);
      if (stream && at.lanes == lanes) {
        simd::stream(its_dx + at.index, v);
      } else {
        walk.store(its_dx, 1, at, v);
      }
    });
  }
}

template <class T>
static inline void backward_body(const RowNormArgs& args, std::int64_t begin, std::int64_t end) {
  for (std::int64_t unit = begin; unit < end; ++unit) {
    T* dweight = static_cast<T*>(args.partials) + 2 * unit * args.n;
    T* dbias = dweight + args.n;
    for (std::int64_t i = 0; i < 2 * args.n; ++i) dweight[i] = T(0);
    std::int64_t row = unit * args.chunk;
    const std::int64_t stop = row + args.chunk < args.rows ? row + args.chunk : args.rows;
    for (; row + kTogether <= stop; row += kTogether) {
      backward_rows<kTogether, T>(args, row, dweight, dbias);
    }
    for (; row < stop; ++row) backward_rows<1, T>(args, row, dweight, dbias);
  }
  if (args.stream) simd::stream_fence();
}

template <class T>
static inline void affine_body(const RowNormArgs& args, std::int64_t begin, std::int64_t end) {
  void* const targets[2] = {args.dweight, args.dbias};
  for (int which = 0; which < 2; ++which) {
    if (!targets[which]) continue;
    for (std::int64_t unit = begin; unit < end; ++unit) {
      const std::int64_t i0 = unit * kNormBlock;
      const std::int64_t i1 = i0 + kNormBlock < args.n ? i0 + kNormBlock : args.n;
      double total[kNormBlock] = {};
      for (std::int64_t k = 0; k < args.chunks; ++k) {
        const T* part = static_cast<const T*>(args.partials) + (2 * k + which) * args.n;
        for (std::int64_t i = i0; i < i1; ++i) total[i - i0] += static_cast<double>(part[i]);
      }
      T* out = static_cast<T*>(targets[which]);
      for (std::int64_t i = i0; i < i1; ++i) out[i] = static_cast<T>(total[i - i0]);
    }
  }
}

}  // namespace

#define HOTLOOP_ROW_NORM(name, body)                                         \
  void name(const RowNormArgs& args, std::int64_t begin, std::int64_t end) { \
    if (args.dtype == DType::f32) {                                          \
      body<float>(args, begin, end);                                         \
    } else {                                                                 \
      body<double>(args, begin, end);                                        \
    }                                                                        \
  }
HOTLOOP_ROW_NORM(row_norm, forward_body)
HOTLOOP_ROW_NORM(row_norm_backward, backward_body)
HOTLOOP_ROW_NORM(row_norm_affine, affine_body)
#undef HOTLOOP_ROW_NORM

}  // namespace hotloop::HOTLOOP_LEVEL
