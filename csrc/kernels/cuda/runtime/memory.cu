// The caching allocator: blocks of cudaMalloc in bins of like sizes, kept for the next request.
//
// Small requests are rounded to 512 bytes, those above 1 MiB to 2 MiB; a block serves requests of
// its own bin alone, so nothing is split and nothing fragments. All work is on one stream, so a
// block may be handed out as soon as it is released. When the device is full, the cache is given
// back once, and the request is tried again.
#include <map>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "kernels/cuda/runtime/device.cuh"

namespace hotloop::cuda {
namespace {

struct Pool {
  std::mutex mutex;
  std::map<std::int64_t, std::vector<void*>> free;  // by the bytes of their bin
  std::unordered_map<void*, std::int64_t> given;    // what is out, and its bin
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

}  // namespace

int allocate(int device, std::int64_t bytes, void** pointer) {
  *pointer = nullptr;
  Pool& pool = pool_of(device);
  const std::int64_t bin = bin_of(bytes);
  const std::lock_guard lock(pool.mutex);
  const auto found = pool.free.find(bin);
  if (found != pool.free.end() && !found->second.empty()) {
    *pointer = found->second.back();
    found->second.pop_back();
    pool.numbers.cached_bytes -= bin;
    ++pool.numbers.cache_hits;
  } else {
    const OnDevice current(device);
    if (current.code() != cudaSuccess) return current.code();
    cudaError_t code = cudaMalloc(pointer, static_cast<std::size_t>(bin));
    if (code == cudaErrorMemoryAllocation && pool.numbers.cached_bytes > 0) {
      (void)cudaGetLastError();
      if (give_back(pool) == cudaSuccess) {
        code = cudaMalloc(pointer, static_cast<std::size_t>(bin));
      }
    }
    if (code != cudaSuccess) {
      (void)cudaGetLastError();  // the next launch is not to blame
      return code;
    }
  }
  pool.given[*pointer] = bin;
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
  const std::int64_t bin = found->second;
  pool.given.erase(found);
  pool.free[bin].push_back(pointer);
  pool.numbers.in_use_bytes -= bin;
  pool.numbers.cached_bytes += bin;
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
