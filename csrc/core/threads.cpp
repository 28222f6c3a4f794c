// The pool. One job at a time: the caller opens it, workers join while it is open, everybody claims
// pieces, the caller closes it and waits for those that joined, never for one that has not come. A
// second caller meanwhile works alone.
//
// Each thread begins with its own range of the pieces, the same at each call, and then takes from
// the far ends of the others' ranges: so data stays in the caches of one core from call to call (an
// Adam step over 35 MB took 0.31 ms so, and 0.52 ms where neighbouring pieces went to any thread).
//
// A short job (a few microseconds) does not wake those that sleep, which takes as long: they are
// woken when the next one comes soon after, and then spin for the others. What a worker reads to
// join lies in one cache line.
//
// `gate` holds the state of a job in one word, so that a worker that wakes late cannot join a job
// that is over: [63..32] number of the job, [15..1] workers inside now, [0] open. The pool is
// leaked: workers may run while the process exits, and a forked child, which has none of them,
// starts its own.
#include "core/threads.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <exception>
#include <thread>

#if defined(__linux__)
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace hotloop {
namespace {

constexpr std::uint64_t kOpen = 1, kInside = 2, kJob = std::uint64_t{1} << 32;
constexpr std::uint64_t kInsideMask = 0xfffe;
constexpr auto kSpin = std::chrono::microseconds(40);
constexpr auto kSoon = std::chrono::microseconds(100);
constexpr int kMostWorkers = 1023;

int current_cpu() {
#if defined(__linux__)
  return sched_getcpu();
#else
  return -1;
#endif
}

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

// Sleeps while `word` holds `value`; may wake without a reason.
void sleep_while(std::atomic<std::uint32_t>& word, std::uint32_t value) {
#if defined(__linux__)
  syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word), FUTEX_WAIT_PRIVATE, value, nullptr,
          nullptr, 0);
#else
  word.wait(value);
#endif
}

void wake(std::atomic<std::uint32_t>& word, int count) {
#if defined(__linux__)
  syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word), FUTEX_WAKE_PRIVATE, count, nullptr,
          nullptr, 0);
#else
  (void)count;
  word.notify_all();
#endif
}

// Spins for a while; true as soon as `ready` says so.
template <class Ready>
bool spin_until(Ready ready, bool patient) {
  if (ready()) return true;
  if (!patient) return false;
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 16; ++i) {
      if (ready()) return true;
      relax();
    }
  } while (std::chrono::steady_clock::now() < end);
  return ready();
}

// The pieces [begin, end) of a thread that nobody has claimed yet: [63..32] end, [31..0] begin.
struct alignas(64) Range {
  std::atomic<std::uint64_t> word{0};
};
constexpr std::uint64_t kEnd = std::uint64_t{1} << 32;

struct Job {
  void (*job)(const void*, std::int64_t);
  const void* context;
  int threads;
  bool from_end;
};

struct Pool {
  // What the threads contend for, each in a line of its own; with the gate what it lets in to.
  alignas(64) std::atomic<std::uint64_t> gate{0};
  Job job{};                    // the open job: written before the gate opens, read by those inside
  std::atomic<int> threads{0};  // of the open job: workers from this number on stay out
  std::atomic<int> cpu{-1};     // where the caller of the last job ran
  // Counts opened jobs: what idle workers look at all the time, and sleep on.
  alignas(64) std::atomic<std::uint32_t> calls{0};
  alignas(64) std::atomic<int> sleepers{0};
  alignas(64) std::atomic<std::uint32_t> left{0};  // counts last leavers: what the caller sleeps on
  std::atomic<bool> caller_sleeps{false};
  alignas(64) std::atomic<bool> busy{false};
  std::chrono::steady_clock::time_point asked{};  // the last short job that found all asleep
  std::atomic<int> workers{0};
  std::atomic<bool> patient{true};  // spin before sleeping: not with more threads than CPUs
  pid_t owner = getpid();
  Range ranges[kMostWorkers + 1];
};

std::atomic<Pool*> pool_in_force{nullptr};
thread_local int index_in_launch = 0;
thread_local bool inside = false;  // this thread works on a piece: a launch from there runs alone

