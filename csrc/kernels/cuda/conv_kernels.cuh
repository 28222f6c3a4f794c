// The kernels of convolutions: by tiles of a product, and a thread for each result where groups
// have few channels. For conv.cu alone, which plans and launches them.
#pragma once

#include "kernels/conv.h"
#include "kernels/cuda/activate.cuh"
#include "kernels/cuda/conv_load.cuh"

namespace hotloop::cuda {
namespace {

// Forward, or a phase of backward to the input.
template <class T>
struct PassArgs {
  ImageView view;
  const T *source, *weights, *bias;
  T* result;
  ImageSteps to;      // the result's strides; its channels are dense
  const T* residual;  // added before the activation, or null
  ImageSteps residual_steps;
  std::int64_t pixels, depth, columns, pitch, channels, groups, bias_step;
  std::int64_t tiles_n;
  T slope;
  bool active, result_whole;
  Activation activation;  // of the second pass
  double activation_alpha;
};

template <class T>
__device__ __forceinline__ std::int64_t result_of(const PassArgs<T>& p, const ImageSteps& to,
                                                  std::int64_t pixel) {
  unsigned w = static_cast<unsigned>(pixel);
  unsigned h = p.view.count_w.split(w);
  unsigned d = p.view.count_h.split(h);
  const unsigned n = p.view.count_d.split(d);
  const auto at = [](const PassAxis& axis, unsigned place) {
    return static_cast<std::int64_t>(axis.out_first + static_cast<int>(place) * axis.out_step);
  };
  return n * to.n + at(p.view.d, d) * to.d + at(p.view.h, h) * to.h + at(p.view.w, w) * to.w;
}

template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocks)
    conv_tiles(const __grid_constant__ PassArgs<typename Shape::Number> p) {
  using T = typename Shape::Number;
  HOTLOOP_SHARED(T, shared);
  const std::int64_t group = blockIdx.y;
  const std::int64_t row0 = blockIdx.x / p.tiles_n * Shape::kRows;
  const std::int64_t column0 = blockIdx.x % p.tiles_n * Shape::kColumns;
  PixelSlice<T, Shape::kRows, Shape::kDepth, Shape::kThreads> a(
      p.view, p.source + group * p.channels * p.view.steps.c, row0, p.pixels);
  MatrixSlice<T, Shape::kColumns, Shape::kDepth, Shape::kThreads, false> b(
      p.weights + group * p.depth * p.pitch + column0, 1, p.pitch, p.pitch - column0, true, 0);
  Shape sums;
  sums.run(a, b, 0, p.depth, shared);

  sums.each(row0, column0, p.pixels, [&](std::int64_t row) {
    T* const to = p.result + result_of(p, p.to, row) + group * p.columns;
    const T* const more = p.residual ? p.residual + result_of(p, p.residual_steps, row) +
                                           group * p.columns * p.residual_steps.c
                                     : nullptr;
    return [&p, group, to, more](std::int64_t column, Piece<T> piece) {
#pragma unroll
      for (int v = 0; v < Shape::kPiece; ++v) {
        T& x = piece.at[v];
        if (column + v < p.columns) {
          if (p.bias) x += p.bias[(group * p.columns + column + v) * p.bias_step];
          if (more) x += more[(column + v) * p.residual_steps.c];
        }
        x = cheap_activation(x, p.active, p.slope);
      }
      put_piece(to + column, piece, p.columns - column, p.result_whole);
    };
  });
}

// Groups of a few channels: neighbouring threads take neighbouring channels of the result.
template <class T>
__global__ void __launch_bounds__(256) conv_direct(const __grid_constant__ PassArgs<T> p) {
  const std::int64_t channels = p.groups * p.columns, count = p.pixels * channels;
  std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * 256 + threadIdx.x;
  for (; at < count; at += static_cast<std::int64_t>(gridDim.x) * 256) {
    const std::int64_t pixel = at / channels, o = at % channels, group = o / p.columns;
    const Place place = place_of_pixel(p.view, static_cast<unsigned>(pixel));
    const T* const source = p.source + group * p.channels * p.view.steps.c;
    const T* weight = p.weights + group * p.depth * p.pitch + o % p.columns;
    T sum = 0;
    for (std::int64_t k = 0; k < p.depth; ++k, weight += p.pitch) {
      const Place term = place_of_term(p.view, static_cast<unsigned>(k));
      if (inside(p.view, place, term)) {
        sum = fused(source[place.offset + term.offset], *weight, sum);
      }
    }
    if (p.bias) sum += p.bias[o * p.bias_step];
    if (p.residual) {
      sum += p.residual[result_of(p, p.residual_steps, pixel) + o * p.residual_steps.c];
    }
    p.result[result_of(p, p.to, pixel) + o] = cheap_activation(sum, p.active, p.slope);
  }
}

// The activation that the epilogue leaves out, in place.
template <class T>
__global__ void __launch_bounds__(256) conv_activate(const __grid_constant__ PassArgs<T> p) {
  const std::int64_t channels = p.groups * p.columns, count = p.pixels * channels;
  std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * 256 + threadIdx.x;
  for (; at < count; at += static_cast<std::int64_t>(gridDim.x) * 256) {
    T& y = p.result[result_of(p, p.to, at / channels) + at % channels];
    y = activate(p.activation, y, p.activation_alpha);
  }
}

// Weights of the taps of a pass: packed[group][tap][channel][pitch], zeros behind the columns.
template <class T>
struct PackArgs {
  const T* w;
  T* packed;
  PassAxis d, h, w_axis;
  std::int64_t step_d, step_h, step_w, step_channel, step_column, step_group;
  std::int64_t channels, columns, pitch, count;
};
template <class T>
__global__ void __launch_bounds__(256) conv_pack(const __grid_constant__ PackArgs<T> p) {
  std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * 256 + threadIdx.x;
  for (; at < p.count; at += static_cast<std::int64_t>(gridDim.x) * 256) {
    const std::int64_t column = at % p.pitch;
    std::int64_t rest = at / p.pitch;
    const std::int64_t channel = rest % p.channels;
    rest /= p.channels;
    const std::int64_t w = p.w_axis.tap_first + rest % p.w_axis.taps * p.w_axis.tap_step;
    rest /= p.w_axis.taps;
    const std::int64_t h = p.h.tap_first + rest % p.h.taps * p.h.tap_step;
    rest /= p.h.taps;
    const std::int64_t d = p.d.tap_first + rest % p.d.taps * p.d.tap_step;
    const std::int64_t group = rest / p.d.taps;
    const std::int64_t from = d * p.step_d + h * p.step_h + w * p.step_w +
                              channel * p.step_channel + column * p.step_column +
                              group * p.step_group;
    p.packed[at] = column < p.columns ? p.w[from] : T(0);
  }
}

// Backward to the weights: parts[slice][group][term][column].
template <class T>
struct WeightArgs {
  ImageView x, dy;
  const T *x_data, *dy_data;
  T* parts;
  std::int64_t pixels, depth, columns, channels, groups, slice, slice_step, tiles_n;
  bool whole;
};

template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads, 1)
    conv_weight_tiles(const __grid_constant__ WeightArgs<typename Shape::Number> p) {
  using T = typename Shape::Number;
  HOTLOOP_SHARED(T, shared);
  const std::int64_t group = blockIdx.z;
  const std::int64_t row0 = blockIdx.x / p.tiles_n * Shape::kRows;
  const std::int64_t column0 = blockIdx.x % p.tiles_n * Shape::kColumns;
  const std::int64_t begin = blockIdx.y * p.slice, last = begin + p.slice;
  TermSlice<T, Shape::kRows, Shape::kDepth, Shape::kThreads> a(
      p.x, p.x_data + group * p.channels * p.x.steps.c, row0, p.depth);
  TermSlice<T, Shape::kColumns, Shape::kDepth, Shape::kThreads> b(
      p.dy, p.dy_data + group * p.columns * p.dy.steps.c, column0, p.columns);
  Shape sums;
  sums.run(a, b, begin, last < p.pixels ? last : p.pixels, shared);

  T* const parts = p.parts + blockIdx.y * p.slice_step + group * p.depth * p.columns;
  sums.each(row0, column0, p.depth, [&](std::int64_t row) {
    return [&p, to = parts + row * p.columns](std::int64_t column, const Piece<T>& piece) {
      put_piece(to + column, piece, p.columns - column, p.whole);
    };
  });
}

