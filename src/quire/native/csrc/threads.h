// A thread pool that distributes units of work by work stealing. The caller is worker 0, so one thread means
// no pool at all.
//
// Between calls workers spin briefly (a decode step has many short phases) and then park. Each worker has a
// contiguous range of units that it processes in order, so that its prefetches are what it reads next; when
// it is done it steals from the backs of the others' ranges. No unit's result depends on the worker that
// computes it, so scheduling cannot change a bit.
#pragma once

#include <atomic>
#include <cfenv>
#include <cstdint>
#include <functional>
#include <memory>

namespace quire {

// The default floating-point environment during its lifetime: a caller may round otherwise or flush
// denormals, our bits must not change.
class DefaultFloats {
 public:
  DefaultFloats() {
    std::fegetenv(&callers_);
    std::fesetenv(FE_DFL_ENV);
  }
  ~DefaultFloats() { std::fesetenv(&callers_); }
  DefaultFloats(const DefaultFloats&) = delete;
  DefaultFloats& operator=(const DefaultFloats&) = delete;

 private:
  std::fenv_t callers_;
};

// The unclaimed units [begin, end) of a worker, in one 64-bit word: the owner pops from the front, thieves
// from the back.
class alignas(64) WorkRange {
 public:
  void reset(int64_t begin, int64_t end) { units_.store(packed(begin, end), std::memory_order_relaxed); }

  enum class End { kFront, kBack };
  // Claims half of what is left, or `grain` units if that is more, as [begin, end). False if nothing is left.
  bool take(End from, int64_t grain, int64_t& begin, int64_t& end);

 private:
  static uint64_t packed(int64_t begin, int64_t end) {
    return static_cast<uint64_t>(end) << 32 | static_cast<uint64_t>(begin);
  }

  std::atomic<uint64_t> units_{0};
};

// How often this process and its ancestors were forked since the core was loaded; differs between a child and
// its parent.
uint64_t num_forks();

// A forked child has none of its parent's threads: its first call starts workers of its own.
class ThreadPool {
 public:
  // Called with units [begin, end) and the worker's number in [0, size()). Must not throw.
  using Work = std::function<void(int64_t begin, int64_t end, int worker)>;

  static constexpr int kMaxThreads = 4096;

  // Throws std::invalid_argument for a number outside [1, kMaxThreads], and std::system_error if threads
  // cannot be started.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return num_threads_; }

  // Runs work over [0, units) and returns when all of it is done. `grain` is the least number of units per
  // call of `work`. Throws std::overflow_error for 2^31 units or more.
  void run(int64_t units, int64_t grain, const Work& work);

 private:
  class Workers;

  void start_workers();
  void leave_to_parent();

  int num_threads_;
  uint64_t num_forks_ = 0;  // when the workers were started
  std::unique_ptr<Workers> workers_;
};

}  // namespace quire
