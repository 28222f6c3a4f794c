// Losses with their gradients in the same pass: cross entropy from logits, mean squared error.
#pragma once

#include "core/dispatch.h"

namespace hotloop {

constexpr int kLossDims = 16;
constexpr std::int64_t kLossColumns = 64;  // rows of a unit in column mode
constexpr std::int64_t kMseChunk = 2048;   // elements of a unit, one partial sum each

// A unit is one row of logits, or in column mode up to kLossColumns rows that lie side by side.
// Strides: [0] logits, [1] dlogits, [2] losses, [3] labels. Labels have been checked.
struct CrossEntropyArgs {
  DType dtype;
  const void* logits;
  void* dlogits;  // null: no gradient wanted
  void* losses;   // one per row; 0 for an ignored row
  const void* labels;
  bool wide_labels;  // int64 instead of int32
  std::int64_t ignore_index;
  double scale;  // of the gradient
  std::int64_t classes;
  std::int64_t class_strides[2];
  bool columns;
  bool unit_stride;
  std::int32_t row_dims;  // at least 1, the innermost last
  std::int64_t row_sizes[kLossDims];
  std::int64_t row_strides[4][kLossDims];
};

HOTLOOP_KERNEL(cross_entropy, CrossEntropyArgs)

// Dense arrays of n elements; a unit is kMseChunk of them.
struct MseArgs {
  DType dtype;
  const void* x;
  const void* target;
  void* losses;    // one per element; null: sums wanted
  void* partials;  // one per unit; null: losses wanted
  void* dx;        // null: no gradient wanted
  double scale;    // of the gradient 2 (x - target)
  std::int64_t n;
};

HOTLOOP_KERNEL(mse, MseArgs)

}  // namespace hotloop
