// The ground floor as Python sees it: levels, threads, arena, random keys; and Ctrl-C.
#include <pybind11/pybind11.h>
#include <unistd.h>

#if defined(__linux__)
#include <sys/syscall.h>
#endif

#include <atomic>
#include <chrono>
#include <thread>

#include "bindings/gil.h"
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

// For tests: a launch whose units only sleep. The units done so far are counted, over all calls.
struct SleepArgs {
  std::int64_t microseconds;
  std::atomic<std::int64_t>* done;
};
std::atomic<std::int64_t> units_slept{0};

void sleep_units(const SleepArgs& args, std::int64_t begin, std::int64_t end) {
  for (std::int64_t unit = begin; unit < end; ++unit) {
    std::this_thread::sleep_for(std::chrono::microseconds(args.microseconds));
    args.done->fetch_add(1);
  }
}

void sleep_launch(std::int64_t units, std::int64_t microseconds, bool interruptible) {
  const GilReleased released;
  launch(sleep_units, SleepArgs{microseconds, &units_slept},
         {.units = units, .interruptible = interruptible});
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
  module.def("sleep_launch", &sleep_launch);
  module.def("units_slept", [] { return units_slept.load(); });

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
