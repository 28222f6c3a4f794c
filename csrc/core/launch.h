// The one point where kernels start. Splits the units of a kernel into pieces, lets the pool's
// threads claim them, and looks for an interruption between pieces.
#pragma once

#include <cstdint>

#include "core/dispatch.h"

namespace hotloop {

struct Split {
  std::int64_t units;         // how many work units there are
  std::int64_t grain = 1;     // units that are worth a thread: about 10 microseconds of work
  int max_threads = 0;        // 0: as many as the pool has
  bool interruptible = true;  // false for in-place work, which must finish what it began
  bool from_end = false;      // each thread goes through its pieces from the last to the first
  bool is_short = false;      // a few microseconds in all: for threads that are awake
};

// Worth running on several threads, and worth releasing the GIL for.
inline bool is_parallel(const Split& split) {
  return split.units >= 2 * split.grain;
}

using ErasedKernel = void (*)(const void* call, std::int64_t begin, std::int64_t end);
// Runs the pieces; returns when all are done. Throws Interrupted when the hook below asked to stop.
void launch_pieces(ErasedKernel kernel, const void* call, const Split& split);

// Asked between pieces on the calling thread, at most every few milliseconds; true ends the call.
using InterruptHook = bool (*)();
void set_interrupt_hook(InterruptHook hook);

template <class Args>
void launch(Kernel<Args> kernel, const Args& args, const Split& split) {
  if (split.units <= 0) return;
  if (!is_parallel(split)) {
    kernel(args, 0, split.units);
    return;
  }
  struct Call {
    Kernel<Args> kernel;
    const Args* args;
  };
  const Call call{kernel, &args};
  launch_pieces(
      [](const void* erased, std::int64_t begin, std::int64_t end) {
        const Call& typed = *static_cast<const Call*>(erased);
        typed.kernel(*typed.args, begin, end);
      },
      &call, split);
}

}  // namespace hotloop
