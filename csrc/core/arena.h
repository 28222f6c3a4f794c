// A caching allocator for array memory and scratch: 64-byte aligned, huge pages above 2 MiB, blocks
// kept for the next request of a like size. Thread-safe. Fresh pages are what makes big outputs
// slow.
#pragma once

#include <cstddef>

namespace hotloop {

void* arena_allocate(std::size_t bytes);  // throws std::bad_alloc; never null, also for 0 bytes
void arena_free(void* pointer) noexcept;  // null is fine
void arena_trim();                        // gives the cached blocks back to the system

struct ArenaStats {
  std::size_t in_use_bytes, cached_bytes, allocations, cache_hits;
};
ArenaStats arena_stats();

// Scratch for one call: asked for before the launch, freed at the end of the scope.
class Scratch {
 public:
  explicit Scratch(std::size_t bytes) : pointer_(bytes ? arena_allocate(bytes) : nullptr) {}
  ~Scratch() { arena_free(pointer_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  void* get() const { return pointer_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(pointer_);
  }

 private:
  void* pointer_;
};

}  // namespace hotloop
