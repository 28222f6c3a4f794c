// Bytes for real numbers: q = saturate(round(x / scale) + zero), x = (q - zero) * scale. Rounded to
// the nearest, ties to even; NaN becomes the zero point. The product of bytes is in kernels/dot.h.
#pragma once

#include "core/dispatch.h"
#include "kernels/dot.h"

namespace hotloop {

struct QuantArgs {
  const void* x = nullptr;
  void* y = nullptr;
  DType x_type = DType::f32;  // quantize: f32, or s32 (requantize: times the scale); else s8, u8
  DType y_type = DType::u8;   // quantize: s8, u8; dequantize: f32
  // Both arrays are dense; the last row may be short.
  std::int64_t size = 0, rows = 0, columns = 0;
  // One scale and zero point for each element of a row (by_row false, step 1) or each row (true),
  // the rows taking `channels` of them in turn; step 0: one for all.
  const float* scale = nullptr;
  const std::int32_t* zero = nullptr;
  std::int64_t step = 0, channels = 1;
  bool by_row = false;
};

// Units are rows.
HOTLOOP_KERNEL(quant_quantize, QuantArgs)
HOTLOOP_KERNEL(quant_dequantize, QuantArgs)

}  // namespace hotloop
