// Scratch in which every thread of a launch keeps what it must know of one long row.
#pragma once

#include <cstdint>

namespace hotloop {

// A long row is visited in pieces of so many elements, a fixed number: sums have one order.
constexpr std::int64_t kRowPiece = 2048;
// The most that is kept of a row, as much as L2 holds.
constexpr std::int64_t kMostKeptBytes = std::int64_t{1} << 20;

// Rows of which two are kept, one written while the next is computed: the second lies half a stride
// behind the first. Short ones lose by it ((4096, 1000) took 1.6 times as long).
[[maybe_unused]] static inline bool keeps_two_rows(std::int64_t n, std::int64_t item) {
  return n >= 4 * kRowPiece && 2 * n * item <= kMostKeptBytes;
}

struct RowMemory {
  char* data;  // of each thread: a number for each piece of the row, then (`row` bytes on) the row
  std::int64_t stride, row;
  int (*thread)();
};

}  // namespace hotloop
