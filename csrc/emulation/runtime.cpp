#include "emulation/runtime.h"

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "emulation/block.h"

namespace {

using Clock = std::chrono::steady_clock;
using Work = std::vector<std::function<void()>>;

constexpr int kDevices = 2;
int devices_now = kDevices, major_now = 8, minor_now = 0;
cudaError_t count_error = cudaSuccess;
constexpr std::size_t kBytes = std::size_t{256} << 20;
constexpr std::size_t kFence = 256;         // poison behind an allocation
constexpr std::size_t kShared = 48 * 1024;  // of a block, where nobody asked for more
constexpr int kSharedMost = 227 * 1024;     // on sm_90

thread_local int current = 0;
thread_local cudaError_t last = cudaSuccess;
thread_local cudaStreamCaptureMode capture_mode = cudaStreamCaptureModeGlobal;

struct Block {
  std::size_t bytes;
  int device;
};
std::mutex mutex;
template <class T>
T& leaked() {  // outlives late threads
  static auto* const object = new T;
  return *object;
}
std::map<void*, Block>& blocks() {
  return leaked<std::map<void*, Block>>();
}
std::map<const void*, int>& shared_limits() {
  return leaked<std::map<const void*, int>>();
}
std::size_t used[kDevices];
int captures = 0;  // under way

cudaError_t remember(cudaError_t error) {
  if (error != cudaSuccess) last = error;
  return error;
}

}  // namespace

struct CUstream_st {
  CUgraph_st* capturing = nullptr;
  bool invalid = false;
};
struct CUevent_st {
  Clock::time_point time;
};
struct CUgraph_st {
  Work work;
};
struct CUgraphExec_st {
  Work work;
};

namespace {

// A capture in any stream forbids what would wait for the device or change its memory.
cudaError_t unless_capturing() {
  return captures > 0 ? remember(cudaErrorStreamCaptureUnsupported) : cudaSuccess;
}
// Allocating and freeing may be allowed by the thread.
cudaError_t unless_strict() {
  return capture_mode == cudaStreamCaptureModeRelaxed ? cudaSuccess : unless_capturing();
}

cudaError_t copy(void* to, const void* from, std::size_t bytes, cudaStream_t stream) {
  hotloop::emulation::submit(stream, [=] {
    if (bytes > 0) std::memmove(to, from, bytes);
  });
  return cudaSuccess;
}

}  // namespace

// ---- devices ------------------------------------------------------------------------------------

cudaError_t cudaGetDeviceCount(int* count) {
  *count = count_error == cudaSuccess ? devices_now : 0;
  return remember(count_error);
}
cudaError_t cudaGetDevice(int* device) {
  *device = current;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= kDevices) return remember(cudaErrorInvalidDevice);
  current = device;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (device < 0 || device >= kDevices) return remember(cudaErrorInvalidDevice);
  switch (attribute) {
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = static_cast<int>(kShared);
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = 4;
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = major_now;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = minor_now;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = kSharedMost;
      break;
    default:
      return remember(cudaErrorInvalidValue);
  }
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device < 0 || device >= kDevices) return remember(cudaErrorInvalidDevice);
  *properties = {"emulated on the CPU",
                 major_now,
                 minor_now,
                 4,
                 kBytes,
                 static_cast<std::size_t>(kSharedMost)};
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  return unless_capturing();
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute, int value) {
  if (value > kSharedMost) return remember(cudaErrorInvalidValue);
  const std::lock_guard lock(mutex);
  shared_limits()[function] = value;
  return cudaSuccess;
}

// ---- memory -------------------------------------------------------------------------------------

cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  const std::lock_guard lock(mutex);
  *free = kBytes - used[current];
  *total = kBytes;
  return cudaSuccess;
}
cudaError_t cudaMalloc(void** pointer, std::size_t bytes) {
  const std::lock_guard lock(mutex);
  *pointer = nullptr;
  if (unless_strict() != cudaSuccess) return cudaErrorStreamCaptureUnsupported;
  if (bytes > kBytes - used[current]) return remember(cudaErrorMemoryAllocation);
  const std::size_t all = (bytes + kFence + 511) / 512 * 512;
  void* const memory = std::aligned_alloc(512, all);
  if (!memory) return remember(cudaErrorMemoryAllocation);
  std::memset(memory, hotloop::emulation::kPoison, all);
  used[current] += bytes;
  blocks()[memory] = {bytes, current};
  *pointer = memory;
  return cudaSuccess;
}
cudaError_t cudaFree(void* pointer) {
  if (!pointer) return cudaSuccess;
  const std::lock_guard lock(mutex);
  if (unless_strict() != cudaSuccess) return cudaErrorStreamCaptureUnsupported;
  const auto found = blocks().find(pointer);
  if (found == blocks().end()) return remember(cudaErrorInvalidValue);
  const auto* const fence = static_cast<const unsigned char*>(pointer) + found->second.bytes;
  bool intact = true;
  for (std::size_t i = 0; i < kFence; ++i) intact &= fence[i] == hotloop::emulation::kPoison;
  used[found->second.device] -= found->second.bytes;
  blocks().erase(found);
  std::free(pointer);
  if (intact) return cudaSuccess;
  hotloop::emulation::set_message("cudaFree: somebody wrote behind this allocation");
  return remember(cudaErrorLaunchFailure);
}
cudaError_t cudaMallocHost(void** pointer, std::size_t bytes) {
  if (unless_capturing() != cudaSuccess) return cudaErrorStreamCaptureUnsupported;
  *pointer = std::malloc(bytes > 0 ? bytes : 1);
  return *pointer ? cudaSuccess : remember(cudaErrorMemoryAllocation);
}
cudaError_t cudaHostAlloc(void** pointer, std::size_t bytes, unsigned) {
  return cudaMallocHost(pointer, bytes);
}
cudaError_t cudaFreeHost(void* pointer) {
  std::free(pointer);
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind) {
  if (unless_capturing() != cudaSuccess) return cudaErrorStreamCaptureUnsupported;
  return copy(to, from, bytes, nullptr);
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind,
                            cudaStream_t stream) {
  return copy(to, from, bytes, stream);
}
cudaError_t cudaMemcpyPeerAsync(void* to, int, const void* from, int, std::size_t bytes,
                                cudaStream_t stream) {
  return copy(to, from, bytes, stream);
}
cudaError_t cudaMemset(void* to, int value, std::size_t bytes) {
  if (unless_capturing() != cudaSuccess) return cudaErrorStreamCaptureUnsupported;
  return cudaMemsetAsync(to, value, bytes, nullptr);
}
cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream) {
  hotloop::emulation::submit(stream, [=] {
    if (bytes > 0) std::memset(to, value, bytes);
  });
  return cudaSuccess;
}

