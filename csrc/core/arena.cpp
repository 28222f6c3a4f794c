// Blocks come in size classes, eight per doubling, so that a like size finds a kept block and at
// most an eighth is wasted. What is held in all is bounded by twice what was once in use, or what
// is kept by 64 MB where that is more; the least recently freed goes first.
#include "core/arena.h"

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <mutex>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

// Under AddressSanitizer every block is its own allocation, or overruns would go unseen.
#if defined(__SANITIZE_ADDRESS__)
#define HOTLOOP_ARENA_KEEPS 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HOTLOOP_ARENA_KEEPS 0
#endif
#endif
#ifndef HOTLOOP_ARENA_KEEPS
#define HOTLOOP_ARENA_KEEPS 1
#endif

namespace hotloop {
namespace {

constexpr std::size_t kAlignment = 64;
constexpr std::size_t kHugePage = std::size_t{1} << 21;
constexpr std::size_t kSmallest = 256;          // bytes, header included
constexpr std::size_t kAlwaysKept = 64u << 20;  // may be kept however little was in use
constexpr int kClasses = 8 * 64;

// In front of every block, in a line of its own.
struct alignas(kAlignment) Header {
  std::size_t bytes;  // of the whole block
  int size_class;
  bool mapped;
  Header *newer, *older;  // all kept blocks, by the time they were freed
  Header *class_next, *class_prev;
};
static_assert(sizeof(Header) == kAlignment);

struct Arena {
  std::mutex mutex;
  Header* kept[kClasses] = {};
  Header *newest = nullptr, *oldest = nullptr;
  std::size_t in_use = 0, peak = 0, cached = 0, allocations = 0, hits = 0;
  std::size_t most_kept = std::size_t{1} << 32;
};

Arena& arena();

void before_fork() {
  arena().mutex.lock();
}
void after_fork() {
  arena().mutex.unlock();
}

Arena* make_arena() {
  Arena* made = new Arena;
  const long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
  if (pages > 0 && page > 0) {
    const std::size_t quarter =
        static_cast<std::size_t>(pages) / 4 * static_cast<std::size_t>(page);
    if (quarter < made->most_kept) made->most_kept = quarter;
  }
  pthread_atfork(before_fork, after_fork, after_fork);
  return made;
}

Arena& arena() {
  static Arena* const instance =
      make_arena();  // leaked: arrays may be freed after static destructors
  return *instance;
}

// Rounds up to the next of eight steps per doubling.
std::size_t class_bytes(std::size_t bytes, int* index) {
  if (bytes < kSmallest) bytes = kSmallest;
  const int top = 63 - __builtin_clzll(static_cast<unsigned long long>(bytes));
  const std::size_t step = std::size_t{1} << (top - 3);
  const std::size_t rounded = (bytes + step - 1) / step * step;
  const int rounded_top = 63 - __builtin_clzll(static_cast<unsigned long long>(rounded));
  *index = rounded_top * 8 + static_cast<int>((rounded >> (rounded_top - 3)) & 7);
  return rounded;
}

#if defined(__linux__) && HOTLOOP_ARENA_KEEPS
// How far into its first page a mapped block begins, in turn. Arrays at one place modulo 4 KB hold
// each other up: relu of 2^24 floats takes 1.63 ms from such a one to another, 1.45 ms from one
// 2 KB apart and 1.50 ms from one 1 KB apart (Zen 4, stores around the caches).
std::size_t next_shift() {
  static constexpr std::size_t kShifts[] = {0, 2048, 1024, 3072, 512, 2560, 1536, 3584};
  static std::atomic<unsigned> count{0};
  return kShifts[count.fetch_add(1, std::memory_order_relaxed) % 8];
}
#endif

Header* ask_system(std::size_t bytes) {
#if defined(__linux__) && HOTLOOP_ARENA_KEEPS
  if (bytes >= kHugePage) {
    // Mapped with room to cut out a part that begins on a huge page.
    const std::size_t shift = next_shift();
    bytes += shift;
    const std::size_t whole = bytes + kHugePage;
    void* start = mmap(nullptr, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) return nullptr;
    const std::uintptr_t address = reinterpret_cast<std::uintptr_t>(start);
    const std::uintptr_t aligned = (address + kHugePage - 1) / kHugePage * kHugePage;
    const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::size_t length = (bytes + page - 1) / page * page;
    const std::size_t front = aligned - address;
    if (front) munmap(start, front);
    if (whole - front > length) {
      munmap(reinterpret_cast<void*>(aligned + length), whole - front - length);
    }
    madvise(reinterpret_cast<void*>(aligned), length, MADV_HUGEPAGE);
    Header* header = new (reinterpret_cast<void*>(aligned + shift)) Header{};
    header->bytes = length;
    header->mapped = true;
    return header;
  }
#endif
  void* start = nullptr;
  if (posix_memalign(&start, kAlignment, bytes) != 0) return nullptr;
  Header* header = new (start) Header{};
  header->bytes = bytes;
  return header;
}

void give_back(Header* header) {
#if defined(__linux__)
  if (header->mapped) {
    const std::uintptr_t address = reinterpret_cast<std::uintptr_t>(header);
    munmap(reinterpret_cast<void*>(address / kHugePage * kHugePage), header->bytes);
    return;
  }
#endif
  free(header);
}

void unlink(Arena& a, Header* block) {
  (block->newer ? block->newer->older : a.newest) = block->older;
  (block->older ? block->older->newer : a.oldest) = block->newer;
  (block->class_prev ? block->class_prev->class_next : a.kept[block->size_class]) =
      block->class_next;
  if (block->class_next) block->class_next->class_prev = block->class_prev;
  a.cached -= block->bytes;
}

void keep(Arena& a, Header* block) {
  block->newer = nullptr;
  block->older = a.newest;
  (a.newest ? a.newest->newer : a.oldest) = block;
  a.newest = block;
  block->class_prev = nullptr;
  block->class_next = a.kept[block->size_class];
  if (block->class_next) block->class_next->class_prev = block;
  a.kept[block->size_class] = block;
  a.cached += block->bytes;
}

// Takes kept blocks out, oldest first, until at most `bytes` are kept; the chain goes by `older`.
Header* take_beyond(Arena& a, std::size_t bytes) {
  Header* chain = nullptr;
  while (a.cached > bytes && a.oldest) {
    Header* block = a.oldest;
    unlink(a, block);
    block->older = chain;
    chain = block;
  }
  return chain;
}

void give_back_chain(Header* chain) {
  while (chain) {
    Header* next = chain->older;
    give_back(chain);
    chain = next;
  }
}

}  // namespace

void* arena_allocate(std::size_t bytes) {
  if (bytes > static_cast<std::size_t>(INT64_MAX) / 4) throw std::bad_alloc();
  Arena& a = arena();
  int index = 0;
  const std::size_t wanted = class_bytes(bytes + kAlignment, &index);
  Header* block = nullptr;
  {
    const std::lock_guard<std::mutex> lock(a.mutex);
    ++a.allocations;
    block = a.kept[index];
    if (block) {
      unlink(a, block);
      ++a.hits;
      a.in_use += block->bytes;
      if (a.in_use > a.peak) a.peak = a.in_use;
    }
  }
  if (!block) {
    const std::size_t exact = HOTLOOP_ARENA_KEEPS ? wanted : bytes + kAlignment;
    block = ask_system(exact);
    if (!block) {
      arena_trim();
      block = ask_system(exact);
      if (!block) throw std::bad_alloc();
    }
    block->size_class = index;
    const std::lock_guard<std::mutex> lock(a.mutex);
    a.in_use += block->bytes;
    if (a.in_use > a.peak) a.peak = a.in_use;
  }
  return block + 1;
}

void arena_free(void* pointer) noexcept {
  if (!pointer) return;
  Arena& a = arena();
  Header* block = static_cast<Header*>(pointer) - 1;
  Header* chain = nullptr;
  {
    const std::lock_guard<std::mutex> lock(a.mutex);
    a.in_use -= block->bytes;
    keep(a, block);
    // A network in training holds little at the end of a step and all of it in the middle: what is
    // held in all, not what is kept, has a bound, or each step would ask the system anew.
    std::size_t bound = 2 * a.peak - a.in_use;
    if (bound < kAlwaysKept) bound = kAlwaysKept;
    if (bound > a.most_kept) bound = a.most_kept;
    chain = take_beyond(a, HOTLOOP_ARENA_KEEPS ? bound : 0);
  }
  give_back_chain(chain);
}

void arena_trim() {
  Arena& a = arena();
  Header* chain = nullptr;
  {
    const std::lock_guard<std::mutex> lock(a.mutex);
    chain = take_beyond(a, 0);
    a.peak = a.in_use;
  }
  give_back_chain(chain);
}

ArenaStats arena_stats() {
  Arena& a = arena();
  const std::lock_guard<std::mutex> lock(a.mutex);
  return {a.in_use, a.cached, a.allocations, a.hits};
}

}  // namespace hotloop
