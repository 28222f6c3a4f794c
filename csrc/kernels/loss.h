// Losses with their gradients in the same pass: from logits or log-probabilities and labels (cross
// entropy, nll), and element by element (mse, l1, ..., kl_div).
#pragma once

#include "core/dispatch.h"
#include "kernels/index_check.h"
#include "kernels/row_memory.h"

namespace hotloop {

constexpr int kLossDims = 16;
constexpr std::int64_t kLossColumns = 64;  // rows of a unit in column mode
constexpr int kLabelBlocks = 128;          // CUDA: partial sums of the weights of labels
constexpr std::int64_t kPairChunk = 2048;  // elements of a unit, one partial sum each

enum class RowLoss : std::int32_t {
  labels,         // logits and labels
  smooth,         // the same with smoothed labels
  probabilities,  // logits and a probability for each class
  nll             // log-probabilities and labels
};

// A unit is one row of logits, or in column mode up to kLossColumns rows that lie side by side.
// Strides: [0] logits, [1] dlogits, [2] losses, [3] labels or probabilities. Labels have been
// checked, but on CUDA: there a row whose label is out of range has the loss NaN and no gradient.
struct CrossEntropyArgs {
  DType dtype;
  RowLoss kind;
  const void* logits;
  void* dlogits;  // null: no gradient wanted
  void* losses;   // one per row; 0 for an ignored row
  const void* labels;
  const void* probabilities;
  const void* weight;  // [classes], dense; null: all 1
  bool wide_labels;    // int64 instead of int32
  std::int64_t ignore_index;
  double scale;       // of the gradient
  double smoothing;   // share of the probability that is spread over all classes
  double weight_sum;  // smooth: of all classes
  std::int64_t classes;
  std::int64_t class_strides[3];  // logits, dlogits, probabilities
  bool columns;
  bool unit_stride;
  bool stream;            // write dlogits around the caches; dense rows only
  std::int32_t row_dims;  // at least 1, the innermost last
  std::int64_t row_sizes[kLossDims];
  std::int64_t row_strides[4][kLossDims];
  RowMemory memory;  // CPU: dense rows with stream or longer than kRowPiece

  // CUDA alone.
  IndexCheck check;
  // Null, or [2 + kLabelBlocks]: the weight of all labels that count, then scale divided by it.
  double* counted;
};

HOTLOOP_KERNEL(cross_entropy, CrossEntropyArgs)

enum class PairLoss : std::int32_t {
  mse,
  l1,
  huber,
  smooth_l1,
  bce,
  bce_with_logits,
  hinge_embedding,
  kl_div,
  kl_div_log  // of a target that is a logarithm
};

// Dense arrays of n elements; a unit is kPairChunk of them.
struct PairLossArgs {
  DType dtype;
  PairLoss op;
  const void* x;
  const void* target;
  const void* weight;      // of each loss; null: 1
  const void* pos_weight;  // bce_with_logits, of the positive part; null: 1
  void* losses;            // one per element; null: sums wanted
  void* partials;          // one per unit; null: losses wanted
  void* dx;                // null: no gradient wanted
  double scale;            // of the gradient
  double parameter;        // huber: delta; smooth_l1: beta; hinge_embedding: margin
  std::int64_t n;
};

HOTLOOP_KERNEL(pair_loss, PairLossArgs)

}  // namespace hotloop
