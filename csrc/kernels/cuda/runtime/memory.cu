// The caching allocator: blocks of cudaMalloc in bins of like sizes, kept for the next request.
//
// Small requests are rounded to 512 bytes, those above 1 MiB to 2 MiB; a block serves requests of
// its own bin alone, so nothing is split and nothing fragments. All work is on one stream, so a
// block may be handed out as soon as it is released. When the device is full, the cache is given
// back once, and the request is tried again.
//
// What a thread allocates while it captures a graph belongs to that graph: the block comes from the
// cache, or from cudaMalloc, and returns to the graph's own free blocks, from which only the same
// capture takes it again. Replays write there whatever Python has forgotten since. When the graph
// is freed, its blocks are as any others (PyTorch's private pools do likewise).
#include <map>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include "kernels/cuda/runtime/device.cuh"

namespace hotloop::cuda {

using FreeBlocks = std::map<std::int64_t, std::vector<void*>>;  // by the bytes of their bin

struct GraphMemory {
  int device;
  FreeBlocks free;
  std::int64_t bytes = 0;  // of all its blocks, free or given
};

namespace {

struct Given {
  std::int64_t bin;
  GraphMemory* owner;  // null: the cache
};
struct Pool {
  std::mutex mutex;
  FreeBlocks free;
  std::unordered_map<void*, Given> given;
  GraphMemory* capturing = nullptr;
  std::thread::id captured_by;
  CudaMemory numbers{};
};

Pool& pool_of(int device) {
  static Pool* const pools = new Pool[kMostDevices];  // leaked: outlives late threads
  return pools[device];
}

std::int64_t bin_of(std::int64_t bytes) {
  constexpr std::int64_t kSmall = 512, kLarge = std::int64_t{2} << 20;
  const std::int64_t step = bytes > kLarge / 2 ? kLarge : kSmall;
  return bytes <= 0 ? kSmall : (bytes + step - 1) / step * step;
}

cudaError_t give_back(Pool& pool) {
  cudaError_t failed = cudaSuccess;
  for (auto& [bytes, blocks] : pool.free) {
    for (void* block : blocks) {
      const cudaError_t code = cudaFree(block);
      if (code != cudaSuccess) failed = code;
      pool.numbers.cached_bytes -= bytes;
    }
  }
  pool.free.clear();
  return failed;
}

void* take(FreeBlocks& from, std::int64_t bin) {
  const auto found = from.find(bin);
  if (found == from.end() || found->second.empty()) return nullptr;
  void* const block = found->second.back();
  found->second.pop_back();
  return block;
}

}  // namespace

int allocate(int device, std::int64_t bytes, void** pointer) {
  Pool& pool = pool_of(device);
  const std::int64_t bin = bin_of(bytes);
  const std::lock_guard lock(pool.mutex);
  GraphMemory* const owner =
      pool.capturing && pool.captured_by == std::this_thread::get_id() ? pool.capturing : nullptr;
  bool is_new = true;  // to the owner
  *pointer = owner ? take(owner->free, bin) : nullptr;
  if (*pointer) {
    ++pool.numbers.cache_hits;
    is_new = false;
  } else if ((*pointer = take(pool.free, bin))) {
    pool.numbers.cached_bytes -= bin;
    ++pool.numbers.cache_hits;
  } else {
    const OnDevice current(device);
    if (current.code() != cudaSuccess) return current.code();
    const AllowMalloc allowed;
    cudaError_t code = cudaMalloc(pointer, static_cast<std::size_t>(bin));
    if (code == cudaErrorMemoryAllocation && pool.numbers.cached_bytes > 0 && !pool.capturing) {
      (void)cudaGetLastError();
      if (give_back(pool) == cudaSuccess) {
        code = cudaMalloc(pointer, static_cast<std::size_t>(bin));
      }
    }
    if (code != cudaSuccess) {
      (void)cudaGetLastError();  // the next launch is not to blame
      *pointer = nullptr;
      return code;
    }
  }
  if (owner && is_new) {
    owner->bytes += bin;
    pool.numbers.graph_bytes += bin;
  }
  pool.given[*pointer] = {bin, owner};
  pool.numbers.in_use_bytes += bin;
  ++pool.numbers.allocations;
  return cudaSuccess;
}

void release(int device, void* pointer) {
  if (!pointer) return;
  Pool& pool = pool_of(device);
  const std::lock_guard lock(pool.mutex);
  const auto found = pool.given.find(pointer);
  if (found == pool.given.end()) return;
  const auto [bin, owner] = found->second;
  pool.given.erase(found);
  pool.numbers.in_use_bytes -= bin;
  if (owner) {
    owner->free[bin].push_back(pointer);
    return;
  }
  pool.free[bin].push_back(pointer);
  pool.numbers.cached_bytes += bin;
}

GraphMemory* begin_graph_memory(int device) {
  Pool& pool = pool_of(device);
  const std::lock_guard lock(pool.mutex);
  pool.captured_by = std::this_thread::get_id();
  return pool.capturing = new GraphMemory{device, {}, 0};
}

void end_graph_memory(GraphMemory* memory) {
  Pool& pool = pool_of(memory->device);
  const std::lock_guard lock(pool.mutex);
  if (pool.capturing == memory) pool.capturing = nullptr;
}

void free_graph_memory(GraphMemory* memory) {
  end_graph_memory(memory);
  Pool& pool = pool_of(memory->device);
  const std::lock_guard lock(pool.mutex);
  for (auto& [pointer, given] : pool.given) {
    if (given.owner == memory) given.owner = nullptr;
  }
  for (auto& [bin, blocks] : memory->free) {
    auto& cache = pool.free[bin];
    cache.insert(cache.end(), blocks.begin(), blocks.end());
    pool.numbers.cached_bytes += bin * static_cast<std::int64_t>(blocks.size());
  }
  pool.numbers.graph_bytes -= memory->bytes;
  delete memory;
}

int empty_cache(int device) {
  const OnDevice current(device);
  if (current.code() != cudaSuccess) return current.code();
  Pool& pool = pool_of(device);
  const std::lock_guard lock(pool.mutex);
  return give_back(pool);
}

void memory(int device, CudaMemory* numbers) {
  Pool& pool = pool_of(device);
  const std::lock_guard lock(pool.mutex);
  *numbers = pool.numbers;
}

}  // namespace hotloop::cuda
