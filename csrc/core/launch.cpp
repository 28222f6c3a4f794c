#include "core/launch.h"

#include <atomic>
#include <chrono>

#include "core/errors.h"
#include "core/threads.h"

namespace hotloop {
namespace {

// A piece is some 10 microseconds of work or more. Many pieces, so that a thread that lost its core
// to a neighbour delays the end by one piece only; not more than kManyPieces, since claiming costs;
// but never a piece beyond kGrainsPerPiece (a few ms), since interruption waits for one.
constexpr std::int64_t kManyPieces = 256;
constexpr std::int64_t kGrainsPerPiece = 256;
constexpr std::int64_t kMostPieces = std::int64_t{1} << 30;
constexpr auto kAskEvery = std::chrono::milliseconds(5);

std::atomic<InterruptHook> interrupt_hook{nullptr};

struct Pieces {
  ErasedKernel kernel;
  const void* call;
  std::int64_t units, grain, grains, count;
};

void run_piece(const void* context, std::int64_t piece) {
  const Pieces& p = *static_cast<const Pieces*>(context);
  const std::int64_t each = p.grains / p.count, longer = p.grains % p.count;
  // The first `longer` pieces hold one grain more; boundaries stay multiples of the grain.
  const std::int64_t first = piece * each + (piece < longer ? piece : longer);
  const std::int64_t last = first + each + (piece < longer ? 1 : 0);
  const std::int64_t end = last >= p.grains ? p.units : last * p.grain;
  p.kernel(p.call, first * p.grain, end);
}

bool should_stop() {
  using Clock = std::chrono::steady_clock;
  // Across launches, so that a driver of many short launches is interruptible too.
  static thread_local Clock::time_point asked{};
  const InterruptHook hook = interrupt_hook.load(std::memory_order_relaxed);
  if (!hook) return false;
  const Clock::time_point now = Clock::now();
  if (now - asked < kAskEvery) return false;
  asked = now;
  return hook();
}

}  // namespace

void set_interrupt_hook(InterruptHook hook) {
  interrupt_hook.store(hook);
}

void launch_pieces(ErasedKernel kernel, const void* call, const Split& split) {
  const std::int64_t grain = split.grain > 0 ? split.grain : 1;
  const std::int64_t grains = split.units / grain + (split.units % grain != 0);
  std::int64_t count = grains < kManyPieces ? grains : kManyPieces;
  if (grains / kGrainsPerPiece > count) count = grains / kGrainsPerPiece;
  if (count > kMostPieces) count = kMostPieces;
  int threads = num_threads();
  if (split.max_threads > 0 && split.max_threads < threads) threads = split.max_threads;
  const Pieces pieces{kernel, call, split.units, grain, grains, count};
  if (!run_pieces(run_piece, &pieces, count, threads, split.from_end, split.is_short,
                  split.interruptible ? should_stop : nullptr)) {
    throw Interrupted();
  }
}

}  // namespace hotloop
