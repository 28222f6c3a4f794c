// quantize, requantize and dequantize over rows; see kernels/quant.h. Bound by memory.
#include "kernels/quant.h"

#include "engines/quantize.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

using simd::Int;
using simd::Vec;

constexpr std::int64_t kLanes = Vec<float>::lanes;

inline int lanes_of(std::int64_t n) {
  return static_cast<int>(n < kLanes ? n : kLanes);
}

// Scale and zero point of the elements [column, column + lanes) of a row.
struct Channel {
  Vec<float> scale;
  Int<float> zero;
};
inline Channel channel_of(const QuantArgs& g, std::int64_t row, std::int64_t column,
                          std::int64_t n) {
  if (g.by_row || g.step == 0) {
    const std::int64_t at = g.step == 0 ? 0 : row % g.channels;
    return {simd::set1(g.scale[at]), simd::set1_int<float>(g.zero[at])};
  }
  return {simd::load_upto(g.scale + column, n), load_ints(g.zero + column, n)};
}

}  // namespace

void quant_quantize(const QuantArgs& g, std::int64_t begin, std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) {
    const std::int64_t start = row * g.columns;
    const std::int64_t columns = g.size - start < g.columns ? g.size - start : g.columns;
    Channel channel = channel_of(g, row, 0, columns);
    for (std::int64_t j = 0; j < columns; j += kLanes) {
      const std::int64_t at = start + j, left = columns - j;
      if (!g.by_row && g.step != 0) channel = channel_of(g, row, j, left);
      const Vec<float> x =
          g.x_type == DType::f32
              ? simd::load_upto(static_cast<const float*>(g.x) + at, left) / channel.scale
              : simd::float_of(load_ints(static_cast<const std::int32_t*>(g.x) + at, left)) *
                    channel.scale;
      store_quantized(static_cast<std::uint8_t*>(g.y) + at, x, channel.zero, g.y_type == DType::u8,
                      left);
    }
  }
}

void quant_dequantize(const QuantArgs& g, std::int64_t begin, std::int64_t end) {
  // Bytes are read unsigned; 128 added without carry, then subtracted, makes them signed.
  const Int<float> sign = simd::set1_int<float>(g.x_type == DType::s8 ? 128 : 0);
  for (std::int64_t row = begin; row < end; ++row) {
    const std::int64_t start = row * g.columns;
    const std::int64_t columns = g.size - start < g.columns ? g.size - start : g.columns;
    Channel channel = channel_of(g, row, 0, columns);
    for (std::int64_t j = 0; j < columns; j += kLanes) {
      const std::int64_t at = start + j, left = columns - j;
      if (!g.by_row && g.step != 0) channel = channel_of(g, row, j, left);
      const Int<float> byte =
          simd::load_u8_n<float>(static_cast<const std::uint8_t*>(g.x) + at, lanes_of(left));
      const Int<float> level = (byte ^ sign) - sign - channel.zero;
      simd::store_upto(static_cast<float*>(g.y) + at, simd::float_of(level) * channel.scale, left);
    }
  }
}

}  // namespace hotloop::HOTLOOP_LEVEL
