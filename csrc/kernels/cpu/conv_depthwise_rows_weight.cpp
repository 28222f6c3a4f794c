// The gradient of the weights of depthwise convolutions with three taps along a row: sums stay in
// registers while a row of dy and one or three rows of x pass by.
#include "engines/conv_rows.h"
#include "engines/conv_slab.h"
#include "kernels/conv.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

// Adds a row of dy times `Rows` rows of x to Rows * 3 sums, one vector of channels.
template <class T, int Step, int Rows, bool Whole>
[[gnu::noinline]] void row_sums(const ConvWeightArgs& args, const T* const* x, const T* dy,
                                T* partial, int lanes) {
  using V = Vec<T>;
  const std::int64_t width = args.slab.w, stride = args.slab.stride_w;
  const std::int64_t pitch = args.columns.blocks * kBlock<T>;
  const std::int64_t dy_step = args.dy_stride_w;
  const T* row[Rows];
  V sum[Rows][kTaps], left[Rows], middle[Rows];
  std::int64_t at = args.slab.left;
#pragma GCC unroll 3
  for (int i = 0; i < Rows; ++i) {
    row[i] = x[i];
#pragma GCC unroll 3
    for (int j = 0; j < kTaps; ++j) sum[i][j] = simd::load(partial + (i * kTaps + j) * pitch);
    left[i] = middle[i] = simd::zero<T>();
    if (at >= 0 && at < width) left[i] = load_lanes<T, Whole>(row[i] + at * stride, lanes);
    if (at + 1 >= 0 && at + 1 < width) {
      middle[i] = load_lanes<T, Whole>(row[i] + (at + 1) * stride, lanes);
    }
  }
  for (std::int64_t col = args.slab.out_w; col > 0; --col, at += Step, dy += dy_step) {
    const V d = load_lanes<T, Whole>(dy, lanes);
    const bool inside = at + 2 >= 0 && at + 2 < width;
    const bool next = at + 3 >= 0 && at + 3 < width;
    const std::int64_t offset = (at + 2) * stride;
    // What the next row of dy needs: short runs far apart, which the hardware does not foresee.
    __builtin_prefetch(dy + args.dy_stride_h, 0, 2);
#pragma GCC unroll 2
    for (int i = 1; i <= Step; ++i) {
#pragma GCC unroll 2
      for (int q = 0; q < Step; ++q) {
        __builtin_prefetch(row[Rows - 1] + i * args.slab.stride_h + offset + q * stride, 0, 2);
      }
    }
#pragma GCC unroll 3
    for (int i = 0; i < Rows; ++i) {
      V right = simd::zero<T>();
      if (inside) right = load_lanes<T, Whole>(row[i] + offset, lanes);
      sum[i][0] = simd::fma(left[i], d, sum[i][0]);
      sum[i][1] = simd::fma(middle[i], d, sum[i][1]);
      sum[i][2] = simd::fma(right, d, sum[i][2]);
      if constexpr (Step == 1) {
        left[i] = middle[i];
        middle[i] = right;
      } else {
        left[i] = right;
        middle[i] = simd::zero<T>();
        if (next) middle[i] = load_lanes<T, Whole>(row[i] + offset + stride, lanes);
      }
    }
  }
#pragma GCC unroll 3
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 3
    for (int j = 0; j < kTaps; ++j) simd::store(partial + (i * kTaps + j) * pitch, sum[i][j]);
  }
}

