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
  ImageSteps to;  // the result's strides; its channels are dense
  std::int64_t pixels, depth, columns, pitch, channels, groups, bias_step;
  std::int64_t tiles_n;
  T slope;
  bool active, result_whole;
  Activation activation;  // of the second pass
  double activation_alpha;
};

template <class T>
__device__ __forceinline__ std::int64_t result_of(const PassArgs<T>& p, std::int64_t pixel) {
  unsigned w = static_cast<unsigned>(pixel);
  unsigned h = p.view.count_w.split(w);
  unsigned d = p.view.count_h.split(h);
  const unsigned n = p.view.count_d.split(d);
  const auto at = [](const PassAxis& axis, unsigned place) {
    return static_cast<std::int64_t>(axis.out_first + static_cast<int>(place) * axis.out_step);
  };
  return n * p.to.n + at(p.view.d, d) * p.to.d + at(p.view.h, h) * p.to.h +
         at(p.view.w, w) * p.to.w;
}

template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads)
    conv_tiles(const __grid_constant__ PassArgs<typename Shape::Number> p) {
  using T = typename Shape::Number;
  HOTLOOP_SHARED(T, shared);
  const std::int64_t group = blockIdx.y;
  const std::int64_t row0 = blockIdx.x / p.tiles_n * Shape::kRows;
  const std::int64_t column0 = blockIdx.x % p.tiles_n * Shape::kColumns;
  PixelSlice<T, Shape::kRows, Shape::kDepth, Shape::kThreads> a(
      p.view, p.source + group * p.channels * p.view.steps.c, row0, p.pixels);
  MatrixSlice<T, Shape::kColumns, Shape::kDepth, Shape::kThreads, false> b;
  b.data = p.weights + group * p.depth * p.pitch + column0;
  b.row_step = 1;
  b.term_step = p.pitch;
  b.left = p.pitch - column0;
  b.whole = true;
  Shape tile;
  tile.run(a, b, 0, p.depth, shared);

  constexpr int kPiece = Shape::kPiece;
#pragma unroll
  for (int i = 0; i < Shape::kThreadRows; ++i) {
    const std::int64_t row = row0 + Shape::row_of(i / kPiece) + i % kPiece;
    if (row >= p.pixels) continue;
    T* const to = p.result + result_of(p, row) + group * p.columns;
#pragma unroll
    for (int g = 0; g < Shape::kColumnGroups; ++g) {
      const std::int64_t column = column0 + Shape::column_of(g);
      Piece<T> result;
#pragma unroll
      for (int v = 0; v < kPiece; ++v) {
        T x = tile.sum[i][g * kPiece + v];
        if (p.bias && column + v < p.columns) {
          x += p.bias[(group * p.columns + column + v) * p.bias_step];
        }
        result.at[v] = cheap_activation(x, p.active, p.slope);
      }
      if (p.result_whole && column + kPiece <= p.columns) {
        *reinterpret_cast<Piece<T>*>(to + column) = result;
      } else {
#pragma unroll
        for (int v = 0; v < kPiece; ++v) {
          if (column + v < p.columns) to[column + v] = result.at[v];
        }
      }
    }
  }
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
    p.result[result_of(p, pixel) + o] = cheap_activation(sum, p.active, p.slope);
  }
}

// The activation that the epilogue leaves out, in place.
template <class T>
__global__ void __launch_bounds__(256) conv_activate(const __grid_constant__ PassArgs<T> p) {
  const std::int64_t channels = p.groups * p.columns, count = p.pixels * channels;
  std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * 256 + threadIdx.x;
  for (; at < count; at += static_cast<std::int64_t>(gridDim.x) * 256) {
    T& y = p.result[result_of(p, at / channels) + at % channels];
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
__global__ void __launch_bounds__(Shape::kThreads)
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
  Shape tile;
  tile.run(a, b, begin, last < p.pixels ? last : p.pixels, shared);

  T* const parts = p.parts + blockIdx.y * p.slice_step + group * p.depth * p.columns;
  constexpr int kPiece = Shape::kPiece;
#pragma unroll
  for (int i = 0; i < Shape::kThreadRows; ++i) {
    const std::int64_t row = row0 + Shape::row_of(i / kPiece) + i % kPiece;
    if (row >= p.depth) continue;
#pragma unroll
    for (int g = 0; g < Shape::kColumnGroups; ++g) {
      const std::int64_t column = column0 + Shape::column_of(g);
#pragma unroll
      for (int v = 0; v < kPiece; ++v) {
        if (column + v < p.columns) {
          parts[row * p.columns + column + v] = tile.sum[i][g * kPiece + v];
        }
      }
    }
  }
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
