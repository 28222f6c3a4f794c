// What the drivers of convolutions share: axes, slabs, tables of offsets, scratch. Planning turns
// strides, padding, dilation and layout into numbers in tables; shapes alone decide.
#pragma once

#include <cstdint>
#include <new>
#include <vector>

#include "core/arena.h"
#include "core/launch.h"
#include "core/threads.h"
#include "kernels/conv.h"

namespace hotloop {

// Whole cache lines: other threads read tables while the caller writes what else it allocates.
template <class T>
struct LineAllocator {
  using value_type = T;
  static constexpr std::align_val_t kLine{64};
  LineAllocator() = default;
  template <class Other>
  LineAllocator(const LineAllocator<Other>&) {}
  T* allocate(std::size_t count) {
    return static_cast<T*>(::operator new((count * sizeof(T) + 63) / 64 * 64, kLine));
  }
  void deallocate(T* from, std::size_t) { ::operator delete(from, kLine); }
  bool operator==(const LineAllocator&) const = default;
};

using Table = std::vector<std::int64_t, LineAllocator<std::int64_t>>;
using Numbers = std::vector<std::int64_t>;  // of the caller alone

constexpr std::int64_t ceil_div(std::int64_t value, std::int64_t divisor) {
  return (value + divisor - 1) / divisor;
}

// One axis of one pass: output position t reads source positions step * t + first + shift of each
// tap.
struct AxisPlan {
  Numbers tap;    // index in the weights
  Numbers shift;  // >= 0
  std::int64_t step = 1, first = 0, span = 1, count = 0;
  std::int64_t out_first = 0, out_step = 1;  // where position t is written
  bool whole = false;  // a copy has all from the first position to the last: other passes share it

  std::int64_t taps() const { return static_cast<std::int64_t>(tap.size()); }
};
// The axes of a pass: planes, rows, columns.
struct PassAxes {
  AxisPlan planes, rows, cols;

