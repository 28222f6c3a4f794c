// Convolutions over 1 to 3 axes in three directions, channels last, as implicit products: the main
// loop of product_tile.cuh, whose slices are read through the taps (conv_load.cuh).
//   forward         y[pixel, o]     = sum over (tap, c) of x * w, rows are pixels
//   backward input  dx[pixel, c]    = the same over dy, once for each phase of the stride: each has
//                                     taps of its own, no zeros are inserted
//   backward weight dw[(tap, c), o] = sum over pixels of x * dy, cut into slices that are added in
//                                     order
// Weights are packed first, [group][tap][channel][column]: they are small beside the images, and
// any strides will do. Groups of a few channels (depthwise) go without tiles, a thread for each
// result. Implicit product after cuDNN (Chetlur et al. 2014); not measured on a GPU yet.
#include "kernels/conv.h"

#include "kernels/cuda/conv_kernels.cuh"

namespace hotloop::cuda {
namespace {

constexpr int kFewColumns = 8;  // of a group, for kernels without tiles
constexpr std::int64_t kMostSlices = 64;
constexpr std::int64_t kMostScratch = std::int64_t{64} << 20;

// ---- plans --------------------------------------------------------------------------------------

PassAxis forward_axis(std::int64_t out, std::int64_t stride, std::int64_t padding,
                      std::int64_t dilation, std::int64_t taps, std::int64_t size) {
  const auto as_int = [](std::int64_t value) { return static_cast<int>(value); };
  return {as_int(out),
          as_int(stride),
          as_int(-padding),
          as_int(dilation),
          as_int(taps),
          as_int(size),
          0,
          1,
          0,
          1};
}

// Result positions i, i + stride, ...: tap r meets them where i + padding - r * dilation is a
// multiple of the stride, which every stride / gcd-th tap does, or none.
PassAxis backward_axis(std::int64_t i, std::int64_t out, std::int64_t stride, std::int64_t padding,
                       std::int64_t dilation, std::int64_t taps, std::int64_t size) {
  std::int64_t gcd = dilation, rest = stride;
  while (rest != 0) {
    const std::int64_t next = gcd % rest;
    gcd = rest;
    rest = next;
  }
  const std::int64_t tap_step = stride / gcd;
  std::int64_t first = 0;
  while (first < tap_step && (i + padding - first * dilation) % stride != 0) ++first;
  const bool any = first < tap_step && first < taps;
  PassAxis axis{};
  axis.count = static_cast<int>(ceil_div(size - i, stride));
  axis.step = 1;
  axis.first = any ? static_cast<int>((i + padding - first * dilation) / stride) : 0;
  axis.shift = static_cast<int>(-(tap_step * dilation) / stride);
  axis.taps = any ? static_cast<int>(ceil_div(taps - first, tap_step)) : 0;
  axis.size = static_cast<int>(out);
  axis.tap_first = static_cast<int>(first);
  axis.tap_step = static_cast<int>(tap_step);
  axis.out_first = static_cast<int>(i);
  axis.out_step = static_cast<int>(stride);
  return axis;
}

template <class T>
bool steps_are_whole(const void* data, const ImageSteps& steps, std::int64_t group_channels) {
  constexpr std::int64_t size = Piece<T>::kSize;
  return reinterpret_cast<std::uintptr_t>(data) % 16 == 0 && steps.c == 1 && steps.n % size == 0 &&
         steps.d % size == 0 && steps.h % size == 0 && steps.w % size == 0 &&
         group_channels % size == 0;
}

template <class T>
ImageView view_of(const ConvImage& image, const PassAxis& d, const PassAxis& h, const PassAxis& w,
                  std::int64_t group_channels) {
  ImageView view{};
  view.steps = {image.stride_n, image.stride_d, image.stride_h, image.stride_w, image.stride_c};
  view.d = d, view.h = h, view.w = w;
  view.count_d = Divisor(d.count), view.count_h = Divisor(h.count), view.count_w = Divisor(w.count);
  view.channels = Divisor(group_channels > 0 ? group_channels : 1);
  view.taps_h = Divisor(h.taps > 0 ? h.taps : 1), view.taps_w = Divisor(w.taps > 0 ? w.taps : 1);
  view.whole = steps_are_whole<T>(image.data, view.steps, group_channels);
  const auto plain = [](const PassAxis& axis) {
    return axis.taps == 1 && axis.step == 1 && axis.first == 0 && axis.count == axis.size;
  };
  view.linear = plain(d) && plain(h) && plain(w) &&
                (h.count == 1 || view.steps.h == w.count * view.steps.w) &&
                (d.count == 1 || view.steps.d == h.count * w.count * view.steps.w) &&
                view.steps.n == d.count * h.count * w.count * view.steps.w;
  return view;
}

std::int64_t pitch_of(std::int64_t columns, std::int64_t item) {
  const std::int64_t piece = 16 / item;
  return ceil_div(columns, piece) * piece;
}

std::int64_t taps_of(const ConvProblem& p) {
  return p.kd * p.kh * p.kw;
}

struct WeightPlan {
  bool direct = false;
  int tile = 2;
  std::int64_t slices = 1, slice = 0;
};
WeightPlan weight_plan(const ConvProblem& p) {
  WeightPlan plan;
  const std::int64_t item = p.dtype == DType::f32 ? 4 : 8;
  const std::int64_t pixels = p.n * p.out_d * p.out_h * p.out_w;
  const std::int64_t columns = p.o / p.groups, depth = taps_of(p) * (p.c / p.groups);
  const std::int64_t bytes = p.groups * depth * columns * item;
  plan.direct = p.groups > 1 && columns <= kFewColumns;
  std::int64_t blocks = p.groups * ceil_div(depth, 64) * ceil_div(columns, 64), least = 256;
  if (plan.direct) {
    blocks = ceil_div(p.groups * depth * columns, 256);
    least = 64;
  } else if (p.dtype == DType::f32 && depth >= 128 && columns >= 128) {
    plan.tile = 0;
    blocks = p.groups * ceil_div(depth, 128) * ceil_div(columns, 128);
  }
  std::int64_t slices = 4 * kBlocksWanted / (blocks > 0 ? blocks : 1);
  if (slices > pixels / least) slices = pixels / least;
  if (slices > kMostSlices) slices = kMostSlices;
  if (bytes > 0 && slices * bytes > kMostScratch) slices = kMostScratch / bytes;
  if (slices < 1) slices = 1;
  plan.slice = ceil_div(ceil_div(pixels > 0 ? pixels : 1, slices), 16) * 16;
  plan.slices = pixels > 0 ? ceil_div(pixels, plan.slice) : 1;
  return plan;
}

// ---- launches -----------------------------------------------------------------------------------

template <class Shape, class T>
void launch_pass(PassArgs<T>& args, cudaStream_t stream) {
  args.tiles_n = ceil_div(args.columns, Shape::kColumns);
  const dim3 grid(static_cast<unsigned>(ceil_div(args.pixels, Shape::kRows) * args.tiles_n),
                  static_cast<unsigned>(args.groups));
  HOTLOOP_LAUNCH((conv_tiles<Shape>), grid, Shape::kThreads, Shape::kSharedBytes, stream, args);
}

template <class T>
void run_pixels(PassArgs<T>& args, const ConvEpilogue& epilogue, cudaStream_t stream) {
  args.active = is_cheap(epilogue.activation) && epilogue.activation != Activation::none;
  args.slope = epilogue.activation == Activation::leaky_relu
                   ? static_cast<T>(epilogue.activation_alpha)
                   : T(0);
  const std::int64_t count = args.pixels * args.groups * args.columns;
  const std::int64_t large = ceil_div(args.pixels, 128) * ceil_div(args.columns, 128) * args.groups;
  if (args.groups > 1 && args.columns <= kFewColumns) {
    HOTLOOP_LAUNCH((conv_direct<T>), blocks_for(count, 256), 256, 0, stream, args);
  } else if constexpr (sizeof(T) == 8) {
    launch_pass<Tile<T, 64, 64, 16, 4, 4>>(args, stream);
  } else if (args.columns > 64 && large >= kBlocksWanted) {
    launch_pass<Tile<T, 128, 128, 16, 8, 8>>(args, stream);
  } else if (ceil_div(args.pixels, 128) * ceil_div(args.columns, 64) * args.groups >=
             kBlocksWanted) {
    launch_pass<Tile<T, 128, 64, 16, 8, 4>>(args, stream);
  } else {
    launch_pass<Tile<T, 64, 64, 16, 4, 4>>(args, stream);
  }
  if (is_cheap(epilogue.activation)) return;
  args.activation = epilogue.activation;
  args.activation_alpha = epilogue.activation_alpha;
  HOTLOOP_LAUNCH((conv_activate<T>), blocks_for(count, 256), 256, 0, stream, args);
}

// The operands of forward and backward input, by what they are in the pass.
struct Pass {
  ConvImage source, result;
  std::int64_t channels, columns;                      // of a group
  std::int64_t step_channel, step_column, step_group;  // of w
};

template <class T>
T* run_pass(const ConvPassArgs& all, const Pass& pass, const PassAxis& d, const PassAxis& h,
            const PassAxis& w, T* scratch, cudaStream_t stream) {
  const ConvProblem& p = all.problem;
  const std::int64_t taps = static_cast<std::int64_t>(d.taps) * h.taps * w.taps;
  PassArgs<T> args{};
  args.view = view_of<T>(pass.source, d, h, w, pass.channels);
  args.source = static_cast<const T*>(pass.source.data);
  args.result = static_cast<T*>(pass.result.data);
  args.to = {pass.result.stride_n, pass.result.stride_d, pass.result.stride_h, pass.result.stride_w,
             1};
  args.weights = scratch;
  args.bias = static_cast<const T*>(all.epilogue.bias);
  args.bias_step = all.epilogue.bias_stride;
  const ConvImage& more = all.epilogue.residual;
  args.residual_steps = {more.stride_n, more.stride_d, more.stride_h, more.stride_w, more.stride_c};
  args.channels = pass.channels, args.columns = pass.columns, args.groups = p.groups;
  args.depth = taps * pass.channels;
  args.pitch = pitch_of(pass.columns, sizeof(T));
  args.result_whole = steps_are_whole<T>(args.result, args.to, pass.columns);
  PackArgs<T> pack{static_cast<const T*>(all.w.data),
                   scratch,
                   d,
                   h,
                   w,
                   all.w.stride_d,
                   all.w.stride_h,
                   all.w.stride_w,
                   pass.step_channel,
                   pass.step_column,
                   pass.step_group,
                   pass.channels,
                   pass.columns,
                   args.pitch,
                   p.groups * args.depth * args.pitch};
  if (pack.count > 0) {
    HOTLOOP_LAUNCH((conv_pack<T>), blocks_for(pack.count, 256), 256, 0, stream, pack);
  }
  // Pixels are numbered with 31 bits: so many images at a time.
  const std::int64_t per_image = static_cast<std::int64_t>(d.count) * h.count * w.count;
  const std::int64_t most = per_image > 0 ? 0x7fffffff / per_image : 0;
  for (std::int64_t first = 0; first < p.n && most > 0; first += most) {
    args.source = static_cast<const T*>(pass.source.data) + first * pass.source.stride_n;
    args.result = static_cast<T*>(pass.result.data) + first * pass.result.stride_n;
    if (more.data) {
      args.residual = static_cast<const T*>(more.data) + first * more.stride_n;
    }
    args.pixels = (p.n - first < most ? p.n - first : most) * per_image;
    run_pixels(args, all.epilogue, stream);
  }
  return scratch + pack.count;
}

template <class T>
void run_forward(const ConvPassArgs& all, cudaStream_t stream) {
  const ConvProblem& p = all.problem;
  const std::int64_t columns = p.o / p.groups;
  const Pass pass{all.x,          all.y,          p.c / p.groups,          columns,
                  all.w.stride_i, all.w.stride_o, columns * all.w.stride_o};
  run_pass<T>(all, pass, forward_axis(p.out_d, p.stride_d, p.padding_d, p.dilation_d, p.kd, p.d),
              forward_axis(p.out_h, p.stride_h, p.padding_h, p.dilation_h, p.kh, p.h),
              forward_axis(p.out_w, p.stride_w, p.padding_w, p.dilation_w, p.kw, p.w),
              static_cast<T*>(all.scratch), stream);
}

template <class T>
void run_backward_input(const ConvPassArgs& all, cudaStream_t stream) {
  const ConvProblem& p = all.problem;
  const std::int64_t channels = p.o / p.groups;
  const Pass pass{all.y,
                  all.x,
                  channels,
                  p.c / p.groups,
                  all.w.stride_o,
                  all.w.stride_i,
                  channels * all.w.stride_o};
  T* scratch = static_cast<T*>(all.scratch);
  for (std::int64_t i = 0; i < p.stride_d && i < p.d; ++i) {
    const PassAxis d = backward_axis(i, p.out_d, p.stride_d, p.padding_d, p.dilation_d, p.kd, p.d);
    for (std::int64_t j = 0; j < p.stride_h && j < p.h; ++j) {
      const PassAxis h =
          backward_axis(j, p.out_h, p.stride_h, p.padding_h, p.dilation_h, p.kh, p.h);
      for (std::int64_t k = 0; k < p.stride_w && k < p.w; ++k) {
        const PassAxis w =
            backward_axis(k, p.out_w, p.stride_w, p.padding_w, p.dilation_w, p.kw, p.w);
        scratch = run_pass<T>(all, pass, d, h, w, scratch, stream);
      }
    }
  }
}

template <class Shape, class T>
void launch_weight(WeightArgs<T>& args, std::int64_t slices, cudaStream_t stream) {
  args.tiles_n = ceil_div(args.columns, Shape::kColumns);
  const dim3 grid(static_cast<unsigned>(ceil_div(args.depth, Shape::kRows) * args.tiles_n),
                  static_cast<unsigned>(slices), static_cast<unsigned>(args.groups));
  HOTLOOP_LAUNCH((conv_weight_tiles<Shape>), grid, Shape::kThreads, Shape::kSharedBytes, stream,
                 args);
}

template <class T>
void run_backward_weight(const ConvPassArgs& all, cudaStream_t stream) {
  const ConvProblem& p = all.problem;
  const WeightPlan plan = weight_plan(p);
  const std::int64_t columns = p.o / p.groups, channels = p.c / p.groups;
  const PassAxis d = forward_axis(p.out_d, p.stride_d, p.padding_d, p.dilation_d, p.kd, p.d);
  const PassAxis h = forward_axis(p.out_h, p.stride_h, p.padding_h, p.dilation_h, p.kh, p.h);
  const PassAxis w = forward_axis(p.out_w, p.stride_w, p.padding_w, p.dilation_w, p.kw, p.w);
  const auto itself = [](std::int64_t size) { return forward_axis(size, 1, 0, 1, 1, size); };
  WeightArgs<T> args{};
  args.x = view_of<T>(all.x, d, h, w, channels);
  args.dy = view_of<T>(all.y, itself(p.out_d), itself(p.out_h), itself(p.out_w), columns);
  args.x_data = static_cast<const T*>(all.x.data);
  args.dy_data = static_cast<const T*>(all.y.data);
  args.parts = static_cast<T*>(all.scratch);
  args.pixels = p.n * p.out_d * p.out_h * p.out_w;
  args.depth = taps_of(p) * channels;
  args.columns = columns, args.channels = channels, args.groups = p.groups;
  args.slice = plan.slice;
  args.slice_step = p.groups * args.depth * columns;
  args.whole = columns % Piece<T>::kSize == 0;  // scratch is aligned
  if (args.slice_step == 0) return;
  if (args.pixels == 0) {
    // Only zeros are written.
  } else if (plan.direct) {
    const dim3 grid(static_cast<unsigned>(ceil_div(args.slice_step, 256)),
                    static_cast<unsigned>(plan.slices));
    HOTLOOP_LAUNCH((conv_weight_direct<T>), grid, 256, 0, stream, args);
  } else if constexpr (sizeof(T) == 8) {
    launch_weight<Tile<T, 64, 64, 16, 4, 4>>(args, plan.slices, stream);
  } else if (plan.tile == 0) {
    launch_weight<Tile<T, 128, 128, 16, 8, 8>>(args, plan.slices, stream);
  } else {
    launch_weight<Tile<T, 64, 64, 16, 4, 4>>(args, plan.slices, stream);
  }
  const SumArgs<T> sum{args.parts,
                       static_cast<T*>(all.w.data),
                       args.pixels > 0 ? plan.slices : 0,
                       args.slice_step,
                       columns,
                       channels,
                       p.kw,
                       p.kh,
                       p.kd,
                       all.w.stride_d,
                       all.w.stride_h,
                       all.w.stride_w,
                       all.w.stride_i,
                       all.w.stride_o,
                       columns * all.w.stride_o};
  HOTLOOP_LAUNCH((conv_weight_sum<T>), blocks_for(args.slice_step, 256), 256, 0, stream, sum);
}

// Every tap belongs to one phase at most.
std::int64_t packed_bytes(const ConvProblem& p, std::int64_t channels, std::int64_t columns) {
  const std::int64_t item = p.dtype == DType::f32 ? 4 : 8;
  return p.groups * taps_of(p) * channels * pitch_of(columns, item) * item;
}

}  // namespace

HOTLOOP_CUDA_WORKSPACE(conv_forward, ConvPassArgs) {
  const ConvProblem& p = args.problem;
  return packed_bytes(p, p.c / p.groups, p.o / p.groups);
}
HOTLOOP_CUDA_KERNEL(conv_forward, ConvPassArgs) {
  args.problem.dtype == DType::f32 ? run_forward<float>(args, stream)
                                   : run_forward<double>(args, stream);
}

HOTLOOP_CUDA_WORKSPACE(conv_backward_input, ConvPassArgs) {
  const ConvProblem& p = args.problem;
  return packed_bytes(p, p.o / p.groups, p.c / p.groups);
}
HOTLOOP_CUDA_KERNEL(conv_backward_input, ConvPassArgs) {
  args.problem.dtype == DType::f32 ? run_backward_input<float>(args, stream)
                                   : run_backward_input<double>(args, stream);
}

HOTLOOP_CUDA_WORKSPACE(conv_backward_weight, ConvPassArgs) {
  const ConvProblem& p = args.problem;
  const std::int64_t item = p.dtype == DType::f32 ? 4 : 8;
  return weight_plan(p).slices * taps_of(p) * (p.c / p.groups) * p.o * item;
}
HOTLOOP_CUDA_KERNEL(conv_backward_weight, ConvPassArgs) {
  args.problem.dtype == DType::f32 ? run_backward_weight<float>(args, stream)
                                   : run_backward_weight<double>(args, stream);
}

}  // namespace hotloop::cuda
