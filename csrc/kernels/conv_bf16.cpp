// The driver of convolutions of bf16: weights into one matrix and its panels, then blocks of output
// pixels, group by group.
#include "kernels/conv_bf16.h"

#include <algorithm>

#include "core/errors.h"
#include "kernels/driver/conv_plan.h"

namespace hotloop {
namespace {

constexpr std::int64_t kRowWords = 16;  // behind a row of A: its length is no multiple of a page

}  // namespace

void conv_forward_bf16(const ConvProblem& p, const ConvImage& x, const ConvKernel& w,
                       const float* bias, Activation activation, double activation_alpha,
                       DType y_type, void* y) {
  const std::int64_t channels = p.c / p.groups, outputs = p.o / p.groups;
  const std::int64_t depth = p.kh * p.kw * channels, words = ceil_div(depth, 2);
  const std::int64_t panel = dot_packed_panel();
  const std::int64_t sizes[] = {ceil_div(outputs, panel) * panel, words};
  checked_product("conv2d", sizes, 2, 4);
  const Scratch packed(
      static_cast<std::size_t>(4 * dot_packed_words(DType::bf16, outputs, depth, panel)));
  const Scratch rows(static_cast<std::size_t>(outputs * depth * 2));

  ConvBf16Args args{};
  args.h = p.h, args.w = p.w, args.channels = channels;
  args.stride_n = x.stride_n, args.stride_h = x.stride_h, args.stride_w = x.stride_w;
  args.stride_c = x.stride_c;
  args.taps_h = p.kh, args.taps_w = p.kw, args.step_h = p.stride_h, args.step_w = p.stride_w;
  args.padding_h = p.padding_h, args.padding_w = p.padding_w;
  args.dilation_h = p.dilation_h, args.dilation_w = p.dilation_w;
  args.out_h = p.out_h, args.out_w = p.out_w;

  DotArgs& dot = args.dot;
  dot.p.c_type = y_type;
  dot.p.m = p.n * p.out_h * p.out_w, dot.p.n = outputs, dot.p.k = depth;
  dot.p.activation = activation, dot.p.activation_alpha = activation_alpha;
  dot.words = words;
  args.in_place = p.kh * p.kw == 1 && p.stride_h == 1 && p.stride_w == 1 && p.padding_h == 0 &&
                  p.padding_w == 0 && depth % 2 == 0 && x.stride_c == 1 && x.stride_w > 0 &&
                  x.stride_h == p.w * x.stride_w && x.stride_n == p.h * p.w * x.stride_w;
  dot.a_step = args.in_place ? 2 * x.stride_w : 4 * (words + kRowWords);
  dot.b = packed.as<float>();
  dot.panel = panel, dot.panels = ceil_div(outputs, panel);

  // Even blocks, so many that every thread has some.
  const std::int64_t wanted = std::max(ceil_div(dot.p.m, kDotRows), kSlabsWanted);
  args.block = std::min(ceil_div(ceil_div(dot.p.m, wanted), 6) * 6, kDotRows);
  const std::int64_t units = ceil_div(dot.p.m, args.block);
  const double unit_work = conv_work(p) / static_cast<double>(p.groups * units);
  Split split = split_for(units, unit_work / 2, p.interruptible);
  const ThreadScratch scratch(args.in_place ? 0 : args.block * dot.a_step, is_parallel(split));
  split.max_threads = scratch.threads;
  args.scratch = scratch.view();

  const std::int64_t item = y_type == DType::f32 ? 4 : 2;
  for (std::int64_t group = 0; group < p.groups; ++group) {
    const ConvBf16WeightsArgs weights{
        static_cast<const std::uint16_t*>(w.data) + group * outputs * w.stride_o,
        w.stride_o,
        w.stride_i,
        w.stride_h,
        w.stride_w,
        channels,
        p.kh,
        p.kw,
        rows.as<std::uint16_t>()};
    launch(conv_bf16_weights_kernel(), weights,
           {.units = outputs, .grain = std::max<std::int64_t>(1, 16384 / depth)});
    const GemmMatrix matrix{rows.get(), 1, depth, 0, nullptr};
    dot_pack_b(DType::bf16, matrix, outputs, depth, panel, packed.as<float>(), nullptr);

    args.x = static_cast<const std::uint16_t*>(x.data) + group * channels * x.stride_c;
    dot.p.bias = bias ? bias + group * outputs : nullptr;
    dot.p.c = {static_cast<char*>(y) + group * outputs * item, p.o, 1, 0, nullptr};
    launch(conv_bf16_kernel(), args, split);
  }
}

}  // namespace hotloop
