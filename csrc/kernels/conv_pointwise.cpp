// 1x1 kernels that visit every pixel are plain products: images are matrices of pixels times
// channels, whatever the order in memory, where the pixels of an image lie in even steps.
#include <algorithm>

#include "kernels/driver/conv_plan.h"
#include "kernels/gemm.h"

namespace hotloop {
namespace {

// Packed rows of one product: together with what it packs of the weights 12 MB at most.
constexpr std::int64_t kPackedBytes = 4ll << 20;
constexpr std::int64_t kPackedDepth = 1024;
// Fewer pixels of an image by itself do not pay for packing the weights once more.
constexpr std::int64_t kLeastPixels = 128;
// Beyond, the gradient of the weights cuts the sum itself, over more units than a product has.
constexpr std::int64_t kMostPixels = 4096;

// Pixels that a stride picks are copied together for the product to read: whole images, so many
// bytes of them at a time.
constexpr std::int64_t kPickedBytes = 4ll << 20;
constexpr double kWorkOfAByte = 6;  // of a copy, in terms of products and sums

bool is_pointwise(const ConvProblem& p) {
  return p.kd * p.kh * p.kw == 1 && p.stride_d == 1 && p.stride_h == 1 && p.stride_w == 1 &&
         p.padding_d == 0 && p.padding_h == 0 && p.padding_w == 0 && p.groups == 1;
}

// Elements from pixel to pixel through an image; 0 where the steps are not even.
std::int64_t pixel_step(const ConvProblem& p, const ConvImage& image) {
  const std::int64_t step = p.w > 1 ? image.stride_w : p.h > 1 ? image.stride_h : image.stride_d;
  const bool rows = p.w == 1 || p.h == 1 || image.stride_h == p.w * step;
  const bool planes = p.d == 1 || p.w * p.h == 1 || image.stride_d == p.w * p.h * step;
  return rows && planes && step > 0 ? step : 0;
}

// One matrix of the pixels of all images, or one for each of them.
struct Pixels {
  std::int64_t count, step, images;
};
Pixels fold(const ConvProblem& p, const ConvImage& image, bool apart) {
  const std::int64_t count = p.d * p.h * p.w;
  const std::int64_t step = count > 1 ? pixel_step(p, image) : image.stride_n;
  const bool together = p.n == 1 || image.stride_n == count * step;
  if (together && !apart) return {count * p.n, step, 1};
  return {count, step, p.n};
}

std::size_t picked_bytes(const ConvProblem& p, std::int64_t channels) {
  return static_cast<std::size_t>(p.n * p.out_h * p.out_w * channels * bytes_of(p.dtype));
}

// A 1x1 kernel that steps over pixels, an image of which is not too large.
bool picks(const ConvProblem& p) {
  const bool one = p.kd * p.kh * p.kw == 1 && p.d == 1 && p.out_d == 1 && p.groups == 1;
  return one && (p.stride_h > 1 || p.stride_w > 1) &&
         p.padding_d + p.padding_h + p.padding_w == 0 && p.n * p.out_h * p.out_w * p.c > 0 &&
         static_cast<std::int64_t>(picked_bytes(p, p.c)) <= kPickedBytes * p.n;
}

// The images of a problem from `first` on.
ConvImage from_image(const ConvProblem& p, ConvImage image, std::int64_t first) {
  image.data = static_cast<char*>(image.data) + first * image.stride_n * bytes_of(p.dtype);
  return image;
}

// Images whose picked pixels are copied at a time.
std::int64_t images_at_once(const ConvProblem& p) {
  const auto image = static_cast<std::int64_t>(picked_bytes(p, p.c)) / p.n;
  return std::min(kPickedBytes / image, p.n);
}

// The same product over the picked pixels alone.
ConvProblem picked(const ConvProblem& p) {
  ConvProblem q = p;
  q.h = p.out_h, q.w = p.out_w;
  q.stride_d = q.stride_h = q.stride_w = 1;
  return q;
}

// The picked pixels in a row, in scratch memory.
ConvImage picked_image(const ConvProblem& p, std::int64_t channels, void* data) {
  const std::int64_t row = p.out_w * channels;
  return {data, p.out_h * row, 1, p.out_h * row, row, channels};
}

void pick(const ConvProblem& p, const ConvImage& image, std::int64_t channels, const ConvImage& few,
          bool spread) {
  const ConvPickArgs args{p.dtype, image,   few,        channels,   p.h,   p.w,
                          p.out_h, p.out_w, p.stride_h, p.stride_w, spread};
  const std::int64_t rows = spread ? p.h : p.out_h, pixels = spread ? p.w : p.out_w;
  const auto bytes = static_cast<double>(pixels * channels * bytes_of(p.dtype));
  launch(conv_pick_kernel(), args, split_for(p.n * rows, kWorkOfAByte * bytes, p.interruptible));
}

bool multiply(const ConvProblem& p, const ConvImage& from, std::int64_t channels,
              const ConvKernel& w, std::int64_t stride_channel, std::int64_t stride_column,
              std::int64_t columns, const ConvEpilogue& epilogue, const ConvImage& to) {
  if (!is_pointwise(p) || (epilogue.bias && columns > 1 && epilogue.bias_stride != 1)) return false;
  const bool adds = epilogue.residual.data != nullptr;
  const ConvImage& added = adds ? epilogue.residual : to;
  Pixels x = fold(p, from, false), y = fold(p, to, false), d = fold(p, added, false);
  if (x.images != y.images || x.images != d.images) {
    x = fold(p, from, true);
    y = fold(p, to, true);
    d = fold(p, added, true);
  }
  if (x.step == 0 || y.step == 0 || d.step == 0 || (x.images > 1 && x.count < kLeastPixels))
    return false;
  if (from.stride_c != 1 && x.step != 1) return false;
  const std::int64_t item = bytes_of(p.dtype), depth = std::min(channels, kPackedDepth) + 16;
  std::int64_t most = std::max<std::int64_t>(kPackedBytes / (depth * item) / 6 * 6, 6);
  if (from.stride_c == 1) most = x.count;  // rows that are read where they lie
  for (std::int64_t pixel = 0; pixel < x.count; pixel += most) {
    GemmProblem product;
    product.dtype = p.dtype;
    product.activation = epilogue.activation;
    product.activation_alpha = epilogue.activation_alpha;
    product.m = std::min(most, x.count - pixel);
    product.n = columns;
    product.k = channels;
    product.batches = x.images;
    product.a = {static_cast<char*>(from.data) + pixel * x.step * item, x.step, from.stride_c,
                 from.stride_n, nullptr};
    product.b = {w.data, stride_channel, stride_column, 0, nullptr};
    product.c = {static_cast<char*>(to.data) + pixel * y.step * item, y.step, 1, to.stride_n,
                 nullptr};
    product.bias = epilogue.bias;
    if (adds) {
      product.beta = 1;
      product.d = {static_cast<char*>(added.data) + pixel * d.step * item, d.step, 1,
                   added.stride_n, nullptr};
    }
    product.interruptible = p.interruptible;
    gemm(product);
  }
  return true;
}

}  // namespace

bool conv_pointwise(const ConvProblem& p, const ConvImage& x, const ConvKernel& w,
                    const ConvEpilogue& epilogue, const ConvImage& y) {
  // More than that comes from memory: tiles that read it where it lies fetch it ahead.
  if (!picks(p) || images_at_once(p) < p.n) {
    return multiply(p, x, p.c, w, w.stride_i, w.stride_o, p.o, epilogue, y);
  }
  const Scratch memory(picked_bytes(p, p.c));
  const ConvImage few = picked_image(p, p.c, memory.get());
  pick(p, x, p.c, few, false);
  return multiply(picked(p), few, p.c, w, w.stride_i, w.stride_o, p.o, epilogue, y);
}

bool conv_pointwise_input(const ConvProblem& p, const ConvImage& dy, const ConvKernel& w,
                          const ConvEpilogue& epilogue, const ConvImage& dx) {
  if (!picks(p) || epilogue.bias || epilogue.activation != Activation::none) {
    return multiply(p, dy, p.o, w, w.stride_o, w.stride_i, p.c, epilogue, dx);
  }
  ConvProblem some = p;
  some.n = images_at_once(p);
  const Scratch memory(picked_bytes(some, p.c));
  const ConvImage few = picked_image(p, p.c, memory.get());
  for (std::int64_t first = 0; first < p.n; first += some.n) {
    some.n = std::min(some.n, p.n - first);
    const bool done = multiply(picked(some), from_image(p, dy, first), p.o, w, w.stride_o,
                               w.stride_i, p.c, epilogue, few);
    if (!done) return false;
    pick(some, from_image(p, dx, first), p.c, few, true);
  }
  return true;
}

bool conv_pointwise_weight(const ConvProblem& p, const ConvImage& dy, const ConvImage& x,
                           const ConvKernel& dw) {
  if (picks(p) && images_at_once(p) == p.n) {
    if (dy.stride_c != 1 || fold(picked(p), dy, false).step == 0) return false;
    const Scratch memory(picked_bytes(p, p.c));
    const ConvImage few = picked_image(p, p.c, memory.get());
    pick(p, x, p.c, few, false);
    conv_backward_weight(picked(p), dy, few, dw);
    return true;
  }
  if (!is_pointwise(p) || p.n * p.d * p.h * p.w >= kMostPixels) return false;
  const Pixels from = fold(p, x, false), to = fold(p, dy, false);
  if (from.images > 1 || to.images > 1 || from.step == 0 || to.step == 0) return false;
  if (x.stride_c != 1 || dy.stride_c != 1) return false;
  const bool turned = dw.stride_i != 1;  // (channels, outputs) in memory
  if (turned && dw.stride_o != 1) return false;
  const GemmMatrix of_x{x.data, from.step, 1, 0, nullptr}, of_dy{dy.data, to.step, 1, 0, nullptr};
  GemmProblem product;
  product.dtype = p.dtype;
  product.m = turned ? p.c : p.o;
  product.n = turned ? p.o : p.c;
  product.k = to.count;
  product.a = turned ? of_x : of_dy;
  std::swap(product.a.row_step, product.a.column_step);
  product.b = turned ? of_dy : of_x;
  product.c = {dw.data, turned ? dw.stride_i : dw.stride_o, 1, 0, nullptr};
  product.interruptible = p.interruptible;
  gemm(product);
  return true;
}

}  // namespace hotloop
