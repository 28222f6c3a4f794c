// Scratch in which every thread of a launch keeps what it must know of one long row.
#pragma once

#include <cstdint>

namespace hotloop {

// A long row is visited in pieces of so many elements, a fixed number: sums have one order.
constexpr std::int64_t kRowPiece = 2048;
// The most that is kept of a row, as much as L2 holds.
constexpr std::int64_t kMostKeptBytes = std::int64_t{1} << 20;

struct RowMemory {
  char* data;  // of each thread: a number for each piece of the row, then (`row` bytes on) the row
  std::int64_t stride, row;
  int (*thread)();
};

}  // namespace hotloop