// All rows of taps of a row of dy, three at a time.
template <class T, int Step, bool Whole>
inline void rows_of_taps(const ConvWeightArgs& args, const RowTaps& taps, const T* image,
                         const T* dy, T* partial, int lanes) {
  const std::int64_t pitch = args.columns.blocks * kBlock<T>;
  for (std::int64_t tap = taps.first; tap < taps.last; tap += 3) {
    const std::int64_t left = taps.last - tap;
    const T* rows[3];
    for (int i = 0; i < 3; ++i) {
      const std::int64_t own = i < left ? tap + i : taps.last - 1;
      rows[i] = image + (taps.top + args.row_taps.shift[own]) * args.slab.stride_h;
    }
    T* to = partial + tap * kTaps * pitch;
    if (left >= 3) {
      row_sums<T, Step, 3, Whole>(args, rows, dy, to, lanes);
    } else if (left == 2) {
      row_sums<T, Step, 2, Whole>(args, rows, dy, to, lanes);
    } else {
      row_sums<T, Step, 1, Whole>(args, rows, dy, to, lanes);
    }
  }
}

// Adds a row of dy times a row of x to three sums of some whole vectors: both are read as they lie.
// Three rows of x and single vectors, lines far apart, took 1.1 to 1.9 times the time from memory.
template <class T, int Step, int Vectors>
[[gnu::noinline]] void group_sums(const ConvWeightArgs& args, const T* x, const T* dy, T* partial) {
  using V = Vec<T>;
  const ConvSlab& slab = args.slab;
  const std::int64_t pitch = args.columns.blocks * kBlock<T>, stride = slab.stride_w;
  const auto read = [&](std::int64_t at, int v) {
    const bool inside = at >= 0 && at < slab.w;
    return inside ? simd::load(x + at * stride + v * V::lanes) : simd::zero<T>();
  };
  V sum[Vectors][kTaps], left[Vectors], middle[Vectors];
  std::int64_t at = slab.left;
#pragma GCC unroll 4
  for (int v = 0; v < Vectors; ++v) {
#pragma GCC unroll 3
    for (int j = 0; j < kTaps; ++j) sum[v][j] = simd::load(partial + j * pitch + v * V::lanes);
    left[v] = read(at, v);
    middle[v] = read(at + 1, v);
  }
  const T* from = x + (at + 2) * stride;
  for (std::int64_t col = slab.out_w; col > 0;
       --col, at += Step, from += Step * stride, dy += args.dy_stride_w) {
    const bool inside = at + 2 >= 0 && at + 2 < slab.w;
    const bool next = Step > 1 && at + 3 >= 0 && at + 3 < slab.w;
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) {
      const V d = simd::load(dy + v * V::lanes);
      // What the next rows need: the hardware does not foresee a jump back to the first channel.
      __builtin_prefetch(dy + args.dy_stride_h + v * V::lanes, 0, 2);
#pragma GCC unroll 2
      for (int q = 0; q < Step; ++q) {
        __builtin_prefetch(from + slab.stride_h + q * stride + v * V::lanes, 0, 2);
      }
      V right = simd::zero<T>();
      if (inside) right = simd::load(from + v * V::lanes);
      sum[v][0] = simd::fma(left[v], d, sum[v][0]);
      sum[v][1] = simd::fma(middle[v], d, sum[v][1]);
      sum[v][2] = simd::fma(right, d, sum[v][2]);
      left[v] = Step > 1 ? right : middle[v];
      middle[v] = Step > 1 ? simd::zero<T>() : right;
      if (next) middle[v] = simd::load(from + stride + v * V::lanes);
    }
  }
#pragma GCC unroll 4
  for (int v = 0; v < Vectors; ++v) {
#pragma GCC unroll 3
    for (int j = 0; j < kTaps; ++j) simd::store(partial + j * pitch + v * V::lanes, sum[v][j]);
  }
}

// The same for all rows of taps.
template <class T, int Step, int Vectors>
inline void group_of_taps(const ConvWeightArgs& args, const RowTaps& taps, const T* image,
                          const T* dy, T* partial) {
  const std::int64_t pitch = args.columns.blocks * kBlock<T>;
  for (std::int64_t tap = taps.first; tap < taps.last; ++tap) {
    const T* x = image + (taps.top + args.row_taps.shift[tap]) * args.slab.stride_h;
    group_sums<T, Step, Vectors>(args, x, dy, partial + tap * kTaps * pitch);
  }
}

