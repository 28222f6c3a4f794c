// A CUDA graph of what a device's stream is given, and the time that it takes: for
// bench/device_check.py, which finds these functions by their names. While a graph is being made,
// an allocation that the cache does not serve, a synchronization or a read-back is an error: so a
// captured training step is known to do none of them.
#include "kernels/cuda/runtime/device.cuh"

namespace hotloop::cuda {
namespace {

struct Graph {
  cudaGraphExec_t executable = nullptr;
};

}  // namespace

HOTLOOP_CUDA_EXPORT int hotloop_cuda_graph_begin(int device) {
  const OnDevice current(device);
  cudaStream_t stream;
  const cudaError_t code = stream_of(device, &stream);
  return code != cudaSuccess ? code
                             : cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
}

HOTLOOP_CUDA_EXPORT int hotloop_cuda_graph_end(int device, void** made) {
  *made = nullptr;
  const OnDevice current(device);
  cudaStream_t stream;
  cudaError_t code = stream_of(device, &stream);
  if (code != cudaSuccess) return code;
  cudaGraph_t graph = nullptr;
  code = cudaStreamEndCapture(stream, &graph);
  if (code != cudaSuccess) return code;
  Graph* const result = new Graph;
  code = cudaGraphInstantiate(&result->executable, graph, 0);
  (void)cudaGraphDestroy(graph);
  if (code == cudaSuccess) {
    *made = result;
  } else {
    delete result;
  }
  return code;
}

// Runs the graphs in turn, `times` in all, and measures between two events on the stream.
HOTLOOP_CUDA_EXPORT int hotloop_cuda_graph_run(int device, void** graphs, int count, int times,
                                               float* milliseconds) {
  const OnDevice current(device);
  cudaStream_t stream;
  cudaError_t code = stream_of(device, &stream);
  cudaEvent_t begin = nullptr, end = nullptr;
  if (code == cudaSuccess) code = cudaEventCreate(&begin);
  if (code == cudaSuccess) code = cudaEventCreate(&end);
  if (code == cudaSuccess) code = cudaEventRecord(begin, stream);
  for (int i = 0; i < times && code == cudaSuccess; ++i) {
    code = cudaGraphLaunch(static_cast<Graph*>(graphs[i % count])->executable, stream);
  }
  if (code == cudaSuccess) code = cudaEventRecord(end, stream);
  if (code == cudaSuccess) code = cudaEventSynchronize(end);
  if (code == cudaSuccess) code = cudaEventElapsedTime(milliseconds, begin, end);
  if (begin) (void)cudaEventDestroy(begin);
  if (end) (void)cudaEventDestroy(end);
  return code;
}

HOTLOOP_CUDA_EXPORT void hotloop_cuda_graph_free(void* made) {
  Graph* const graph = static_cast<Graph*>(made);
  if (!graph) return;
  (void)cudaGraphExecDestroy(graph->executable);
  delete graph;
}

}  // namespace hotloop::cuda
