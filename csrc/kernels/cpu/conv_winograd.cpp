// Winograd convolutions, F(4x4, 3x3) (kernels/conv_winograd.h): transforms vectorised over the
// channels, the 36 products of a block of tiles run through the tile of the direct convolution
// (engines/conv_tile.h), one panel of output channels after the other. Every sum has one order.
// Zen 4, two threads, batch 8: 64@56 2.5, 128@28 2.8, 256@14 2.2 times the direct convolution.
// Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016; the points of
// Barabasz et al., "Error analysis and improving the accuracy of Winograd convolution", 2018.
#include "kernels/conv_winograd.h"

#include "engines/activate.h"
#include "engines/conv_slab.h"
#include "engines/conv_tile.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

using V = simd::Vec<float>;
constexpr std::int64_t kLanes = V::lanes;
constexpr float kRoot = 1.41421356237309505f, kHalfRoot = 0.70710678118654752f;

HOTLOOP_SIMD V times(float a, V x) {
  return simd::set1(a) * x;
}
HOTLOOP_SIMD V plus_times(V sum, float a, V x) {
  return simd::fma(simd::set1(a), x, sum);
}

// B' of six values, in place.
HOTLOOP_SIMD void transform_in(V (&x)[6]) {
  const V even1 = plus_times(x[4], -2.0f, x[2]), even2 = plus_times(x[4], -0.5f, x[2]);
  const V odd1 = plus_times(times(kHalfRoot, x[3]), -kRoot, x[1]);
  const V odd2 = plus_times(times(kRoot, x[3]), -kHalfRoot, x[1]);
  x[0] = plus_times(x[0] + x[4], -2.5f, x[2]);
  x[5] = plus_times(x[5] + x[1], -2.5f, x[3]);
  x[1] = even1 + odd1, x[2] = even1 - odd1;
  x[3] = even2 + odd2, x[4] = even2 - odd2;
}

// G of three values.
HOTLOOP_SIMD void transform_taps(const V (&g)[3], V (&u)[6]) {
  const V even1 = plus_times(times(-2.0f / 3.0f, g[0]), -1.0f / 3.0f, g[2]);
  const V even2 = plus_times(times(1.0f / 6.0f, g[0]), 1.0f / 3.0f, g[2]);
  const V odd1 = times(kRoot / 3.0f, g[1]), odd2 = times(kRoot / 6.0f, g[1]);
  u[0] = g[0], u[5] = g[2];
  u[1] = even1 - odd1, u[2] = even1 + odd1;
  u[3] = even2 + odd2, u[4] = even2 - odd2;
}

// A' of six sums.
HOTLOOP_SIMD void transform_out(const V (&m)[6], V (&y)[4]) {
  const V even1 = m[1] + m[2], odd1 = m[1] - m[2], even2 = m[3] + m[4], odd2 = m[3] - m[4];
  y[0] = m[0] + (even1 + even2);
  y[1] = plus_times(times(kHalfRoot, odd1), kRoot, odd2);
  y[2] = plus_times(times(0.5f, even1), 2.0f, even2);
  y[3] = m[5] + plus_times(times(0.5f * kHalfRoot, odd1), 2.0f * kRoot, odd2);
}

struct TilePlace {
  std::int64_t image, row, col;  // of the first output pixel
};
inline TilePlace tile_place(const WinogradArgs& args, std::int64_t tile) {
  const std::int64_t of_image = tile % (args.tiles_h * args.tiles_w);
  return {tile / (args.tiles_h * args.tiles_w), of_image / args.tiles_w * kWinogradOut,
          of_image % args.tiles_w * kWinogradOut};
}

// Channels [c, c + upto) of a pixel, zeros behind them.
template <bool dense>
HOTLOOP_SIMD V channels_of(const float* pixel, std::int64_t c, std::int64_t step,
                           std::int64_t upto) {
  if constexpr (dense) {
    return simd::load_upto(pixel + c, upto);
  } else {
    const std::int64_t lanes = upto < kLanes ? upto : kLanes;
    return simd::load_strided(pixel + c * step, step, static_cast<int>(lanes));
  }
}

