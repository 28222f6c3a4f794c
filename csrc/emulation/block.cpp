// Blocks run one after the other and threads one at a time: a fiber runs until it waits. When all
// of them wait, they either wait for the same barrier, which then opens, or for ever, which is an
// error with a message. The lanes of a warp meet likewise; the last to arrive makes all results.
// One launch at a time.
#include "emulation/block.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "emulation/fiber.h"
#include "emulation/shared_memory.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace hotloop::emulation {
namespace {

constexpr std::uint64_t kPoisonBits = ~std::uint64_t{0};
constexpr int kWarp = 32;

struct Copy {
  void* to;
  const void* from;  // null: zeros
  int bytes;
};

struct Thread {
  Fiber fiber;
  uint3 index{};
  enum class State { ready, waiting, done } state = State::done;
  bool started = false;  // its fiber stands where a thread begins
  // What it waits for.
  Meeting meeting = Meeting::none;
  Place place;
  std::uint32_t mask = 0;
  std::uint64_t bits = 0, result = 0;
  int source = 0;
  std::vector<Copy> copies;  // under way
};

std::mutex running;
std::string last_message;
std::vector<std::unique_ptr<Thread>> threads;
Fiber scheduler;
const Launch* launch_now = nullptr;
int current = 0, count = 0;
bool failed = false;
void* shared_now = nullptr;

int order_kind = -1;
std::uint64_t random_state = 1;

std::uint64_t next_random() {  // splitmix64
  std::uint64_t z = random_state += 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

void read_environment() {
  if (order_kind >= 0) return;
  order_kind = 0;
  const char* text = std::getenv("HOTLOOP_EMULATION_ORDER");
  if (!text) return;
  if (std::strncmp(text, "reverse", 7) == 0) order_kind = 1;
  if (std::strncmp(text, "random", 6) == 0) {
    order_kind = 2;
    if (text[6] == ':') random_state = std::strtoull(text + 7, nullptr, 10);
  }
}

template <class T>
void arrange(std::vector<T>& order) {
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<T>(i);
  if (order_kind == 1) std::reverse(order.begin(), order.end());
  if (order_kind != 2) return;
  for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[next_random() % i]);
}

[[gnu::format(printf, 1, 2)]] std::string format(const char* text, ...) {
  char buffer[512];
  va_list list;
  va_start(list, text);
  std::vsnprintf(buffer, sizeof buffer, text, list);
  va_end(list);
  return buffer;
}

std::string text_of(const Place& place) {
  const char* slash = place.file ? std::strrchr(place.file, '/') : nullptr;
  return format("%s (%s:%d)", place.what, slash ? slash + 1 : place.file, place.line);
}

void fail(const std::string& text) {
  if (!failed) {
    last_message =
        format("%s, block (%u, %u, %u): ", launch_now->name, blockIdx.x, blockIdx.y, blockIdx.z) +
        text;
  }
  failed = true;
}

void leave_thread() {
  Fiber::switch_to(threads[static_cast<std::size_t>(current)]->fiber, scheduler);
}

// A fiber runs one thread after the other, each time it is entered anew.
[[noreturn]] void fiber_main() {
  Fiber::arrived();
  for (;;) {
    launch_now->body(launch_now->arguments);
    Thread& thread = *threads[static_cast<std::size_t>(current)];
    if (!thread.copies.empty()) fail(format("thread %d has left copies under way", current));
    thread.state = Thread::State::done;
    leave_thread();
  }
}

bool is_block_meeting(Meeting kind) {
  return kind >= Meeting::block_sync && kind <= Meeting::block_or;
}

std::uint64_t reduce(Meeting kind, std::uint64_t a, std::uint64_t b) {
  switch (kind) {
    case Meeting::reduce_add:
      return static_cast<std::uint32_t>(a + b);
    case Meeting::reduce_min:
      return static_cast<std::int64_t>(a) < static_cast<std::int64_t>(b) ? a : b;
    case Meeting::reduce_max:
      return static_cast<std::int64_t>(a) < static_cast<std::int64_t>(b) ? b : a;
    case Meeting::reduce_and:
      return a & b;
    case Meeting::reduce_or:
      return a | b;
    default:
      return a ^ b;
  }
}

// Results for all lanes in the mask, which have all arrived. Lanes that the block lacks count as
// arrived; what they would have given is poison.
void finish_warp(int first, std::uint32_t mask, Meeting kind) {
  const int lanes = std::min(kWarp, count - first);
  std::uint64_t together = 0;
  std::uint32_t votes = 0;
  bool any = false;
  for (int lane = 0; lane < lanes; ++lane) {
    if (!(mask >> lane & 1)) continue;
    const Thread& thread = *threads[static_cast<std::size_t>(first + lane)];
    if (thread.bits) votes |= 1u << lane;
    together = any ? reduce(kind, together, thread.bits) : thread.bits;
    any = true;
  }
  const std::uint32_t present = lanes == kWarp ? mask : mask & ((1u << lanes) - 1);
  for (int lane = 0; lane < lanes; ++lane) {
    if (!(mask >> lane & 1)) continue;
    Thread& thread = *threads[static_cast<std::size_t>(first + lane)];
    switch (kind) {
      case Meeting::warp_sync:
        break;
      case Meeting::shuffle: {
        const int from = thread.source;
        const bool there = from >= 0 && from < lanes && (mask >> from & 1);
        thread.result = there ? threads[static_cast<std::size_t>(first + from)]->bits : kPoisonBits;
        break;
      }
      case Meeting::ballot:
        thread.result = votes;
        break;
      case Meeting::all:
        thread.result = votes == present;
        break;
      case Meeting::any:
        thread.result = votes != 0;
        break;
      case Meeting::match_any: {
        std::uint32_t same = 0;
        for (int other = 0; other < lanes; ++other) {
          if ((mask >> other & 1) &&
              threads[static_cast<std::size_t>(first + other)]->bits == thread.bits) {
            same |= 1u << other;
          }
        }
        thread.result = same;
        break;
      }
      default:
        thread.result = together;
    }
    thread.state = Thread::State::ready;
  }
}

// Nobody can go on: opens the barrier that all wait for, or says why there is none.
bool open_barrier() {
  const Thread* first = nullptr;
  int first_number = 0, sum = 0, waiting = 0;
  for (int i = 0; i < count; ++i) {
    const Thread& thread = *threads[static_cast<std::size_t>(i)];
    if (thread.state != Thread::State::waiting) continue;
    if (!is_block_meeting(thread.meeting)) {
      std::uint32_t missing = thread.mask;
      const int base = i / kWarp * kWarp;
      for (int lane = 0; lane < std::min(kWarp, count - base); ++lane) {
        const Thread& other = *threads[static_cast<std::size_t>(base + lane)];
        if (other.state == Thread::State::waiting && other.meeting == thread.meeting &&
            other.mask == thread.mask) {
          missing &= ~(1u << lane);
        }
      }
      int lane = 0;
      while (lane < kWarp - 1 && !(missing >> lane & 1)) ++lane;
      const Thread& other = *threads[static_cast<std::size_t>(std::min(base + lane, count - 1))];
      fail(format("deadlock: thread %d waits at ", i) + text_of(thread.place) +
           format(" for lanes %#x; thread %d ", missing, base + lane) +
           (other.state == Thread::State::done ? std::string("has left the kernel")
                                               : "waits at " + text_of(other.place)));
      return false;
    }
    if (!first) {
      first = &thread;
      first_number = i;
    } else if (first->place.line != thread.place.line || first->meeting != thread.meeting ||
               std::strcmp(first->place.file, thread.place.file) != 0) {
      fail(format("divergence: thread %d waits at ", first_number) + text_of(first->place) +
           format(", thread %d at ", i) + text_of(thread.place));
      return false;
    }
    sum += thread.bits != 0;
    ++waiting;
  }
  // Hardware lets threads that have ended count as arrived. Our kernels do without that.
  if (waiting < count) {
    int gone = 0;
    while (threads[static_cast<std::size_t>(gone)]->state != Thread::State::done) ++gone;
    fail(format("divergence: thread %d waits at ", first_number) + text_of(first->place) +
         format(", thread %d has left the kernel", gone));
    return false;
  }
  const Meeting kind = first->meeting;
  const int result = kind == Meeting::block_count ? sum
                     : kind == Meeting::block_and ? sum == waiting
                                                  : sum > 0;
  for (int i = 0; i < count; ++i) {
    Thread& thread = *threads[static_cast<std::size_t>(i)];
    thread.result = static_cast<std::uint64_t>(result);
    thread.state = Thread::State::ready;
  }
  return true;
}

void run_block(std::vector<int>& order) {
  int live = count;
  for (int i = 0; i < count; ++i) {
    Thread& thread = *threads[static_cast<std::size_t>(i)];
    thread.state = Thread::State::ready;
    thread.copies.clear();
    if (!thread.started && !thread.fiber.start(fiber_main)) return fail("no memory for a stack");
    thread.started = true;
  }
  while (live > 0) {
    bool moved = false;
    arrange(order);
    for (const int i : order) {
      Thread& thread = *threads[static_cast<std::size_t>(i)];
      if (thread.state != Thread::State::ready) continue;
      moved = true;
      current = i;
      threadIdx = thread.index;
      Fiber::switch_to(scheduler, thread.fiber);
      if (failed) return;
      if (thread.state == Thread::State::done) --live;
    }
    if (!moved && !open_barrier()) return;
  }
}

void make_threads(const dim3& block) {
  count = static_cast<int>(block.x * block.y * block.z);
  while (static_cast<int>(threads.size()) < count) threads.push_back(std::make_unique<Thread>());
  for (int i = 0; i < count; ++i) {
    const unsigned number = static_cast<unsigned>(i);
    threads[static_cast<std::size_t>(i)]->index = {number % block.x, number / block.x % block.y,
                                                   number / (block.x * block.y)};
  }
}

}  // namespace

