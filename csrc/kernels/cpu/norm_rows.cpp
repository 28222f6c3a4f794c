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

constexpr std::int64_t kRowRun = 8192;                // elements summed in the row's own type
constexpr int kTogether = 2;                          // rows of a backward step; four do not fit L1
constexpr int kForward = simd::kBytes == 64 ? 2 : 1;  // of a forward step: its sums in registers
constexpr std::int64_t kNearBytes = 2 << 20;          // of x, for which that pays
constexpr std::int64_t kPilot = 16;

// sums[r][k] = the sum over row r of term k; body(walk, r, place, sums) adds the terms of one
// vector. Rows go side by side, since each alone waits for its sums at the end.
template <int rows, int terms, class T, class Body>
[[gnu::always_inline]] static inline void sum_rows(std::int64_t n, double (&sums)[rows][terms],
                                                   Body body) {
  HOTLOOP_UNROLL
  for (int i = 0; i < rows * terms; ++i) sums[i / terms][i % terms] = 0.0;
  for (std::int64_t first = 0; first < n; first += kRowRun) {
    const AlongRow<T, true> walk{n - first < kRowRun ? n - first : kRowRun};
    Vec<T> slots[rows][kSlots][terms];
    HOTLOOP_UNROLL
    for (int i = 0; i < rows * kSlots * terms; ++i) {
      slots[i / (kSlots * terms)][i / terms % kSlots][i % terms] = simd::zero<T>();
    }
    walk.each([&](Step at) __attribute__((always_inline)) {
      at.index += first;
      HOTLOOP_UNROLL
      for (int r = 0; r < rows; ++r) body(walk, r, at, slots[r][at.slot]);
    });
    HOTLOOP_UNROLL
    for (int i = 0; i < rows * terms; ++i) {
      const auto& its = slots[i / terms];
      const int k = i % terms;
      sums[i / terms][k] +=
          static_cast<double>(simd::reduce_add((its[0][k] + its[1][k]) + (its[2][k] + its[3][k])));
    }
  }
}

template <class T>
struct Statistics {
  T mean, rstd;
};

// Of `rows` rows that lie `step` apart.
template <int rows, class T>
[[gnu::always_inline]] static inline void statistics_of(const RowNormArgs& args, const T* x,
                                                        std::int64_t step,
                                                        Statistics<T> (&found)[rows]) {
  using Walk = AlongRow<T, true>;
  const double share = 1.0 / static_cast<double>(args.n);
  double sum[rows][1], rest[rows][2];
  if (args.rms) {
    sum_rows<rows, 1, T>(
        args.n, sum,
        [&](const Walk& walk, int r, Step at, Vec<T>(&total)[1]) __attribute__((always_inline)) {
          const Vec<T> v = walk.settle(walk.load(x + r * step, 1, at), at, T(0));
          total[0] = simd::fma(v, v, total[0]);
        });
    for (int r = 0; r < rows; ++r) {
      found[r] = {T(0), static_cast<T>(1.0 / __builtin_sqrt(sum[r][0] * share + args.eps))};
    }
    return;
  }
  const std::int64_t first = (args.n + kPilot - 1) / kPilot;
  sum_rows<rows, 1, T>(
      first, sum,
      [&](const Walk& walk, int r, Step at, Vec<T>(&total)[1]) __attribute__((always_inline)) {
        total[0] = total[0] + walk.settle(walk.load(x + r * step, 1, at), at, T(0));
      });
  T pilot[rows];
  Vec<T> center[rows];
  for (int r = 0; r < rows; ++r) {
    pilot[r] = static_cast<T>(sum[r][0] / static_cast<double>(first));
    center[r] = simd::set1<T>(pilot[r]);
  }
  sum_rows<rows, 2, T>(
      args.n, rest,
      [&](const Walk& walk, int r, Step at, Vec<T>(&total)[2]) __attribute__((always_inline)) {
        const Vec<T> d = walk.settle(walk.load(x + r * step, 1, at) - center[r], at, T(0));
        total[0] = total[0] + d;
        total[1] = simd::fma(d, d, total[1]);
      });
  for (int r = 0; r < rows; ++r) {
    const double off = rest[r][0] * share;
    const double variance = rest[r][1] * share - off * off;
    found[r] = {static_cast<T>(static_cast<double>(pilot[r]) + off),
                static_cast<T>(1.0 / __builtin_sqrt(variance + args.eps))};
  }
}

// `rows` neighbouring rows; each comes out the same whoever stands beside it.
template <int rows, class T>
static inline void forward_rows(const RowNormArgs& args, std::int64_t row) {
  const T *weight = static_cast<const T*>(args.weight), *bias = static_cast<const T*>(args.bias);
  const bool plain = args.activation == Activation::none;
  const AlongRow<T, true> walk{args.n};
  const T* x = static_cast<const T*>(args.x) + row * args.x_stride;
  std::int64_t step = args.x_stride;
  if (args.other) {
    T* total = static_cast<T*>(args.total) + row * args.n;
    for (int r = 0; r < rows; ++r) {
      const T* other = static_cast<const T*>(args.other) + (row + r) * args.other_stride;
      walk.each([&](Step at) __attribute__((always_inline)) {
        walk.store(total + r * args.n, 1, at,
                   walk.load(x + r * step, 1, at) + walk.load(other, 1, at));
      });
    }
    x = total;
    step = args.n;
  }
  Statistics<T> found[rows];
  statistics_of<rows, T>(args, x, step, found);
  Vec<T> mean[rows], rstd[rows];
  for (int r = 0; r < rows; ++r) {
    if (args.mean) static_cast<T*>(args.mean)[row + r] = found[r].mean;
    static_cast<T*>(args.rstd)[row + r] = found[r].rstd;
    mean[r] = simd::set1<T>(found[r].mean);
    rstd[r] = simd::set1<T>(found[r].rstd);
  }
  T* y = static_cast<T*>(args.out) + row * args.out_stride;
  if (plain && weight && bias) {
    walk.each([&](Step at) __attribute__((always_inline)) {
      const Vec<T> scale = walk.load(weight, 1, at), shift = walk.load(bias, 1, at);
      HOTLOOP_UNROLL
      for (int r = 0; r < rows; ++r) {
        const Vec<T> v = (walk.load(x + r * step, 1, at) - mean[r]) * rstd[r];
        walk.store(y + r * args.out_stride, 1, at, simd::fma(v, scale, shift));
      }
    });
    return;
  }
  for (int r = 0; r < rows; ++r, x += step, y += args.out_stride) {
    for (std::int64_t i = 0; i < args.n; i += walk.lanes) {
      const std::int64_t left = args.n - i;
      Vec<T> v = (simd::load_upto(x + i, left) - mean[r]) * rstd[r];
      if (weight) v = v * simd::load_upto(weight + i, left);
      if (bias) v = v + simd::load_upto(bias + i, left);
      if (!plain) v = activate(args.activation, args.alpha, v);
      simd::store_upto(y + i, v, left);
    }
  }
}

template <class T>
static inline void forward_body(const RowNormArgs& args, std::int64_t begin, std::int64_t end) {
  std::int64_t row = begin;
  // From beyond L2 one row at a time is quicker: one run of memory, which the hardware foresees.
  const bool near = args.rows * args.n * static_cast<std::int64_t>(sizeof(T)) <= kNearBytes;
  for (; near && row + kForward <= end; row += kForward) forward_rows<kForward, T>(args, row);
  for (; row < end; ++row) forward_rows<1, T>(args, row);
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
