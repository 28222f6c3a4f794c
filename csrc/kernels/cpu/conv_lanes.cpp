// Backward to an input of up to four channels with stride 1 (the first layer of a network, the last
// of a generator): pixels fill the vectors, since channels would leave most of them empty. A strip
// of rows of dy is turned into [row][output][pixel] with its border of zeros; then tiles of
// channels x vectors of pixels run over rows of taps, outputs and taps,
//   dx[pixel, c] = sum over (row, o, tap) of dy[o][pixel - tap] * w[row, o, tap, c]
// Measured with 3 channels and 32 outputs on a Zen 4: 1.8 to 1.9 times conv_narrow, which leaves 7
// of 16 lanes empty and adds rows up in memory; with 1 channel 2.5 times. Channels-last dy of whole
// vectors is read where it lies (dots_strip).
#include "engines/activate.h"
#include "engines/conv_dots.h"
#include "engines/conv_rows.h"
#include "engines/conv_slab.h"
#include "engines/transpose.h"
#include "kernels/conv.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

using simd::Vec;

// Registers: channels * vectors accumulators, a weight for each channel, one vector of pixels.
constexpr int lanes_vectors(int channels) {
  if (simd::kBytes == 64) return channels == 1 ? 12 : channels == 4 ? 6 : 8;
  return channels == 1 ? 8 : channels == 2 ? 5 : channels == 3 ? 3 : 2;
}

// A row of dy, outputs first: to[o * pitch + x] for x in [0, pitch).
template <class T>
void turn_row(const ConvLanesArgs& args, const T* dy, T* to) {
  constexpr std::int64_t kLanes = Vec<T>::lanes;
  const std::int64_t pitch = args.pitch;
  const std::int64_t begin = args.left < 0 ? 0 : args.left;  // of pixels that exist
  std::int64_t end = args.out_w + args.left;
  if (end > pitch) end = pitch;
  if (end < begin) end = begin;
  if (args.dy_stride_c != 1) {  // outputs apart already, pixels side by side or not
    for (std::int64_t o = 0; o < args.outputs; ++o, to += pitch) {
      fill_zeros(to, begin);
      const T* from = dy + o * args.dy_stride_c + (begin - args.left) * args.dy_stride_w;
      if (args.dy_stride_w == 1) {
        copy_dense(to + begin, from, end - begin);
      } else {
        for (std::int64_t x = begin; x < end; ++x, from += args.dy_stride_w) to[x] = *from;
      }
      fill_zeros(to + end, pitch - end);
    }
    return;
  }
  for (std::int64_t o = 0; o < args.outputs; o += kLanes) {
    const std::int64_t rest = args.outputs - o;
    const int outputs = static_cast<int>(rest < kLanes ? rest : kLanes);
    T* const block = to + o * pitch;
    for (int i = 0; i < outputs; ++i) {
      fill_zeros(block + i * pitch, begin);
      fill_zeros(block + i * pitch + end, pitch - end);
    }
    for (std::int64_t x = begin; x < end; x += kLanes) {
      const int pixels = static_cast<int>(end - x < kLanes ? end - x : kLanes);
      const T* from = dy + (x - args.left) * args.dy_stride_w + o;
      if (pixels == kLanes && outputs == kLanes) {
        transpose_block(from, args.dy_stride_w, block + x, pitch);
      } else {
        transpose_edge(from, args.dy_stride_w, pixels, outputs, block + x, pitch, pixels);
      }
    }
  }
}

// What the next strip reads of dy, fetched into L2 along the way, a line for each term.
struct NextStrip {
  const char* at;
  std::int64_t bytes;

  std::int64_t step() const { return bytes > 0 ? kBlockBytes : 0; }
  void take(std::int64_t terms) {
    const std::int64_t taken = terms * kBlockBytes < bytes ? terms * kBlockBytes : bytes;
    at += taken, bytes -= taken;
  }
};

