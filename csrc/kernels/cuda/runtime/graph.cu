// CUDA graphs of what a device's stream is given: captured, replayed, timed.
//
// While a graph is being made, a synchronization or a read-back is an error, so a captured training
// step is known to do neither. Its memory is its own (memory.cu). Random numbers: the kernels add
// what lies at `draws` to their stream, and a replay writes there, first of all, how far the
// process's streams have moved since the capture: so replays draw what as many eager steps would.
#include "kernels/cuda/runtime/device.cuh"
#include "kernels/random.h"

namespace hotloop::cuda {
namespace {

struct Graph {
  cudaGraphExec_t executable = nullptr;
  GraphMemory* memory = nullptr;
  RandomDraws* draws = nullptr;        // on the device
  std::uint64_t first = 0, count = 0;  // of the streams that the capture took
  int device = 0;
};

thread_local Graph* captured[kMostDevices] = {};  // by this thread

__global__ void set_draws(RandomDraws* draws, std::uint64_t stream, std::uint64_t seed) {
  draws->stream = stream;
  draws->seed = seed;
}

void discard(Graph* graph) {
  const OnDevice current(graph->device);
  if (graph->executable) (void)cudaGraphExecDestroy(graph->executable);
  if (graph->memory) free_graph_memory(graph->memory);
  const AllowMalloc allowed;
  (void)cudaFree(graph->draws);
  delete graph;
}

}  // namespace

int graph_begin(int device, std::uint64_t first) {
  const OnDevice current(device);
  if (current.code() != cudaSuccess) return current.code();
  cudaStream_t stream;
  int code = stream_of(device, &stream);
  // Made now: the capture would note that it is set to zero.
  IndexFault* record = nullptr;
  if (code == cudaSuccess) code = fault_record(device, &record);
  void* draws = nullptr;
  if (code == cudaSuccess) code = cudaMalloc(&draws, sizeof(RandomDraws));
  if (code != cudaSuccess) {
    (void)cudaGetLastError();
    return code;
  }
  code = cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
  if (code != cudaSuccess) {
    (void)cudaGetLastError();
    (void)cudaFree(draws);
    return code;
  }
  Graph* const graph = new Graph;
  graph->device = device;
  graph->first = first;
  graph->draws = static_cast<RandomDraws*>(draws);
  graph->memory = begin_graph_memory(device);
  captured[device] = graph;
  return cudaSuccess;
}

int graph_end(int device, std::uint64_t draws, void** made) {
  *made = nullptr;
  Graph* const graph = captured[device];
  if (!graph) return cudaErrorInvalidValue;
  captured[device] = nullptr;
  end_graph_memory(graph->memory);
  graph->count = draws;
  const OnDevice current(device);
  cudaStream_t stream;
  int code = stream_of(device, &stream);
  cudaGraph_t noted = nullptr;
  if (code == cudaSuccess) code = cudaStreamEndCapture(stream, &noted);
  if (code == cudaSuccess) code = cudaGraphInstantiate(&graph->executable, noted, 0);
  if (noted) (void)cudaGraphDestroy(noted);
  if (code == cudaSuccess) {
    *made = graph;
  } else {
    (void)cudaGetLastError();
    discard(graph);
  }
  return code;
}

const RandomDraws* graph_draws(int device) {
  return captured[device] ? captured[device]->draws : nullptr;
}

int graph_replay(int device, void* const* graphs, int count, int times, std::uint64_t next,
                 std::uint64_t seed, float* milliseconds) {
  const OnDevice current(device);
  cudaStream_t stream;
  int code = stream_of(device, &stream);
  cudaEvent_t begin = nullptr, end = nullptr;
  if (milliseconds) {
    if (code == cudaSuccess) code = cudaEventCreate(&begin);
    if (code == cudaSuccess) code = cudaEventCreate(&end);
    if (code == cudaSuccess) code = cudaEventRecord(begin, stream);
  }
  for (int i = 0; i < times && code == cudaSuccess; ++i) {
    const Graph& graph = *static_cast<const Graph*>(graphs[i % count]);
    if (graph.count > 0) {
      HOTLOOP_LAUNCH(set_draws, 1, 1, 0, stream, graph.draws, next - graph.first, seed);
      next += graph.count;
    }
    code = cudaGraphLaunch(graph.executable, stream);
  }
  if (milliseconds) {
    if (code == cudaSuccess) code = cudaEventRecord(end, stream);
    if (code == cudaSuccess) code = cudaEventSynchronize(end);
    if (code == cudaSuccess) code = cudaEventElapsedTime(milliseconds, begin, end);
    if (begin) (void)cudaEventDestroy(begin);
    if (end) (void)cudaEventDestroy(end);
  }
  return code == cudaSuccess ? cudaGetLastError() : code;
}

void graph_free(void* made) {
  if (made) discard(static_cast<Graph*>(made));
}

}  // namespace hotloop::cuda
