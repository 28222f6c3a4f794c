// Gradients of the normalizations of channels. With d = x - mean and x^ = d rstd:
//   dx = rstd (weight dy - mean(weight dy) - x^ mean(weight dy x^)), dweight = sum dy x^,
//   dbias = sum dy (Ioffe and Szegedy, arXiv 1502.03167; Wu and He, arXiv 1803.08494).
//
// Layout, chunks and the backward walk of the second pass as in norm.cpp.
#include "engines/channels.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

// ---- sums --------------------------------------------------------------------------------------

template <int width, class T>
static inline void sums_strip(const T* x, std::int64_t x_step, const T* dy, std::int64_t dy_step,
                              std::int64_t rows, int lanes, const T* means, T* plain, T* product) {
  Vec<T> center[width], sums[width][2];
  HOTLOOP_UNROLL
  for (int w = 0; w < width; ++w) center[w] = simd::load(means + w * Vec<T>::lanes);
  sum_rows<2, width, T>(
      rows, sums, [&](std::int64_t row, int w, Vec<T>(&total)[2]) __attribute__((always_inline)) {
        const Vec<T> g = load_strip<width>(dy + row * dy_step, w, lanes);
        const Vec<T> d = load_strip<width>(x + row * x_step, w, lanes) - center[w];
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
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const Chunk chunk = chunk_at(args, unit / blocks);
    const std::int64_t c0 = unit % blocks * kNormColumns;
    const std::int64_t c1 = c0 + kNormColumns < args.c ? c0 + kNormColumns : args.c;
    T *plain = partial<T>(args, 0, unit / blocks), *product = partial<T>(args, 1, unit / blocks);
    const T* means = static_cast<const T*>(args.mean) + (args.sets == 1 ? 0 : chunk.n0 * groups);
    each_strip<kSums, T>(c0, c1, [&](auto strip, std::int64_t c, int lanes) {
      constexpr int width = decltype(strip)::value;
      T spread[kSums * Vec<T>::lanes] = {};
      for (int i = 0; i < (width > 1 ? width * Vec<T>::lanes : lanes); ++i) {
        spread[i] = means[(c + i) / args.per_group];
      }
      sums_strip<width, T>(
          place<T>(args.x, args.x_strides, chunk.n0, chunk.s0, c), args.x_strides.s,
          place<T>(args.other, args.other_strides, chunk.n0, chunk.s0, c), args.other_strides.s,
          chunk.s1 - chunk.s0, lanes, spread, plain + c, product + c);
    });
  }
}

template <class T>
static inline void sums_first(const NormArgs& args, std::int64_t begin, std::int64_t end) {
  const std::int64_t groups = args.c / args.per_group;
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const Chunk chunk = chunk_at(args, unit / args.c);
    const std::int64_t c = unit % args.c;
    const T* x = place<T>(args.x, args.x_strides, 0, chunk.s0, c);
    const T* dy = place<T>(args.other, args.other_strides, 0, chunk.s0, c);
    const std::int64_t set = args.sets == 1 ? 0 : chunk.n0;
    const Vec<T> center =
        simd::set1<T>(static_cast<const T*>(args.mean)[set * groups + c / args.per_group]);
    double sums[2];
    sum_planes<2, T>(chunk, sums,
                     [&](const AlongRow<T, true>& walk, std::int64_t n, Step at, Vec<T>(&term)[2]) {
                       term[0] = walk.load(dy + n * args.other_strides.n, 1, at);
                       term[1] = term[0] * (walk.load(x + n * args.x_strides.n, 1, at) - center);
                     });
    partial<T>(args, 0, 0)[unit] = static_cast<T>(sums[0]);
    partial<T>(args, 1, 0)[unit] = static_cast<T>(sums[1]);
  }
}

