// A pool of workers that split units of work. The caller is worker 0, so one thread means no pool at all.
//
// Between calls workers spin briefly (a decode step has many short phases) and then park. Units are handed out in chunks
// from one counter; since no unit's result depends on who computes it, the hand-out order cannot change a bit.
#pragma once

#include <atomic>
#include <cfenv>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace quire {

// The default floating-point environment while it lives: a caller may round otherwise or flush denormals, our bits must not.
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

class ThreadPool {
 public:
  // Called with [begin, end) of the units and the worker's number in [0, size()). Must not throw.
  using Work = std::function<void(int64_t begin, int64_t end, int worker)>;

  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // Runs work over [0, units) and returns when all of it is done. `grain` is the least number of units worth handing out.
  void run(int64_t units, int64_t grain, const Work& work);

 private:
  void stop();
  void serve(int worker);
  void take_chunks(int worker);
  bool wait_for_call(uint64_t seen);

  std::vector<std::thread> workers_;
  const Work* work_ = nullptr;
  int64_t units_ = 0;
  int64_t grain_ = 1;
  std::atomic<int64_t> next_{0};
  std::atomic<int> busy_{0};
  std::atomic<uint64_t> call_{0};
  std::atomic<bool> stops_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
};

}  // namespace quire
