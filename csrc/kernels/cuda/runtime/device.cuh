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

}  // namespace hotloop::cuda
