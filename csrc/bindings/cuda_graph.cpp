// Graphs of the work on a GPU: what a whole training step gives to it, to be replayed at once. For
// bench/device_check.py and the tests, until hl.capture is there.
#include <memory>
#include <vector>

#include "bindings/device.h"
#include "bindings/gil.h"

namespace hotloop {
namespace {

class CudaGraph {
 public:
  explicit CudaGraph(int device) : api_(cuda_api("CudaGraph", device)), device_(device) {}
  ~CudaGraph() {
    if (capturing_) (void)finish();
    api_.graph_free(graph_);
  }
  CudaGraph(const CudaGraph&) = delete;
  CudaGraph& operator=(const CudaGraph&) = delete;

  void begin() {
    if (capturing_ || graph_) {
      throw std::runtime_error("CudaGraph: begin must come first and once, got it again");
    }
    first_ = peek_key();
    check_cuda("CudaGraph", "cudaStreamBeginCapture", api_.graph_begin(device_, first_.stream));
    set_capture(device_, first_);
    capturing_ = true;
  }

  void end() {
    if (!capturing_) throw std::runtime_error("CudaGraph: end must follow begin, got none");
    check_cuda("CudaGraph", "cudaStreamEndCapture", finish());
  }

  // Draws what as many eager steps would draw now.
  static float run(const std::vector<CudaGraph*>& graphs, int times, bool timed) {
    std::vector<void*> handles;
    for (const CudaGraph* each : graphs) {
      if (!each->graph_ || each->device_ != graphs[0]->device_) {
        throw std::runtime_error("CudaGraph: captured graphs of one device are expected");
      }
      handles.push_back(each->graph_);
    }
    std::uint64_t draws = 0;
    for (int i = 0; i < times; ++i) draws += graphs[i % graphs.size()]->draws_;
    const RandomKey next = next_keys(draws);
    float milliseconds = 0;
    int code = 0;
    {
      const GilReleased released;
      code = graphs[0]->api_.graph_replay(graphs[0]->device_, handles.data(),
                                          static_cast<int>(handles.size()), times, next.stream,
                                          next.seed, timed ? &milliseconds : nullptr);
    }
    check_cuda("CudaGraph", "cudaGraphLaunch", code);
    return milliseconds;
  }

  void replay() { (void)run({this}, 1, false); }
  std::uint64_t draws() const { return draws_; }

 private:
  int finish() {
    capturing_ = false;
    set_capture(kCpu, {});
    const RandomKey now = peek_key();
    draws_ = now.seed == first_.seed && now.stream > first_.stream ? now.stream - first_.stream : 0;
    if (draws_ > 0) set_key(first_);  // nothing was drawn yet
    return api_.graph_end(device_, draws_, &graph_);
  }

  const CudaApi& api_;
  int device_;
  bool capturing_ = false;
  void* graph_ = nullptr;
  RandomKey first_{};
  std::uint64_t draws_ = 0;
};

}  // namespace

void bind_cuda_graph(py::module_& m) {
  py::class_<CudaGraph>(m, "CudaGraph")
      .def(py::init<int>(), py::arg("device") = 0)
      .def("begin", &CudaGraph::begin)
      .def("end", &CudaGraph::end)
      .def("replay", &CudaGraph::replay)
      .def_property_readonly("draws", &CudaGraph::draws)
      // Of all replays together, the graphs in turn.
      .def_static("milliseconds", [](const py::sequence& sequence, int times) {
        const py::tuple kept(sequence);  // the list may change while they run
        std::vector<CudaGraph*> graphs;
        for (py::handle each : kept) graphs.push_back(each.cast<CudaGraph*>());
        if (graphs.empty()) throw std::invalid_argument("CudaGraph: graphs are expected, got none");
        return CudaGraph::run(graphs, times, true);
      });
}

}  // namespace hotloop