int lane_of_thread() {
  return current % kWarp;
}

int meet_block(Meeting kind, bool predicate, const Place& place) {
  Thread& thread = *threads[static_cast<std::size_t>(current)];
  thread.state = Thread::State::waiting;
  thread.meeting = kind;
  thread.place = place;
  thread.bits = predicate;
  leave_thread();
  return static_cast<int>(thread.result);
}

std::uint64_t meet_warp(Meeting kind, std::uint32_t mask, std::uint64_t bits, int source,
                        const Place& place) {
  Thread& thread = *threads[static_cast<std::size_t>(current)];
  const int lane = current % kWarp, first = current - lane;
  if (!(mask >> lane & 1)) {
    fail_thread(format("lane %d is not in its own mask %#x", lane, mask).c_str(), place);
  }
  thread.state = Thread::State::waiting;
  thread.meeting = kind;
  thread.place = place;
  thread.mask = mask;
  thread.bits = bits;
  thread.source = source;
  thread.result = 0;
  for (int other = 0; other < std::min(kWarp, count - first); ++other) {
    if (!(mask >> other & 1)) continue;
    const Thread& peer = *threads[static_cast<std::size_t>(first + other)];
    const bool here = peer.state == Thread::State::waiting && !is_block_meeting(peer.meeting);
    if (here && (peer.meeting != kind || peer.mask != mask || peer.place.line != place.line ||
                 std::strcmp(peer.place.file, place.file) != 0)) {
      fail_thread(format("divergence: lane %d is at another place than lane %d, which waits at ",
                         lane, other)
                      .append(text_of(peer.place))
                      .append(format(" for lanes %#x", peer.mask))
                      .c_str(),
                  place);
    }
    if (!here) {
      leave_thread();
      return thread.result;
    }
  }
  finish_warp(first, mask, kind);
  return thread.result;
}

