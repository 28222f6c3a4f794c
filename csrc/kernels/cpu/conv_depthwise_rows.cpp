// Depthwise convolution with three taps along a row, the case that networks use: rows of x are read
// where they lie, what falls on the padding is left out or taken as zero, and a column of x that is
// loaded once serves up to three output pixels. Forward, backward to the input (stride 1) and the
// gradient of the weights. One product per cycle and vector: bound by memory out of the caches.
#include "engines/activate.h"
#include "engines/conv_slab.h"
#include "kernels/conv.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

using simd::Vec;

constexpr int kTaps = 3;
constexpr int kBlockPixels = 4;

template <class T, bool Whole>
HOTLOOP_SIMD Vec<T> load_lanes(const T* p, int lanes) {
  return Whole ? simd::load(p) : simd::load_n(p, lanes);
}

// Rows of taps of output row `row` that meet the image.
struct RowTaps {
  std::int64_t first, last, top;
};
inline RowTaps row_taps(const ConvSlab& slab, const ConvRowTaps& taps, std::int64_t row) {
  RowTaps found{0, taps.count, row * slab.step_h + slab.top};
  while (found.first < found.last && found.top + taps.shift[found.first] < 0) ++found.first;
  while (found.last > found.first && found.top + taps.shift[found.last - 1] >= slab.h) --found.last;
  return found;
}

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
  if (args.activation == Activation::none) return;
  for (std::int64_t col = 0; col < slab.out_w; ++col) {
    activate_row(args.activation, args.activation_alpha, y + col * args.row_taps.y_step,
                 args.columns.columns);
  }
}

template <class T>
void forward_body(const ConvTilesArgs& args, std::int64_t begin, std::int64_t end) {
  const ConvSlab& slab = args.slab;
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const SlabPart part = slab_part(slab, unit);
    for (std::int64_t index = 0; index < part.images * part.rows; ++index) {
      const std::int64_t image = part.image + index / part.rows;
      const std::int64_t row = part.row + index % part.rows;
      const T* x = static_cast<const T*>(slab.data) + image * slab.stride_n;
      T* y = static_cast<T*>(args.y) + image * args.y_stride_n + row * args.y_stride_h;
      if (args.row_taps.step == 1) {
        forward_row<T, 1>(args, x, row, y);
      } else {
        forward_row<T, 2>(args, x, row, y);
      }
    }
  }
}

// Adds a row of dy times `Rows` rows of x to Rows * 3 sums, one vector of channels.
template <class T, int Step, int Rows, bool Whole>
[[gnu::noinline]] void row_sums(const ConvWeightArgs& args, const T* const* x, const T* dy,
                                T* partial, int lanes) {
  using V = Vec<T>;
  const std::int64_t width = args.slab.w, stride = args.slab.stride_w;
  constexpr std::int64_t pitch = V::lanes;
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
                         const T* dy, T* sums, int lanes) {
  for (std::int64_t tap = taps.first; tap < taps.last; tap += 3) {
    const std::int64_t left = taps.last - tap;
    const T* rows[3];
    for (int i = 0; i < 3; ++i) {
      const std::int64_t own = i < left ? tap + i : taps.last - 1;
      rows[i] = image + (taps.top + args.row_taps.shift[own]) * args.slab.stride_h;
    }
    T* to = sums + tap * kTaps * Vec<T>::lanes;
    if (left >= 3) {
      row_sums<T, Step, 3, Whole>(args, rows, dy, to, lanes);
    } else if (left == 2) {
      row_sums<T, Step, 2, Whole>(args, rows, dy, to, lanes);
    } else {
      row_sums<T, Step, 1, Whole>(args, rows, dy, to, lanes);
    }
  }
}

// Vectors of channels that lie side by side and are summed together: lines of memory in a row.
constexpr int kGroup = 4;