// The 36 values of each channel of one tile. Channels that are not dense are gathered: each pixel
// up to four times, which is still quicker than copying the image first.
template <bool dense>
[[gnu::noinline]] void read_tile(const WinogradArgs& args, std::int64_t tile, float* to) {
  const TilePlace place = tile_place(args, tile);
  const float* pixel[6][6];
  std::int64_t step[6][6];
  for (std::int64_t i = 0; i < 6; ++i) {
    const std::int64_t row = place.row + i - args.padding_h;
    for (std::int64_t j = 0; j < 6; ++j) {
      const std::int64_t col = place.col + j - args.padding_w;
      const bool inside = row >= 0 && row < args.h && col >= 0 && col < args.w;
      pixel[i][j] = inside ? args.x + place.image * args.x_stride_n + row * args.x_stride_h +
                                 col * args.x_stride_w
                           : args.zeros;
      step[i][j] = inside ? args.x_stride_c : 0;
    }
  }
  for (std::int64_t c = 0; c < args.channels; c += kLanes, to += kLanes) {
    const std::int64_t left = args.channels - c;
    V half[6][6];
    for (int j = 0; j < 6; ++j) {
      V x[6];
#pragma GCC unroll 6
      for (int i = 0; i < 6; ++i) x[i] = channels_of<dense>(pixel[i][j], c, step[i][j], left);
      transform_in(x);
#pragma GCC unroll 6
      for (int i = 0; i < 6; ++i) half[i][j] = x[i];
    }
    for (int i = 0; i < 6; ++i) {
      transform_in(half[i]);
#pragma GCC unroll 6
      for (int j = 0; j < 6; ++j) simd::store(to + (i * 6 + j) * args.v_step, half[i][j]);
    }
  }
}

// The pixels of one tile, columns [first, first + columns), from its sums.
[[gnu::noinline]] void write_tile(const WinogradArgs& args, std::int64_t tile, const float* sums,
                                  std::int64_t first, std::int64_t columns) {
  const TilePlace place = tile_place(args, tile);
  const std::int64_t rows = args.out_h - place.row < 4 ? args.out_h - place.row : 4;
  const std::int64_t cols = args.out_w - place.col < 4 ? args.out_w - place.col : 4;
  float* const y = args.y + place.image * args.y_stride_n + place.row * args.y_stride_h +
                   place.col * args.y_stride_w + first;
  const float* const residual = args.residual
                                    ? args.residual + place.image * args.residual_stride_n +
                                          place.row * args.residual_stride_h +
                                          place.col * args.residual_stride_w + first
                                    : nullptr;
  const bool cheap = is_cheap(args.activation);
  for (std::int64_t c = 0; c < columns; c += kLanes) {
    const std::int64_t left = columns - c;
    V half[4][6];
    for (int j = 0; j < 6; ++j) {
      V m[6], out[4];
#pragma GCC unroll 6
      for (int i = 0; i < 6; ++i) m[i] = simd::load(sums + (i * 6 + j) * args.sum_step + c);
      transform_out(m, out);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) half[i][j] = out[i];
    }
    const V bias = simd::load(args.bias + first + c);
    for (std::int64_t i = 0; i < rows; ++i) {
      V out[4];
      transform_out(half[i], out);
      for (std::int64_t j = 0; j < cols; ++j) {
        V v = out[j] + bias;
        if (residual) {
          v = v + simd::load_upto(
                      residual + i * args.residual_stride_h + j * args.residual_stride_w + c, left);
        }
        if (cheap) v = activate(args.activation, args.activation_alpha, v);
        simd::store_upto(y + i * args.y_stride_h + j * args.y_stride_w + c, v, left);
      }
    }
  }
  for (std::int64_t at = 0; !cheap && at < rows * cols; ++at) {
    activate_row(args.activation, args.activation_alpha,
                 y + at / cols * args.y_stride_h + at % cols * args.y_stride_w, columns);
  }
}

