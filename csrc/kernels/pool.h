// Max and average pooling over images, forward and backward, channels last.
//
// A unit is one row of the result: of y forward, of dx backward. Strides are in elements, axes n h
// w c; the result and the taps have dense channels.
#pragma once

#include "core/dispatch.h"

namespace hotloop {

struct PoolImage {
  std::int64_t n, h, w, c;  // strides
};

struct PoolArgs {
  DType dtype;
  const void* source;  // x forward, dy backward
  void* result;        // y forward, dx backward
  void* taps;          // max pooling: the tap of each maximum; null: not wanted
  std::int32_t tap_bytes;
  bool count_include_pad;
  std::int64_t n, c, h, w, out_h, out_w;
  std::int64_t kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w;
  PoolImage source_strides, result_strides, tap_strides;
};

HOTLOOP_KERNEL(max_pool, PoolArgs)
HOTLOOP_KERNEL(max_pool_backward, PoolArgs)
HOTLOOP_KERNEL(avg_pool, PoolArgs)
HOTLOOP_KERNEL(avg_pool_backward, PoolArgs)

}  // namespace hotloop
