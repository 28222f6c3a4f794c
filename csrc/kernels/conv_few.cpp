// The driver of forward passes of few pixels: decides whether it pays, packs the pixels, launches.
#include <algorithm>
#include <numeric>

#include "core/errors.h"
#include "kernels/driver/conv_plan.h"

namespace hotloop {
namespace {

constexpr std::int64_t kMostPixels = 64;
constexpr std::int64_t kMostRest = 2;          // pixels that are worth dot products of their own
constexpr std::int64_t kRowsOfUnit = 32;       // a multiple of every vector
constexpr std::int64_t kMostPacked = 1 << 20;  // elements
constexpr std::int64_t kRunBytes = 448 << 10;  // of packed pixels, which share L2 with w

// Where each pixel of a result lies, channel 0.
Table pixels_of(const ConvProblem& p, const ConvImage& image) {
  Table table;
  for (std::int64_t n = 0; n < p.n; ++n) {
    for (std::int64_t i = 0; i < p.out_h; ++i) {
      for (std::int64_t j = 0; j < p.out_w; ++j) {
        table.push_back(n * image.stride_n + i * image.stride_h + j * image.stride_w);
      }
    }
  }
  return table;
}

// Where each pixel reads x under each tap.
Table sources_of(const ConvProblem& p, const ConvImage& x) {
  Table table;
  for (std::int64_t tap = 0; tap < p.kh * p.kw; ++tap) {
    for (std::int64_t pixel = 0; pixel < p.n * p.out_h * p.out_w; ++pixel) {
      const std::int64_t n = pixel / (p.out_h * p.out_w);
      const std::int64_t h =
          pixel / p.out_w % p.out_h * p.stride_h + tap / p.kw * p.dilation_h - p.padding_h;
      const std::int64_t w = pixel % p.out_w * p.stride_w + tap % p.kw * p.dilation_w - p.padding_w;
      const bool inside = h >= 0 && h < p.h && w >= 0 && w < p.w;
      table.push_back(inside ? n * x.stride_n + h * x.stride_h + w * x.stride_w : kOutside);
    }
  }
  return table;
}

// The same in a strip of kRowsOfUnit channels whose images are of even rows; a row beyond them goes
// behind the strip.
Table strip_pixels(const ConvProblem& p) {
  const std::int64_t even = p.out_h / 2 * 2;
  Table table;
  for (std::int64_t row = 0; row < p.n * p.out_h; ++row) {
    const std::int64_t image = row / p.out_h, inside = row % p.out_h;
    const std::int64_t at = inside < even ? image * even + inside : p.n * even;
    for (std::int64_t j = 0; j < p.out_w; ++j) table.push_back((at * p.out_w + j) * kRowsOfUnit);
  }
  return table;
}

bool pays(const ConvProblem& p, const ConvKernel& w, std::int64_t block) {
  const bool flat = p.d == 1 && p.out_d == 1 && p.kd == 1 && p.padding_d == 0 && p.groups == 1;
  if (!flat || p.n < 1 || p.c < 2) return false;
  const bool dense = (p.kw == 1 || w.stride_w == 1) && (p.kh == 1 || w.stride_h == p.kw) &&
                     w.stride_i == p.kh * p.kw;
  const std::int64_t pixels = p.n * p.out_h * p.out_w;
  if (!dense || pixels < block || pixels > kMostPixels) return false;
  if (pixels * p.c * p.kh * p.kw > kMostPacked) return false;
  const std::int64_t rest = pixels % block;
  if (rest > kMostRest && 8 * (block - rest) > pixels) return false;  // lanes that would be empty
  return p.o >= 4 * pixels && conv_work(p) >= 2 * kWorkWorthSplitting;
}

}  // namespace

bool conv_few_pixels(const ConvProblem& p, const ConvImage& x, const ConvKernel& w,
                     const ConvEpilogue& epilogue, const ConvImage& y, const ConvImage* taps) {
  const std::int64_t item = bytes_of(p.dtype), block = kBlockBytes / item;
  if (!pays(p, w, block)) return false;
  const std::int64_t pixels = p.n * p.out_h * p.out_w;
  ConvFewArgs args{};
  args.dtype = p.dtype;
  args.x = x.data, args.stride_c = x.stride_c;
  args.channels = p.c, args.taps = p.kh * p.kw, args.depth = p.c * args.taps;
  const Table source = sources_of(p, x);
  const Table y_pixel = taps ? strip_pixels(p) : pixels_of(p, y);
  args.source = source.data();
  args.rest = pixels % block <= kMostRest ? pixels % block : 0;
  args.pixels = pixels - args.rest;
  const std::int64_t blocks = ceil_div(args.pixels, block);
  args.columns = {args.pixels, blocks, ceil_div(blocks, kPanelBlocks)};
  const Scratch packed(static_cast<std::size_t>((blocks * block + args.rest) * args.depth * item));
  args.packed = packed.get();
  args.w = w.data;
  args.stride_o = w.stride_o, args.outputs = p.o;
  args.rows = kRowsOfUnit;
  const std::int64_t runs = ceil_div(args.depth * blocks * kBlockBytes, kRunBytes);
  args.run = ceil_div(ceil_div(args.depth, runs), block) * block;
  Table offset(static_cast<std::size_t>(args.run));
  std::iota(offset.begin(), offset.end(), std::int64_t{0});
  args.offset = offset.data();
  args.bias = epilogue.bias, args.bias_stride = epilogue.bias_stride;
  args.y = y.data;
  args.residual = epilogue.residual.data;
  args.y_pixel = y_pixel.data();
  const Table residual_pixel = args.residual ? pixels_of(p, epilogue.residual) : Table{};
  args.residual_pixel = residual_pixel.data();
  args.activation = epilogue.activation;
  args.activation_alpha = epilogue.activation_alpha;
  args.pitch = (blocks + std::max<std::int64_t>(args.rest, 1)) * block;

  const std::int64_t sum_bytes = args.rows * args.pitch * item;
  args.images = p.n, args.even_rows = p.out_h / 2 * 2, args.out_w = p.out_w;
  const std::int64_t strip_bytes =
      taps ? (p.n * args.even_rows + 1) * p.out_w * kRowsOfUnit * item : 0;
  ConvPoolTarget pool{};
  if (taps) {
    pool = {y.data,
            y.stride_n,
            y.stride_h,
            y.stride_w,
            static_cast<std::uint8_t*>(taps->data),
            taps->stride_n,
            taps->stride_h,
            taps->stride_w,
            sum_bytes,
            kRowsOfUnit};
    args.pool = &pool;
  }

  const std::int64_t units = ceil_div(p.o, args.rows);
  Split split = split_for(units, conv_work(p) / static_cast<double>(units), p.interruptible);
  const ThreadScratch scratch(sum_bytes + strip_bytes, is_parallel(split));
  split.max_threads = scratch.threads;
  args.scratch = scratch.view();
  launch(conv_few_pack_kernel(), args, {.units = ceil_div(p.c, block), .grain = 4});
  launch(conv_few_kernel(), args, split);
  return true;
}

}  // namespace hotloop
