// The pixels that a strided 1x1 convolution picks, copied together, and put back where they were
// with zeros between: what lies between is a plain product.
#include "engines/conv_slab.h"
#include "kernels/conv.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

template <class T>
void spread_row(const ConvPickArgs& args, std::int64_t image, std::int64_t row) {
  const ConvImage &of = args.image, &few = args.few;
  T* to = static_cast<T*>(of.data) + image * of.stride_n + row * of.stride_h;
  const bool picked = row % args.stride_h == 0 && row / args.stride_h < args.few_h;
  if (!picked && of.stride_w == args.channels) return fill_zeros(to, args.w * args.channels);
  const T* from =
      static_cast<const T*>(few.data) + image * few.stride_n + row / args.stride_h * few.stride_h;
  for (std::int64_t col = 0; col < args.w; ++col, to += of.stride_w) {
    if (picked && col % args.stride_w == 0 && col / args.stride_w < args.few_w) {
      copy_dense(to, from, args.channels);
      from += few.stride_w;
    } else {
      fill_zeros(to, args.channels);
    }
  }
}

template <class T>
void pick_body(const ConvPickArgs& args, std::int64_t begin, std::int64_t end) {
  const std::int64_t rows = args.spread ? args.h : args.few_h;
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const std::int64_t image = unit / rows, row = unit % rows;
    if (args.spread) {
      spread_row<T>(args, image, row);
      continue;
    }
    const T* from = static_cast<const T*>(args.image.data) + image * args.image.stride_n +
                    row * args.stride_h * args.image.stride_h;
    T* to = static_cast<T*>(args.few.data) + image * args.few.stride_n + row * args.few.stride_h;
    copy_pixels(to, args.few.stride_w, from, args.stride_w * args.image.stride_w,
                args.image.stride_c, args.few_w, args.channels);
  }
}

}  // namespace

void conv_pick(const ConvPickArgs& args, std::int64_t begin, std::int64_t end) {
  args.dtype == DType::f32 ? pick_body<float>(args, begin, end)
                           : pick_body<double>(args, begin, end);
}

}  // namespace hotloop::HOTLOOP_LEVEL
