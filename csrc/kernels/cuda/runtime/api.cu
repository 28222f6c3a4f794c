// The table that _core finds, and what it says of the devices.
#include <cstdlib>
#include <cstring>

#include "kernels/cuda/runtime/device.cuh"

#ifndef HOTLOOP_CUDA_ARCHITECTURES
#define HOTLOOP_CUDA_ARCHITECTURES "80-real;90a-real"  // the emulator's
#endif

namespace hotloop::cuda {
namespace {

#if defined(HOTLOOP_CUDA_EMULATE)
constexpr bool kEmulated = true;
#else
constexpr bool kEmulated = false;
#endif

int device_count(int* count) {
  const cudaError_t code = cudaGetDeviceCount(count);
  (void)cudaGetLastError();
  if (*count > kMostDevices) *count = kMostDevices;
  return code;
}

// By NVIDIA's rules: machine code runs on its own major version from its minor on ("90a" on that
// very one), PTX ("-virtual") on everything newer; a name without a suffix means both.
bool runs_on(int major, int minor) {
  const char* list = HOTLOOP_CUDA_ARCHITECTURES;
  while (*list) {
    char* rest = nullptr;
    const long built = std::strtol(list, &rest, 10);
    const bool exact = *rest == 'a' || *rest == 'f';
    if (exact) ++rest;
    const bool ptx = std::strncmp(rest, "-real", 5) != 0;
    const bool code = std::strncmp(rest, "-virtual", 8) != 0;
    const long own = major * 10 + minor;
    if (exact ? own == built
              : (code && built / 10 == major && built <= own) || (ptx && built <= own)) {
      return true;
    }
    const char* next = std::strpbrk(rest, "; ,");
    if (!next) return false;
    list = next + 1;
  }
  return false;
}

int describe(int device, CudaDevice* found) {
  const OnDevice current(device);
  if (current.code() != cudaSuccess) return current.code();
  *found = {};
  cudaDeviceProp properties;
  cudaError_t code = cudaGetDeviceProperties(&properties, device);
  if (code != cudaSuccess) return code;
  std::memcpy(found->name, properties.name, sizeof(found->name) - 1);  // it ends in zeros
  code = cudaDeviceGetAttribute(&found->major, cudaDevAttrComputeCapabilityMajor, device);
  if (code != cudaSuccess) return code;
  code = cudaDeviceGetAttribute(&found->minor, cudaDevAttrComputeCapabilityMinor, device);
  if (code != cudaSuccess) return code;
  code = cudaDeviceGetAttribute(&found->processors, cudaDevAttrMultiProcessorCount, device);
  if (code != cudaSuccess) return code;
  std::size_t free = 0, total = 0;
  code = cudaMemGetInfo(&free, &total);
  found->free_bytes = static_cast<std::int64_t>(free);
  found->total_bytes = static_cast<std::int64_t>(total);
  found->runs = runs_on(found->major, found->minor);
  return code;
}

const char* error_name(int code) {
  return cudaGetErrorName(static_cast<cudaError_t>(code));
}
const char* error_text(int code) {
  return cudaGetErrorString(static_cast<cudaError_t>(code));
}

int enter(int device, void** stream, int* before) {
  cudaError_t code = cudaGetDevice(before);
  if (code == cudaSuccess && *before != device) code = cudaSetDevice(device);
  cudaStream_t own = nullptr;
  if (code == cudaSuccess) code = stream_of(device, &own);
  *stream = own;
  if (*before == device) *before = -1;
  return code;
}
void leave(int before) {
  if (before >= 0) (void)cudaSetDevice(before);
}

constexpr CudaApi kApi{kCudaAbi,     kEmulated, HOTLOOP_CUDA_ARCHITECTURES,
                       device_count, describe,  error_name,
                       error_text,   allocate,  release,
                       empty_cache,  memory,    traffic,
                       to_device,    to_host,   between,
                       enter,        leave,     synchronize,
                       fault_record, wait_for,  let_wait,
                       graph_begin,  graph_end, graph_draws,
                       graph_replay, graph_free};

}  // namespace
}  // namespace hotloop::cuda

HOTLOOP_CUDA_EXPORT const hotloop::CudaApi* hotloop_cuda_api() {
  return &hotloop::cuda::kApi;
}
