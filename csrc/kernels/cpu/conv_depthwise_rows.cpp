// Depthwise convolution with three taps along a row, the case that networks use: rows of x are read
// where they lie, what falls on the padding is left out or taken as zero, and a column of x that is
// loaded once serves up to three output pixels. Forward, backward to the input (stride 1) and the
// gradient of the weights (conv_depthwise_rows_weight.cpp). One product per cycle and vector: bound
// by memory out of the caches.
#include "engines/conv_finish.h"
#include "engines/conv_rows.h"
#include "engines/conv_slab.h"
#include "kernels/conv.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

constexpr int kBlockPixels = 4;

// Where a block of pixels is read and written.
template <class T>
struct RowBlock {
  const T* x;                 // column `column`, channel 0, of the image's row 0
  std::int64_t column, step;  // elements from column to column
  T* y;
  std::int64_t y_step, pixels;
};

// Which columns of a block may lie outside the image, and are zeros: none, the first, the last, or
// any of them, where fewer pixels may be wanted too.
enum class Edge { none, first, last, any };

// Fetches what the next row of output pixels reads and writes first, into the second cache: a block
// reads many short runs far apart, which the hardware does not foresee.
template <class T, int Step>
HOTLOOP_SIMD void fetch_next_row(const ConvTilesArgs& args, const RowTaps& taps,
                                 const RowBlock<T>& block, std::int64_t c) {
  if (taps.last == 0) return;  // all taps lie below the image
  const std::int64_t stride = args.slab.stride_h;
  const T* x = block.x + (taps.top + args.row_taps.shift[taps.last - 1]) * stride + c;
#pragma GCC unroll 2
  for (int row = 1; row <= Step; ++row) {
#pragma GCC unroll 8
    for (int q = 0; q < kBlockPixels * Step; ++q) {
      __builtin_prefetch(x + row * stride + q * block.step, 0, 2);
    }
  }
#pragma GCC unroll 4
  for (int p = 0; p < kBlockPixels; ++p) {
    __builtin_prefetch(block.y + args.y_stride_h + p * block.y_step + c, 1, 2);
  }
}

// kBlockPixels output pixels, one vector of channels from c on.
template <class T, int Step, Edge edge, bool Whole>
HOTLOOP_SIMD void block_of_pixels(const ConvTilesArgs& args, const RowTaps& taps,
                                  const RowBlock<T>& block, std::int64_t c, int lanes) {
  using V = Vec<T>;
  constexpr int kColumns = (kBlockPixels - 1) * Step + kTaps;
  const std::int64_t pitch = args.columns.blocks * kBlock<T>;
  const std::int64_t step = block.step;
  const T* w = static_cast<const T*>(args.weights) + taps.first * kTaps * pitch + c;
  V sum[kBlockPixels];
  const V bias = simd::load(static_cast<const T*>(args.bias) + c);
#pragma GCC unroll 4
  for (int p = 0; p < kBlockPixels; ++p) sum[p] = bias;
  for (std::int64_t tap = taps.first; tap < taps.last; ++tap, w += kTaps * pitch) {
    const T* x = block.x + (taps.top + args.row_taps.shift[tap]) * args.slab.stride_h + c;
    V column[kColumns];
#pragma GCC unroll 9
    for (int q = 0; q < kColumns; ++q) {
      const bool inside =
          edge == Edge::any
              ? block.column + q >= 0 && block.column + q < args.slab.w
              : !(edge == Edge::first && q == 0) && !(edge == Edge::last && q == kColumns - 1);
      column[q] = simd::zero<T>();
      if (inside) column[q] = load_lanes<T, Whole>(x + q * step, lanes);
    }
#pragma GCC unroll 3
    for (int j = 0; j < kTaps; ++j) {
      const V wv = simd::load(w + j * pitch);
#pragma GCC unroll 4
      for (int p = 0; p < kBlockPixels; ++p) {
        sum[p] = simd::fma(column[p * Step + j], wv, sum[p]);
      }
    }
  }
  if (edge != Edge::any) fetch_next_row<T, Step>(args, taps, block, c);
#pragma GCC unroll 4
  for (int p = 0; p < kBlockPixels; ++p) {
    if (edge == Edge::any && p >= block.pixels) continue;
    T* y = block.y + p * block.y_step + c;
    Whole ? simd::store(y, sum[p]) : simd::store_n(y, sum[p], lanes);
  }
}

