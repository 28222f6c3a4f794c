// One block of a CUDA launch on the host: its threads are fibers, run one at a time in a chosen
// order; barriers, shuffles and votes are places where they wait for each other. Who waits for
// somebody who will not come is told so, in a message that names the line.
#pragma once

#include <cstddef>
#include <cstdint>

#include "emulation/vectors.h"

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
inline constexpr int warpSize = 32;

namespace hotloop::emulation {

enum class Meeting : std::int32_t {
  none,
  block_sync,
  block_count,
  block_and,
  block_or,
  warp_sync,
  shuffle,
  ballot,
  all,
  any,
  match_any,
  reduce_add,
  reduce_min,
  reduce_max,
  reduce_and,
  reduce_or,
  reduce_xor
};

struct Place {
  const char* what = nullptr;  // the intrinsic
  const char* file = nullptr;
  int line = 0;
};

// Waits until all threads of the block are there; the result of count, and, or.
int meet_block(Meeting kind, bool predicate, const Place& place);
// Waits until all lanes of the mask are there. Shuffle: the bits that lane `source` gave; poison
// from one that is not in the mask.
std::uint64_t meet_warp(Meeting kind, std::uint32_t mask, std::uint64_t bits, int source,
                        const Place& place);
[[noreturn]] void fail_thread(const char* text, const Place& place);
int lane_of_thread();

// cp.async: done as late as it may be, when the thread waits for it. Null `from`: zeros.
void copy_async(void* to, const void* from, int bytes);
void copies_wait();

// The block's dynamic shared memory.
void* dynamic_shared();

// A kernel with its arguments, to be called by each thread.
struct Launch {
  const char* name;
  dim3 grid, block;
  std::size_t shared_bytes;
  void (*body)(const void* arguments);
  const void* arguments;
};
// Runs all blocks. False: something was wrong; message() says what.
bool run(const Launch& launch);
const char* message();
void set_message(const char* text);

// What __shared__ arrays are filled with before each block: a NaN, and an index far outside.
inline constexpr unsigned char kPoison = 0xFF;

}  // namespace hotloop::emulation

// In which order threads and blocks run: 0 forward, 1 reverse, 2 random (a new order every time the
// threads come by). The environment says it at first: HOTLOOP_EMULATION_ORDER=forward, reverse,
// random or random:SEED.
extern "C" void hotloop_emulation_order(int order, std::uint64_t seed);
// What the last failure was; empty: none yet.
extern "C" const char* hotloop_emulation_message();
