// Copies between the host and a device, through two halves of pinned memory: the bus moves one
// while the processor fills or empties the other. Pageable memory alone would be copied by the
// driver piece by piece, and waited for.
#include <cstring>
#include <mutex>

#include "kernels/cuda/runtime/device.cuh"

#define HOTLOOP_TRY(call)                                       \
  if (const cudaError_t code_ = (call); code_ != cudaSuccess) { \
    (void)cudaGetLastError();                                   \
    return code_;                                               \
  }

namespace hotloop::cuda {
namespace {

constexpr std::int64_t kHalf = std::int64_t{4} << 20;

struct Staging {
  std::mutex mutex;
  char* half[2] = {};
  cudaEvent_t moved[2] = {};  // the bus is done with it
  cudaStream_t stream = nullptr;
  cudaEvent_t mark = nullptr;  // for waiting of one stream on another
  bool made = false;           // the stream and its mark
  bool ready = false;          // the halves and their events
};

Staging& staging_of(int device) {
  static Staging* const all = new Staging[kMostDevices];  // leaked: outlives late threads
  return all[device];
}

// The device is current and the staging locked.
cudaError_t prepare(Staging& s) {
  if (s.ready) return cudaSuccess;
  for (int i = 0; i < 2; ++i) {
    if (!s.half[i]) HOTLOOP_TRY(cudaMallocHost(reinterpret_cast<void**>(&s.half[i]), kHalf));
    if (!s.moved[i]) HOTLOOP_TRY(cudaEventCreateWithFlags(&s.moved[i], cudaEventDisableTiming));
  }
  s.ready = true;
  return cudaSuccess;
}

}  // namespace

cudaError_t stream_of(int device, cudaStream_t* stream) {
  Staging& s = staging_of(device);
  static std::mutex making;
  const std::lock_guard lock(making);
  if (!s.made) {
    HOTLOOP_TRY(cudaStreamCreateWithFlags(&s.stream, cudaStreamNonBlocking));
    HOTLOOP_TRY(cudaEventCreateWithFlags(&s.mark, cudaEventDisableTiming));
    s.made = true;
  }
  *stream = s.stream;
  return cudaSuccess;
}

int to_device(int device, void* to, const void* from, std::int64_t bytes) {
  const OnDevice current(device);
  HOTLOOP_TRY(current.code());
  cudaStream_t stream;
  HOTLOOP_TRY(stream_of(device, &stream));
  Staging& s = staging_of(device);
  const std::lock_guard lock(s.mutex);
  HOTLOOP_TRY(prepare(s));
  for (std::int64_t done = 0, turn = 0; done < bytes; turn ^= 1) {
    const std::int64_t part = bytes - done < kHalf ? bytes - done : kHalf;
    HOTLOOP_TRY(cudaEventSynchronize(s.moved[turn]));  // at once where it was never recorded
    std::memcpy(s.half[turn], static_cast<const char*>(from) + done, part);
    HOTLOOP_TRY(cudaMemcpyAsync(static_cast<char*>(to) + done, s.half[turn], part,
                                cudaMemcpyHostToDevice, stream));
    HOTLOOP_TRY(cudaEventRecord(s.moved[turn], stream));
    done += part;
  }
  return cudaSuccess;
}

int to_host(int device, void* to, const void* from, std::int64_t bytes) {
  const OnDevice current(device);
  HOTLOOP_TRY(current.code());
  cudaStream_t stream;
  HOTLOOP_TRY(stream_of(device, &stream));
  Staging& s = staging_of(device);
  const std::lock_guard lock(s.mutex);
  HOTLOOP_TRY(prepare(s));
  const std::int64_t parts = (bytes + kHalf - 1) / kHalf;
  for (std::int64_t part = 0; part <= parts; ++part) {  // one ahead of what is emptied
    if (part < parts) {
      const std::int64_t begin = part * kHalf;
      const std::int64_t size = bytes - begin < kHalf ? bytes - begin : kHalf;
      HOTLOOP_TRY(cudaEventSynchronize(s.moved[part % 2]));
      HOTLOOP_TRY(cudaMemcpyAsync(s.half[part % 2], static_cast<const char*>(from) + begin, size,
                                  cudaMemcpyDeviceToHost, stream));
      HOTLOOP_TRY(cudaEventRecord(s.moved[part % 2], stream));
    }
    if (part > 0) {
      const std::int64_t begin = (part - 1) * kHalf;
      const std::int64_t size = bytes - begin < kHalf ? bytes - begin : kHalf;
      HOTLOOP_TRY(cudaEventSynchronize(s.moved[(part - 1) % 2]));
      std::memcpy(static_cast<char*>(to) + begin, s.half[(part - 1) % 2], size);
    }
  }
  return cudaSuccess;
}

int between(int to_device, void* to, int from_device, const void* from, std::int64_t bytes) {
  const OnDevice current(to_device);
  HOTLOOP_TRY(current.code());
  cudaStream_t stream;
  HOTLOOP_TRY(stream_of(to_device, &stream));
  if (to_device == from_device) {
    return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream);
  }
  {  // what the other device still computes comes first, and it keeps its memory until we are done
    const OnDevice other(from_device);
    HOTLOOP_TRY(other.code());
    cudaStream_t theirs;
    HOTLOOP_TRY(stream_of(from_device, &theirs));
    HOTLOOP_TRY(cudaStreamSynchronize(theirs));
  }
  HOTLOOP_TRY(cudaMemcpyPeerAsync(to, to_device, from, from_device, bytes, stream));
  return cudaStreamSynchronize(stream);
}

int wait_for(int device, void* other) {
  const OnDevice current(device);
  HOTLOOP_TRY(current.code());
  cudaStream_t stream;
  HOTLOOP_TRY(stream_of(device, &stream));
  Staging& s = staging_of(device);
  const std::lock_guard lock(s.mutex);
  HOTLOOP_TRY(cudaEventRecord(s.mark, static_cast<cudaStream_t>(other)));
  return cudaStreamWaitEvent(stream, s.mark, 0);
}

int let_wait(int device, void* other) {
  const OnDevice current(device);
  HOTLOOP_TRY(current.code());
  cudaStream_t stream;
  HOTLOOP_TRY(stream_of(device, &stream));
  Staging& s = staging_of(device);
  const std::lock_guard lock(s.mutex);
  HOTLOOP_TRY(cudaEventRecord(s.mark, stream));
  return cudaStreamWaitEvent(static_cast<cudaStream_t>(other), s.mark, 0);
}

}  // namespace hotloop::cuda
