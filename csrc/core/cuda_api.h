// What the CUDA library hands to _core besides its kernels: one table of functions, found under the
// name hotloop_cuda_api. Plain C types, no exceptions; results are CUDA's error codes, 0 is
// success.
#pragma once

#include <cstdint>

namespace hotloop {

inline constexpr int kCudaAbi = 3;  // raised with every change of this file or an argument struct

struct CudaDevice {
  char name[256];
  int major, minor, processors;
  bool runs;  // the library holds code for it
  std::int64_t free_bytes, total_bytes;
};

struct CudaMemory {
  std::int64_t in_use_bytes, cached_bytes, allocations, cache_hits;
  std::int64_t
      graph_bytes;  // kept for replays by captured graphs, whether an array holds them or not
};

// What has crossed the bus or waited for the device since the library was opened.
struct CudaTraffic {
  std::int64_t copies_to_device, copies_to_host, copies_between, synchronizations;
};

struct IndexFault;   // kernels/index_check.h
struct RandomDraws;  // kernels/random.h

struct CudaApi {
  int abi;
  bool emulated;
  const char* architectures;  // what it was built for, as CMake names them: "80-real;90a-real"
  int (*device_count)(int* count);
  int (*describe)(int device, CudaDevice* found);
  const char* (*error_name)(int code);
  const char* (*error_text)(int code);

  // Memory for the device's stream: what is released may be handed out again at once, since work
  // on one stream is done in order.
  int (*allocate)(int device, std::int64_t bytes, void** pointer);
  void (*release)(int device, void* pointer);
  int (*empty_cache)(int device);
  void (*memory)(int device, CudaMemory* numbers);
  void (*traffic)(int device, CudaTraffic* numbers);

  // Copies on the device's stream. From the host: done with `from` on return. To the host: done,
  // with what kernels have found in indices until then, which is forgotten by the device.
  int (*to_device)(int device, void* to, const void* from, std::int64_t bytes);
  int (*to_host)(int device, void* to, const void* from, std::int64_t bytes, IndexFault* found);
  int (*between)(int to_device, void* to, int from_device, const void* from, std::int64_t bytes);

  // Makes the device current for a launch on its stream; leave() restores the one before.
  int (*enter)(int device, void** stream, int* before);
  void (*leave)(int before);
  int (*synchronize)(int device, IndexFault* found);     // `found` as to_host gives it
  int (*fault_record)(int device, IndexFault** record);  // where kernels put what they find
  int (*wait_for)(int device, void* other);  // our stream waits for what is on the other now
  int (*let_wait)(int device, void* other);  // the other waits for what is on ours now

  // Graphs (runtime/graph.cu). begin: from now on what this thread gives to the device's stream is
  // noted and not done; its first random stream will be `first`. end: `draws` streams were taken.
  int (*graph_begin)(int device, std::uint64_t first);
  int (*graph_end)(int device, std::uint64_t draws, void** graph);
  // Where kernels of the graph that this thread captures find their draws; null: it captures none.
  const RandomDraws* (*graph_draws)(int device);
  // Replays the graphs in turn, `times` in all; they draw from stream `next` on. `milliseconds`:
  // null, or how long that took, which is waited for.
  int (*graph_replay)(int device, void* const* graphs, int count, int times, std::uint64_t next,
                      std::uint64_t seed, float* milliseconds);
  void (*graph_free)(void* graph);  // also gives back its memory
};

}  // namespace hotloop