template <class T, int Step>
void add_part(const ConvWeightArgs& args, const SlabPart& part, T* partial) {
  constexpr std::int64_t kLanes = Vec<T>::lanes;
  const ConvSlab& slab = args.slab;
  for (std::int64_t at = 0; at < part.images * part.rows; ++at) {
    const std::int64_t image = part.image + at / part.rows, row = part.row + at % part.rows;
    const T* x = static_cast<const T*>(slab.data) + image * slab.stride_n;
    const T* dy = static_cast<const T*>(args.dy);
    dy += image * args.dy_stride_n + row * args.dy_stride_h;
    const RowTaps taps = row_taps(slab, args.row_taps, row);
    for (std::int64_t c = 0, rest = args.columns.columns; rest > 0;) {
      std::int64_t channels = rest < kLanes ? rest : kLanes;
      if (simd::kBytes == 64 && rest >= 4 * kLanes) {  // registers
        channels = 4 * kLanes;
        group_of_taps<T, Step, 4>(args, taps, x + c, dy + c, partial + c);
      } else if (simd::kBytes == 64 && rest >= 2 * kLanes) {
        channels = 2 * kLanes;
        group_of_taps<T, Step, 2>(args, taps, x + c, dy + c, partial + c);
      } else if (rest >= kLanes) {
        rows_of_taps<T, Step, true>(args, taps, x + c, dy + c, partial + c, kLanes);
      } else {
        rows_of_taps<T, Step, false>(args, taps, x + c, dy + c, partial + c,
                                     static_cast<int>(rest));
      }
      c += channels, rest -= channels;
    }
  }
}

// 3x3 with stride 1, `Rows` rows of dy at once, one vector of channels: a line of x that is loaded
// once serves all of them. `top`, `bottom`: the first row of dy has no row of x above, the last one
// none below.
template <class T, int Rows, bool Whole>
[[gnu::noinline]] void slide_sums(const ConvWeightArgs& args, const T* x, const T* dy, bool top,
                                  bool bottom, int lanes, T* partial) {
  using V = Vec<T>;
  constexpr int kSources = Rows + 2;
  const ConvSlab& slab = args.slab;
  const std::int64_t pitch = args.columns.blocks * kBlock<T>, step = slab.stride_w;
  V sum[kTaps][kTaps], left[kSources], middle[kSources];
#pragma GCC unroll 9
  for (int k = 0; k < kTaps * kTaps; ++k) {
    sum[k / kTaps][k % kTaps] = simd::load(partial + k * pitch);
  }
  first_columns<Whole>(slab, x, top, bottom, lanes, left, middle);
  std::int64_t at = slab.left + 2;
  const bool ask = rows_ahead<T>(step);
  x += at * step;
  for (std::int64_t col = 0; col < slab.out_w; ++col, ++at, x += step, dy += args.dy_stride_w) {
    const bool inside = at >= 0 && at < slab.w;
    V d[Rows];
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) {
      d[r] = load_lanes<T, Whole>(dy + r * args.dy_stride_h, lanes);
      if (!ask) continue;
      __builtin_prefetch(dy + (r + Rows) * args.dy_stride_h, 0, 2);
      __builtin_prefetch(x + (r + Rows + 2) * slab.stride_h, 0, 2);
    }
#pragma GCC unroll 6
    for (int i = 0; i < kSources; ++i) {
      if ((i == 0 && top) || (i == kSources - 1 && bottom)) continue;
      V right = simd::zero<T>();
      if (inside) right = load_lanes<T, Whole>(x + i * slab.stride_h, lanes);
#pragma GCC unroll 3
      for (int tap = 2; tap >= 0; --tap) {
        const int r = i - tap;
        if (r < 0 || r >= Rows) continue;
        sum[tap][0] = simd::fma(left[i], d[r], sum[tap][0]);
        sum[tap][1] = simd::fma(middle[i], d[r], sum[tap][1]);
        sum[tap][2] = simd::fma(right, d[r], sum[tap][2]);
      }
      left[i] = middle[i];
      middle[i] = right;
    }
  }
