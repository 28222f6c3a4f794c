// Statistics of channels, and what follows from them. With d = x - mean and x^ = d rstd:
//   y  = d (rstd weight) + bias
//   dx = rstd (weight dy - mean(weight dy) - x^ mean(weight dy x^)), dweight = sum dy x^,
//   dbias = sum dy (Ioffe and Szegedy, arXiv 1502.03167; Wu and He, arXiv 1803.08494).
//
// Layout: channels last (lanes run over the channels, some vectors of them at a time down the
// positions) or channels first (lanes run along the positions). A chunk's moments are taken in one
// pass around its pilot, the mean of its first sixteenth: with n values of which n/16 made the
// pilot, n (pilot - mean)^2 is at most 15 times the sum of squares, so that little cancels whatever
// the data. Chunks are merged in double in their order (Chan et al. 1979). The second pass walks
// each thread's part from its end, where the first one left it in the caches.
#include "kernels/norm.h"

#include "engines/activate.h"
#include "engines/row_reduction.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

// Vectors of a strip whose sums, or whose coefficients, fit the registers.
constexpr int kSums = simd::kBytes == 64 ? 8 : 4;
constexpr int kWide = simd::kBytes == 64 ? 4 : 2;
constexpr std::int64_t kPilot = 16;  // the pilot is the mean of one value in so many
constexpr int kRun = 64;             // rows whose sums form one chain of additions

// ---- where things lie ------------------------------------------------------------------------

// The samples and positions of a chunk.
struct Chunk {
  std::int64_t n0, n1, s0, s1;
  [[gnu::always_inline]] inline std::int64_t count() const { return (n1 - n0) * (s1 - s0); }
};
[[maybe_unused]] static inline Chunk chunk_at(const NormArgs& args, std::int64_t index) {
  const std::int64_t n0 = index / args.chunks_s * args.chunk_n;
  const std::int64_t s0 = index % args.chunks_s * args.chunk_s;
  const std::int64_t n1 = n0 + args.chunk_n, s1 = s0 + args.chunk_s;
  return {n0, n1 < args.n ? n1 : args.n, s0, s1 < args.s ? s1 : args.s};
}

template <class T>
[[gnu::always_inline]] static inline const T* place(const void* data, const NormStrides& strides,
                                                    std::int64_t n, std::int64_t s,
                                                    std::int64_t c) {
  return static_cast<const T*>(data) + n * strides.n + s * strides.s + c * strides.c;
}
template <class T>
[[gnu::always_inline]] static inline T* place(void* data, const NormStrides& strides,
                                              std::int64_t n, std::int64_t s, std::int64_t c) {
  return static_cast<T*>(data) + n * strides.n + s * strides.s + c * strides.c;
}

enum Coefficient { kCenter, kScale, kShift, kSlope };

template <class T>
[[gnu::always_inline]] static inline T* coefficient(const NormArgs& args, Coefficient which,
                                                    std::int64_t set) {
  return static_cast<T*>(args.coefficients) + (which * args.sets + set) * args.c;
}
template <class T>
[[gnu::always_inline]] static inline T* partial(const NormArgs& args, int which,
                                                std::int64_t chunk) {
  return static_cast<T*>(args.partials) + (which * args.chunks_n * args.chunks_s + chunk) * args.c;
}

// ---- strips: `width` vectors of neighbouring channels ------------------------------------------

template <int width>
struct Width {
  static constexpr int value = width;
};
// Calls body(Width, channel, lanes); only strips of one vector may have fewer than all lanes.
template <int widest, class T, class Body>
[[gnu::always_inline]] static inline void each_strip(std::int64_t c0, std::int64_t c1, Body body) {
  constexpr int lanes = Vec<T>::lanes;
  std::int64_t c = c0;
  for (; c + widest * lanes <= c1; c += widest * lanes) body(Width<widest>{}, c, lanes);
  if constexpr (widest > 4) {
    for (; c + 4 * lanes <= c1; c += 4 * lanes) body(Width<4>{}, c, lanes);
  }
  for (; c < c1; c += lanes) {
    body(Width<1>{}, c, c1 - c < lanes ? static_cast<int>(c1 - c) : lanes);
  }
}
template <int width, class T>
[[gnu::always_inline]] static inline Vec<T> load_strip(const T* p, int w, int lanes) {
  if constexpr (width > 1) {
    return simd::load(p + w * Vec<T>::lanes);
  } else {
    return simd::load_upto(p, lanes);
  }
}
template <int width, class T>
[[gnu::always_inline]] static inline void store_strip(T* p, int w, int lanes, Vec<T> v) {
  if constexpr (width > 1) {
    simd::store(p + w * Vec<T>::lanes, v);
  } else {
    simd::store_upto(p, v, lanes);
  }
}

