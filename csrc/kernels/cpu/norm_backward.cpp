// Gradients of the normalizations of channels. With d = x - mean and x^ = d rstd:
//   dx = rstd (weight dy - mean(weight dy) - x^ mean(weight dy x^)), dweight = sum dy x^,
//   dbias = sum dy (Ioffe and Szegedy, arXiv 1502.03167; Wu and He, arXiv 1803.08494).
//
// With a ReLU behind, dy counts where y > 0: both passes find that by x, in the forward pass' bits.
//
// Layout, chunks and the backward walk of the second pass as in norm.cpp.
#include "engines/channels.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

// dy, or 0 where relu(fma(x - center, scale, bias)) is 0; d is x - center.
template <class T>
[[gnu::always_inline]] static inline Vec<T> passed(Vec<T> dy, Vec<T> d, Vec<T> scale, Vec<T> bias) {
  const Vec<T> zero = simd::zero<T>();
  return simd::select(simd::fma(d, scale, bias) <= zero, zero, dy);
}

// ---- sums --------------------------------------------------------------------------------------

// What a strip needs of its channels.
template <class T>
struct Spread {
  T center[kSums * Vec<T>::lanes], scale[kSums * Vec<T>::lanes], bias[kSums * Vec<T>::lanes];
};

template <int width, bool masked, bool ask, class T>
static inline void sums_strip(const T* x, std::int64_t x_step, const T* dy, std::int64_t dy_step,
                              std::int64_t rows, int lanes, const Spread<T>& spread, T* plain,
                              T* product) {
  Vec<T> center[width], sums[width][2];
  HOTLOOP_UNROLL
  for (int w = 0; w < width; ++w) center[w] = simd::load(spread.center + w * Vec<T>::lanes);
  sum_rows<2, width, T>(
      rows, sums, [&](std::int64_t row, int w, Vec<T>(&total)[2]) __attribute__((always_inline)) {
        if constexpr (ask) {
          ask_ahead(x + row * x_step + w * Vec<T>::lanes);
          ask_ahead(dy + row * dy_step + w * Vec<T>::lanes);
        }
        Vec<T> g = load_strip<width>(dy + row * dy_step, w, lanes);
        const Vec<T> d = load_strip<width>(x + row * x_step, w, lanes) - center[w];
        if constexpr (masked) {
          g = passed(g, d, simd::load(spread.scale + w * Vec<T>::lanes),
                     simd::load(spread.bias + w * Vec<T>::lanes));
        }
        total[0] = total[0] + g;
        total[1] = simd::fma(g, d, total[1]);
      });
  HOTLOOP_UNROLL
  for (int w = 0; w < width; ++w) {
    store_strip<width>(plain, w, lanes, sums[w][0]);
    store_strip<width>(product, w, lanes, sums[w][1]);
  }
}

template <class T>
static inline void sums_last(const NormArgs& args, std::int64_t begin, std::int64_t end) {
  const std::int64_t blocks = (args.c + kNormColumns - 1) / kNormColumns;
  const std::int64_t groups = args.c / args.per_group;
  const bool masked = args.activation == Activation::relu;
  const T *mean = static_cast<const T*>(args.mean), *rstd = static_cast<const T*>(args.rstd);
  const T *weight = static_cast<const T*>(args.weight), *bias = static_cast<const T*>(args.bias);
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const Chunk chunk = chunk_at(args, unit / blocks);
    const std::int64_t c0 = unit % blocks * kNormColumns;
    const std::int64_t c1 = c0 + kNormColumns < args.c ? c0 + kNormColumns : args.c;
    T *plain = partial<T>(args, 0, unit / blocks), *product = partial<T>(args, 1, unit / blocks);
    const std::int64_t first = args.sets == 1 ? 0 : chunk.n0 * groups;
    each_strip<kSums, T>(c0, c1, [&](auto strip, std::int64_t c, int lanes) {
      constexpr int width = decltype(strip)::value;
      Spread<T> spread = {};
      for (int i = 0; i < (width > 1 ? width * Vec<T>::lanes : lanes); ++i) {
        const std::int64_t index = first + (c + i) / args.per_group;
        spread.center[i] = mean[index];
        if (!masked) continue;
        spread.scale[i] = weight ? rstd[index] * weight[c + i] : rstd[index];
        spread.bias[i] = bias ? bias[c + i] : T(0);
      }
      const auto sum =
          args.stream
              ? (masked ? sums_strip<width, true, false, T> : sums_strip<width, false, false, T>)
              : (masked ? sums_strip<width, true, true, T> : sums_strip<width, false, true, T>);
      sum(place<T>(args.x, args.x_strides, chunk.n0, chunk.s0, c), args.x_strides.s,
          place<T>(args.other, args.other_strides, chunk.n0, chunk.s0, c), args.other_strides.s,
          chunk.s1 - chunk.s0, lanes, spread, plain + c, product + c);
    });
  }
}

