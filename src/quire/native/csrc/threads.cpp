#include "threads.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <limits>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#if defined(QUIRE_X86)
#include <immintrin.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif
#if defined(__linux__)
#include <sched.h>
#endif

namespace quire {

static constexpr auto kSpinTime = std::chrono::microseconds(50);

static void relax() {
#if defined(QUIRE_X86)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

// Spins until is_ready(), for kSpinTime at most; returns whether it became true.
template <class Ready>
static bool spin(Ready is_ready) {
  auto deadline = std::chrono::steady_clock::now() + kSpinTime;
  do {
    for (int i = 0; i < 64; ++i) {
      if (is_ready()) return true;
      relax();
    }
  } while (std::chrono::steady_clock::now() < deadline);
  return false;
}

// Pins worker i to the i-th core that this process may use, so that its panels stay in that core's cache.
static void pin_to_core(std::thread& thread, int index) {
#if defined(__linux__)
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0 || CPU_COUNT(&allowed) <= index) return;
  for (int core = 0, seen = 0; core < CPU_SETSIZE; ++core) {
    if (!CPU_ISSET(core, &allowed) || seen++ != index) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(core, &one);
    pthread_setaffinity_np(thread.native_handle(), sizeof one, &one);
    return;
  }
#else
  (void)thread;
  (void)index;
#endif
}

bool WorkRange::take(End from, int64_t grain, int64_t& begin, int64_t& end) {
  uint64_t units = units_.load(std::memory_order_relaxed), rest;
  do {
    begin = static_cast<int64_t>(units & 0xffffffffu);
    end = static_cast<int64_t>(units >> 32);
    if (begin >= end) return false;
    int64_t taken = std::min(end - begin, std::max((end - begin) / 2, grain));
    int64_t boundary = from == End::kFront ? begin + taken : end - taken;
    rest = from == End::kFront ? packed(boundary, end) : packed(begin, boundary);
    (from == End::kFront ? end : begin) = boundary;
  } while (!units_.compare_exchange_weak(units, rest, std::memory_order_relaxed));
  return true;
}

// Threads 1 to size() - 1, and what they share with the caller, which is worker 0.
class ThreadPool::Workers {
 public:
  explicit Workers(int size) : ranges_(static_cast<size_t>(size)) {
    try {
      for (int worker = 1; worker < size; ++worker) {
        threads_.emplace_back([this, worker] { serve(worker); });
        pin_to_core(threads_.back(), worker);
      }
    } catch (...) {
      stop();
      throw;
    }
  }
  ~Workers() { stop(); }
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;

  void run(int64_t units, int64_t grain, const Work& work) {
    work_ = &work;
    grain_ = grain;
    for (int worker = 0; worker < size(); ++worker)
      ranges_[static_cast<size_t>(worker)].reset(units * worker / size(), units * (worker + 1) / size());
    busy_.store(static_cast<int>(threads_.size()), std::memory_order_relaxed);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      call_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    work_through(0);
    auto all_done = [this] { return busy_.load(std::memory_order_acquire) == 0; };
    while (!spin(all_done)) std::this_thread::yield();
  }

 private:
  int size() const { return static_cast<int>(ranges_.size()); }

  void stop() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stops_ = true;
      ++call_;
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  void serve(int worker) {
    DefaultFloats floats;
    uint64_t seen = 0;
    while (wait_for_call(seen)) {
      seen = call_.load(std::memory_order_acquire);
      work_through(worker);
      busy_.fetch_sub(1, std::memory_order_release);
    }
  }

  bool wait_for_call(uint64_t seen) {
    auto is_called = [this, seen] { return call_.load(std::memory_order_acquire) != seen; };
    if (!spin(is_called)) {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, is_called);
    }
    return !stops_.load();
  }

  void work_through(int worker) {
    run_all(ranges_[static_cast<size_t>(worker)], WorkRange::End::kFront, worker);
    for (int other = 1; other < size(); ++other)
      run_all(ranges_[static_cast<size_t>((worker + other) % size())], WorkRange::End::kBack, worker);
  }

  void run_all(WorkRange& range, WorkRange::End from, int worker) {
    int64_t begin, end;
    while (range.take(from, grain_, begin, end)) (*work_)(begin, end, worker);
  }

  std::vector<std::thread> threads_;
  std::vector<WorkRange> ranges_;  // per worker
  const Work* work_ = nullptr;
  int64_t grain_ = 1;
  std::atomic<int> busy_{0};
  std::atomic<uint64_t> call_{0};
  std::atomic<bool> stops_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
};

static std::atomic<uint64_t> forks{0};

#if defined(__unix__) || defined(__APPLE__)
static const int fork_error =
    pthread_atfork(nullptr, nullptr, [] { forks.fetch_add(1, std::memory_order_relaxed); });
#else
static const int fork_error = 0;
#endif

uint64_t num_forks() { return forks.load(std::memory_order_relaxed); }

static int checked_size(int num_threads) {
  if (num_threads < 1 || num_threads > ThreadPool::kMaxThreads)
    throw std::invalid_argument("the number of threads must be 1 to " +
                                std::to_string(ThreadPool::kMaxThreads));
  if (fork_error != 0)
    throw std::system_error(fork_error, std::generic_category(), "forks cannot be noticed");
  return num_threads;
}

ThreadPool::ThreadPool(int num_threads) : num_threads_(checked_size(num_threads)) {
  if (num_threads_ > 1) start_workers();
}

ThreadPool::~ThreadPool() { leave_to_parent(); }

void ThreadPool::start_workers() {
  leave_to_parent();
  workers_ = std::make_unique<Workers>(num_threads_);
  num_forks_ = num_forks();
}

// Abandons workers that only the parent process has: they cannot be joined here, and the mutex may be locked
// for ever, so even their memory is leaked.
void ThreadPool::leave_to_parent() {
  if (num_forks_ != num_forks()) static_cast<void>(workers_.release());
}

void ThreadPool::run(int64_t units, int64_t grain, const Work& work) {
  if (units <= 0) return;
  if (units > std::numeric_limits<int32_t>::max())
    throw std::overflow_error("a step is more work than a thread pool can count");
  if (num_threads_ == 1 || units <= grain) return work(0, units, 0);
  if (!workers_ || num_forks_ != num_forks()) start_workers();
  workers_->run(units, grain, work);
}

}  // namespace quire
