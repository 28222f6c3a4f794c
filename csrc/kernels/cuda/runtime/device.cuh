// What the files of the runtime share: a device's stream, and the devices made current for a scope.
#pragma once

#include <cstdint>

#include "core/cuda_api.h"
#include "kernels/cuda/kernel.cuh"

namespace hotloop::cuda {

inline constexpr int kMostDevices = 64;

// Makes a device current; the one before is restored, since others in the process rely on theirs.
class OnDevice {
 public:
  explicit OnDevice(int device) {
    code_ = cudaGetDevice(&before_);
    if (code_ == cudaSuccess && device != before_) {
      code_ = cudaSetDevice(device);
      changed_ = code_ == cudaSuccess;
    }
  }
  ~OnDevice() {
    if (changed_) (void)cudaSetDevice(before_);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  cudaError_t code() const { return code_; }

 private:
  int before_ = 0;
  bool changed_ = false;
  cudaError_t code_;
};

// cudaMalloc and cudaFree are no work of a stream; a capture refuses them only since they might
// wait for it.
class AllowMalloc {
 public:
  AllowMalloc() { (void)cudaThreadExchangeStreamCaptureMode(&mode_); }
  ~AllowMalloc() { (void)cudaThreadExchangeStreamCaptureMode(&mode_); }
  AllowMalloc(const AllowMalloc&) = delete;
  AllowMalloc& operator=(const AllowMalloc&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

// The one stream of a device, made at first use; apart from the legacy default stream, which would
// wait for everybody. The device must be current.
cudaError_t stream_of(int device, cudaStream_t* stream);

int allocate(int device, std::int64_t bytes, void** pointer);
void release(int device, void* pointer);
int empty_cache(int device);
void memory(int device, CudaMemory* numbers);

void traffic(int device, CudaTraffic* numbers);
int to_device(int device, void* to, const void* from, std::int64_t bytes);
int to_host(int device, void* to, const void* from, std::int64_t bytes, IndexFault* found);
int between(int to_device, void* to, int from_device, const void* from, std::int64_t bytes);
int synchronize(int device, IndexFault* found);
int fault_record(int device, IndexFault** record);
int wait_for(int device, void* other);
int let_wait(int device, void* other);

// What a graph may write when it is replayed: nobody else gets it while the graph lives.
struct GraphMemory;
// This thread's allocations are the graph's until end_graph_memory.
GraphMemory* begin_graph_memory(int device);
void end_graph_memory(GraphMemory* memory);
void free_graph_memory(GraphMemory* memory);

int graph_begin(int device, std::uint64_t first);
int graph_end(int device, std::uint64_t draws, void** graph);
const RandomDraws* graph_draws(int device);
int graph_replay(int device, void* const* graphs, int count, int times, std::uint64_t next,
                 std::uint64_t seed, float* milliseconds);
void graph_free(void* graph);

}  // namespace hotloop::cuda
