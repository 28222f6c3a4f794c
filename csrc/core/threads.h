// The pool: a few workers that are started at first use and that a forked child starts anew.
#pragma once

#include <cstdint>
#include <string>

namespace hotloop {

// min(affinity, cgroup quota, HOTLOOP_NUM_THREADS or OMP_NUM_THREADS), unless set_num_threads was
// called.
int num_threads();
void set_num_threads(int threads);
// One sentence: how the number came about.
std::string num_threads_reason();
// Workers alive at this moment (0 before first use): for tests.
int workers_alive();
// Index of the calling thread inside the current launch: 0 for the caller, 1.. for workers.
// For scratch memory per thread, never for anything that changes a result.
int thread_index();

// CPUs that the control groups of this process allow (quota / period of cgroup v2 or v1, the least
// over the group and those above it); 0 when there is no limit. `root` stands for "/" in tests.
double cgroup_cpus(const std::string& root);

// Runs job(context, i) for i in [0, pieces), fewer than 2^31; each claimed by whoever is free; the
// caller takes part. `from_end`: each thread begins at the end of its own range. `is_short`: not
// worth waking anybody for. `stop` is asked by the caller between its pieces; once it says true no
// further piece is claimed. Returns false when stopped early.
bool run_pieces(void (*job)(const void* context, std::int64_t piece), const void* context,
                std::int64_t pieces, int threads, bool from_end, bool is_short, bool (*stop)());

}  // namespace hotloop