void fail_thread(const char* text, const Place& place) {
  fail(format("thread %d at ", current) + text_of(place) + ": " + text);
  for (;;) leave_thread();
}

void copy_async(void* to, const void* from, int bytes) {
  const auto number = [](const void* place) { return reinterpret_cast<std::uintptr_t>(place); };
  if ((number(to) | number(from)) % static_cast<unsigned>(bytes) != 0) {
    fail_thread(format("%d bytes at an address that is no multiple of them", bytes).c_str(),
                {"copy_async", "?", 0});
  }
  threads[static_cast<std::size_t>(current)]->copies.push_back({to, from, bytes});
}

void copies_wait() {
  std::vector<Copy>& copies = threads[static_cast<std::size_t>(current)]->copies;
  for (const auto& [to, from, bytes] : copies) {
    if (from) {
      std::memcpy(to, from, static_cast<std::size_t>(bytes));
    } else {
      std::memset(to, 0, static_cast<std::size_t>(bytes));
    }
  }
  copies.clear();
}

void* dynamic_shared() {
  return shared_now;
}

bool run(const Launch& launch) {
  const std::lock_guard<std::mutex> guard(running);
  read_environment();
  launch_now = &launch;
  failed = false;
  gridDim = launch.grid;
  blockDim = launch.block;
  make_threads(launch.block);
  SharedMemory shared(launch.shared_bytes);
  std::vector<int> order(static_cast<std::size_t>(count));
  std::vector<std::uint64_t> blocks(std::size_t{launch.grid.x} * launch.grid.y * launch.grid.z);
  arrange(blocks);
  for (const std::uint64_t number : blocks) {
    blockIdx = {static_cast<unsigned>(number % launch.grid.x),
                static_cast<unsigned>(number / launch.grid.x % launch.grid.y),
                static_cast<unsigned>(number / launch.grid.x / launch.grid.y)};
    shared.poison();
    shared_now = shared.data();
    run_block(order);
    if (!failed && !shared.intact()) fail("wrote beside its dynamic shared memory");
    if (!failed) continue;
    // The threads stand somewhere in the kernel: they begin anew next time.
    for (const auto& thread : threads) thread->started = false;
    return false;
  }
  return true;
}

const char* message() {
  return last_message.c_str();
}

void set_message(const char* text) {
  last_message = text;
}

}  // namespace hotloop::emulation

void hotloop_emulation_order(int order, std::uint64_t seed) {
  hotloop::emulation::order_kind = order;
  hotloop::emulation::random_state = seed;
}

const char* hotloop_emulation_message() {
  return hotloop::emulation::message();
}
