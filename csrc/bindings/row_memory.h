// Scratch for long rows, asked for before a launch.
#pragma once

#include "core/arena.h"
#include "core/threads.h"
#include "kernels/row_memory.h"

namespace hotloop {

struct RowScratch {
  std::int64_t row, stride;
  int threads;
  Scratch memory;

  // For rows of n elements that are visited in pieces; with `whole` the row is kept as well, with
  // `two` the next one too.
  RowScratch(bool wanted, bool whole, std::int64_t n, std::int64_t item, bool two = false)
      : row((n / kRowPiece + 1) * item / 64 * 64 + 64),
        stride(((whole ? row + n * item : row) + 4095) / 4096 * 4096 * (two ? 2 : 1)),
        threads(wanted ? num_threads() : 0),
        memory(static_cast<std::size_t>(stride * threads)) {}
  RowMemory view() const { return {memory.as<char>(), stride, row, thread_index}; }
};

}  // namespace hotloop