// ---- streams, events, graphs --------------------------------------------------------------------

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new CUstream_st;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (stream && stream->capturing) stream->invalid = true;
  return unless_capturing();
}
cudaError_t cudaStreamQuery(cudaStream_t) {
  return unless_capturing();
}
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) {
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) {
  return cudaEventCreateWithFlags(event, 0);
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
  event->time = Clock::now();
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t) {
  return unless_capturing();
}
cudaError_t cudaEventQuery(cudaEvent_t) {
  return unless_capturing();
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  *milliseconds = std::chrono::duration<float, std::milli>(end->time - begin->time).count();
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (!stream || stream->capturing) return remember(cudaErrorStreamCaptureUnsupported);
  stream->capturing = new CUgraph_st;
  stream->invalid = false;
  ++captures;
  return cudaSuccess;
}
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  std::swap(*mode, capture_mode);
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = nullptr;
  if (!stream || !stream->capturing) return remember(cudaErrorInvalidValue);
  --captures;
  CUgraph_st* const captured = std::exchange(stream->capturing, nullptr);
  if (stream->invalid) {
    delete captured;
    return remember(cudaErrorStreamCaptureInvalidated);
  }
  *graph = captured;
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status =
      stream && stream->capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph,
                                 unsigned long long) {
  *executable = new CUgraphExec_st{graph->work};
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t) {
  for (const auto& work : executable->work) work();
  return last;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}

// ---- errors -------------------------------------------------------------------------------------

namespace {
struct ErrorText {
  cudaError_t error;
  const char *name, *text;
};
constexpr ErrorText kErrors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration",
     "invalid configuration argument"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
     "CUDA driver version is insufficient for CUDA runtime version"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
     "operation not permitted when stream is capturing"},
    {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated",
     "operation failed due to a previous error during capture"},
};
}  // namespace

const char* cudaGetErrorName(cudaError_t error) {
  for (const ErrorText& known : kErrors) {
    if (known.error == error) return known.name;
  }
  return "unrecognized error code";
}
// Of a failed launch: what the emulator found.
const char* cudaGetErrorString(cudaError_t error) {
  if (error == cudaErrorLaunchFailure && *hotloop::emulation::message()) {
    return hotloop::emulation::message();
  }
  for (const ErrorText& known : kErrors) {
    if (known.error == error) return known.text;
  }
  return "unrecognized error code";
}
cudaError_t cudaGetLastError() {
  return std::exchange(last, cudaSuccess);
}
cudaError_t cudaPeekAtLastError() {
  return last;
}
void hotloop_emulation_machine(int devices, int major, int minor, int error) {
  devices_now = devices < kDevices ? devices : kDevices;
  major_now = major;
  minor_now = minor;
  count_error = static_cast<cudaError_t>(error);
}
void emulation_set_error(cudaError_t error) {
  remember(error);
}

namespace hotloop::emulation {

void submit(cudaStream_t stream, std::function<void()> work) {
  if (stream && stream->capturing) {
    stream->capturing->work.push_back(std::move(work));
  } else {
    work();
  }
}

bool may_launch(const void* kernel, dim3 grid, dim3 block, std::size_t shared_bytes) {
  const std::size_t threads = std::size_t{block.x} * block.y * block.z;
  const bool fits = grid.x >= 1 && grid.x <= 0x7fffffffu && grid.y >= 1 && grid.y <= 65535 &&
                    grid.z >= 1 && grid.z <= 65535 && threads >= 1 && threads <= 1024 &&
                    block.z <= 64;
  std::size_t limit = kShared;
  {
    const std::lock_guard lock(mutex);
    const auto found = shared_limits().find(kernel);
    if (found != shared_limits().end() && static_cast<std::size_t>(found->second) > limit) {
      limit = static_cast<std::size_t>(found->second);
    }
  }
  if (!fits) {
    emulation_set_error(cudaErrorInvalidConfiguration);
  } else if (shared_bytes > limit) {
    emulation_set_error(cudaErrorInvalidValue);
  } else {
    return true;
  }
  return false;
}

}  // namespace hotloop::emulation
