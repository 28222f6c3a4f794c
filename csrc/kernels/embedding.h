// Embedding: rows of a table by index, and the gradient of the table.
#pragma once

#include "core/dispatch.h"
#include "kernels/index_check.h"

namespace hotloop {

// A unit is a row of the result. Indices are dense and have been checked, but on CUDA: there a row
// whose index is out of range is 0, and gives no gradient.
struct EmbeddingArgs {
  DType dtype;
  std::int64_t positions, width;
  const void* indices;
  bool wide;  // int64 instead of int32
  const void* weight;
  std::int64_t weight_stride;  // from row to row; rows are dense, and so is out
  void* out;
  std::int64_t rows;  // of the table; CUDA alone, as is
  IndexCheck check;
};

HOTLOOP_KERNEL(embedding, EmbeddingArgs)

// A unit is a row of the table, which sums up its rows of dy in rising order of their positions.
struct EmbeddingBackwardArgs {
  DType dtype;
  std::int64_t positions, width, rows;
  const void* indices;
  bool wide;
  std::int64_t padding;  // the row that gets no gradient; -1: none
  bool by_frequency;     // the mean instead of the sum
  const void* dy;
  std::int64_t dy_stride;
  void* dweight;  // dense
  // Set by the driver.
  bool stream;
  const std::int64_t* ends;   // where the positions of a row end in `order`
  const std::int64_t* order;  // positions by row
  void* scratch;  // CUDA alone, whose embedding_backward is the whole, as run_embedding_backward
  IndexCheck check;
};

HOTLOOP_KERNEL(embedding_backward, EmbeddingBackwardArgs)

std::size_t embedding_workspace(const EmbeddingBackwardArgs& args);
void run_embedding_backward(EmbeddingBackwardArgs args, void* workspace, bool interruptible);

}  // namespace hotloop