// Without tiles: a thread for each weight, neighbours in neighbouring groups.
template <class T>
__global__ void __launch_bounds__(256) conv_weight_direct(const __grid_constant__ WeightArgs<T> p) {
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * 256 + threadIdx.x;
  if (at >= p.slice_step) return;
  const std::int64_t group = at % p.groups, column = at / p.groups % p.columns;
  const std::int64_t row = at / p.groups / p.columns;
  const std::int64_t begin = blockIdx.y * p.slice, last = begin + p.slice;
  const std::int64_t end = last < p.pixels ? last : p.pixels;
  const Place term = place_of_term(p.x, static_cast<unsigned>(row));
  const T* const x = p.x_data + group * p.channels * p.x.steps.c + term.offset;
  const T* const dy = p.dy_data + (group * p.columns + column) * p.dy.steps.c;
  T sum = 0;
  for (std::int64_t pixel = begin; pixel < end; ++pixel) {
    const Place from = place_of_pixel(p.x, static_cast<unsigned>(pixel));
    if (!inside(p.x, from, term)) continue;
    sum = fused(x[from.offset], dy[place_of_pixel(p.dy, static_cast<unsigned>(pixel)).offset], sum);
  }
  p.parts[blockIdx.y * p.slice_step + (group * p.depth + row) * p.columns + column] = sum;
}

// dw = the slices added in order.
template <class T>
struct SumArgs {
  const T* parts;
  T* dw;
  std::int64_t slices, slice_step, columns, channels, taps_w, taps_h, taps_d;
  std::int64_t step_d, step_h, step_w, step_channel, step_column, step_group;
};
template <class T>
__global__ void __launch_bounds__(256) conv_weight_sum(const __grid_constant__ SumArgs<T> p) {
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * 256 + threadIdx.x;
  if (at >= p.slice_step) return;
  T sum = p.slices > 0 ? p.parts[at] : T(0);
  for (std::int64_t slice = 1; slice < p.slices; ++slice) {
    sum += p.parts[slice * p.slice_step + at];
  }
  const std::int64_t column = at % p.columns;
  std::int64_t rest = at / p.columns;
  const std::int64_t channel = rest % p.channels;
  rest /= p.channels;
  const std::int64_t w = rest % p.taps_w, h = rest / p.taps_w % p.taps_h;
  rest /= p.taps_w * p.taps_h;
  p.dw[rest % p.taps_d * p.step_d + h * p.step_h + w * p.step_w + channel * p.step_channel +
       column * p.step_column + rest / p.taps_d * p.step_group] = sum;
}

}  // namespace
}  // namespace hotloop::cuda
