// The driver of backward to an input of up to four channels with stride 1: decides whether it pays,
// packs, launches.
#include <algorithm>

#include "core/errors.h"
#include "kernels/driver/conv_plan.h"

namespace hotloop {
namespace {

constexpr std::int64_t kMostChannels = 4;  // one tile for each number
constexpr std::int64_t kLeastOutputs = 8;
constexpr std::int64_t kStripBytes = 320 << 10;  // of dy turned: it stays in L2
constexpr std::int64_t kPageBytes = 4096;

template <class T>
void pack(const ConvProblem& p, const ConvKernel& w, const ConvEpilogue& epilogue, T* packed) {
  const T* from = static_cast<const T*>(w.data);
  for (std::int64_t row = 0; row < p.kh; ++row) {
    for (std::int64_t o = 0; o < p.o; ++o) {
      for (std::int64_t col = 0; col < p.kw; ++col) {
        const T* tap = from + o * w.stride_o + row * w.stride_h + col * w.stride_w;
        for (std::int64_t c = 0; c < p.c; ++c) *packed++ = tap[c * w.stride_i];
      }
    }
  }
  for (std::int64_t c = 0; c < p.c; ++c) {
    *packed++ =
        epilogue.bias ? static_cast<const T*>(epilogue.bias)[c * epilogue.bias_stride] : T(0);
  }
}

}  // namespace

bool conv_lanes_input(const ConvProblem& p, const ConvImage& dy, const ConvKernel& w,
                      const ConvEpilogue& epilogue, const ConvImage& dx) {
  const std::int64_t item = bytes_of(p.dtype), block = kBlockBytes / item;
  const bool flat = p.d == 1 && p.out_d == 1 && p.kd == 1 && p.padding_d == 0 && p.groups == 1;
  const bool dense = (p.c == 1 || dx.stride_c == 1) && dx.stride_w == p.c;
  if (!flat || !dense || p.stride_h != 1 || p.stride_w != 1) return false;
  // Rows that fill less than half of their vectors are better off with channels in them.
  const std::int64_t width = ceil_div(p.w, block) * block;
  if (p.c > kMostChannels || p.o < kLeastOutputs || 2 * p.w <= width) return false;

  const std::int64_t across = (p.kw - 1) * p.dilation_w, reach = (p.kh - 1) * p.dilation_h;
  std::int64_t pitch = ceil_div(width + across, block) * block;
  if (pitch * item % kPageBytes == 0) pitch += block;  // outputs would share places of the cache
  const std::int64_t sizes[] = {p.o, pitch};
  const std::int64_t row_bytes = checked_product("conv2d_backward_input", sizes, 2, item) * item;
  const std::int64_t rows = std::min(kStripBytes / row_bytes - reach, p.h);
  if (rows < 1 || 2 * rows < reach) return false;  // most of what is turned would serve one row

  ConvLanesArgs args{};
  args.rows = ceil_div(p.h, ceil_div(p.h, rows));  // as even as they can be
  args.strips = ceil_div(p.h, args.rows);
  args.depth = p.kh * p.o * p.kw;
  const Scratch packed(static_cast<std::size_t>((args.depth + 1) * p.c * item));
  if (p.dtype == DType::f32) {
    pack(p, w, epilogue, packed.as<float>());
  } else {
    pack(p, w, epilogue, packed.as<double>());
  }
  Table offset;
  offset.reserve(static_cast<std::size_t>(args.depth));
  for (std::int64_t row = 0; row < p.kh; ++row) {
    for (std::int64_t o = 0; o < p.o; ++o) {
      for (std::int64_t col = 0; col < p.kw; ++col) {
        offset.push_back(((p.kh - 1 - row) * p.dilation_h * p.o + o) * pitch +
                         (p.kw - 1 - col) * p.dilation_w);
      }
    }
  }
  const std::int64_t units = p.n * args.strips;
  Split split = split_for(units, conv_work(p) / static_cast<double>(units), p.interruptible);
  // Room for the packed weights of the way that turns nothing as well: of kh rows of three taps by
  // four channels at most, where a row of this has at least 16 pixels.
  const ThreadScratch scratch((args.rows + reach) * row_bytes + kBlockBytes, is_parallel(split));
  split.max_threads = scratch.threads;

  args.dtype = p.dtype;
  args.dy = dy.data;
  args.dy_stride_n = dy.stride_n, args.dy_stride_c = dy.stride_c;
  args.dy_stride_h = dy.stride_h, args.dy_stride_w = dy.stride_w;
  args.outputs = p.o, args.out_h = p.out_h, args.out_w = p.out_w;
  args.dx = dx.data;
  args.dx_stride_n = dx.stride_n, args.dx_stride_h = dx.stride_h;
  args.n = p.n, args.channels = p.c, args.h = p.h, args.w = p.w;
  args.reach = reach, args.top = p.padding_h - reach, args.left = across - p.padding_w;
  args.pitch = pitch;
  args.offset = offset.data();
  args.three = p.kw == 3 && p.dilation_w == 1 && p.kh <= kMaxRowTaps;
  args.weights = packed.get();
  args.activation = epilogue.activation;
  args.activation_alpha = epilogue.activation_alpha;
  args.scratch = scratch.view();
  launch(conv_lanes_kernel(), args, split);
  return true;
}

}  // namespace hotloop