template <class T>
static inline void sums_first(const NormArgs& args, std::int64_t begin, std::int64_t end) {
  const std::int64_t groups = args.c / args.per_group;
  const bool masked = args.activation == Activation::relu;
  const T *weight = static_cast<const T*>(args.weight), *bias = static_cast<const T*>(args.bias);
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const Chunk chunk = chunk_at(args, unit / args.c);
    const std::int64_t c = unit % args.c;
    const T* x = place<T>(args.x, args.x_strides, 0, chunk.s0, c);
    const T* dy = place<T>(args.other, args.other_strides, 0, chunk.s0, c);
    const std::int64_t set = args.sets == 1 ? 0 : chunk.n0;
    const std::int64_t index = set * groups + c / args.per_group;
    const Vec<T> center = simd::set1<T>(static_cast<const T*>(args.mean)[index]);
    const T rstd = static_cast<const T*>(args.rstd)[index];
    const Vec<T> scale = simd::set1<T>(weight ? rstd * weight[c] : rstd);
    const Vec<T> offset = simd::set1<T>(bias ? bias[c] : T(0));
    double sums[2];
    sum_planes<2, T>(chunk, sums,
                     [&](const AlongRow<T, true>& walk, std::int64_t n, Step at, Vec<T>(&term)[2]) {
                       const Vec<T> d = walk.load(x + n * args.x_strides.n, 1, at) - center;
                       term[0] = walk.load(dy + n * args.other_strides.n, 1, at);
                       if (masked) term[0] = passed(term[0], d, scale, offset);
                       term[1] = term[0] * d;
                     });
    partial<T>(args, 0, 0)[unit] = static_cast<T>(sums[0]);
    partial<T>(args, 1, 0)[unit] = static_cast<T>(sums[1]);
  }
}

template <class T>
static inline void finish_backward_body(const NormArgs& args, std::int64_t begin,
                                        std::int64_t end) {
  const std::int64_t groups = args.c / args.per_group;
  const T *weight = static_cast<const T*>(args.weight), *bias = static_cast<const T*>(args.bias);
  const T *mean = static_cast<const T*>(args.mean), *rstd = static_cast<const T*>(args.rstd);
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const Block block = block_at(args, unit);
    double* dbias = args.sums + block.set * args.c;
    double* dweight = args.sums + (args.sets + block.set) * args.c;
    const std::int64_t first = block.set * chunks_of(args);
    double count = 0.0;
    for (std::int64_t c = block.c0; c < block.c1; ++c) dbias[c] = dweight[c] = 0.0;
    for (std::int64_t k = first; k < first + chunks_of(args); ++k) {
      count += static_cast<double>(chunk_at(args, k).count());
      const T *plain = partial<T>(args, 0, k), *product = partial<T>(args, 1, k);
      for (std::int64_t c = block.c0; c < block.c1; ++c) {
        dbias[c] += static_cast<double>(plain[c]);
        dweight[c] += static_cast<double>(product[c]);
      }
    }
    // Means of weight dy and of weight dy x^ over the group.
    double first_mean = 0.0, second_mean = 0.0;
    count *= static_cast<double>(args.per_group);
    T* center = coefficient<T>(args, kCenter, block.set);
    T* scale = coefficient<T>(args, kScale, block.set);
    T* shift = coefficient<T>(args, kShift, block.set);
    T* slope = coefficient<T>(args, kSlope, block.set);
    T* offset = coefficient<T>(args, kBias, block.set);
    for (std::int64_t c = block.c0; c < block.c1; ++c) {
      const std::int64_t index = block.set * groups + c / args.per_group;
      const double r = static_cast<double>(rstd[index]);
      const double factor = weight ? static_cast<double>(weight[c]) : 1.0;
      dweight[c] *= r;
      center[c] = mean[index];
      scale[c] = static_cast<T>(r * factor);
      offset[c] = bias ? bias[c] : T(0);
      if (args.per_group == 1) {
        shift[c] = args.constant ? T(0) : static_cast<T>(-r * factor * dbias[c] / count);
        slope[c] = args.constant ? T(0) : static_cast<T>(-r * r * factor * dweight[c] / count);
      }
      first_mean += factor * dbias[c];
      second_mean += factor * dweight[c];
    }
    if (args.per_group == 1) continue;
    const std::int64_t index = block.set * groups + block.c0 / args.per_group;
    const double r = static_cast<double>(rstd[index]);
    for (std::int64_t c = block.c0; c < block.c1; ++c) {
      shift[c] = args.constant ? T(0) : static_cast<T>(-r * first_mean / count);
      slope[c] = args.constant ? T(0) : static_cast<T>(-r * r * second_mean / count);
    }
  }
}

