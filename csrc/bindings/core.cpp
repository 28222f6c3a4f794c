// The ground floor as Python sees it: levels, threads, arena, random keys; and Ctrl-C.
#include <pybind11/pybind11.h>
#include <unistd.h>

#if defined(__linux__)
#include <sys/syscall.h>
#endif

#include "core/arena.h"
#include "core/launch.h"
#include "core/levels.h"
#include "core/philox.h"
#include "core/threads.h"
#include "math/philox.h"

namespace py = pybind11;

namespace hotloop {
namespace {

// Signal handlers run on the main thread alone, so nobody else asks for the GIL.
bool signal_pending() {
#if defined(__linux__)
  if (syscall(SYS_gettid) != getpid()) return false;
#endif
  const PyGILState_STATE state = PyGILState_Ensure();
  const bool raised = PyErr_CheckSignals() != 0;
  PyGILState_Release(state);
  return raised;
}

py::tuple supported_levels() {
  py::list names;
  for (int i = 0; i < kLevels; ++i) {
    const Level level = static_cast<Level>(i);
    if (level_supported(level)) names.append(level_name(level));
  }
  return py::tuple(names);
}

// Returns what had been forced before, None for nothing, so that scopes can nest.
py::object force(const std::string& name) {
  py::object before = py::none();
  if (level_is_forced()) before = py::str(level_name(level_in_force()));
  force_level(name);
  return before;
}

py::dict arena_numbers() {
  const ArenaStats stats = arena_stats();
  py::dict numbers;
  numbers["in_use_bytes"] = stats.in_use_bytes;
  numbers["cached_bytes"] = stats.cached_bytes;
  numbers["allocations"] = stats.allocations;
  numbers["cache_hits"] = stats.cache_hits;
  return numbers;
}

}  // namespace

void bind_core(py::module_& module) {
  module.def("level", [] { return level_name(level_in_force()); });
  module.def("level_reason", &level_reason);
  module.def("supported_levels", &supported_levels);
  module.def("cpu_features", &cpu_features);
  module.def("force_level", &force);
  module.def("unforce_level", &unforce_level);

  module.def("num_threads", &num_threads);
  module.def("set_num_threads", &set_num_threads);
  module.def("num_threads_reason", &num_threads_reason);
  module.def("workers_alive", &workers_alive);
  module.def("cgroup_cpus", &cgroup_cpus);

  module.def("arena_stats", &arena_numbers);
  module.def("arena_trim", &arena_trim);

  module.def("set_seed", &set_seed);
  module.def("get_key", [] {
    const RandomKey key = peek_key();
    return py::make_tuple(key.seed, key.stream);
  });
  module.def("set_key", [](std::uint64_t seed, std::uint64_t stream) { set_key({seed, stream}); });

  module.def("philox", [](std::uint64_t seed, std::uint64_t stream, std::uint64_t index) {
    const math::PhiloxBlock block = math::philox_at(seed, stream, index);
    return py::make_tuple(block.word[0], block.word[1], block.word[2], block.word[3]);
  });

  set_interrupt_hook(signal_pending);
}

}  // namespace hotloop