template <class T>
static inline void finish_backward_body(const NormArgs& args, std::int64_t begin,
                                        std::int64_t end) {
  const std::int64_t groups = args.c / args.per_group;
  const T* weight = static_cast<const T*>(args.weight);
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
    for (std::int64_t c = block.c0; c < block.c1; ++c) {
      const std::int64_t index = block.set * groups + c / args.per_group;
      const double r = static_cast<double>(rstd[index]);
      const double factor = weight ? static_cast<double>(weight[c]) : 1.0;
      dweight[c] *= r;
      center[c] = mean[index];
      scale[c] = static_cast<T>(r * factor);
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

template <class T>
[[gnu::always_inline]] static inline Vec<T> gradient(Vec<T> dy, Vec<T> x, Vec<T> center,
                                                     Vec<T> scale, Vec<T> shift, Vec<T> slope) {
  return simd::fma(dy, scale, simd::fma(x - center, slope, shift));
}

template <int width, bool stream, bool constant, class T>
static inline void gradient_strip(const T* x, std::int64_t x_step, const T* dy,
                                  std::int64_t dy_step, T* dx, std::int64_t dx_step,
                                  std::int64_t rows, int lanes, const T* const (&from)[4]) {
  Vec<T> center[width], scale[width], shift[width], slope[width];
  HOTLOOP_UNROLL
  for (int w = 0; w < width; ++w) {
    center[w] = load_strip<width>(from[kCenter], w, lanes);
    scale[w] = load_strip<width>(from[kScale], w, lanes);
    shift[w] = load_strip<width>(from[kShift], w, lanes);
    slope[w] = load_strip<width>(from[kSlope], w, lanes);
  }
  for (std::int64_t row = 0; row < rows; ++row, x += x_step, dy += dy_step, dx += dx_step) {
    HOTLOOP_UNROLL
    for (int w = 0; w < width; ++w) {
      Vec<T> v = load_strip<width>(dy, w, lanes);
      if constexpr (constant) {
        v = v * scale[w];
      } else {
        v = gradient(v, load_strip<width>(x, w, lanes), center[w], scale[w], shift[w], slope[w]);
      }
      put<width>(dx, w, lanes, stream, v);
    }
  }
}

// The same for more channels than registers hold: whole rows, one after the other. Four at a time,
// as in norm.cpp, walk twelve places of memory, which took 1.08 to 1.26 times as long.
template <bool stream, bool constant, class T>
static inline void gradient_rows(const T* x, std::int64_t x_step, const T* dy, std::int64_t dy_step,
                                 T* dx, std::int64_t dx_step, std::int64_t rows,
                                 std::int64_t channels, const T* const (&from)[4]) {
  for (std::int64_t row = 0; row < rows; ++row, x += x_step, dy += dy_step, dx += dx_step) {
    each_vector<T>(channels, [&](std::int64_t c, int lanes) __attribute__((always_inline)) {
      Vec<T> v = simd::load_upto(dy + c, lanes);
      const Vec<T> scale = simd::load_upto(from[kScale] + c, lanes);
      if constexpr (constant) {
        v = v * scale;
      } else {
        v = gradient(v, simd::load_upto(x + c, lanes), simd::load_upto(from[kCenter] + c, lanes),
                     scale, simd::load_upto(from[kShift] + c, lanes),
                     simd::load_upto(from[kSlope] + c, lanes));
      }
      put<1>(dx + c, 0, lanes, stream, v);
    });
  }
}

template <class T>
static inline void apply_backward_last(const NormArgs& args, std::int64_t begin, std::int64_t end) {
  const bool stream = streams<T>(args);
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const Piece piece = piece_at(args, unit);
    const std::int64_t n = piece.n, s0 = piece.s0, rows = piece.count, set = piece.set;
    if (args.c > kWide * Vec<T>::lanes) {
      const T* const from[4] = {
          coefficient<T>(args, kCenter, set), coefficient<T>(args, kScale, set),
          coefficient<T>(args, kShift, set), coefficient<T>(args, kSlope, set)};
      const auto all_channels =
          args.constant ? (stream ? gradient_rows<true, true, T> : gradient_rows<false, true, T>)
                        : (stream ? gradient_rows<true, false, T> : gradient_rows<false, false, T>);
      all_channels(place<T>(args.x, args.x_strides, n, s0, 0), args.x_strides.s,
                   place<T>(args.other, args.other_strides, n, s0, 0), args.other_strides.s,
                   place<T>(args.out, args.out_strides, n, s0, 0), args.out_strides.s, rows, args.c,
                   from);
      continue;
    }
    each_strip<kWide, T>(0, args.c, [&](auto strip, std::int64_t c, int lanes) {
      constexpr int width = decltype(strip)::value;
      const T* x = place<T>(args.x, args.x_strides, n, s0, c);
      const T* dy = place<T>(args.other, args.other_strides, n, s0, c);
      T* dx = place<T>(args.out, args.out_strides, n, s0, c);
      const T* const from[4] = {
          coefficient<T>(args, kCenter, set) + c, coefficient<T>(args, kScale, set) + c,
          coefficient<T>(args, kShift, set) + c, coefficient<T>(args, kSlope, set) + c};
      const auto strip_loop = args.constant ? (stream ? gradient_strip<width, true, true, T>
                                                      : gradient_strip<width, false, true, T>)
                                            : (stream ? gradient_strip<width, true, false, T>
                                                      : gradient_strip<width, false, false, T>);
      strip_loop(x, args.x_strides.s, dy, args.other_strides.s, dx, args.out_strides.s, rows, lanes,
                 from);
    });
  }
  if (stream) simd::stream_fence();
}

template <class T>
static inline void apply_backward_first(const NormArgs& args, std::int64_t begin,
                                        std::int64_t end) {
  const bool stream = streams<T>(args);
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const Piece piece = piece_at(args, unit);
    const std::int64_t n = piece.n, c = piece.c, s0 = piece.s0, count = piece.count;
    const Vec<T> center = every<T>(args, kCenter, piece);
    const Vec<T> scale = every<T>(args, kScale, piece);
    const Vec<T> shift = every<T>(args, kShift, piece);
    const Vec<T> slope = every<T>(args, kSlope, piece);
    const T* x = place<T>(args.x, args.x_strides, n, s0, c);
    const T* dy = place<T>(args.other, args.other_strides, n, s0, c);
    T* dx = place<T>(args.out, args.out_strides, n, s0, c);
    const AlongRow<T, true> walk{count};
    walk.each([&](Step at) __attribute__((always_inline)) {
      const Vec<T> g = walk.load(dy, 1, at);
      const Vec<T> v =
          args.constant ? g * scale : gradient(g, walk.load(x, 1, at), center, scale, shift, slope);
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
