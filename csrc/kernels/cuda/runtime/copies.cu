// Copies between the host and a device, through two halves of pinned memory: the bus moves one
// while the processor fills or empties the other. Pageable memory alone would be copied by the
// driver piece by piece, and waited for.
//
// Whoever waits for the device also learns what kernels have found in indices meanwhile: the record
// comes along in the same stream, once there is one, so that looking costs no second wait.
#include <atomic>
#include <cstring>
#include <mutex>

#include "kernels/cuda/runtime/device.cuh"
#include "kernels/index_check.h"

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
  cudaEvent_t mark = nullptr;    // for waiting of one stream on another
  bool made = false;             // the stream and its mark
  bool ready = false;            // the halves and their events
  IndexFault* record = nullptr;  // on the device; made when a kernel that checks is first wanted
  IndexFault* seen = nullptr;    // pinned
  std::atomic<std::int64_t> copies_to_device{0}, copies_to_host{0}, copies_between{0}, waits{0};
};

Staging& staging_of(int device) {
  static Staging* const all = new Staging[kMostDevices];  // leaked: outlives late threads
  return all[device];
}

// The staging is locked.
cudaError_t prepare(Staging& s) {
  if (s.ready) return cudaSuccess;
  for (int i = 0; i < 2; ++i) {
    if (!s.half[i]) HOTLOOP_TRY(cudaMallocHost(reinterpret_cast<void**>(&s.half[i]), kHalf));
    if (!s.moved[i]) HOTLOOP_TRY(cudaEventCreateWithFlags(&s.moved[i], cudaEventDisableTiming));
  }
  s.ready = true;
  return cudaSuccess;
}

// How a call that transfers or waits begins: the device is current, its staging locked.
class Transfer {
 public:
  explicit Transfer(int device)
      : current_(device), staging(staging_of(device)), lock_(staging.mutex) {
    code_ = current_.code();
    if (code_ == cudaSuccess) code_ = stream_of(device, &stream);
  }
  cudaError_t code() const { return code_; }

 private:
  OnDevice current_;

 public:
  Staging& staging;
  cudaStream_t stream = nullptr;

 private:
  std::lock_guard<std::mutex> lock_;
  cudaError_t code_;
};

// In the stream, before what the caller waits for; then, after it.
cudaError_t ask_for_fault(const Transfer& on) {
  if (!on.staging.record) return cudaSuccess;
  return cudaMemcpyAsync(on.staging.seen, on.staging.record, sizeof(IndexFault),
                         cudaMemcpyDeviceToHost, on.stream);
}
cudaError_t take_fault(const Transfer& on, IndexFault* found) {
  *found = {};
  if (!on.staging.record || !on.staging.seen->rule) return cudaSuccess;
  *found = *on.staging.seen;
  return cudaMemsetAsync(on.staging.record, 0, sizeof(IndexFault), on.stream);
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
  const Transfer on(device);
  HOTLOOP_TRY(on.code());
  Staging& s = on.staging;
  HOTLOOP_TRY(prepare(s));
  ++s.copies_to_device;
  for (std::int64_t done = 0, turn = 0; done < bytes; turn ^= 1) {
    const std::int64_t part = bytes - done < kHalf ? bytes - done : kHalf;
    HOTLOOP_TRY(cudaEventSynchronize(s.moved[turn]));  // at once where it was never recorded
    std::memcpy(s.half[turn], static_cast<const char*>(from) + done, part);
    HOTLOOP_TRY(cudaMemcpyAsync(static_cast<char*>(to) + done, s.half[turn], part,
                                cudaMemcpyHostToDevice, on.stream));
    HOTLOOP_TRY(cudaEventRecord(s.moved[turn], on.stream));
    done += part;
  }
  return cudaSuccess;
}

int to_host(int device, void* to, const void* from, std::int64_t bytes, IndexFault* found) {
  *found = {};
  const Transfer on(device);
  HOTLOOP_TRY(on.code());
  Staging& s = on.staging;
  HOTLOOP_TRY(prepare(s));
  ++s.copies_to_host;
  if (bytes <= 0) return cudaSuccess;  // nobody waits
  HOTLOOP_TRY(ask_for_fault(on));
  const std::int64_t parts = (bytes + kHalf - 1) / kHalf;
  for (std::int64_t part = 0; part <= parts; ++part) {  // one ahead of what is emptied
    if (part < parts) {
      const std::int64_t begin = part * kHalf;
      const std::int64_t size = bytes - begin < kHalf ? bytes - begin : kHalf;
      HOTLOOP_TRY(cudaEventSynchronize(s.moved[part % 2]));
      HOTLOOP_TRY(cudaMemcpyAsync(s.half[part % 2], static_cast<const char*>(from) + begin, size,
                                  cudaMemcpyDeviceToHost, on.stream));
      HOTLOOP_TRY(cudaEventRecord(s.moved[part % 2], on.stream));
    }
    if (part > 0) {
      const std::int64_t begin = (part - 1) * kHalf;
      const std::int64_t size = bytes - begin < kHalf ? bytes - begin : kHalf;
      HOTLOOP_TRY(cudaEventSynchronize(s.moved[(part - 1) % 2]));
      std::memcpy(static_cast<char*>(to) + begin, s.half[(part - 1) % 2], size);
    }
  }
  return take_fault(on, found);
}

int synchronize(int device, IndexFault* found) {
  *found = {};
  const Transfer on(device);
  HOTLOOP_TRY(on.code());
  ++on.staging.waits;
  HOTLOOP_TRY(ask_for_fault(on));
  HOTLOOP_TRY(cudaStreamSynchronize(on.stream));
  return take_fault(on, found);
}

int fault_record(int device, IndexFault** record) {
  const Transfer on(device);
  HOTLOOP_TRY(on.code());
  Staging& s = on.staging;
  if (!s.seen) {
    HOTLOOP_TRY(cudaMallocHost(reinterpret_cast<void**>(&s.seen), sizeof(IndexFault)));
  }
  if (!s.record) {
    void* made = nullptr;
    HOTLOOP_TRY(cudaMalloc(&made, sizeof(IndexFault)));
    if (const cudaError_t code = cudaMemsetAsync(made, 0, sizeof(IndexFault), on.stream);
        code != cudaSuccess) {
      (void)cudaFree(made);
      return code;
    }
    s.record = static_cast<IndexFault*>(made);
  }
  *record = s.record;
  return cudaSuccess;
}

void traffic(int device, CudaTraffic* numbers) {
  const Staging& s = staging_of(device);
  *numbers = {s.copies_to_device, s.copies_to_host, s.copies_between, s.waits};
}

int between(int to_device, void* to, int from_device, const void* from, std::int64_t bytes) {
  const OnDevice current(to_device);
  HOTLOOP_TRY(current.code());
  cudaStream_t stream;
  HOTLOOP_TRY(stream_of(to_device, &stream));
  if (to_device == from_device) {
    return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream);
  }
  ++staging_of(to_device).copies_between;
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
  const Transfer on(device);
  HOTLOOP_TRY(on.code());
  HOTLOOP_TRY(cudaEventRecord(on.staging.mark, static_cast<cudaStream_t>(other)));
  return cudaStreamWaitEvent(on.stream, on.staging.mark, 0);
}

int let_wait(int device, void* other) {
  const Transfer on(device);
  HOTLOOP_TRY(on.code());
  HOTLOOP_TRY(cudaEventRecord(on.staging.mark, on.stream));
  return cudaStreamWaitEvent(static_cast<cudaStream_t>(other), on.staging.mark, 0);
}

}  // namespace hotloop::cuda