// The first or the last piece of the range that is left; -1 when it is empty.
std::int64_t claim(Range& range, bool last) {
  std::uint64_t word = range.word.load(std::memory_order_relaxed);
  for (;;) {
    const std::uint64_t begin = word % kEnd, end = word / kEnd;
    if (begin >= end) return -1;
    const std::uint64_t rest = last ? word - kEnd : word + 1;
    if (range.word.compare_exchange_weak(word, rest, std::memory_order_relaxed)) {
      return static_cast<std::int64_t>(last ? end - 1 : begin);
    }
  }
}

// Works until no piece is left, or until `stop` says so; then false.
bool work_on(Pool& pool, const Job& job, int thread, bool (*stop)()) {
  bool first = true;
  for (int i = 0; i < job.threads; ++i) {
    Range& range = pool.ranges[(thread + i) % job.threads];
    const bool last = (i == 0) == job.from_end;  // thieves come from the other side
    for (std::int64_t piece; (piece = claim(range, last)) >= 0; first = false) {
      if (!first && stop && stop()) {
        for (int t = 0; t < job.threads; ++t) pool.ranges[t].word.store(0);
        return false;
      }
      job.job(job.context, piece);
    }
  }
  return true;
}

// Joins the open job if there is one with a place for this worker.
void join(Pool& pool, int thread) {
  std::uint64_t gate = pool.gate.load(std::memory_order_acquire);
  do {
    if (!(gate & kOpen) || thread >= pool.threads.load(std::memory_order_relaxed)) return;
  } while (!pool.gate.compare_exchange_weak(gate, gate + kInside, std::memory_order_acq_rel,
                                            std::memory_order_acquire));
  work_on(pool, pool.job, thread, nullptr);
  const std::uint64_t before = pool.gate.fetch_sub(kInside, std::memory_order_acq_rel);
  if ((before & kInsideMask) == kInside && !(before & kOpen)) {
    pool.left.fetch_add(1);
    if (pool.caller_sleeps.load()) wake(pool.left, 1);
  }
}

// A worker on the caller's CPU moves elsewhere, for good: the system likes to wake it beside who
// woke it, and leaves both there for seconds, at half their speed, though other CPUs are idle (seen
// in nine of ten jobs on a virtual machine). Whoever sets the worker's CPUs meanwhile is obeyed.
class Place {
 public:
#if defined(__linux__)
  Place() { CPU_ZERO(&_chosen); }
  void avoid(int cpu) {
    if (cpu < 0 || current_cpu() != cpu) return;
    cpu_set_t now;
    if (sched_getaffinity(0, sizeof now, &now) != 0) return;
    if (!CPU_EQUAL(&now, &_chosen)) _allowed = now;
    cpu_set_t others = _allowed;
    if (cpu < CPU_SETSIZE) CPU_CLR(cpu, &others);
    if (CPU_COUNT(&others) > 0 && sched_setaffinity(0, sizeof others, &others) == 0) {
      _chosen = others;
    }
  }

 private:
  cpu_set_t _allowed, _chosen;  // by the process or its user; by us
#else
  void avoid(int) {}
#endif
};

void work(Pool* pool, int thread) {
  inside = true;
  index_in_launch = thread;
  Place place;
  std::uint32_t seen = 0;
  const auto is_new = [&] { return pool->calls.load(std::memory_order_acquire) != seen; };
  for (;;) {
    if (!spin_until(is_new, pool->patient.load(std::memory_order_relaxed))) {
      pool->sleepers.fetch_add(1);
      while (pool->calls.load() == seen) sleep_while(pool->calls, seen);
      pool->sleepers.fetch_sub(1);
    }
    seen = pool->calls.load();
    if (pool->patient.load(std::memory_order_relaxed)) {
      place.avoid(pool->cpu.load(std::memory_order_relaxed));
    }
    join(*pool, thread);
  }
}