template <class T>
static inline void affine_body(const NormArgs& args, std::int64_t begin, std::int64_t end) {
  void* const targets[2] = {args.dbias, args.dweight};
  for (int which = 0; which < 2; ++which) {
    if (!targets[which]) continue;
    T* out = static_cast<T*>(targets[which]);
    for (std::int64_t unit = begin; unit < end; ++unit) {
      const std::int64_t c0 = unit * kNormBlock;
      const std::int64_t c1 = c0 + kNormBlock < args.c ? c0 + kNormBlock : args.c;
      double total[kNormBlock] = {};
      for (std::int64_t set = 0; set < args.sets; ++set) {
        const double* sums = args.sums + (which * args.sets + set) * args.c;
        for (std::int64_t c = c0; c < c1; ++c) total[c - c0] += sums[c];
      }
      for (std::int64_t c = c0; c < c1; ++c) out[c] = static_cast<T>(total[c - c0]);
    }
  }
}

// The gradient of x by that of y, where the statistics depend on x (kOwn) or not, perhaps with a
// ReLU behind.
enum Way { kOwn, kConstant, kOwnRelu, kConstantRelu };
static inline Way way_of(const NormArgs& args) {
  const bool relu = args.activation == Activation::relu;
  return args.constant ? (relu ? kConstantRelu : kConstant) : (relu ? kOwnRelu : kOwn);
}
// `x` and `get` are functions: what a way needs not, it does not load.
template <Way way, class T, class Load, class Get>
[[gnu::always_inline]] static inline Vec<T> gradient(Vec<T> dy, Load x, Get get) {
  const Vec<T> scale = get(kScale);
  if constexpr (way == kConstant) return dy * scale;
  const Vec<T> d = x() - get(kCenter);
  if constexpr (way == kOwnRelu || way == kConstantRelu) dy = passed(dy, d, scale, get(kBias));
  if constexpr (way == kConstantRelu) return dy * scale;
  return simd::fma(dy, scale, simd::fma(d, get(kSlope), get(kShift)));
}

template <int width, bool stream, Way way, class T>
static inline void gradient_strip(const T* x, std::int64_t x_step, const T* dy,
                                  std::int64_t dy_step, T* dx, std::int64_t dx_step,
                                  std::int64_t rows, int lanes, const T* const* from) {
  Vec<T> kept[kCoefficients][width];
  HOTLOOP_UNROLL
  for (int i = 0; i < kCoefficients * width; ++i) {
    kept[i / width][i % width] = load_strip<width>(from[i / width], i % width, lanes);
  }
  for (std::int64_t row = 0; row < rows; ++row, x += x_step, dy += dy_step, dx += dx_step) {
    HOTLOOP_UNROLL
    for (int w = 0; w < width; ++w) {
      const Vec<T> v = gradient<way>(
          load_strip<width>(dy, w, lanes),
          [&]() __attribute__((always_inline)) { return load_strip<width>(x, w, lanes); },
          [&](Coefficient k) __attribute__((always_inline)) { return kept[k][w]; });
      put<width>(dx, w, lanes, stream, v);
    }
  }
}

// The same for more channels than registers hold: whole rows, as in norm.cpp.
template <bool stream, bool down, Way way, class T>
static inline void gradient_rows(const T* x, std::int64_t x_step, const T* dy, std::int64_t dy_step,
                                 T* dx, std::int64_t dx_step, std::int64_t rows,
                                 std::int64_t channels, const T* const* coefficients) {
  const T* from[kCoefficients];
  for (int k = 0; k < kCoefficients; ++k) from[k] = coefficients[k];
  if constexpr (down) {
    x += (rows - 1) * x_step, dy += (rows - 1) * dy_step, dx += (rows - 1) * dx_step;
    x_step = -x_step, dy_step = -dy_step, dx_step = -dx_step;
  }
  for (std::int64_t row = 0; row < rows; ++row, x += x_step, dy += dy_step, dx += dx_step) {
    each_vector<down, T>(channels, [&](std::int64_t c, int lanes) __attribute__((always_inline)) {
      const Vec<T> v = gradient<way>(
          simd::load_upto(dy + c, lanes),
          [&]() __attribute__((always_inline)) { return simd::load_upto(x + c, lanes); },
          [&](Coefficient k)
              __attribute__((always_inline)) { return simd::load_upto(from[k] + c, lanes); });
      put<1>(dx + c, 0, lanes, stream, v);
    });
  }
}

