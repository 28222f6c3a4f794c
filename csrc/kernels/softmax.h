// softmax and log_softmax along one axis, forward and backward, arrays of any strides.
//
// A unit is one row along the axis, or, in column mode, a block of up to kSoftmaxColumns rows that
// lie side by side in memory in every array.
#pragma once

#include "core/dispatch.h"
#include "kernels/row_memory.h"

namespace hotloop {

constexpr int kRowDims = 16;
constexpr std::int64_t kSoftmaxColumns = 64;

enum class SoftmaxOp : std::int32_t {
  softmax,
  log_softmax,
  softmax_backward,
  log_softmax_backward
};

// Forward: a = x, b unused. Backward: a = dy, b = y. Strides: [0] of a, [1] of b, [2] of out.
struct SoftmaxArgs {
  DType dtype;
  SoftmaxOp op;
  const void* a;
  const void* b;
  void* out;
  std::int64_t n;  // elements of a row
  std::int64_t axis_strides[3];
  bool columns;
  bool unit_stride;       // along the row, in every array
  bool stream;            // write around the caches; dense rows only
  std::int32_t row_dims;  // at least 1, the innermost last
  std::int64_t row_sizes[kRowDims];
  std::int64_t row_strides[3][kRowDims];
  RowMemory memory;  // CPU: dense rows of softmax, with stream or longer than kRowPiece
};

HOTLOOP_KERNEL(softmax, SoftmaxArgs)

}  // namespace hotloop
