// Channels of images, or of anything with samples and positions: what batch, instance and group
// norm share forward and backward. Where chunks lie and what they are called, strips of
// neighbouring channels in registers, sums down the positions and along them.
#pragma once

#include "engines/row_reduction.h"
#include "kernels/norm.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

// Vectors of a strip whose sums, or whose coefficients, fit the registers.
constexpr int kSums = simd::kBytes == 64 ? 8 : 4;
constexpr int kWide = simd::kBytes == 64 ? 4 : 2;
constexpr int kRun = 64;  // rows whose sums form one chain of additions

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

enum Coefficient { kCenter, kScale, kShift, kSlope, kBias, kCoefficients };

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

// Whether to walk rows from the last number to the first: loads that wait for stores as in
// engines/map.h, `walk`, are those of an input that lies a little before the result then, modulo 4
// KB, and of one behind it going up. Coefficients are read anew for every row, so that one of them
// is alike somewhere in each: down was the faster way there (83 us against up to 103).
template <int Inputs, class T>
static inline bool goes_down(const T* out, const T* const (&in)[Inputs]) {
  constexpr std::uintptr_t kAlike = 4096;
  std::uintptr_t behind = kAlike, ahead = kAlike;
  for (int k = 0; k < Inputs; ++k) {
    const std::uintptr_t apart =
        (reinterpret_cast<std::uintptr_t>(out) - reinterpret_cast<std::uintptr_t>(in[k])) % kAlike;
    if (apart == 0) continue;
    if (apart < behind) behind = apart;
    if (kAlike - apart < ahead) ahead = kAlike - apart;
  }
  return behind <= ahead;
}

// Calls body(channel, lanes) for every vector of a row, upwards or downwards; only that of the last
// channels has fewer than all lanes.
template <bool down, class T, class Body>
[[gnu::always_inline]] static inline void each_vector(std::int64_t channels, Body body) {
  constexpr int lanes = Vec<T>::lanes;
  const std::int64_t whole = channels / lanes * lanes;
  const auto rest = static_cast<int>(channels - whole);
  if constexpr (down) {
    if (rest > 0) body(whole, rest);
    for (std::int64_t c = whole - lanes; c >= 0; c -= lanes) body(c, lanes);
  } else {
    for (std::int64_t c = 0; c < whole; c += lanes) body(c, lanes);
    if (rest > 0) body(whole, rest);
  }
}

// Calls body(channel, count) for parts of a row whose coefficients stay in L1.
template <class T, class Body>
[[gnu::always_inline]] static inline void each_part(std::int64_t channels, Body body) {
  constexpr std::int64_t kPart = 4096 / static_cast<std::int64_t>(sizeof(T));
  for (std::int64_t c = 0; c < channels; c += kPart) {
    body(c, channels - c < kPart ? channels - c : kPart);
  }
}

// What the sums read soon, where the last cache holds it all: the forward pass of (32, 256, 14, 14)
// takes 0.87 of the time so. From memory that costs a tenth.
template <class T>
[[gnu::always_inline]] static inline void ask_ahead(const T* p) {
  simd::prefetch(reinterpret_cast<const char*>(p) + 8192);
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

// ---- chunks and units --------------------------------------------------------------------------

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

// The unit to take in the place of this one: each of `parts` ranges of units backwards.
[[maybe_unused]] static inline std::int64_t mirrored(std::int64_t unit, std::int64_t units,
                                                     std::int64_t parts) {
  const std::int64_t size = (units + parts - 1) / parts, first = unit / size * size;
  const std::int64_t last = first + size < units ? first + size : units;
  return first + last - 1 - unit;
}

// The positions of a unit of norm_apply; channels last, c is 0 and all channels are meant.
struct Piece {
  std::int64_t n, c, s0, count;
  std::int64_t set;  // whose coefficients hold
};
[[maybe_unused]] static inline Piece piece_at(const NormArgs& args, std::int64_t unit) {
  const std::int64_t pieces = (args.s + args.piece - 1) / args.piece;
  const std::int64_t channels = args.channels_last ? 1 : args.c;
  const std::int64_t at = mirrored(unit, args.n * channels * pieces, args.parts);
  const std::int64_t plane = at / pieces, n = plane / channels, s0 = at % pieces * args.piece;
  return {n, plane % channels, s0, args.s - s0 < args.piece ? args.s - s0 : args.piece,
          args.sets == 1 ? 0 : n};
}
// One coefficient in every lane, for pieces of one channel.
template <class T>
[[gnu::always_inline]] static inline Vec<T> every(const NormArgs& args, Coefficient which,
                                                  const Piece& piece) {
  return simd::set1<T>(coefficient<T>(args, which, piece.set)[piece.c]);
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

}  // namespace
}  // namespace hotloop::HOTLOOP_LEVEL

// A kernel for both dtypes and both layouts, and one for both dtypes.
#define HOTLOOP_NORM_LAYOUTS(name, first, last)                                              \
  void name(const NormArgs& args, std::int64_t begin, std::int64_t end) {                    \
    if (args.dtype == DType::f32) {                                                          \
      args.channels_last ? last<float>(args, begin, end) : first<float>(args, begin, end);   \
    } else {                                                                                 \
      args.channels_last ? last<double>(args, begin, end) : first<double>(args, begin, end); \
    }                                                                                        \
  }
#define HOTLOOP_NORM_DTYPES(name, body)                                   \
  void name(const NormArgs& args, std::int64_t begin, std::int64_t end) { \
    if (args.dtype == DType::f32) {                                       \
      body<float>(args, begin, end);                                      \
    } else {                                                              \
      body<double>(args, begin, end);                                     \
    }                                                                     \
  }