template <Way way, class T>
static inline void apply_backward_way(const NormArgs& args, std::int64_t begin, std::int64_t end) {
  const bool stream = streams<T>(args);
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const Piece piece = piece_at(args, unit);
    const std::int64_t n = piece.n, s0 = piece.s0, rows = piece.count;
    const T* from[kCoefficients];
    for (int k = 0; k < kCoefficients; ++k) {
      from[k] = coefficient<T>(args, static_cast<Coefficient>(k), piece.set);
    }
    const T* x = place<T>(args.x, args.x_strides, n, s0, 0);
    const T* dy = place<T>(args.other, args.other_strides, n, s0, 0);
    T* dx = place<T>(args.out, args.out_strides, n, s0, 0);
    if (args.c > kWide * Vec<T>::lanes) {
      const T* const in[] = {x, dy};
      const auto rows_loop =
          goes_down(dx, in)
              ? (stream ? gradient_rows<true, true, way, T> : gradient_rows<false, true, way, T>)
              : (stream ? gradient_rows<true, false, way, T> : gradient_rows<false, false, way, T>);
      each_part<T>(args.c, [&](std::int64_t c, std::int64_t count) {
        const T* at[kCoefficients];
        for (int k = 0; k < kCoefficients; ++k) at[k] = from[k] + c;
        rows_loop(x + c, args.x_strides.s, dy + c, args.other_strides.s, dx + c, args.out_strides.s,
                  rows, count, at);
      });
      continue;
    }
    each_strip<kWide, T>(0, args.c, [&](auto strip, std::int64_t c, int lanes) {
      constexpr int width = decltype(strip)::value;
      const T* at[kCoefficients];
      for (int k = 0; k < kCoefficients; ++k) at[k] = from[k] + c;
      const auto strip_loop =
          stream ? gradient_strip<width, true, way, T> : gradient_strip<width, false, way, T>;
      strip_loop(x + c * args.x_strides.c, args.x_strides.s, dy + c * args.other_strides.c,
                 args.other_strides.s, dx + c * args.out_strides.c, args.out_strides.s, rows, lanes,
                 at);
    });
  }
  if (stream) simd::stream_fence();
}

template <class T>
static inline void apply_backward_last(const NormArgs& args, std::int64_t begin, std::int64_t end) {
  switch (way_of(args)) {
    case kOwn:
      return apply_backward_way<kOwn, T>(args, begin, end);
    case kConstant:
      return apply_backward_way<kConstant, T>(args, begin, end);
    case kOwnRelu:
      return apply_backward_way<kOwnRelu, T>(args, begin, end);
    case kConstantRelu:
      return apply_backward_way<kConstantRelu, T>(args, begin, end);
  }
}

template <class T>
static inline void apply_backward_first(const NormArgs& args, std::int64_t begin,
                                        std::int64_t end) {
  const bool stream = streams<T>(args);
  const Way way = way_of(args);
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const Piece piece = piece_at(args, unit);
    const std::int64_t n = piece.n, c = piece.c, s0 = piece.s0, count = piece.count;
    Vec<T> kept[kCoefficients];
    for (int k = 0; k < kCoefficients; ++k) {
      kept[k] = every<T>(args, static_cast<Coefficient>(k), piece);
    }
    const T* x = place<T>(args.x, args.x_strides, n, s0, c);
    const T* dy = place<T>(args.other, args.other_strides, n, s0, c);
    T* dx = place<T>(args.out, args.out_strides, n, s0, c);
    const AlongRow<T, true> walk{count};
    const auto get = [&](Coefficient k) __attribute__((always_inline)) { return kept[k]; };
    walk.each([&](Step at) __attribute__((always_inline)) {
      const auto from_x = [&]() __attribute__((always_inline)) { return walk.load(x, 1, at); };
      const Vec<T> g = walk.load(dy, 1, at);
      const Vec<T> v = way == kOwn        ? gradient<kOwn>(g, from_x, get)
                       : way == kConstant ? gradient<kConstant>(g, from_x, get)
                       : way == kOwnRelu  ? gradient<kOwnRelu>(g, from_x, get)
                                          : gradient<kConstantRelu>(g, from_x, get);
      if (stream && at.lanes == walk.lanes) {
        simd::stream(dx + at.index, v);
      } else {
        walk.store(dx, 1, at, v);
      }
    });
  }
  if (stream) simd::stream_fence();
}

}  // namespace

HOTLOOP_NORM_LAYOUTS(norm_sums, sums_first, sums_last)
HOTLOOP_NORM_LAYOUTS(norm_apply_backward, apply_backward_first, apply_backward_last)
HOTLOOP_NORM_DTYPES(norm_finish_backward, finish_backward_body)
HOTLOOP_NORM_DTYPES(norm_affine, affine_body)

}  // namespace hotloop::HOTLOOP_LEVEL