// Sums of pixels, channel by channel, as pixels with their channels side by side: lane l of vector
// `Out` is channel (Out * lanes + l) % Channels.
template <int Channels, int Out, int Channel, class T, int... I>
HOTLOOP_SIMD Vec<T> put_channel(Vec<T> to, Vec<T> sum, LaneList<I...>) {
  constexpr int kLanes = Vec<T>::lanes;
  return {__builtin_shufflevector(
      to.v, sum.v,
      ((Out * kLanes + I) % Channels == Channel ? kLanes + (Out * kLanes + I) / Channels : I)...)};
}
template <int Channels, int Out = 0, class T>
HOTLOOP_SIMD void store_beside(const Vec<T> (&sum)[Channels], T* to) {
  using Lanes = typename MakeLanes<Vec<T>::lanes>::type;
  if constexpr (Out < Channels) {
    Vec<T> v = put_channel<Channels, Out, 0, T>(sum[0], sum[0], Lanes{});
    if constexpr (Channels > 1) v = put_channel<Channels, Out, 1, T>(v, sum[1], Lanes{});
    if constexpr (Channels > 2) v = put_channel<Channels, Out, 2, T>(v, sum[2], Lanes{});
    if constexpr (Channels > 3) v = put_channel<Channels, Out, 3, T>(v, sum[3], Lanes{});
    simd::store(to + Out * Vec<T>::lanes, v);
    store_beside<Channels, Out + 1>(sum, to);
  }
}

template <class T, int Channels>
[[gnu::noinline]] void lanes_tile(const ConvLanesArgs& args, const T* const* from, const T* weights,
                                  const T* bias, const NextStrip& next, T* sums) {
  using V = Vec<T>;
  constexpr int kVectors = lanes_vectors(Channels);
  V sum[kVectors][Channels];
#pragma GCC unroll 12
  for (int v = 0; v < kVectors; ++v) {
#pragma GCC unroll 4
    for (int c = 0; c < Channels; ++c) sum[v][c] = simd::set1<T>(bias[c]);
  }
  const T* pixels[kVectors];
#pragma GCC unroll 12
  for (int v = 0; v < kVectors; ++v) pixels[v] = from[v];
  const std::int64_t* offset = args.offset;
  const char* ahead = next.step() > 0 ? next.at : reinterpret_cast<const char*>(weights);
  const std::int64_t ahead_step = next.step();
  for (std::int64_t k = args.depth; k > 0; --k) {
    const std::int64_t at = *offset++;
    V weight[Channels];
#pragma GCC unroll 4
    for (int c = 0; c < Channels; ++c) weight[c] = simd::set1<T>(weights[c]);
    weights += Channels;
    __builtin_prefetch(ahead, 0, 2);
    ahead += ahead_step;
#pragma GCC unroll 12
    for (int v = 0; v < kVectors; ++v) {
      V pixel = simd::load(pixels[v] + at);
      held(pixel);
#pragma GCC unroll 4
      for (int c = 0; c < Channels; ++c) sum[v][c] = simd::fma(weight[c], pixel, sum[v][c]);
    }
  }
#pragma GCC unroll 12
  for (int v = 0; v < kVectors; ++v) store_beside<Channels>(sum[v], sums + v * Channels * V::lanes);
}

template <class T, int Channels>
void lanes_strip(const ConvLanesArgs& args, std::int64_t rows, const T* turned, NextStrip next,
                 T* dx) {
  constexpr std::int64_t kLanes = Vec<T>::lanes;
  constexpr int kVectors = lanes_vectors(Channels);
  const std::int64_t row_step = args.outputs * args.pitch;
  const std::int64_t across = (args.w + kLanes - 1) / kLanes, count = rows * across;
  const T* weights = static_cast<const T*>(args.weights);
  const T* bias = weights + args.depth * Channels;
  const T* from[kVectors];
  alignas(64) T sums[kVectors * Channels * kLanes];
  for (std::int64_t first = 0; first < count; first += kVectors) {
    const int vectors = static_cast<int>(count - first < kVectors ? count - first : kVectors);
    for (int v = 0; v < kVectors; ++v) {
      const std::int64_t at = first + (v < vectors ? v : vectors - 1);
      from[v] = turned + at / across * row_step + at % across * kLanes;
    }
    lanes_tile<T, Channels>(args, from, weights, bias, next, sums);
    next.take(args.depth);
    for (int v = 0; v < vectors; ++v) {
      const std::int64_t at = first + v, x = at % across * kLanes;
      const std::int64_t pixels = args.w - x < kLanes ? args.w - x : kLanes;
      copy_dense(dx + at / across * args.dx_stride_h + x * Channels, sums + v * Channels * kLanes,
                 pixels * Channels);
    }
  }
}

