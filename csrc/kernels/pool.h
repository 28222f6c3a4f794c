// Max and average pooling over images, forward and backward, channels last.
//
// Which pixels a window sees is a table for each axis, so that strides, padding, dilation, windows
// cut off at the end and windows of several sizes (adaptive pooling) are numbers and no cases.
//
// A unit is one row of the result: of y forward, of dx backward. Strides are in elements, axes n h
// w c; the result and the taps have dense channels.
#pragma once

#include "core/dispatch.h"

namespace hotloop {

struct PoolImage {
  std::int64_t n, h, w, c;  // strides
};

// Tap t of window o is the pixel start[o] + t * dilation; taps [first_tap[o], last_tap[o]) lie
// inside the image. Pixel i lies between the first and the last tap of the windows
// [first_window[i], last_window[i]).
struct PoolAxis {
  std::int64_t size, out;         // pixels, windows
  std::int64_t kernel, dilation;  // taps of the largest window
  const std::int64_t *start, *first_tap, *last_tap;
  const std::int64_t* count;                       // what a window's sum is divided by, the factor
  const std::int64_t *first_window, *last_window;  // backward only
  // What the tables were made of, for CUDA, which has none of them. stride 0: adaptive windows.
  std::int64_t stride = 0, padding = 0;
  bool count_padding = false;
};

struct PoolArgs {
  DType dtype;
  const void* source;  // x forward, dy backward
  void* result;        // y forward, dx backward
  void* taps;          // max pooling: the tap of each maximum; null: not wanted
  std::int32_t tap_bytes;
  bool one_count;  // all windows are divided by the same number
  std::int64_t n, c;
  PoolAxis h, w;
  PoolImage source_strides, result_strides, tap_strides;
  // A source whose channels do not lie side by side is copied, `band` rows of the result and
  // kPoolChannels channels at a time, to border + thread() * border_stride bytes.
  std::int64_t band;
  char* border;
  std::int64_t border_stride;
  int (*thread)();
};
inline constexpr std::int64_t kPoolChannelBytes = 64;

HOTLOOP_KERNEL(max_pool, PoolArgs)
HOTLOOP_KERNEL(max_pool_backward, PoolArgs)
HOTLOOP_KERNEL(avg_pool, PoolArgs)
HOTLOOP_KERNEL(avg_pool_backward, PoolArgs)

}  // namespace hotloop
