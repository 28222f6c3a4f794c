// Pooling, channels last: a thread makes 16 bytes of channels of one pixel of the result, or one
// channel where they do not lie side by side. Backward gathers from the windows around a pixel, in
// rising order, so no two threads write one place. Windows are computed, not looked up: the tables
// of the CPU would have to be copied before each call. Not measured on a GPU yet.
#include "kernels/pool.h"

#include "kernels/cuda/divisor.cuh"
#include "kernels/cuda/product_tile.cuh"

namespace hotloop::cuda {
namespace {

struct Axis {
  int size, out, kernel, dilation, stride, padding;
  bool count_padding;
  float size_per_out, out_per_size;  // of adaptive windows
};
struct Range {
  int begin, end;
};

// floor(a * times / by), ratio being about times / by: an estimate and its correction, since a
// division of 64 bits is a call, for which registers would be spilled.
__device__ __forceinline__ int scaled(std::int64_t a, int times, int by, float ratio) {
  const std::int64_t product = a * times;
  int quotient = static_cast<int>(static_cast<float>(a) * ratio);
  while (static_cast<std::int64_t>(quotient) * by > product) --quotient;
  while (static_cast<std::int64_t>(quotient + 1) * by <= product) ++quotient;
  return quotient;
}

__device__ __forceinline__ int window_start(const Axis& axis, int o) {
  if (axis.stride > 0) return o * axis.stride - axis.padding;
  return scaled(o, axis.size, axis.out, axis.size_per_out);
}
__device__ __forceinline__ int window_taps(const Axis& axis, int o, int start) {
  if (axis.stride > 0) return axis.kernel;
  const std::int64_t end = scaled(o + 1, axis.size, axis.out, axis.size_per_out);
  const bool whole = end * axis.out == static_cast<std::int64_t>(o + 1) * axis.size;
  return static_cast<int>(end) + (whole ? 0 : 1) - start;
}
// The taps that lie inside the image.
__device__ __forceinline__ Range taps_of(const Axis& axis, int o, int start) {
  const int taps = window_taps(axis, o, start);
  const int first = start < 0 ? (-start + axis.dilation - 1) / axis.dilation : 0;
  const int inside =
      start < axis.size ? (axis.size - start + axis.dilation - 1) / axis.dilation : 0;
  return {first < taps ? first : taps, inside < taps ? inside : taps};
}
// What the sum of a window is divided by, its factor along the axis.
__device__ __forceinline__ int window_count(const Axis& axis, int o) {
  const int start = window_start(axis, o);
  if (axis.stride == 0) return window_taps(axis, o, start);
  if (axis.count_padding) {
    const int end = start + axis.kernel, last = axis.size + axis.padding;
    return (end < last ? end : last) - start;
  }
  const Range taps = taps_of(axis, o, start);
  return taps.end - taps.begin > 1 ? taps.end - taps.begin : 1;
}
// 1 / (what the sum is divided by). In float64 by Newton's iteration from float32, which needs no
// registers set aside for a call, as the division's slow path would.
template <class T>
__device__ __forceinline__ T window_scale(const Axis& h, int oh, const Axis& w, int ow) {
  const std::int64_t count = static_cast<std::int64_t>(window_count(h, oh)) * window_count(w, ow);
  if constexpr (sizeof(T) == 4) return T(1) / static_cast<T>(count);
  const T exact = static_cast<T>(count);
  T scale = static_cast<T>(__fdividef(1.0f, static_cast<float>(count)));
#pragma unroll
  for (int i = 0; i < 3; ++i) scale = fused(scale, fused(-exact, scale, T(1)), scale);
  return scale;
}
// The windows between whose first and last tap the pixel lies.
__device__ __forceinline__ Range windows_of(const Axis& axis, int i) {
  if (axis.stride == 0) {
    // The last one begins before the end of the pixel.
    const int end = scaled(i + 1, axis.out, axis.size, axis.out_per_size);
    const bool whole =
        static_cast<std::int64_t>(end) * axis.size == static_cast<std::int64_t>(i + 1) * axis.out;
    return {scaled(i, axis.out, axis.size, axis.out_per_size), end + (whole ? 0 : 1)};
  }
  const int reach = (axis.kernel - 1) * axis.dilation, from = i + axis.padding - reach;
  const int first = from > 0 ? (from + axis.stride - 1) / axis.stride : 0;
  const int last = (i + axis.padding) / axis.stride + 1;
  return {first, last < axis.out ? last : axis.out};
}
// The tap of the window that is this pixel, -1: none.
__device__ __forceinline__ int tap_at(const Axis& axis, int o, int i) {
  const int start = window_start(axis, o), at = i - start;
  if (at < 0 || at % axis.dilation != 0) return -1;
  const int tap = at / axis.dilation;
  return tap < window_taps(axis, o, start) ? tap : -1;
}

template <class T>
struct PoolCall {
  const T* source;
  T* result;
  void* taps;
  int tap_bytes;
  Axis h, w;
  PoolImage from, to, tap;
  std::int64_t count;             // pieces of the result
  Divisor pieces, columns, rows;  // pieces of a pixel; the result's sizes
};

__device__ __forceinline__ void store_tap(void* taps, int bytes, std::int64_t at, int value) {
  if (bytes == 1) {
    static_cast<std::uint8_t*>(taps)[at] = static_cast<std::uint8_t>(value);
  } else if (bytes == 2) {
    static_cast<std::uint16_t*>(taps)[at] = static_cast<std::uint16_t>(value);
  } else {
    static_cast<std::int32_t*>(taps)[at] = value;
  }
}
__device__ __forceinline__ int load_tap(const void* taps, int bytes, std::int64_t at) {
  if (bytes == 1) return static_cast<const std::uint8_t*>(taps)[at];
  if (bytes == 2) return static_cast<const std::uint16_t*>(taps)[at];
  return static_cast<const std::int32_t*>(taps)[at];
}

template <class T, int width>
struct alignas(width > 1 ? 16 : sizeof(T)) Channels {
  T at[width];
};

// The piece of the result that a thread makes: calls body(n, row, column, first channel).
template <class T, int width, class Body>
__device__ __forceinline__ void each_piece(const PoolCall<T>& p, Body body) {
  std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * 256 + threadIdx.x;
  for (; at < p.count; at += static_cast<std::int64_t>(gridDim.x) * 256) {
    unsigned channel = static_cast<unsigned>(at);
    unsigned column = p.pieces.split(channel);
    unsigned row = p.columns.split(column);
    const unsigned n = p.rows.split(row);
    body(static_cast<std::int64_t>(n), static_cast<int>(row), static_cast<int>(column),
         static_cast<std::int64_t>(channel) * width);
  }
}

template <class T, int width, bool is_max>
__global__ void __launch_bounds__(256) pool_forward(const __grid_constant__ PoolCall<T> p) {
  each_piece<T, width>(p, [&](std::int64_t n, int row, int column, std::int64_t channel) {
    const int top = window_start(p.h, row), left = window_start(p.w, column);
    const Range rows = taps_of(p.h, row, top), columns = taps_of(p.w, column, left);
    const bool some = rows.begin < rows.end && columns.begin < columns.end;
    Channels<T, width> best;
    int which[width];
#pragma unroll
    for (int v = 0; v < width; ++v) {
      best.at[v] = is_max ? -static_cast<T>(INFINITY) : T(0);
      which[v] = some ? rows.begin * p.w.kernel + columns.begin : 0;
    }
    for (int kh = rows.begin; kh < rows.end; ++kh) {
      for (int kw = columns.begin; kw < columns.end; ++kw) {
        const T* const from = p.source + n * p.from.n + (top + kh * p.h.dilation) * p.from.h +
                              (left + kw * p.w.dilation) * p.from.w + channel * p.from.c;
        const Channels<T, width> x = *reinterpret_cast<const Channels<T, width>*>(from);
#pragma unroll
        for (int v = 0; v < width; ++v) {
          if constexpr (is_max) {
            const bool better = x.at[v] > best.at[v] || x.at[v] != x.at[v];
            best.at[v] = better ? x.at[v] : best.at[v];
            which[v] = better ? kh * p.w.kernel + kw : which[v];
          } else {
            best.at[v] += x.at[v];
          }
        }
      }
    }
    if constexpr (!is_max) {
      const T scale = window_scale<T>(p.h, row, p.w, column);
#pragma unroll
      for (int v = 0; v < width; ++v) best.at[v] *= scale;
    }
    T* const to = p.result + n * p.to.n + row * p.to.h + column * p.to.w + channel;
    *reinterpret_cast<Channels<T, width>*>(to) = best;
    if (is_max && p.taps) {
      const std::int64_t tap = n * p.tap.n + row * p.tap.h + column * p.tap.w + channel;
#pragma unroll
      for (int v = 0; v < width; ++v) store_tap(p.taps, p.tap_bytes, tap + v, which[v]);
    }
  });
}

template <class T, int width, bool is_max>
__global__ void __launch_bounds__(256) pool_backward(const __grid_constant__ PoolCall<T> p) {
  each_piece<T, width>(p, [&](std::int64_t n, int row, int column, std::int64_t channel) {
    const Range rows = windows_of(p.h, row), columns = windows_of(p.w, column);
    Channels<T, width> sum;
#pragma unroll
    for (int v = 0; v < width; ++v) sum.at[v] = T(0);
    for (int oh = rows.begin; oh < rows.end; ++oh) {
      const int kh = tap_at(p.h, oh, row);
      for (int ow = columns.begin; ow < columns.end; ++ow) {
        const int kw = tap_at(p.w, ow, column);
        if (kh < 0 || kw < 0) continue;
        const T* const from =
            p.source + n * p.from.n + oh * p.from.h + ow * p.from.w + channel * p.from.c;
        const Channels<T, width> dy = *reinterpret_cast<const Channels<T, width>*>(from);
        if constexpr (is_max) {
          const std::int64_t tap = n * p.tap.n + oh * p.tap.h + ow * p.tap.w + channel;
#pragma unroll
          for (int v = 0; v < width; ++v) {
            const bool here = load_tap(p.taps, p.tap_bytes, tap + v) == kh * p.w.kernel + kw;
            sum.at[v] += here ? dy.at[v] : T(0);
          }
        } else {
          const T scale = window_scale<T>(p.h, oh, p.w, ow);
#pragma unroll
          for (int v = 0; v < width; ++v) sum.at[v] += scale * dy.at[v];
        }
      }
    }
    T* const to = p.result + n * p.to.n + row * p.to.h + column * p.to.w + channel;
    *reinterpret_cast<Channels<T, width>*>(to) = sum;
  });
}

Axis axis_of(const PoolAxis& axis) {
  const auto as_int = [](std::int64_t value) { return static_cast<int>(value); };
  return {as_int(axis.size),
          as_int(axis.out),
          as_int(axis.kernel),
          as_int(axis.dilation),
          as_int(axis.stride),
          as_int(axis.padding),
          axis.count_padding,
          static_cast<float>(axis.size) / static_cast<float>(axis.out),
          static_cast<float>(axis.out) / static_cast<float>(axis.size)};
}

bool is_whole(const void* data, const PoolImage& steps, std::int64_t size) {
  return reinterpret_cast<std::uintptr_t>(data) % 16 == 0 && steps.c == 1 && steps.n % size == 0 &&
         steps.h % size == 0 && steps.w % size == 0;
}

template <class T, bool is_max>
void run(const PoolArgs& args, bool backward, cudaStream_t stream) {
  PoolCall<T> p{};
  p.source = static_cast<const T*>(args.source);
  p.result = static_cast<T*>(args.result);
  p.taps = args.taps;
  p.tap_bytes = args.tap_bytes;
  p.h = axis_of(args.h), p.w = axis_of(args.w);
  p.from = args.source_strides, p.to = args.result_strides, p.tap = args.tap_strides;
  constexpr std::int64_t size = Piece<T>::kSize;
  const bool whole =
      args.c % size == 0 && is_whole(p.source, p.from, size) && is_whole(p.result, p.to, size);
  const std::int64_t pieces = whole ? args.c / size : args.c;
  const std::int64_t rows = backward ? args.h.size : args.h.out;
  const std::int64_t columns = backward ? args.w.size : args.w.out;
  p.pieces = Divisor(pieces), p.columns = Divisor(columns), p.rows = Divisor(rows);
  // Indices have 31 bits: so many images at a time.
  const std::int64_t per_image = pieces * rows * columns;
  if (per_image == 0) return;
  const std::int64_t most = per_image < 0x7fffffff ? 0x7fffffff / per_image : 1;
  for (std::int64_t first = 0; first < args.n; first += most) {
    p.source = static_cast<const T*>(args.source) + first * p.from.n;
    p.result = static_cast<T*>(args.result) + first * p.to.n;
    if (args.taps) p.taps = static_cast<char*>(args.taps) + first * p.tap.n * args.tap_bytes;
    p.count = (args.n - first < most ? args.n - first : most) * per_image;
    const unsigned blocks = blocks_for(p.count, 256);
    if (whole && backward) {
      HOTLOOP_LAUNCH((pool_backward<T, size, is_max>), blocks, 256, 0, stream, p);
    } else if (whole) {
      HOTLOOP_LAUNCH((pool_forward<T, size, is_max>), blocks, 256, 0, stream, p);
    } else if (backward) {
      HOTLOOP_LAUNCH((pool_backward<T, 1, is_max>), blocks, 256, 0, stream, p);
    } else {
      HOTLOOP_LAUNCH((pool_forward<T, 1, is_max>), blocks, 256, 0, stream, p);
    }
  }
}

template <bool is_max>
void run_any(const PoolArgs& args, bool backward, cudaStream_t stream) {
  args.dtype == DType::f32 ? run<float, is_max>(args, backward, stream)
                           : run<double, is_max>(args, backward, stream);
}

}  // namespace

HOTLOOP_CUDA_KERNEL(max_pool, PoolArgs) {
  run_any<true>(args, false, stream);
}
HOTLOOP_CUDA_KERNEL(max_pool_backward, PoolArgs) {
  run_any<true>(args, true, stream);
}
HOTLOOP_CUDA_KERNEL(avg_pool, PoolArgs) {
  run_any<false>(args, false, stream);
}
HOTLOOP_CUDA_KERNEL(avg_pool_backward, PoolArgs) {
  run_any<false>(args, true, stream);
}

}  // namespace hotloop::cuda