// All rows of a part, `vectors` vectors of channels: their sums stay in L1 meanwhile.
template <class T, int Step>
[[gnu::noinline]] void part_sums(const ConvWeightArgs& args, const SlabPart& part, std::int64_t c,
                                 std::int64_t channels, T* partial) {
  constexpr std::int64_t kLanes = Vec<T>::lanes;
  constexpr std::int64_t kSums = kMaxRowTaps * kTaps * kLanes;
  const ConvSlab& slab = args.slab;
  const std::int64_t pitch = args.columns.blocks * kBlock<T>;
  T sums[kGroup * kSums];
  for (std::int64_t at = 0; at < channels; at += kLanes) {
    for (std::int64_t t = 0; t < args.taps; ++t) {
      simd::store(sums + at / kLanes * kSums + t * kLanes, simd::load(partial + t * pitch + at));
    }
  }
  for (std::int64_t at = 0; at < part.images * part.rows; ++at) {
    const std::int64_t image = part.image + at / part.rows, row = part.row + at % part.rows;
    const T* x = static_cast<const T*>(slab.data) + image * slab.stride_n + c;
    const T* dy =
        static_cast<const T*>(args.dy) + image * args.dy_stride_n + row * args.dy_stride_h + c;
    const RowTaps taps = row_taps(slab, args.row_taps, row);
    for (std::int64_t v = 0; v < channels; v += kLanes) {
      T* to = sums + v / kLanes * kSums;
      if (channels - v >= kLanes) {
        rows_of_taps<T, Step, true>(args, taps, x + v, dy + v, to, kLanes);
      } else {
        rows_of_taps<T, Step, false>(args, taps, x + v, dy + v, to, static_cast<int>(channels - v));
      }
    }
  }
  for (std::int64_t at = 0; at < channels; at += kLanes) {
    for (std::int64_t t = 0; t < args.taps; ++t) {
      simd::store(partial + t * pitch + at, simd::load(sums + at / kLanes * kSums + t * kLanes));
    }
  }
}

template <class T, int Step>
void add_part(const ConvWeightArgs& args, const SlabPart& part, T* partial) {
  constexpr std::int64_t kChannels = kGroup * Vec<T>::lanes;
  for (std::int64_t c = 0; c < args.columns.columns; c += kChannels) {
    const std::int64_t rest = args.columns.columns - c;
    part_sums<T, Step>(args, part, c, rest < kChannels ? rest : kChannels, partial + c);
  }
}

template <class T>
void weight_body(const ConvWeightArgs& args, std::int64_t begin, std::int64_t end) {
  const ConvSlab& slab = args.slab;
  const std::int64_t pitch = args.columns.blocks * kBlock<T>;
  for (std::int64_t chunk = begin; chunk < end; ++chunk) {
    T* partial = static_cast<T*>(args.partial) + chunk * args.taps * pitch;
    fill_zeros(partial, args.taps * pitch);
    const std::int64_t first = chunk * args.chunk_slabs;
    const std::int64_t last =
        first + args.chunk_slabs < slab.count ? first + args.chunk_slabs : slab.count;
    for (std::int64_t index = first; index < last; ++index) {
      const SlabPart part = slab_part(slab, index);
      if (args.row_taps.step == 1) {
        add_part<T, 1>(args, part, partial);
      } else {
        add_part<T, 2>(args, part, partial);
      }
    }
  }
}

}  // namespace

void conv_depthwise_rows(const ConvTilesArgs& args, std::int64_t begin, std::int64_t end) {
  args.dtype == DType::f32 ? forward_body<float>(args, begin, end)
                           : forward_body<double>(args, begin, end);
}

void conv_depthwise_rows_weight(const ConvWeightArgs& args, std::int64_t begin, std::int64_t end) {
  args.dtype == DType::f32 ? weight_body<float>(args, begin, end)
                           : weight_body<double>(args, begin, end);
}

}  // namespace hotloop::HOTLOOP_LEVEL
