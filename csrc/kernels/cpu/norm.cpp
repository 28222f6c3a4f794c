// Statistics of channels, and what follows from them: y = (x - mean) (rstd weight) + bias
// (Ioffe and Szegedy, arXiv 1502.03167; Wu and He, arXiv 1803.08494).
//
// Layout: channels last (lanes run over the channels, some vectors of them at a time down the
// positions) or channels first (lanes run along the positions). A chunk's moments are taken in one
// pass around its pilot, the mean of its first sixteenth: with n values of which n/16 made the
// pilot, n (pilot - mean)^2 is at most 15 times the sum of squares, so that little cancels whatever
// the data. Chunks are merged in double in their order (Chan et al. 1979). The second pass walks
// each thread's part from its end, where the first one left it in the caches; with many channels
// whole rows: strips of 256 bytes took 1.3 times as long for (32, 256, 14, 14).
#include "kernels/norm.h"

#include "engines/activate.h"
#include "engines/channels.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

constexpr std::int64_t kPilot = 16;  // the pilot is the mean of one value in so many

// ---- statistics ------------------------------------------------------------------------------

template <int width, bool ask, class T>
static inline void moments_strip(const T* x, std::int64_t stride, std::int64_t rows, int lanes,
                                 T* mean, T* squares) {
  const std::int64_t first = (rows + kPilot - 1) / kPilot;
  const Vec<T> pilot_share = simd::set1<T>(T(1) / static_cast<T>(first));
  const Vec<T> share = simd::set1<T>(T(1) / static_cast<T>(rows));
  Vec<T> sum[width][1], pilot[width], rest[width][2];
  sum_rows<1, width, T>(
      first, sum, [=](std::int64_t row, int w, Vec<T>(&total)[1]) __attribute__((always_inline)) {
        total[0] = total[0] + load_strip<width>(x + row * stride, w, lanes);
      });
  HOTLOOP_UNROLL
  for (int w = 0; w < width; ++w) pilot[w] = sum[w][0] * pilot_share;
  sum_rows<2, width, T>(
      rows, rest, [&](std::int64_t row, int w, Vec<T>(&total)[2]) __attribute__((always_inline)) {
        if constexpr (ask) ask_ahead(x + row * stride + w * Vec<T>::lanes);
        const Vec<T> d = load_strip<width>(x + row * stride, w, lanes) - pilot[w];
        total[0] = total[0] + d;
        total[1] = simd::fma(d, d, total[1]);
      });
  HOTLOOP_UNROLL
  for (int w = 0; w < width; ++w) {
    const Vec<T> off = rest[w][0] * share;
    store_strip<width>(mean, w, lanes, pilot[w] + off);
    store_strip<width>(squares, w, lanes, simd::fnma(rest[w][0], off, rest[w][1]));
  }
}

template <class T>
static inline void moments_last(const NormArgs& args, std::int64_t begin, std::int64_t end) {
  const std::int64_t blocks = (args.c + kNormColumns - 1) / kNormColumns;
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const Chunk chunk = chunk_at(args, unit / blocks);
    const std::int64_t c0 = unit % blocks * kNormColumns;
    const std::int64_t c1 = c0 + kNormColumns < args.c ? c0 + kNormColumns : args.c;
    T *mean = partial<T>(args, 0, unit / blocks), *squares = partial<T>(args, 1, unit / blocks);
    each_strip<kSums, T>(c0, c1, [&](auto width, std::int64_t c, int lanes) {
      constexpr int vectors = decltype(width)::value;
      const auto strip =
          args.stream ? moments_strip<vectors, false, T> : moments_strip<vectors, true, T>;
      strip(place<T>(args.x, args.x_strides, chunk.n0, chunk.s0, c), args.x_strides.s,
            chunk.s1 - chunk.s0, lanes, mean + c, squares + c);
    });
  }
}

// A sixteenth of a chunk.
[[maybe_unused]] static inline Chunk first_part(Chunk chunk) {
  if (chunk.n1 - chunk.n0 > 1) {
    chunk.n1 = chunk.n0 + (chunk.n1 - chunk.n0 + kPilot - 1) / kPilot;
  } else {
    chunk.s1 = chunk.s0 + (chunk.s1 - chunk.s0 + kPilot - 1) / kPilot;
  }
  return chunk;
}