// sums[product][tile] = V[product][tile] * U[product], one panel wide.
void multiply(const WinogradArgs& args, const float* v, const float* u, std::int64_t width,
              std::int64_t tiles, float* sums) {
  alignas(64) static constexpr float kNothing[kBlockBytes] = {};
  ConvTile<float> tile;
  tile.offset = args.offset;
  tile.depth = args.channels;
  tile.b_step = width;
  for (std::int64_t product = 0; product < kWinogradTiles; ++product) {
    for (std::int64_t column = 0; column < width; column += kConvVectors * kLanes) {
      tile.columns = width - column;
      const std::int64_t needed = tile.columns / kLanes;
      const int vectors = needed < kConvVectors ? static_cast<int>(needed) : kConvVectors;
      const int most = conv_tile_rows(vectors);
      tile.b = u + product * args.channels * width + column;
      tile.init = kNothing;
      for (std::int64_t first = 0; first < tiles; first += most) {
        const int rows = tiles - first < most ? static_cast<int>(tiles - first) : most;
        for (int i = 0; i < rows; ++i) {
          tile.rows[i] = v + product * args.v_step + (first + i) * args.v_pitch;
          tile.c[i] = sums + product * args.sum_step + (first + i) * args.sum_pitch + column;
        }
        if (rows < most) fill_rows(tile, rows);
        run_conv_tile(tile, rows, vectors);
      }
    }
  }
}

}  // namespace

void conv_winograd_pack(const WinogradPackArgs& args, std::int64_t begin, std::int64_t end) {
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const std::int64_t panel = unit / args.channels, channel = unit % args.channels;
    const std::int64_t block = first_block(args.columns, panel);
    const std::int64_t width = (first_block(args.columns, panel + 1) - block) * kBlock<float>;
    const std::int64_t first = block * kBlock<float>;
    float* const to = args.packed + (kWinogradTiles * first * args.channels) + channel * width;
    for (std::int64_t column = 0; column < width; column += kLanes) {
      const std::int64_t rest = args.columns.columns - first - column;
      const int lanes = rest >= kLanes ? static_cast<int>(kLanes)
                        : rest > 0     ? static_cast<int>(rest)
                                       : 0;
      const float* w = args.w + (first + column) * args.stride_o + channel * args.stride_i;
      V half[6][3];
      for (int j = 0; j < 3; ++j) {
        V g[3], u[6];
        for (int i = 0; i < 3; ++i) {
          g[i] = lanes > 0 ? simd::load_strided(w + i * args.stride_h + j * args.stride_w,
                                                args.stride_o, lanes)
                           : simd::zero<float>();
        }
        transform_taps(g, u);
        for (int i = 0; i < 6; ++i) half[i][j] = u[i];
      }
      for (int i = 0; i < 6; ++i) {
        V u[6];
        transform_taps(half[i], u);
        for (int j = 0; j < 6; ++j) {
          simd::store(to + (i * 6 + j) * args.channels * width + column, u[j]);
        }
      }
    }
  }
}

void conv_winograd(const WinogradArgs& args, std::int64_t begin, std::int64_t end) {
  const std::int64_t all = args.n * args.tiles_h * args.tiles_w;
  float* const v = own_scratch<float>(args.scratch);
  float* const sums = v + kWinogradTiles * args.v_step;
  std::int64_t filled = -1;
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const std::int64_t index = unit / args.splits, split = unit % args.splits;
    const std::int64_t start = index * args.block;
    const std::int64_t tiles = all - start < args.block ? all - start : args.block;
    if (filled != index) {
      const bool dense = args.x_stride_c == 1;
      for (std::int64_t t = 0; t < tiles; ++t) {
        (dense ? read_tile<true> : read_tile<false>)(args, start + t, v + t * args.v_pitch);
      }
    }
    filled = index;
    const std::int64_t last = args.columns.panels * (split + 1) / args.splits;
    for (std::int64_t panel = args.columns.panels * split / args.splits; panel < last; ++panel) {
      const std::int64_t block = first_block(args.columns, panel);
      const std::int64_t first = block * kBlock<float>;
      const std::int64_t width = (first_block(args.columns, panel + 1) - block) * kBlock<float>;
      const std::int64_t rest = args.columns.columns - first;
      multiply(args, v, args.weights + kWinogradTiles * first * args.channels, width, tiles, sums);
      for (std::int64_t t = 0; t < tiles; ++t) {
        write_tile(args, start + t, sums + t * args.sum_pitch, first, rest < width ? rest : width);
      }
    }
  }
}

}  // namespace hotloop::HOTLOOP_LEVEL
