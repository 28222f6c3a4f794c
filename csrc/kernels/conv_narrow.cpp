// The driver of backward to an input of few channels: decides whether it pays, packs, launches.
#include <algorithm>
#include <cstring>

#include "core/errors.h"
#include "kernels/driver/conv_plan.h"

namespace hotloop {
namespace {

constexpr std::int64_t kLeastOutputs = 8;  // below, adding rows up costs more than the products

template <class T>
void pack(const ConvProblem& p, const ConvKernel& w, const ConvEpilogue& epilogue,
          std::int64_t pitch, T* weights, T* bias_row) {
  const T* from = static_cast<const T*>(w.data);
  for (std::int64_t row = 0; row < p.kh; ++row) {
    for (std::int64_t o = 0; o < p.o; ++o, weights += pitch) {
      std::fill(weights, weights + pitch, T(0));
      for (std::int64_t col = 0; col < p.kw; ++col) {
        const T* tap = from + o * w.stride_o + row * w.stride_h + col * w.stride_w;
        for (std::int64_t c = 0; c < p.c; ++c) weights[col * p.c + c] = tap[c * w.stride_i];
      }
    }
  }
  if (!bias_row) return;
  for (std::int64_t at = 0; at < p.w * p.c; ++at) {
    bias_row[at] = static_cast<const T*>(epilogue.bias)[at % p.c * epilogue.bias_stride];
  }
}

}  // namespace

bool conv_narrow_input(const ConvProblem& p, const ConvImage& dy, const ConvKernel& w,
                       const ConvEpilogue& epilogue, const ConvImage& dx) {
  const std::int64_t item = bytes_of(p.dtype), block = kBlockBytes / item;
  // Vectors for a row of taps: taps side by side in the columns, or each by itself.
  const std::int64_t beside = ceil_div(p.kw * p.c, block), alone = p.kw * ceil_div(p.c, block);
  const bool flat = p.d == 1 && p.out_d == 1 && p.kd == 1 && p.padding_d == 0 && p.groups == 1 &&
                    p.dilation_w == 1;
  const bool dense = dy.stride_c == 1 && (p.c == 1 || dx.stride_c == 1) && dx.stride_w == p.c;
  if (!flat || !dense || p.o < kLeastOutputs || 2 * beside > alone) return false;
  // A stride beyond the kernel leaves pixels that no row of z reaches: fine, but long steps would
  // make rows of scratch that are mostly empty.
  if (p.stride_w > 4 * p.kw || p.padding_w > p.w + p.kw) return false;

  const std::int64_t pitch = beside * block;
  const std::int64_t reach = (p.out_w - 1) * p.stride_w * p.c + pitch;
  const std::int64_t row_size =
      ceil_div(std::max(reach, (p.padding_w + p.w) * p.c) + block, block) * block;
  if (row_size * item > kMostSlabBytes) return false;
  const std::int64_t weight_bytes = p.kh * p.o * pitch * item;
  const bool has_bias = epilogue.bias != nullptr;
  const Scratch packed(static_cast<std::size_t>(weight_bytes + (has_bias ? p.w * p.c * item : 0)));
  char* const bias_row = has_bias ? packed.as<char>() + weight_bytes : nullptr;
  if (p.dtype == DType::f32) {
    pack(p, w, epilogue, pitch, packed.as<float>(), reinterpret_cast<float*>(bias_row));
  } else {
    pack(p, w, epilogue, pitch, packed.as<double>(), reinterpret_cast<double*>(bias_row));
  }
  Table offset(static_cast<std::size_t>(p.o));
  for (std::int64_t o = 0; o < p.o; ++o) offset[static_cast<std::size_t>(o)] = o;

  const std::int64_t units = p.n * p.h;
  Split split = split_for(units, conv_work(p) / static_cast<double>(units), p.interruptible);
  const std::int64_t z_size = std::min(p.out_w, kNarrowPixels) * pitch;
  const ThreadScratch scratch((row_size + z_size) * item, is_parallel(split));
  split.max_threads = scratch.threads;

  ConvNarrowArgs args{};
  args.dtype = p.dtype;
  args.dy = dy.data;
  args.dy_stride_n = dy.stride_n, args.dy_stride_h = dy.stride_h, args.dy_stride_w = dy.stride_w;
  args.outputs = p.o, args.out_h = p.out_h, args.out_w = p.out_w;
  args.dx = dx.data;
  args.dx_stride_n = dx.stride_n, args.dx_stride_h = dx.stride_h;
  args.channels = p.c, args.h = p.h, args.w = p.w;
  args.taps_h = p.kh, args.dilation_h = p.dilation_h;
  args.stride_h = p.stride_h, args.stride_w = p.stride_w;
  args.padding_h = p.padding_h, args.padding_w = p.padding_w;
  args.weights = packed.get();
  args.pitch = pitch, args.terms = p.kw * p.c;
  args.bias_row = bias_row;
  args.offset = offset.data();
  args.row_size = row_size;
  args.activation = epilogue.activation;
  args.activation_alpha = epilogue.activation_alpha;
  args.scratch = scratch.view();
  launch(conv_narrow_kernel(), args, split);
  return true;
}

}  // namespace hotloop