#pragma GCC unroll 9
  for (int k = 0; k < kTaps * kTaps; ++k) {
    simd::store(partial + k * pitch, sum[k / kTaps][k % kTaps]);
  }
}

// Rows of dy from `row` on, all channels: how many were added.
template <class T>
std::int64_t some_rows(const ConvWeightArgs& args, const T* image, const T* dy, std::int64_t row,
                       std::int64_t rows, T* partial) {
  const auto body = [&](auto number, auto whole, const T* x, bool top, bool bottom, std::int64_t c,
                        int lanes) {
    slide_sums<T, number.value, whole.value != 0>(args, x, dy + c, top, bottom, lanes, partial + c);
  };
  return slide_rows(args.slab, image, row, rows, args.columns.columns, body);
}

template <class T>
void add_slides(const ConvWeightArgs& args, const SlabPart& part, T* partial) {
  const ConvSlab& slab = args.slab;
  for (std::int64_t image = part.image; image < part.image + part.images; ++image) {
    const T* x = static_cast<const T*>(slab.data) + image * slab.stride_n;
    const T* dy = static_cast<const T*>(args.dy) + image * args.dy_stride_n;
    for (std::int64_t row = part.row, made = 0; row < part.row + part.rows; row += made) {
      made =
          some_rows(args, x, dy + row * args.dy_stride_h, row, part.row + part.rows - row, partial);
      if (made > 0) continue;
      SlabPart one = part;
      one.image = image, one.row = row;
      one.images = one.rows = made = 1;
      add_part<T, 1>(args, one, partial);
    }
  }
}

// A strip of x and one of dy, both with their channels copied next to each other.
template <class T>
struct StripRows {
  const T* x;
  const T* dy;
  std::int64_t images, rows, cols;
  std::int64_t x_image, x_row, x_step;  // elements from image to image, output row to row; a row
};

// One vector of channels, `Rows` rows of taps: their sums over all of the strip.
template <class T, int Step, int Rows>
[[gnu::noinline]] void strip_sums(const StripRows<T>& strip, const std::int64_t* shift, T* partial,
                                  std::int64_t pitch) {
  using V = Vec<T>;
  constexpr std::int64_t kStrip = kStripBlocks * kBlock<T>;
  V sum[Rows][kTaps];
#pragma GCC unroll 3
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 3
    for (int j = 0; j < kTaps; ++j) sum[i][j] = simd::load(partial + (i * kTaps + j) * pitch);
  }
  const T* dy = strip.dy;
  for (std::int64_t index = 0; index < strip.images * strip.rows; ++index) {
    const T* from = strip.x + index / strip.rows * strip.x_image + index % strip.rows * strip.x_row;
    const T* x[Rows];
    V left[Rows], middle[Rows];
#pragma GCC unroll 3
    for (int i = 0; i < Rows; ++i) {
      x[i] = from + shift[i] * strip.x_step;
      left[i] = simd::load(x[i]);
      middle[i] = simd::load(x[i] + kStrip);
    }
    std::int64_t at = 2 * kStrip;
    for (std::int64_t col = strip.cols; col > 0; --col, at += Step * kStrip, dy += kStrip) {
      const V d = simd::load(dy);
#pragma GCC unroll 3
      for (int i = 0; i < Rows; ++i) {
        const V right = simd::load(x[i] + at);
        sum[i][0] = simd::fma(left[i], d, sum[i][0]);
        sum[i][1] = simd::fma(middle[i], d, sum[i][1]);
        sum[i][2] = simd::fma(right, d, sum[i][2]);
        left[i] = Step == 1 ? middle[i] : right;
        // Behind the last pixel of a row: read, not used.
        middle[i] = Step == 1 ? right : simd::load(x[i] + at + kStrip);
      }
    }
  }
