// Convolutions in three directions, as the loops see them. Everything is a table of offsets: a
// source (the image, or a copy of a part of it with its border of zeros) is read at
//   pixel[p] + tap[k]
// for output pixel p and term k of its sum, so that stride, padding, dilation, layout and the
// phases of a strided backward pass are numbers in two tables and not cases in the loops.
//   forward         y[p, o]  = sum over k of source[pixel[p] + tap[k]] * w[k, o]
//   backward input  the same with dy as the source, once per phase of the stride
//   backward weight dw[k, o] = sum over p of source[pixel[p] + tap[k]] * dy[p, o]
#pragma once

#include "core/dispatch.h"
#include "kernels/activation.h"

namespace hotloop {

// Packed operands come in columns of one block (64 bytes), whatever the level: a panel is up to
// kPanelBlocks of them side by side, [k][columns of the panel], short columns filled with zeros.
inline constexpr std::int64_t kBlockBytes = 64;
inline constexpr std::int64_t kPanelBlocks = 4;

struct ConvColumns {
  std::int64_t columns;  // of one group
  std::int64_t blocks;   // of kBlockBytes that hold them
  std::int64_t panels;   // that the blocks are dealt to, evenly
};

// An image in memory, strides in elements.
struct ConvImage {
  void* data;
  std::int64_t stride_n, stride_c, stride_d, stride_h, stride_w;
};

// Where the source pixels of some output pixels lie. A slab is the work of one unit: `images` whole
// images, or `rows` output rows of one. Each output plane of a volume counts as an image. It is
// read where it lies (direct) or copied into scratch with its padding, channels last.
struct ConvSlab {
  const void* data;  // of the images, strides in elements
  std::int64_t stride_n, stride_d, stride_h, stride_w, stride_c;
  std::int64_t n, d, h, w, channels;
  std::int64_t out_d, out_h, out_w;
  std::int64_t images, rows, per_image, count;  // slabs of an image; slabs in all
  // Slabs of one image share its rows evenly, so many at a time: `rows` or fewer.
  std::int64_t row_multiple;
  std::int64_t step_d, step_h;    // source planes, rows per output plane, row
  std::int64_t front, top, left;  // of the first slab, may be negative
  std::int64_t span_d, span_h;    // source planes, rows under one output pixel
  std::int64_t step_w;            // source columns per output column
  // A copied slab: planes, rows and columns of an image. Where taps lie far apart, what no tap
  // reads is left out: an axis is [tap][output position] then, and its shifts are here.
  std::int64_t planes, height, width;
  const std::int64_t *plane_shift, *row_shift, *col_shift;  // null: all from the first to the last
  std::int64_t pitch;  // elements from pixel to pixel of a copied slab
  std::int64_t size;   // elements of a copied slab
  bool direct;
  const std::int64_t* pixel;  // [images * rows * out_w]
};

// Scratch of the thread that works: data + thread() * stride bytes.
struct ConvScratch {
  char* data;
  std::int64_t stride;
  int (*thread)();
};

// For a depthwise convolution that reads rows in place: its rows of taps, three taps side by side
// in each.
inline constexpr std::int64_t kMaxRowTaps = 8;
struct ConvRowTaps {
  std::int64_t count;         // rows of taps; 0: tables of offsets serve
  const std::int64_t* shift;  // [count]: source rows from the first of an output pixel
  std::int64_t step, y_step;  // source columns, elements of y, from pixel to pixel
  // Where pixels a power of two apart would share few places of the caches, channels are copied so
  // many at a time (slab.pitch), with their border of zeros; 0: rows are read where they lie.
  std::int64_t strip;
  // 3x3 with stride 1; forward with x and y in the last cache: rows are walked once for each vector
  // of channels.
  bool slide;
};
inline constexpr std::int64_t kStripBlocks = 4;

// A run of channels of the weights: all taps of each.
struct ConvPackRun {
  const std::int64_t* term;   // [terms]: where a term lies, from the run's first channel on
  const std::int64_t* order;  // [terms]: the terms by their place in w
  std::int64_t terms;
  std::int64_t dense;  // so many terms after one another in that order are neighbours in w
};
// Weights w[group, k, column] into panels. A unit is (group, panel, kPackRun terms).
inline constexpr std::int64_t kPackRun = 128;
struct ConvPackArgs {
  DType dtype;
  const void* w;
  ConvPackRun run, last;  // of each run; of the last one where it is shorter
  std::int64_t run_step;  // elements of w from run to run
  std::int64_t depth, groups, stride_group, stride_column;
  ConvColumns columns;
  void* packed;  // [group][panel][depth][columns of the panel]
};

// What is added to y before the activation: channels dense, strides and table like y's. Null data:
// nothing.
struct ConvResidual {
  const void* data;
  std::int64_t stride_n, stride_d, stride_h;
  const std::int64_t* pixel;
};

// Where the maxima of relu(y) over 2x2 windows go, and which tap each was (row * 2 + column, or
// kNoTap where the maximum is 0; null: not wanted). y itself is never whole: a slab of one panel
// lies in scratch, `pitch` elements from pixel to pixel. Slabs have even rows, rows even pixels.
inline constexpr std::int32_t kNoTap = 4;
struct ConvPoolTarget {
  void* y;
  std::int64_t y_stride_n, y_stride_h, y_stride_w;
  std::uint8_t* taps;
  std::int64_t tap_stride_n, tap_stride_h, tap_stride_w;
  std::int64_t strip_at, pitch;  // bytes into scratch, elements
};

// An output pixel of a slab: its place in the tables, its row and column.
struct ConvPixel {
  std::int32_t index, row, col;
};

// y = source * weights + bias. A unit is (slab, split of the panels of all groups).
struct ConvTilesArgs {
  DType dtype;
  ConvSlab slab;
  const std::int64_t* tap;                   // of a run's terms, then of a last one's if shorter
  std::int64_t depth, groups, stride_group;  // of the source, from group to group
  // The sum runs over `run_channels` channels at a time, all taps of each: k = (run, tap, channel).
  std::int64_t taps, taps_w, channels, run_channels;
  // Rows of taps that meet the image, [out_h] each, and columns of taps, [out_w] each: what only
  // meets the padding is left out. `order` is that of a slab's pixels in the tiles: neighbours meet
  // the same taps. Null: as they lie, with all taps.
  const std::int64_t *first_taps, *last_taps, *first_cols, *last_cols;
  const ConvPixel* order;
  ConvColumns columns;
  std::int64_t splits;
  const void* weights;  // packed, those of this pass from term `first_term` of pack_depth on,
  std::int64_t first_term, pack_depth;  // or
  const ConvPackArgs* pack;  // what packs a run when it is needed, `pack_at` bytes into scratch
  std::int64_t pack_at;
  const void* bias;  // [groups][blocks], zeros where there is none
  void* y;           // channels dense; strides in elements of one step of out_h, out_w
  std::int64_t y_stride_n, y_stride_d, y_stride_h;
  const std::int64_t* y_pixel;  // like slab.pixel
  bool stream;                  // y goes around the caches: whole lines, nothing to finish
  ConvRowTaps row_taps;
  ConvResidual residual;       // added, and
  Activation activation;       // applied where y is still in cache
  double activation_alpha;     // its parameter
  const ConvPoolTarget* pool;  // what is written in place of y; null: y. Not of depthwise ones
  ConvScratch scratch;
};

// Slabs of whole images copied into one memory, slab.size elements each. A unit is a row.
struct ConvFillArgs {
  DType dtype;
  ConvSlab slab;
  void* slabs;
};

// One pass, or the phases of backward to an input, where weights outweigh the images: a run of a
// panel's weights is packed into the cache and meets the pixels of all passes before the next one,
// so that weights are read once. Slabs are whole images, copied before. A unit is (panel, part of
// the slabs).
struct ConvPanelPass {
  ConvTilesArgs tiles;
  const void* slabs;       // as conv_fill leaves them; null: read in place
  std::int64_t first_tap;  // of its own among those of all passes
};
struct ConvPanelsArgs {
  const ConvPanelPass* passes;
  std::int64_t count, taps, parts;
  const ConvPackArgs* pack;  // k = (run, pass, tap, channel); null: weights are packed
  ConvScratch scratch;       // a run of a panel
};

// dw = sum of the partials in order. A unit is one (group, run of kPackRun terms).
struct ConvWeightSumArgs {
  DType dtype;
  const void* partial;
  std::int64_t chunks, chunk_size, depth, groups, parts;
  ConvColumns columns;
  void* dw;
  // k = (run, tap, channel of the run) lies at place[tap] + channel * stride_channel of dw; in the
  // order of dw the taps of a channel follow one another, or the other way round.
  const std::int64_t* place;  // [taps]
  std::int64_t taps, run, stride_channel;
  bool by_channel;
  std::int64_t dense;  // as in ConvPackRun
  std::int64_t stride_group, stride_column;
};

// One partial dw per chunk of slabs. A unit is (chunk, part of the columns, run of input channels
// of all groups).
struct ConvWeightArgs {
  DType dtype;
  ConvSlab slab;
  const std::int64_t* tap;  // [taps]: offset of a tap's first channel in a slab of `run` channels
  std::int64_t taps, groups, group_channels;
  std::int64_t run, runs;  // input channels of a unit. More than one run or part: one group
  std::int64_t parts;      // of the columns, each of as many panels and blocks
  ConvColumns columns;
  const void* dy;
  std::int64_t dy_stride_n, dy_stride_d, dy_stride_h, dy_stride_w, dy_stride_c;
  bool dy_direct;  // dy serves as a panel as it lies
  // Output rows that meet the image in each row of taps, [taps / taps_w] each: the others are left
  // out of the sum. Null: none are. by_rows: a slab's pixels row by row through all its images.
  const std::int64_t *first_rows, *last_rows;
  const std::int64_t *first_cols, *last_cols;  // columns likewise, [taps_w] each; null: none are
  std::int64_t taps_w;
  bool by_rows;
  ConvRowTaps row_taps;
  std::int64_t chunks;
  void* partial;  // [chunk][part][group][run][tap][channel of run][blocks of the part]
  // One chunk of one group: a unit's partial lies `partial_at` bytes into scratch, and is put into
  // dw while it is in cache. Null: partials are added by a launch of their own.
  const ConvWeightSumArgs* sum;
  std::int64_t partial_at;
  bool adds;  // to what the partials hold
  ConvScratch scratch;
  ConvScratch orders;  // for by_rows: offsets of a slab's pixels
};

// Backward to an input of few channels: columns are the taps of a row times the channels. A unit is
// a row of dx; so many pixels of dy at a time.
inline constexpr std::int64_t kNarrowPixels = 256;
struct ConvNarrowArgs {
  DType dtype;
  const void* dy;  // channels dense
  std::int64_t dy_stride_n, dy_stride_h, dy_stride_w, outputs, out_h, out_w;
  void* dx;  // pixels and channels dense
  std::int64_t dx_stride_n, dx_stride_h, channels, h, w;
  std::int64_t taps_h, dilation_h, stride_h, stride_w, padding_h, padding_w;
  const void* weights;         // [taps_h][outputs][pitch]: column tap * channels + channel
  std::int64_t pitch;          // whole blocks
  std::int64_t terms;          // columns that are more than zeros
  const void* bias_row;        // [w * channels], or null
  const std::int64_t* offset;  // [outputs]: 0, 1, 2, ...
  std::int64_t row_size;       // elements of a row of dx with all that is added to it
  Activation activation;
  double activation_alpha;
  ConvScratch scratch;  // a row of row_size, then z
};

// Backward to an input of up to four channels with stride 1: pixels fill the vectors. A unit is a
// strip of rows of dx.
struct ConvLanesArgs {
  DType dtype;
  const void* dy;
  std::int64_t dy_stride_n, dy_stride_c, dy_stride_h, dy_stride_w, outputs, out_h, out_w;
  void* dx;  // pixels and channels dense
  std::int64_t dx_stride_n, dx_stride_h, n, channels, h, w;
  std::int64_t rows, strips;  // of a strip; strips of an image
  // A strip reads rows [top, top + rows + reach) of dy from its own first row on, and pixels of
  // dy from -left on, `pitch` of them, turned to [row][output][pixel].
  std::int64_t reach, top, left, pitch;
  std::int64_t depth;          // taps times outputs
  const std::int64_t* offset;  // [depth]: of each term from a pixel of the turned strip
  bool three;                  // three taps side by side in each of up to kMaxRowTaps rows
  const void* weights;         // [depth][channels], then the bias: [channels]
  Activation activation;
  double activation_alpha;
  ConvScratch scratch;
};

// Forward of few pixels, which fill the vectors in place of the output channels: weights, of which
// there are many more, are read as they lie. Terms count through the channels, taps of each.
struct ConvFewArgs {
  DType dtype;
  const void* x;
  std::int64_t stride_c, channels, taps, depth;  // depth = channels * taps
  const std::int64_t* source;                    // [taps][pixels]: channel 0 in x, or kOutside
  // Pixels of the tiles in columns of blocks; `rest` more are dot products.
  std::int64_t pixels, rest;
  ConvColumns columns;
  void* packed;  // the pixels, [panel][depth][columns of the panel], then [rest][depth]
  const void* w;
  std::int64_t stride_o, outputs;  // terms are dense
  std::int64_t rows, run;          // outputs of a unit, terms at a time
  const std::int64_t* offset;      // [run]: 0, 1, 2, ...
  const void* bias;                // null: none
  std::int64_t bias_stride;
  void* y;  // channels dense
  const void* residual;
  const std::int64_t *y_pixel, *residual_pixel;  // [pixels]
  Activation activation;
  double activation_alpha;
  // In place of y: a strip of all pixels of a unit, where y_pixel says; its images, their even
  // rows, and its columns.
  const ConvPoolTarget* pool;
  std::int64_t images, even_rows, out_w;
  ConvScratch scratch;  // [rows][pitch], then the strip
  std::int64_t pitch;
};
inline constexpr std::int64_t kOutside = INT64_MIN;

// The gradient of relu and the 2x2 maxima at once: dx[pixel] = dy where the window's tap is the
// pixel and y > 0, else 0. A unit is two rows of dx, the last one perhaps of one row.
struct ConvPoolBackwardArgs {
  DType dtype;
  const void* dy;            // (n, h, w, c)
  const std::uint8_t* taps;  // likewise, dense channels
  void* dx;                  // (n, dx_h, dx_w, c), dense channels
  std::int64_t h, w, c, dx_h, dx_w;
  std::int64_t dy_stride_n, dy_stride_h, dy_stride_w, dy_stride_c;
  std::int64_t tap_stride_n, tap_stride_h, tap_stride_w;
  std::int64_t dx_stride_n, dx_stride_h, dx_stride_w;
  ConvScratch scratch;  // a row of dy whose channels are not dense
};

// An image and the pixels of it that a stride picks, dense: few[i, j] = image[i * stride_h,
// j * stride_w], or, spread, the image out of them, zeros between. A unit is a row of what is
// written.
struct ConvPickArgs {
  DType dtype;
  ConvImage image, few;
  std::int64_t channels, h, w, few_h, few_w, stride_h, stride_w;
  bool spread;  // the image's channels are dense then
};

HOTLOOP_KERNEL(conv_pack, ConvPackArgs)
HOTLOOP_KERNEL(conv_tiles, ConvTilesArgs)
HOTLOOP_KERNEL(conv_fill, ConvFillArgs)
HOTLOOP_KERNEL(conv_panels, ConvPanelsArgs)
// One channel in and out per group: weights packed as one group, one panel, taps terms.
HOTLOOP_KERNEL(conv_depthwise, ConvTilesArgs)
HOTLOOP_KERNEL(conv_depthwise_rows, ConvTilesArgs)  // a unit is a slab
HOTLOOP_KERNEL(conv_weight, ConvWeightArgs)
HOTLOOP_KERNEL(conv_depthwise_weight, ConvWeightArgs)
HOTLOOP_KERNEL(conv_depthwise_rows_weight, ConvWeightArgs)
HOTLOOP_KERNEL(conv_narrow, ConvNarrowArgs)
HOTLOOP_KERNEL(conv_lanes, ConvLanesArgs)
HOTLOOP_KERNEL(conv_few_pack, ConvFewArgs)  // a unit is a block of channels
HOTLOOP_KERNEL(conv_few, ConvFewArgs)       // of output channels
HOTLOOP_KERNEL(conv_weight_sum, ConvWeightSumArgs)
HOTLOOP_KERNEL(conv_pick, ConvPickArgs)
HOTLOOP_KERNEL(conv_pool_backward, ConvPoolBackwardArgs)

// What the driver and CUDA take: arrays in elements' strides, sizes checked.
struct ConvKernel {
  void* data;
  std::int64_t stride_o, stride_i, stride_d, stride_h, stride_w;
};
struct ConvProblem {
  DType dtype;
  // Signals and images are volumes with axes of size 1.
  std::int64_t n, c, d, h, w;        // input
  std::int64_t o, kd, kh, kw;        // weights (o, c / groups, kd, kh, kw)
  std::int64_t out_d, out_h, out_w;  // output (n, o, out_d, out_h, out_w)
  std::int64_t stride_d, stride_h, stride_w, padding_d, padding_h, padding_w;
  std::int64_t dilation_d, dilation_h, dilation_w, groups;
  bool interruptible;  // false where the result is the caller's own array
  const void* packed;  // the weights as conv_pack_weights made them, or null
};
struct ConvEpilogue {
  const void* bias = nullptr;
  std::int64_t bias_stride = 0;
  Activation activation = Activation::none;
  double activation_alpha = 0;
  ConvImage residual = {};  // data null: none; channels dense, on CUDA any strides
};

// CUDA: conv_forward makes y of x and w, conv_backward_input x of y and w, conv_backward_weight w
// of y and x, each in one call. The result's channels are dense, w may have any strides.
struct ConvPassArgs {
  ConvProblem problem;
  ConvImage x, y;
  ConvKernel w;
  ConvEpilogue epilogue;
  void* scratch = nullptr;  // what hotloop_cuda_<name>_workspace asks for
};

#ifndef HOTLOOP_LEVEL
// The driver: plans the tables, packs, launches.
// Products and sums of a pass: what decides about threads and the GIL.
double conv_work(const ConvProblem& problem);

// Channels of y and dx must be dense (stride_c 1).
void conv_forward(const ConvProblem& problem, const ConvImage& x, const ConvKernel& w,
                  const ConvEpilogue& epilogue, const ConvImage& y);
// The same, then relu and the maxima of 2x2 windows: y and taps are (n, o, out_h / 2, out_w / 2).
void conv_forward_pool(const ConvProblem& problem, const ConvImage& x, const ConvKernel& w,
                       const ConvEpilogue& epilogue, const ConvImage& y, const ConvImage& taps);
// Weights in the order in which a forward pass reads them: bytes, and the copy. It depends on the
// weights' sizes, the groups and the dtype alone.
std::int64_t conv_packed_bytes(const ConvProblem& problem);
void conv_pack_weights(const ConvProblem& problem, const ConvKernel& w, void* packed);
void conv_backward_input(const ConvProblem& problem, const ConvImage& dy, const ConvKernel& w,
                         const ConvEpilogue& epilogue, const ConvImage& dx);
void conv_backward_weight(const ConvProblem& problem, const ConvImage& dy, const ConvImage& x,
                          const ConvKernel& dw);
#endif

}  // namespace hotloop