template <class T>
static inline void moments_first(const NormArgs& args, std::int64_t begin, std::int64_t end) {
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const Chunk chunk = chunk_at(args, unit / args.c);
    const T* x = place<T>(args.x, args.x_strides, 0, chunk.s0, unit % args.c);
    const Chunk first = first_part(chunk);
    const double share = 1.0 / static_cast<double>(chunk.count());
    double sum[1], rest[2];
    using Walk = AlongRow<T, true>;
    sum_planes<1, T>(first, sum, [&](const Walk& walk, std::int64_t n, Step at, Vec<T>(&term)[1]) {
      term[0] = walk.load(x + n * args.x_strides.n, 1, at);
    });
    const T mean = static_cast<T>(sum[0] / static_cast<double>(first.count()));
    const Vec<T> pilot = simd::set1<T>(mean);
    sum_planes<2, T>(chunk, rest, [&](const Walk& walk, std::int64_t n, Step at, Vec<T>(&term)[2]) {
      term[0] = walk.load(x + n * args.x_strides.n, 1, at) - pilot;
      term[1] = term[0] * term[0];
    });
    partial<T>(args, 0, 0)[unit] = static_cast<T>(static_cast<double>(mean) + rest[0] * share);
    partial<T>(args, 1, 0)[unit] = static_cast<T>(rest[1] - rest[0] * rest[0] * share);
  }
}
// ---- chunks combined -------------------------------------------------------------------------

// count += more, mean and squares likewise (Chan, Golub and LeVeque 1979).
struct Moments {
  double count, mean, squares;

  [[gnu::always_inline]] inline void merge(double more, double its_mean, double its_squares) {
    const double total = count + more, delta = its_mean - mean;
    mean += delta * (more / total);
    squares += its_squares + delta * delta * (count * more / total);
    count = total;
  }
};

// The moments of up to kNormBlock channels from c on; returns how many elements each has.
template <class T>
static inline double merge_chunks(const NormArgs& args, std::int64_t set, std::int64_t c, int width,
                                  double* mean, double* squares) {
  for (int i = 0; i < width; ++i) mean[i] = squares[i] = 0.0;
  double count = 0.0;
  const std::int64_t first = set * chunks_of(args);
  for (std::int64_t k = first; k < first + chunks_of(args); ++k) {
    const double more = static_cast<double>(chunk_at(args, k).count()), total = count + more;
    const double share = more / total, spread = count * more / total;
    const T *its_mean = partial<T>(args, 0, k) + c, *its_squares = partial<T>(args, 1, k) + c;
    for (int i = 0; i < width; ++i) {
      const double delta = static_cast<double>(its_mean[i]) - mean[i];
      mean[i] += delta * share;
      squares[i] += static_cast<double>(its_squares[i]) + delta * delta * spread;
    }
    count = total;
  }
  return count;
}

template <class T>
static inline void settle(const NormArgs& args, std::int64_t index, const Moments& found) {
  const double variance = found.squares / found.count;
  const std::int64_t groups = args.sets * (args.c / args.per_group);
  args.moments[index] = found.mean;
  args.moments[groups + index] = variance;
  static_cast<T*>(args.mean)[index] = static_cast<T>(found.mean);
  static_cast<T*>(args.rstd)[index] = static_cast<T>(1.0 / __builtin_sqrt(variance + args.eps));
}

template <class T>
static inline void finish_body(const NormArgs& args, std::int64_t begin, std::int64_t end) {
  const std::int64_t groups = args.c / args.per_group;
  const T *weight = static_cast<const T*>(args.weight), *bias = static_cast<const T*>(args.bias);
  const T *mean = static_cast<const T*>(args.mean), *rstd = static_cast<const T*>(args.rstd);
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const Block block = block_at(args, unit);
    if (args.moments) {
      Moments group{0.0, 0.0, 0.0};
      for (std::int64_t c = block.c0; c < block.c1; c += kNormBlock) {
        double means[kNormBlock], squares[kNormBlock];
        const int width = static_cast<int>(block.c1 - c < kNormBlock ? block.c1 - c : kNormBlock);
        const double count = merge_chunks<T>(args, block.set, c, width, means, squares);
        for (int i = 0; i < width; ++i) {
          if (args.per_group == 1) {
            settle<T>(args, block.set * groups + c + i, {count, means[i], squares[i]});
          } else {
            group.merge(count, means[i], squares[i]);
          }
        }
      }
      if (args.per_group > 1) {
        settle<T>(args, block.set * groups + block.c0 / args.per_group, group);
      }
    }
    T* center = coefficient<T>(args, kCenter, block.set);
    T* scale = coefficient<T>(args, kScale, block.set);
    T* shift = coefficient<T>(args, kShift, block.set);
    for (std::int64_t c = block.c0; c < block.c1; ++c) {
      const std::int64_t index = block.set * groups + c / args.per_group;
      center[c] = mean[index];
      scale[c] = weight ? rstd[index] * weight[c] : rstd[index];
      shift[c] = bias ? bias[c] : T(0);
    }
  }
}
// ---- the result --------------------------------------------------------------------------------

