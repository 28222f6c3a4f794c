// How many CPUs this process may use: what the scheduler allows (affinity), what the container pays
// for (cgroup quota) and what the user asked for. The least of them.
#include <sched.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <mutex>
#include <sstream>
#include <stdexcept>
#include <thread>

#include "core/threads.h"

namespace hotloop {
namespace {

constexpr int kMostThreads = 1024;

int affinity_cpus() {
#if defined(__linux__)
  for (int cpus = 1024; cpus <= (1 << 16); cpus *= 2) {
    const std::unique_ptr<cpu_set_t, void (*)(cpu_set_t*)> set(CPU_ALLOC(cpus),
                                                               [](cpu_set_t* s) { CPU_FREE(s); });
    const std::size_t bytes = CPU_ALLOC_SIZE(cpus);
    if (!set) break;
    CPU_ZERO_S(bytes, set.get());
    if (sched_getaffinity(0, bytes, set.get()) == 0) {
      const int count = CPU_COUNT_S(bytes, set.get());
      return count > 0 ? count : 1;
    }
    if (errno != EINVAL) break;
  }
#endif
  const unsigned count = std::thread::hardware_concurrency();
  return count > 0 ? static_cast<int>(count) : 1;
}

double ratio(double quota, double period) {
  return quota > 0 && period > 0 ? quota / period : 0;
}

double limit_v2(const std::string& folder) {
  std::ifstream file(folder + "/cpu.max");
  std::string quota;
  double period = 0;
  if (!(file >> quota >> period) || quota == "max") return 0;
  return ratio(std::strtod(quota.c_str(), nullptr), period);
}

double limit_v1(const std::string& folder) {
  std::ifstream quota_file(folder + "/cpu.cfs_quota_us");
  std::ifstream period_file(folder + "/cpu.cfs_period_us");
  double quota = 0, period = 0;
  if (!(quota_file >> quota) || !(period_file >> period)) return 0;
  return ratio(quota, period);
}

// The least limit over the group at `path` and all above it. Inside a container the path may belong
// to the host's tree; then its folders are missing and the mount's own root counts.
double least_limit(const std::string& mount, std::string path,
                   double (*limit)(const std::string&)) {
  double least = 0;
  for (;;) {
    const double found = limit(mount + (path == "/" ? "" : path));
    if (found > 0 && (least <= 0 || found < least)) least = found;
    const std::size_t slash = path.rfind('/');
    if (slash == std::string::npos || path.empty() || path == "/") return least;
    path.resize(slash);
  }
}

bool has_word(const std::string& list, const std::string& word) {
  return ("," + list + ",").find("," + word + ",") != std::string::npos;
}

struct Count {
  int threads;
  std::string reason;
};

// A number of threads from the environment; 0 when unset. OMP_NUM_THREADS may be a list: the first
// counts, and what is not a number is not our business there.
int from_environment(const char* name, bool strict) {
  const char* text = std::getenv(name);
  if (!text || !*text) return 0;
  char* end = nullptr;
  const long value = std::strtol(text, &end, 10);
  const bool whole = end != text && (*end == '\0' || (!strict && (*end == ',' || *end == ' ')));
  if (whole && value >= 1) return value < kMostThreads ? static_cast<int>(value) : kMostThreads;
  if (!strict) return 0;
  throw std::invalid_argument(std::string(name) + ": must be a whole number of at least 1, got '" +
                              text + "'; unset it to use every CPU of the process");
}

Count count_threads() {
  const int affinity = affinity_cpus();
  const double quota = cgroup_cpus("");
  Count count{affinity, std::to_string(affinity) + ": the CPUs that this process may run on"};
  // Rounded up: a quota of 1.5 CPUs lets two threads run most of the time.
  const int allowed = quota > 0 ? static_cast<int>(std::ceil(quota)) : count.threads;
  if (allowed < count.threads) {
    count = {allowed, std::to_string(allowed) + ": the CPU quota of the control group"};
  }
  const char* name = "HOTLOOP_NUM_THREADS";
  int wanted = from_environment(name, true);
  if (!wanted) wanted = from_environment(name = "OMP_NUM_THREADS", false);
  if (wanted && wanted < count.threads) {
    count = {wanted, std::to_string(wanted) + ": " + name};
  }
  return count;
}

std::atomic<int> threads_wanted{0};  // by set_num_threads; 0: not set
std::atomic<int> threads_counted{0};

}  // namespace

double cgroup_cpus(const std::string& root) {
  std::ifstream groups(root + "/proc/self/cgroup");
  const std::string mounts = root + "/sys/fs/cgroup";
  double least = 0;
  std::string line;
  while (std::getline(groups, line)) {  // "0::/path" (v2) or "4:cpu,cpuacct:/path" (v1)
    const std::size_t first = line.find(':');
    const std::size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string path = line.substr(second + 1);
    double found = 0;
    if (controllers.empty()) {
      found = least_limit(mounts, path, limit_v2);
    } else if (has_word(controllers, "cpu")) {
      found = least_limit(mounts + "/" + controllers, path, limit_v1);
      if (found <= 0) found = least_limit(mounts + "/cpu", path, limit_v1);
    }
    if (found > 0 && (least <= 0 || found < least)) least = found;
  }
  return least;
}

int num_threads() {
  if (const int wanted = threads_wanted.load(std::memory_order_relaxed)) return wanted;
  if (const int counted = threads_counted.load(std::memory_order_relaxed)) return counted;
  const int counted = count_threads().threads;
  threads_counted.store(counted);
  return counted;
}

void set_num_threads(int threads) {
  if (threads < 1 || threads > kMostThreads) {
    throw std::invalid_argument("set_num_threads: the number must be between 1 and " +
                                std::to_string(kMostThreads) + ", got " + std::to_string(threads) +
                                "; one thread is the least");
  }
  threads_wanted.store(threads);
}

std::string num_threads_reason() {
  if (const int wanted = threads_wanted.load()) return std::to_string(wanted) + ": set_num_threads";
  return count_threads().reason;
}

}  // namespace hotloop