  std::int64_t taps() const { return planes.taps() * rows.taps() * cols.taps(); }
};

PassAxes forward_axes(const ConvProblem& problem);
// Backward to the input, one phase of the strides.
AxisPlan backward_axis(std::int64_t taps, std::int64_t stride, std::int64_t padding,
                       std::int64_t dilation, std::int64_t size, std::int64_t phase);

struct Source {
  const void* data;
  std::int64_t n, channels, d, h, w;
  std::int64_t stride_n, stride_c, stride_d, stride_h, stride_w;
};
Source source_of(const ConvImage& image, std::int64_t n, std::int64_t channels, std::int64_t d,
                 std::int64_t h, std::int64_t w);

inline std::int64_t bytes_of(DType dtype) {
  return dtype == DType::f32 ? 4 : 8;
}
ConvColumns columns_of(DType dtype, std::int64_t columns, bool one_panel);

struct SlabPlan {
  ConvSlab slab;
  Table pixel;
};
// Pixels whose operands (source and result) share L2, rows of them when an image is larger; several
// images when it is smaller. Enough slabs for every thread when there is enough work. Shapes alone
// decide.
constexpr std::int64_t kSlabBytes = 224 << 10;
constexpr std::int64_t kSlabsWanted = 8;
constexpr double kWorkWorthSplitting = 2e6;  // products and sums

// What a thread copies of the images at a time and the pixels that tables list: more is cut into
// pieces, so that any call stays within 16 MB beside the packed weights.
constexpr std::int64_t kMostSlabBytes = 6 << 20;
constexpr std::int64_t kListedPixels = 1 << 16;

// Pixels of a slab: whole images, or rows of one.
struct SlabCut {
  std::int64_t images, rows, row_multiple = 1;
};
// A plan with slabs of that size, their pixels read as those of `spread` below.
SlabPlan plan_slabs_of(DType dtype, const Source& source, const PassAxes& axes,
                       std::int64_t copied_channels, bool spread, const SlabCut& cut);

// Spread: who reads one channel of many pixels wants them copied rather than a multiple of 512
// bytes apart, which is one of few places in L1.
SlabPlan plan_slabs(DType dtype, const Source& source, const PassAxes& axes,
                    std::int64_t copied_channels, std::int64_t out_channels, double pixel_work,
                    std::int64_t splits, bool spread = false, std::int64_t row_multiple = 1,
                    std::int64_t slab_bytes = kSlabBytes);

// Output positions [first, first + count) of an axis alone.
AxisPlan piece_of(const AxisPlan& axis, std::int64_t first, std::int64_t count);
// The most columns of an output row that a thread takes at a time: one row of slabs with so many
// bytes of copied pixels (0: read in place), and `beside` bytes for each column.
std::int64_t columns_at_once(const PassAxes& axes, std::int64_t pixel_bytes, std::int64_t beside);
// Whether slabs are read where they lie.
bool reads_in_place(const Source& source, const PassAxes& axes);

// An axis of one tap that steps over pixels inside the image, as one that does not see them.
void skip_unread(DType dtype, Source& source, PassAxes& axes);

// The taps of each position of an axis that meet an image of that size.
struct TapRanges {
  Table first, last;
};
TapRanges taps_inside(const AxisPlan& axis, std::int64_t size);

// The order in which tiles take a slab's pixels: its edges apart where they leave taps out. Empty:
// as they lie, all taps of each.
std::vector<ConvPixel> tile_order(const ConvSlab& slab, const PassAxes& axes, const TapRanges& rows,
                                  const TapRanges& cols, std::int64_t channels);

// Offsets of the taps from a slab's pixel: [planes.tap][rows.tap][cols.tap].
Table tap_offsets(const ConvSlab& slab, const PassAxes& axes);

// The rows of taps of a depthwise pass that goes along rows; count 0 where tables serve.
ConvRowTaps plan_row_taps(DType dtype, const Source& source, const PassAxes& axes,
                          std::int64_t y_step);

// How many terms after one another, in that order, are neighbours in memory: in every run of so
// many.
std::int64_t dense_run(const Table& term, const Table& order);

// Scratch for every thread that may take part, and the split that keeps to their number.
struct ThreadScratch {
  std::int64_t stride;
  int threads;
  Scratch memory;
  ThreadScratch(std::int64_t bytes, bool parallel)
      : stride(ceil_div(bytes + kBlockBytes, 256) * 256),
        threads(parallel ? num_threads() : 1),
        memory(bytes ? static_cast<std::size_t>(stride * threads) : 0) {}
  ConvScratch view() const { return {memory.as<char>(), memory.get() ? stride : 0, thread_index}; }
};

// Backward to an input of few channels; false, and nothing done, where it would not pay.
bool conv_narrow_input(const ConvProblem& p, const ConvImage& dy, const ConvKernel& w,
                       const ConvEpilogue& epilogue, const ConvImage& dx);

bool conv_lanes_input(const ConvProblem& p, const ConvImage& dy, const ConvKernel& w,
                      const ConvEpilogue& epilogue, const ConvImage& dx);

// Forward of few pixels, whose weights are read where they lie; false, and nothing done, where it
// would not pay.
// With taps y is relu and the maxima of 2x2 windows.
bool conv_few_pixels(const ConvProblem& p, const ConvImage& x, const ConvKernel& w,
                     const ConvEpilogue& epilogue, const ConvImage& y,
                     const ConvImage* taps = nullptr);

// 1x1 kernels as plain products; false, and nothing done, where they are none.
bool conv_pointwise(const ConvProblem& p, const ConvImage& x, const ConvKernel& w,
                    const ConvEpilogue& epilogue, const ConvImage& y);
bool conv_pointwise_input(const ConvProblem& p, const ConvImage& dy, const ConvKernel& w,
                          const ConvEpilogue& epilogue, const ConvImage& dx);
bool conv_pointwise_weight(const ConvProblem& p, const ConvImage& dy, const ConvImage& x,
                           const ConvKernel& dw);

Split split_for(std::int64_t units, double unit_work, bool interruptible);

}  // namespace hotloop