template <class T>
[[gnu::always_inline]] static inline Vec<T> normalized(Vec<T> x, Vec<T> center, Vec<T> scale,
                                                       Vec<T> shift) {
  return simd::fma(x - center, scale, shift);
}

// Rows of `width` vectors without residual and activation. A function of its own: within the
// lambda that calls it gcc keeps the coefficients in memory.
template <int width, bool stream, class T>
static inline void normalize_strip(const T* x, std::int64_t x_step, T* y, std::int64_t y_step,
                                   std::int64_t rows, int lanes, const T* centers, const T* scales,
                                   const T* shifts) {
  Vec<T> center[width], scale[width], shift[width];
  HOTLOOP_UNROLL
  for (int w = 0; w < width; ++w) {
    center[w] = load_strip<width>(centers, w, lanes);
    scale[w] = load_strip<width>(scales, w, lanes);
    shift[w] = load_strip<width>(shifts, w, lanes);
  }
  for (std::int64_t row = 0; row < rows; ++row, x += x_step, y += y_step) {
    HOTLOOP_UNROLL
    for (int w = 0; w < width; ++w) {
      put<width>(y, w, lanes, stream,
                 normalized(load_strip<width>(x, w, lanes), center[w], scale[w], shift[w]));
    }
  }
}

// The same for more channels than registers hold: whole rows, as memory lies. Four rows at a time
// were 1.3 times as fast in some places and 2.4 times as slow in others: at 1 KB a row, a row's
// loads wait for the stores of the rows before (goes_down), which rows one after the other in the
// right direction do not.
template <bool stream, bool plain, bool down, class T>
static inline void normalize_rows(const NormArgs& args, const Piece& piece, std::int64_t c0,
                                  std::int64_t channels) {
  const std::int64_t first = down ? piece.count - 1 : 0, by = down ? -1 : 1;
  const std::int64_t x_step = by * args.x_strides.s, y_step = by * args.out_strides.s;
  const std::int64_t other_step = by * args.other_strides.s;
  const T* x = place<T>(args.x, args.x_strides, piece.n, piece.s0 + first, c0);
  const T* other = nullptr;
  if (!plain && args.other) {
    other = place<T>(args.other, args.other_strides, piece.n, piece.s0 + first, c0);
  }
  T* y = place<T>(args.out, args.out_strides, piece.n, piece.s0 + first, c0);
  const T* centers = coefficient<T>(args, kCenter, piece.set) + c0;
  const T* scales = coefficient<T>(args, kScale, piece.set) + c0;
  const T* shifts = coefficient<T>(args, kShift, piece.set) + c0;
  for (std::int64_t row = 0; row < piece.count; ++row, x += x_step, y += y_step) {
    each_vector<down, T>(channels, [&](std::int64_t c, int lanes) __attribute__((always_inline)) {
      Vec<T> v = normalized(simd::load_upto(x + c, lanes), simd::load_upto(centers + c, lanes),
                            simd::load_upto(scales + c, lanes), simd::load_upto(shifts + c, lanes));
      if constexpr (!plain) {
        if (other) v = v + simd::load_upto(other + c, lanes);
        v = activate(args.activation, args.alpha, v);
      }
      put<1>(y + c, 0, lanes, stream, v);
    });
    if (!plain && other) other += other_step;
  }
}
template <bool plain, bool down, class T>
static inline void normalize_rows_of(const NormArgs& args, const Piece& piece, bool stream) {
  const auto rows_loop =
      stream ? normalize_rows<true, plain, down, T> : normalize_rows<false, plain, down, T>;
  each_part<T>(args.c,
               [&](std::int64_t c0, std::int64_t count) { rows_loop(args, piece, c0, count); });
}