// The same for all channels.
template <class T, int Step, Edge edge>
[[gnu::noinline]] void channels_of_pixels(const ConvTilesArgs& args, const RowTaps& taps,
                                          const RowBlock<T>& block) {
  constexpr int kLanes = Vec<T>::lanes;
  std::int64_t c = 0;
  for (; c + kLanes <= args.columns.columns; c += kLanes) {
    block_of_pixels<T, Step, edge, true>(args, taps, block, c, kLanes);
  }
  const int rest = static_cast<int>(args.columns.columns - c);
  if (rest > 0) block_of_pixels<T, Step, edge, false>(args, taps, block, c, rest);
}

// `Rows` rows of output pixels, one vector of channels from c on: weights and three columns of x
// stay in registers, and a line of x that is loaded once serves all rows. `top`, `bottom`: the
// first row has no row of x above, the last one none below. The sums are those of blocks of pixels,
// term by term.
template <class T, int Rows, bool Whole>
[[gnu::noinline]] void slide(const ConvTilesArgs& args, const T* source, bool top, bool bottom,
                             std::int64_t c, int lanes, T* y) {
  using V = Vec<T>;
  constexpr int kSources = Rows + 2;
  const ConvSlab& slab = args.slab;
  const std::int64_t pitch = args.columns.blocks * kBlock<T>, step = slab.stride_w;
  const T* weights = static_cast<const T*>(args.weights) + c;
  const T* bias = static_cast<const T*>(args.bias) + c;
  V w[kTaps][kTaps], left[kSources], middle[kSources];
#pragma GCC unroll 9
  for (int k = 0; k < kTaps * kTaps; ++k) w[k / kTaps][k % kTaps] = simd::load(weights + k * pitch);
  first_columns<Whole>(slab, source, top, bottom, lanes, left, middle);
  const std::int64_t y_step = args.row_taps.y_step, y_row = args.y_stride_h;
  y += c;
  std::int64_t at = slab.left + 2;
  const T* x = source + at * step;
  const bool ask = rows_ahead<T>(step);
  for (std::int64_t col = 0; col < slab.out_w; ++col, ++at, x += step, y += y_step) {
    const bool inside = at >= 0 && at < slab.w;
    V sum[Rows];
#pragma GCC unroll 6
    for (int i = 0; i < kSources; ++i) {
      if (i < Rows) sum[i] = simd::load(bias);
      // Rows do not stay in the caches then: the next vector's pixels (0.9 of the time at 1024@7).
      if (!ask) __builtin_prefetch(x + i * slab.stride_h + V::lanes, 0, 2);
      if (!(i == 0 && top) && !(i == kSources - 1 && bottom)) {
        V right = simd::zero<T>();
        if (inside) right = load_lanes<T, Whole>(x + i * slab.stride_h, lanes);
#pragma GCC unroll 3
        for (int tap = 2; tap >= 0; --tap) {
          const int r = i - tap;
          if (r < 0 || r >= Rows) continue;
          sum[r] = simd::fma(left[i], w[tap][0], sum[r]);
          sum[r] = simd::fma(middle[i], w[tap][1], sum[r]);
          sum[r] = simd::fma(right, w[tap][2], sum[r]);
        }
        left[i] = middle[i];
        middle[i] = right;
      }
      if (i < 2) continue;
      if (ask) __builtin_prefetch(x + (i + Rows) * slab.stride_h, 0, 2);
      T* to = y + (i - 2) * y_row;
      Whole ? simd::store(to, sum[i - 2]) : simd::store_n(to, sum[i - 2], lanes);
    }
  }
}

// Rows of output pixels from `row` on, all channels: how many were made.
template <class T>
std::int64_t some_rows(const ConvTilesArgs& args, const T* image, std::int64_t row,
                       std::int64_t rows, T* y) {
  const auto body = [&](auto number, auto whole, const T* x, bool top, bool bottom, std::int64_t c,
                        int lanes) {
    slide<T, number.value, whole.value != 0>(args, x, top, bottom, c, lanes, y);
  };
  return slide_rows(args.slab, image, row, rows, args.columns.columns, body);
}

template <class T, int Step>
void forward_row(const ConvTilesArgs& args, const T* image, std::int64_t row, T* y) {
  const ConvSlab& slab = args.slab;
  const RowTaps taps = row_taps(slab, args.row_taps, row);
  for (std::int64_t start = 0; start < slab.out_w; start += kBlockPixels) {
    // The last block reaches back to be a whole one: a pixel computed twice is the same twice.
    std::int64_t col = start;
    if (col > 0 && col + kBlockPixels > slab.out_w) col = slab.out_w - kBlockPixels;
    const std::int64_t column = col * Step + slab.left;
    const RowBlock<T> block{image + column * slab.stride_w,
                            column,
                            slab.stride_w,
                            y + col * args.row_taps.y_step,
                            args.row_taps.y_step,
                            slab.out_w - col};
    const std::int64_t beyond = column + (kBlockPixels - 1) * Step + kTaps - slab.w;
    if (block.pixels < kBlockPixels || column < -1 || beyond > 1 || (column < 0 && beyond > 0)) {
      channels_of_pixels<T, Step, Edge::any>(args, taps, block);
    } else if (column < 0) {
      channels_of_pixels<T, Step, Edge::first>(args, taps, block);
    } else if (beyond > 0) {
      channels_of_pixels<T, Step, Edge::last>(args, taps, block);
    } else {
      channels_of_pixels<T, Step, Edge::none>(args, taps, block);
    }
  }
}