// Starts what is missing; fewer workers than asked for is no error.
void start_workers(Pool& pool, int count) {
  if (pool.workers.load() >= count) return;
  static const int cpus = static_cast<int>(std::thread::hardware_concurrency());
  pool.patient.store(count < cpus);
  sigset_t all, before;  // signals belong to the program's own threads
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    while (pool.workers.load() < count) {
      std::thread(work, &pool, pool.workers.load() + 1).detach();
      pool.workers.fetch_add(1);
    }
  } catch (const std::exception&) {
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void forget_pool() {
  pool_in_force.store(nullptr);
}

Pool& pool_of_process() {
  Pool* pool = pool_in_force.load(std::memory_order_acquire);
  // A fork without its handlers (a raw clone) shows in the process id.
  if (pool && pool->owner == getpid()) return *pool;
  static const int registered = pthread_atfork(nullptr, nullptr, forget_pool);
  (void)registered;
  Pool* made = new Pool;
  if (pool_in_force.compare_exchange_strong(pool, made)) return *made;
  delete made;
  return *pool;
}

bool run_alone(void (*job)(const void*, std::int64_t), const void* context, std::int64_t pieces,
               bool from_end, bool (*stop)()) {
  for (std::int64_t done = 0; done < pieces; ++done) {
    if (done && stop && stop()) return false;
    job(context, from_end ? pieces - 1 - done : done);
  }
  return true;
}

// Whether a short job had better leave the workers asleep.
bool all_may_sleep(Pool& pool) {
  if (pool.sleepers.load() < pool.workers.load()) return false;
  const auto now = std::chrono::steady_clock::now();
  const bool soon = now - pool.asked < kSoon;
  pool.asked = now;
  return !soon;
}

void wait_for_those_inside(Pool& pool) {
  const auto empty = [&] { return (pool.gate.load(std::memory_order_acquire) & kInsideMask) == 0; };
  if (spin_until(empty, pool.patient.load(std::memory_order_relaxed))) return;
  pool.caller_sleeps.store(true);
  for (;;) {
    const std::uint32_t seen = pool.left.load();
    if (empty()) break;
    sleep_while(pool.left, seen);
  }
  pool.caller_sleeps.store(false);
}

}  // namespace

int workers_alive() {
  const Pool* pool = pool_in_force.load();
  return pool && pool->owner == getpid() ? pool->workers.load() : 0;
}

int thread_index() {
  return index_in_launch;
}

bool run_pieces(void (*job)(const void* context, std::int64_t piece), const void* context,
                std::int64_t pieces, int threads, bool from_end, bool is_short, bool (*stop)()) {
  if (pieces < threads) threads = static_cast<int>(pieces);
  if (threads > kMostWorkers + 1) threads = kMostWorkers + 1;
  if (threads <= 1 || inside) return run_alone(job, context, pieces, from_end, stop);
  Pool& pool = pool_of_process();
  if (pool.busy.exchange(true, std::memory_order_acquire)) {
    return run_alone(job, context, pieces, from_end, stop);
  }

  start_workers(pool, threads - 1);
  if (is_short && all_may_sleep(pool)) {
    pool.busy.store(false, std::memory_order_release);
    return run_alone(job, context, pieces, from_end, stop);
  }
  for (int t = 0; t < threads; ++t) {
    const auto begin = static_cast<std::uint64_t>(pieces * t / threads);
    const auto end = static_cast<std::uint64_t>(pieces * (t + 1) / threads);
    pool.ranges[t].word.store(begin + end * kEnd, std::memory_order_relaxed);
  }
  // Last, since it shares the gate's line.
  pool.job = {job, context, threads, from_end};
  pool.threads.store(threads, std::memory_order_relaxed);
  pool.cpu.store(current_cpu(), std::memory_order_relaxed);
  // Nobody is inside and nobody can come in, so a plain store opens the next job.
  const std::uint64_t number = pool.gate.load(std::memory_order_relaxed) / kJob + 1;
  pool.gate.store(number * kJob + kOpen, std::memory_order_release);
  pool.calls.fetch_add(1);
  // Workers beyond this job's threads stay out of it, so where there are any, all are woken.
  if (pool.sleepers.load() > 0) {
    wake(pool.calls, pool.workers.load() < threads ? threads - 1 : kMostWorkers);
  }

  inside = true;
  const bool finished = work_on(pool, pool.job, 0, stop);
  inside = false;

  pool.gate.fetch_and(~kOpen, std::memory_order_acq_rel);
  wait_for_those_inside(pool);
  pool.busy.store(false, std::memory_order_release);
  return finished;
}

}  // namespace hotloop
