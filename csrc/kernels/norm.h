// Normalization: y = (x - mean) rstd weight + bias, where mean and rstd = 1 / sqrt(variance + eps)
// are those of a channel (batch norm), of a sample's channels (instance and group norm) or of a row
// (layer norm; RMS norm has no mean).
#pragma once

#include "core/dispatch.h"
#include "kernels/activation.h"

namespace hotloop {

// ---- statistics of channels: batch, instance and group norm ---------------------------------

constexpr std::int64_t kNormColumns = 256;  // channels of a chunk, channels last
constexpr std::int64_t kNormBlock = 64;     // channels that are finished together

struct NormStrides {
  std::int64_t n, s, c;
};

// Samples, positions and channels. Forward: other is the residual (or null), out is y. Backward:
// other is dy, out is dx.
//
// The statistics come from chunks of fixed size, chunk_n samples by chunk_s positions, whose
// results are combined in their order. `sets` is how many sets of statistics the samples have: n or
// 1. Each set has one for every per_group channels.
struct NormArgs {
  DType dtype;
  bool channels_last;  // lanes run over the channels; else along the positions
  std::int64_t n, s, c;
  std::int64_t sets, per_group;
  const void* x;
  const void* other;
  void* out;
  NormStrides x_strides, other_strides, out_strides;
  const void* weight;  // dense; null: 1
  const void* bias;    // dense; null: 0
  double eps;
  Activation activation;  // backward: none, or relu, whose 0s in y are found by x once more
  double alpha;
  void* mean;  // one for each statistic
  void* rstd;
  double* moments;  // forward: the same as means, then variances; null: mean and rstd are given
  bool constant;    // backward: the statistics do not depend on x (eval mode)
  void* dweight;    // backward; null: not wanted
  void* dbias;
  // Set by the driver.
  bool stream;
  std::int64_t chunk_n, chunk_s, chunks_n, chunks_s;
  std::int64_t piece;  // positions of a unit of norm_apply
  std::int64_t parts;  // ranges of units that norm_apply walks backwards: for speed alone
  void* partials;      // forward: mean, then squares; backward: sums of dy, then of dy (x - mean)
  void* coefficients;  // [center, scale, shift, slope, bias][sets][c]
  double* sums;        // backward: [dbias, dweight][sets][c]
  void* scratch;       // CUDA alone
};

// CUDA has kernels for what norm_forward and norm_backward do, of these names, and of what the
// binding does around them. Everything that the driver sets is ignored.
HOTLOOP_KERNEL(norm_moments, NormArgs)          // a unit: a chunk of a channel, or of kNormColumns
HOTLOOP_KERNEL(norm_finish, NormArgs)           // a unit: kNormBlock channels or a group, of a set
HOTLOOP_KERNEL(norm_apply, NormArgs)            // a unit: `piece` positions of a sample or channel
HOTLOOP_KERNEL(norm_sums, NormArgs)             // units of norm_moments
HOTLOOP_KERNEL(norm_finish_backward, NormArgs)  // units of norm_finish
HOTLOOP_KERNEL(norm_affine, NormArgs)           // a unit: kNormBlock channels
HOTLOOP_KERNEL(norm_apply_backward, NormArgs)   // units of norm_apply

std::size_t norm_workspace(const NormArgs& args, bool backward);
// Runs the kernels one after the other; interruptible where the result is fresh memory.
void norm_forward(NormArgs args, void* workspace, bool interruptible);
void norm_backward(NormArgs args, void* workspace, bool interruptible);

// CUDA alone, a unit: a channel. norm_update: running = (1 - momentum) running + momentum fresh,
// with fresh the mean over the sets of what norm_forward left in `moments`, variances times factor.
// norm_settle: mean and rstd from the running statistics.
struct NormRunningArgs {
  DType dtype;
  std::int64_t c, sets;
  void* running_mean;
  void* running_var;
  std::int64_t mean_stride, var_stride;
  const double* moments;  // norm_update
  double momentum, factor;
  void* mean;  // norm_settle
  void* rstd;
  double eps;
};

// ---- statistics of rows: layer norm and RMS norm ---------------------------------------------

// Rows of n neighbours; x, residual, dy and out have strides from row to row, the others are dense.
struct RowNormArgs {
  DType dtype;
  bool rms;
  std::int64_t rows, n;
  const void* x;
  const void* other;  // forward: added to x before (or null); backward: dy
  void* out;          // y, dx
  std::int64_t x_stride, other_stride, out_stride;
  void* total;         // forward with a residual: x + residual
  const void* weight;  // null: 1
  const void* bias;    // null: 0
  double eps;
  Activation activation;
  double alpha;
  void* mean;  // one a row; null for RMS norm
  void* rstd;
  void* dweight;  // null: not wanted
  void* dbias;
  // Set by the driver.
  bool stream;
  std::int64_t chunk;  // rows of a unit of row_norm_backward
  std::int64_t chunks;
  void* partials;  // [chunks][dweight, dbias][n]
  void* scratch;   // CUDA alone
};

// CUDA's row_norm_backward does what row_norm_backward_all does.
HOTLOOP_KERNEL(row_norm, RowNormArgs)           // a unit: a row
HOTLOOP_KERNEL(row_norm_backward, RowNormArgs)  // a unit: `chunk` rows
HOTLOOP_KERNEL(row_norm_affine, RowNormArgs)    // a unit: kNormBlock columns of dweight and dbias

std::size_t row_norm_workspace(const RowNormArgs& args);  // of the backward pass
void row_norm_forward(const RowNormArgs& args, bool interruptible);
void row_norm_backward_all(RowNormArgs args, void* workspace, bool interruptible);

}  // namespace hotloop