// sums[w][k] = the sum over the rows of term k; body(row, w, sums) adds the terms of one vector.
// Chains of kRun rows, two or more of them at once for narrow strips.
template <int terms, int width, class T, class Body>
[[gnu::always_inline]] static inline void sum_rows(std::int64_t rows, Vec<T> (&sums)[width][terms],
                                                   Body body) {
  constexpr int chains = width >= 4 ? 1 : 4 / width;
  HOTLOOP_UNROLL
  for (int i = 0; i < width * terms; ++i) sums[i / terms][i % terms] = simd::zero<T>();
  for (std::int64_t row = 0; row < rows;) {
    Vec<T> chain[chains][width][terms];
    HOTLOOP_UNROLL
    for (int i = 0; i < chains * width * terms; ++i) {
      chain[i / (width * terms)][i / terms % width][i % terms] = simd::zero<T>();
    }
    const std::int64_t stop = rows - row < kRun ? rows : row + kRun;
    for (; row + chains <= stop; row += chains) {
      HOTLOOP_UNROLL
      for (int i = 0; i < chains * width; ++i) {
        body(row + i / width, i % width, chain[i / width][i % width]);
      }
    }
    for (; row < stop; ++row) {
      HOTLOOP_UNROLL
      for (int w = 0; w < width; ++w) body(row, w, chain[0][w]);
    }
    HOTLOOP_UNROLL
    for (int i = 0; i < chains * width * terms; ++i) {
      const int w = i / terms % width, k = i % terms;
      sums[w][k] = sums[w][k] + chain[i / (width * terms)][w][k];
    }
  }
}

// ---- statistics ------------------------------------------------------------------------------

template <int width, class T>
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
      moments_strip<decltype(width)::value, T>(
          place<T>(args.x, args.x_strides, chunk.n0, chunk.s0, c), args.x_strides.s,
          chunk.s1 - chunk.s0, lanes, mean + c, squares + c);
    });
  }
}