template <class T>
void lanes_body(const ConvLanesArgs& args, std::int64_t begin, std::int64_t end) {
  T* const turned = own_scratch<T>(args.scratch);
  const std::int64_t row_step = args.outputs * args.pitch;
  const bool dots = simd::kBytes == 64 && args.three && args.dy_stride_c == 1 &&
                    args.outputs % Vec<T>::lanes == 0;
  if (dots) pack_dots(args, turned);
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const std::int64_t image = unit / args.strips, first = unit % args.strips * args.rows;
    const std::int64_t rows = args.h - first < args.rows ? args.h - first : args.rows;
    const T* dy = static_cast<const T*>(args.dy) + image * args.dy_stride_n;
    T* dx = static_cast<T*>(args.dx) + image * args.dx_stride_n + first * args.dx_stride_h;
    for (std::int64_t r = 0; r < (dots ? 0 : rows + args.reach); ++r) {
      const std::int64_t oh = first + args.top + r;
      T* const to = turned + r * row_step;
      if (oh >= 0 && oh < args.out_h) {
        turn_row(args, dy + oh * args.dy_stride_h, to);
      } else {
        fill_zeros(to, row_step);
      }
    }
    NextStrip next{nullptr, 0};
    const bool more = unit + 1 < end && args.dy_stride_c == 1 &&
                      args.dy_stride_h == args.out_w * args.dy_stride_w &&
                      args.dy_stride_n == args.out_h * args.dy_stride_h;
    if (more && !dots) {
      std::int64_t oh = first + args.top + rows + args.reach;  // behind what is turned
      if (oh > args.out_h) oh = args.out_h;
      std::int64_t ahead_rows = args.rows + args.reach;
      if (oh + ahead_rows > args.out_h && image + 1 == args.n) ahead_rows = args.out_h - oh;
      if (oh < 0) oh = ahead_rows = 0;
      next.at = reinterpret_cast<const char*>(dy + oh * args.dy_stride_h);
      next.bytes = ahead_rows * args.dy_stride_h * static_cast<std::int64_t>(sizeof(T));
    }
    const auto strip = [&](auto number) {
      constexpr int kChannels = number.value;
      if constexpr (simd::kBytes == 64) {
        if (dots) return dots_strip<T, kChannels>(args, first, rows, turned, dy, more, dx);
      }
      lanes_strip<T, kChannels>(args, rows, turned, next, dx);
    };
    switch (args.channels) {
      case 1:
        strip(Number<1>{});
        break;
      case 2:
        strip(Number<2>{});
        break;
      case 3:
        strip(Number<3>{});
        break;
      default:
        strip(Number<4>{});
    }
    if (args.activation == Activation::none) continue;
    for (std::int64_t row = 0; row < rows; ++row) {
      activate_row(args.activation, args.activation_alpha, dx + row * args.dx_stride_h,
                   args.w * args.channels);
    }
  }
}

}  // namespace

void conv_lanes(const ConvLanesArgs& args, std::int64_t begin, std::int64_t end) {
  args.dtype == DType::f32 ? lanes_body<float>(args, begin, end)
                           : lanes_body<double>(args, begin, end);
}

}  // namespace hotloop::HOTLOOP_LEVEL