template <class T>
static inline void apply_last(const NormArgs& args, std::int64_t begin, std::int64_t end) {
  const bool stream = streams<T>(args);
  const bool plain = args.activation == Activation::none && !args.other;
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const Piece piece = piece_at(args, unit);
    const std::int64_t n = piece.n, s0 = piece.s0, rows = piece.count, set = piece.set;
    const T* centers = coefficient<T>(args, kCenter, set);
    const T* scales = coefficient<T>(args, kScale, set);
    const T* shifts = coefficient<T>(args, kShift, set);
    if (args.c > kWide * Vec<T>::lanes) {
      if (!plain) {  // with more arrays one of them lies badly either way
        normalize_rows_of<false, true, T>(args, piece, stream);
        continue;
      }
      const T* const x[] = {place<T>(args.x, args.x_strides, n, s0, 0)};
      if (goes_down(place<T>(args.out, args.out_strides, n, s0, 0), x)) {
        normalize_rows_of<true, true, T>(args, piece, stream);
      } else {
        normalize_rows_of<true, false, T>(args, piece, stream);
      }
      continue;
    }
    each_strip<4, T>(0, args.c, [&](auto strip, std::int64_t c, int lanes) {
      constexpr int width = decltype(strip)::value;
      const T* x = place<T>(args.x, args.x_strides, n, s0, c);
      T* y = place<T>(args.out, args.out_strides, n, s0, c);
      if (plain) {
        const auto strip_loop =
            stream ? normalize_strip<width, true, T> : normalize_strip<width, false, T>;
        strip_loop(x, args.x_strides.s, y, args.out_strides.s, rows, lanes, centers + c, scales + c,
                   shifts + c);
        return;
      }
      Vec<T> center[width], scale[width], shift[width];
      for (int w = 0; w < width; ++w) {
        center[w] = load_strip<width>(centers + c, w, lanes);
        scale[w] = load_strip<width>(scales + c, w, lanes);
        shift[w] = load_strip<width>(shifts + c, w, lanes);
      }
      const T* other = args.other ? place<T>(args.other, args.other_strides, n, s0, c) : nullptr;
      for (std::int64_t row = 0; row < rows; ++row) {
        for (int w = 0; w < width; ++w) {
          Vec<T> v = normalized(load_strip<width>(x, w, lanes), center[w], scale[w], shift[w]);
          if (other) v = v + load_strip<width>(other + row * args.other_strides.s, w, lanes);
          put<width>(y, w, lanes, stream, activate(args.activation, args.alpha, v));
        }
        x += args.x_strides.s;
        y += args.out_strides.s;
      }
    });
  }
  if (stream) simd::stream_fence();
}

template <class T>
static inline void apply_first(const NormArgs& args, std::int64_t begin, std::int64_t end) {
  const bool stream = streams<T>(args);
  const bool plain = args.activation == Activation::none && !args.other;
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const Piece piece = piece_at(args, unit);
    const std::int64_t n = piece.n, c = piece.c, s0 = piece.s0, count = piece.count;
    const Vec<T> center = every<T>(args, kCenter, piece);
    const Vec<T> scale = every<T>(args, kScale, piece);
    const Vec<T> shift = every<T>(args, kShift, piece);
    const T* x = place<T>(args.x, args.x_strides, n, s0, c);
    T* y = place<T>(args.out, args.out_strides, n, s0, c);
    const AlongRow<T, true> walk{count};
    if (plain) {
      walk.each([&](Step at) __attribute__((always_inline)) {
        const Vec<T> v = normalized(walk.load(x, 1, at), center, scale, shift);
        if (stream && at.lanes == walk.lanes) {
          simd::stream(y + at.index, v);
        } else {
          walk.store(y, 1, at, v);
        }
      });
      continue;
    }
    const T* other = args.other ? place<T>(args.other, args.other_strides, n, s0, c) : nullptr;
    for (std::int64_t i = 0; i < count; i += walk.lanes) {
      Vec<T> v = normalized(simd::load_upto(x + i, count - i), center, scale, shift);
      if (other) v = v + simd::load_upto(other + i, count - i);
      simd::store_upto(y + i, activate(args.activation, args.alpha, v), count - i);
    }
  }
  if (stream) simd::stream_fence();
}
}  // namespace

HOTLOOP_NORM_LAYOUTS(norm_moments, moments_first, moments_last)
HOTLOOP_NORM_LAYOUTS(norm_apply, apply_first, apply_last)
HOTLOOP_NORM_DTYPES(norm_finish, finish_body)

}  // namespace hotloop::HOTLOOP_LEVEL