// Sums along the positions of a chunk's samples in one set of lanes.
template <int terms, class T, class Body>
[[gnu::always_inline]] static inline void sum_planes(const Chunk& chunk, double (&sums)[terms],
                                                     Body body) {
  Vec<T> slots[terms][kSlots];
  for (int k = 0; k < terms; ++k) {
    for (int i = 0; i < kSlots; ++i) slots[k][i] = simd::zero<T>();
  }
  const AlongRow<T, true> walk{chunk.s1 - chunk.s0};
  for (std::int64_t n = chunk.n0; n < chunk.n1; ++n) {
    walk.each([&](Step at) __attribute__((always_inline)) {
      Vec<T> term[terms];
      body(walk, n, at, term);
      for (int k = 0; k < terms; ++k) {
        slots[k][at.slot] = slots[k][at.slot] + walk.settle(term[k], at, T(0));
      }
    });
  }
  for (int k = 0; k < terms; ++k) {
    sums[k] = static_cast<double>(
        simd::reduce_add((slots[k][0] + slots[k][1]) + (slots[k][2] + slots[k][3])));
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

struct Block {
  std::int64_t set, c0, c1;  // its channels; all of a group where a group has several
};
[[maybe_unused]] static inline Block block_at(const NormArgs& args, std::int64_t unit) {
  const std::int64_t width = args.per_group == 1 ? kNormBlock : args.per_group;
  const std::int64_t blocks = (args.c + width - 1) / width;
  const std::int64_t c0 = unit % blocks * width;
  return {unit / blocks, c0, c0 + width < args.c ? c0 + width : args.c};
}
// How many chunks a set has.
[[maybe_unused]] static inline std::int64_t chunks_of(const NormArgs& args) {
  return args.chunks_n * args.chunks_s / args.sets;
}

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

// The unit to take in the place of this one: each of `parts` ranges of units backwards.
[[maybe_unused]] static inline std::int64_t mirrored(std::int64_t unit, std::int64_t units,
                                                     std::int64_t parts) {
  const std::int64_t size = (units + parts - 1) / parts, first = unit / size * size;
  const std::int64_t last = first + size < units ? first + size : units;
  return first + last - 1 - unit;
}

// Whether rows of whole vectors can be written around the caches.
template <class T>
static inline bool streams(const NormArgs& args) {
  const auto address = reinterpret_cast<std::uintptr_t>(args.out);
  const std::int64_t row = simd::kBytes / static_cast<std::int64_t>(sizeof(T));
  if (!args.stream || address % simd::kBytes != 0 || args.out_strides.n % row != 0) return false;
  return args.channels_last ? args.c % row == 0 && args.out_strides.s % row == 0
                            : args.out_strides.c % row == 0;
}
template <int width, class T>
[[gnu::always_inline]] static inline void put(T* p, int w, int lanes, bool stream, Vec<T> v) {
  if (stream) {
    simd::stream(p + w * Vec<T>::lanes, v);
  } else {
    store_strip<width>(p, w, lanes, v);
  }
}

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

template <class T>
static inline void apply_last(const NormArgs& args, std::int64_t begin, std::int64_t end) {
  const bool stream = streams<T>(args);
  const bool plain = args.activation == Activation::none && !args.other;
  const std::int64_t pieces = (args.s + args.piece - 1) / args.piece, units = args.n * pieces;
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const std::int64_t at = mirrored(unit, units, args.parts), n = at / pieces;
    const std::int64_t s0 = at % pieces * args.piece;
    const std::int64_t rows = args.s - s0 < args.piece ? args.s - s0 : args.piece;
    const std::int64_t set = args.sets == 1 ? 0 : n;
    const T* centers = coefficient<T>(args, kCenter, set);
    const T* scales = coefficient<T>(args, kScale, set);
    const T* shifts = coefficient<T>(args, kShift, set);
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
  const std::int64_t pieces = (args.s + args.piece - 1) / args.piece;
  const std::int64_t units = args.n * args.c * pieces;
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const std::int64_t place_of = mirrored(unit, units, args.parts), plane = place_of / pieces;
    const std::int64_t n = plane / args.c, c = plane % args.c;
    const std::int64_t s0 = place_of % pieces * args.piece;
    const std::int64_t count = args.s - s0 < args.piece ? args.s - s0 : args.piece;
    const std::int64_t set = args.sets == 1 ? 0 : n;
    const Vec<T> center = simd::set1<T>(coefficient<T>(args, kCenter, set)[c]);
    const Vec<T> scale = simd::set1<T>(coefficient<T>(args, kScale, set)[c]);
    const Vec<T> shift = simd::set1<T>(coefficient<T>(args, kShift, set)[c]);
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

// ---- backward ----------------------------------------------------------------------------------

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

template <class T>
static inline void apply_backward_last(const NormArgs& args, std::int64_t begin, std::int64_t end) {
  const bool stream = streams<T>(args);
  const std::int64_t pieces = (args.s + args.piece - 1) / args.piece, units = args.n * pieces;
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const std::int64_t at = mirrored(unit, units, args.parts), n = at / pieces;
    const std::int64_t s0 = at % pieces * args.piece;
    const std::int64_t rows = args.s - s0 < args.piece ? args.s - s0 : args.piece;
    const std::int64_t set = args.sets == 1 ? 0 : n;
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
  const std::int64_t pieces = (args.s + args.piece - 1) / args.piece;
  const std::int64_t units = args.n * args.c * pieces;
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const std::int64_t place_of = mirrored(unit, units, args.parts), plane = place_of / pieces;
    const std::int64_t n = plane / args.c, c = plane % args.c;
    const std::int64_t s0 = place_of % pieces * args.piece;
    const std::int64_t count = args.s - s0 < args.piece ? args.s - s0 : args.piece;
    const std::int64_t set = args.sets == 1 ? 0 : n;
    const Vec<T> center = simd::set1<T>(coefficient<T>(args, kCenter, set)[c]);
    const Vec<T> scale = simd::set1<T>(coefficient<T>(args, kScale, set)[c]);
    const Vec<T> shift = simd::set1<T>(coefficient<T>(args, kShift, set)[c]);
    const Vec<T> slope = simd::set1<T>(coefficient<T>(args, kSlope, set)[c]);
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

// One function for both dtypes and both layouts.
#define HOTLOOP_NORM(name, first, last)                                                      \
  void name(const NormArgs& args, std::int64_t begin, std::int64_t end) {                    \
    if (args.dtype == DType::f32) {                                                          \
      args.channels_last ? last<float>(args, begin, end) : first<float>(args, begin, end);   \
    } else {                                                                                 \
      args.channels_last ? last<double>(args, begin, end) : first<double>(args, begin, end); \
    }                                                                                        \
  }
HOTLOOP_NORM(norm_moments, moments_first, moments_last)
HOTLOOP_NORM(norm_apply, apply_first, apply_last)
HOTLOOP_NORM(norm_sums, sums_first, sums_last)
HOTLOOP_NORM(norm_apply_backward, apply_backward_first, apply_backward_last)
#undef HOTLOOP_NORM

#define HOTLOOP_NORM(name, body)                                          \
  void name(const NormArgs& args, std::int64_t begin, std::int64_t end) { \
    if (args.dtype == DType::f32) {                                       \
      body<float>(args, begin, end);                                      \
    } else {                                                              \
      body<double>(args, begin, end);                                     \
    }                                                                     \
  }
HOTLOOP_NORM(norm_finish, finish_body)
HOTLOOP_NORM(norm_finish_backward, finish_backward_body)
HOTLOOP_NORM(norm_affine, affine_body)
#undef HOTLOOP_NORM

}  // namespace hotloop::HOTLOOP_LEVEL