#pragma GCC unroll 3
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 3
    for (int j = 0; j < kTaps; ++j) simd::store(partial + (i * kTaps + j) * pitch, sum[i][j]);
  }
}

template <class T, int Step>
void add_strip(const ConvWeightArgs& args, StripRows<T> strip, std::int64_t channels, T* partial) {
  const std::int64_t pitch = args.columns.blocks * kBlock<T>, rows = args.row_taps.count;
  for (std::int64_t c = 0; c < channels; c += Vec<T>::lanes) {
    for (std::int64_t tap = 0; tap < rows; tap += 3) {
      const std::int64_t* shift = args.row_taps.shift + tap;
      T* to = partial + tap * kTaps * pitch + c;
      if (rows - tap >= 3) {
        strip_sums<T, Step, 3>(strip, shift, to, pitch);
      } else if (rows - tap == 2) {
        strip_sums<T, Step, 2>(strip, shift, to, pitch);
      } else {
        strip_sums<T, Step, 1>(strip, shift, to, pitch);
      }
    }
    strip.x += Vec<T>::lanes;
    strip.dy += Vec<T>::lanes;
  }
}

// All channels of a part, a strip of them at a time.
template <class T>
void add_strips(const ConvWeightArgs& args, const SlabPart& part, T* partial) {
  constexpr std::int64_t kStrip = kStripBlocks * kBlock<T>;
  const ConvSlab& slab = args.slab;
  T* const x = own_scratch<T>(args.scratch);
  T* const dy = x + slab.size;
  const std::int64_t step = slab.width * slab.pitch;
  const StripRows<T> strip{
      x, dy, part.images, part.rows, slab.out_w, slab.height * step, slab.step_h * step, step};
  for (std::int64_t c = 0; c < args.columns.columns; c += kStrip) {
    const std::int64_t rest = args.columns.columns - c;
    const std::int64_t channels = rest < kStrip ? rest : kStrip;
    fill_slab(slab, part, c, channels, x);
    for (std::int64_t index = 0; index < part.images * part.rows; ++index) {
      const T* from = static_cast<const T*>(args.dy) + c +
                      (part.image + index / part.rows) * args.dy_stride_n +
                      (part.row + index % part.rows) * args.dy_stride_h;
      copy_pixels(dy + index * slab.out_w * kStrip, kStrip, from, args.dy_stride_w, 1, slab.out_w,
                  channels);
    }
    if (args.row_taps.step == 1) {
      add_strip<T, 1>(args, strip, channels, partial + c);
    } else {
      add_strip<T, 2>(args, strip, channels, partial + c);
    }
  }
}

template <class T>
void weight_body(const ConvWeightArgs& args, std::int64_t begin, std::int64_t end) {
  const ConvSlab& slab = args.slab;
  const std::int64_t pitch = args.columns.blocks * kBlock<T>;
  for (std::int64_t chunk = begin; chunk < end; ++chunk) {
    T* partial = static_cast<T*>(args.partial) + chunk * args.taps * pitch;
    if (!args.adds) fill_zeros(partial, args.taps * pitch);
    const SlabRange slabs = slabs_of_chunk(args, chunk);
    for (std::int64_t index = slabs.begin; index < slabs.end; ++index) {
      const SlabPart part = slab_part(slab, index);
      if (args.row_taps.strip > 0) {
        add_strips(args, part, partial);
      } else if (args.row_taps.slide) {
        add_slides(args, part, partial);
      } else if (args.row_taps.step == 1) {
        add_part<T, 1>(args, part, partial);
      } else {
        add_part<T, 2>(args, part, partial);
      }
    }
  }
}

}  // namespace

void conv_depthwise_rows_weight(const ConvWeightArgs& args, std::int64_t begin, std::int64_t end) {
  args.dtype == DType::f32 ? weight_body<float>(args, begin, end)
                           : weight_body<double>(args, begin, end);
}

}  // namespace hotloop::HOTLOOP_LEVEL