template <class T>
void forward_body(const ConvTilesArgs& args, std::int64_t begin, std::int64_t end) {
  const ConvSlab& slab = args.slab;
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const SlabPart part = slab_part(slab, unit);
    for (std::int64_t image = part.image; image < part.image + part.images; ++image) {
      const T* x = static_cast<const T*>(slab.data) + image * slab.stride_n;
      T* y = static_cast<T*>(args.y) + image * args.y_stride_n + part.row * args.y_stride_h;
      const std::int64_t last = part.row + part.rows;
      for (std::int64_t row = part.row, made = 0; row < last; row += made) {
        made = args.row_taps.slide ? some_rows(args, x, row, last - row, y) : 0;
        if (made == 0) {
          made = 1;
          args.row_taps.step == 1 ? forward_row<T, 1>(args, x, row, y)
                                  : forward_row<T, 2>(args, x, row, y);
        }
        for (std::int64_t i = 0; i < made; ++i, y += args.y_stride_h) {
          finish_row(args, image, row + i, 0, y, args.columns.columns);
        }
      }
    }
  }
}

// Rows of a strip, some channels from c on that were copied with their border: as if the strip were
// the image, and its weights all weights.
template <class T>
void forward_strip(const ConvTilesArgs& args, const SlabPart& part, std::int64_t c,
                   std::int64_t channels, const T* weights, const T* strip) {
  const ConvSlab& slab = args.slab;
  ConvTilesArgs own = args;
  own.slab.stride_w = slab.pitch;
  own.slab.stride_h = slab.width * slab.pitch;
  own.slab.h = slab.height;
  own.slab.w = slab.width;
  own.slab.top = own.slab.left = 0;
  own.columns = {channels, kStripBlocks, 1};
  own.weights = weights;
  own.bias = static_cast<const T*>(args.bias) + c;
  for (std::int64_t index = 0; index < part.images * part.rows; ++index) {
    const std::int64_t image = index / part.rows, row = index % part.rows;
    const T* x = strip + image * own.slab.h * own.slab.stride_h;
    T* y = static_cast<T*>(args.y) + (part.image + image) * args.y_stride_n +
           (part.row + row) * args.y_stride_h + c;
    if (args.row_taps.step == 1) {
      forward_row<T, 1>(own, x, row, y);
    } else {
      forward_row<T, 2>(own, x, row, y);
    }
    finish_row(args, part.image + image, part.row + row, c, y, channels);
  }
}

template <class T>
void strips_body(const ConvTilesArgs& args, std::int64_t begin, std::int64_t end) {
  constexpr std::int64_t kStrip = kStripBlocks * kBlock<T>;
  const std::int64_t pitch = args.columns.blocks * kBlock<T>;
  T* const strip = own_scratch<T>(args.scratch);
  T weights[kMaxRowTaps * kTaps * kStrip];
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const SlabPart part = slab_part(args.slab, unit);
    for (std::int64_t c = 0; c < args.columns.columns; c += kStrip) {
      const std::int64_t rest = args.columns.columns - c, width = pitch - c;
      const std::int64_t channels = rest < kStrip ? rest : kStrip;
      fill_slab(args.slab, part, c, channels, strip);
      for (std::int64_t tap = 0; tap < args.row_taps.count * kTaps; ++tap) {
        copy_dense(weights + tap * kStrip, static_cast<const T*>(args.weights) + tap * pitch + c,
                   width < kStrip ? width : kStrip);
      }
      forward_strip(args, part, c, channels, weights, strip);
    }
  }
}

template <class T>
void any_body(const ConvTilesArgs& args, std::int64_t begin, std::int64_t end) {
  args.row_taps.strip > 0 ? strips_body<T>(args, begin, end) : forward_body<T>(args, begin, end);
}

}  // namespace

void conv_depthwise_rows(const ConvTilesArgs& args, std::int64_t begin, std::int64_t end) {
  args.dtype == DType::f32 ? any_body<float>(args, begin, end) : any_body<double>(args, begin, end);
}

}  // namespace hotloop::HOTLOOP_LEVEL
