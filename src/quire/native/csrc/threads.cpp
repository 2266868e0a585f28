#include "threads.h"

#include <algorithm>
#include <chrono>

#if defined(QUIRE_X86)
#include <immintrin.h>
#endif
#if defined(__linux__)
#include <pthread.h>
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

// Spins until `is_ready`, for kSpinTime at most; returns whether it became true.
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

// Keeps worker i on the i-th core this process may use, so that its panels stay in that core's cache.
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

ThreadPool::ThreadPool(int num_threads) {
  try {
    for (int worker = 1; worker < num_threads; ++worker) {
      workers_.emplace_back([this, worker] { serve(worker); });
      pin_to_core(workers_.back(), worker);
    }
  } catch (...) {
    stop();
    throw;
  }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stops_ = true;
    ++call_;
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run(int64_t units, int64_t grain, const Work& work) {
  if (units <= 0) return;
  if (workers_.empty() || units <= grain) return work(0, units, 0);
  work_ = &work;
  units_ = units;
  grain_ = grain;
  next_.store(0, std::memory_order_relaxed);
  busy_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    call_.fetch_add(1, std::memory_order_release);
  }
  wake_.notify_all();
  take_chunks(0);
  auto all_done = [this] { return busy_.load(std::memory_order_acquire) == 0; };
  while (!spin(all_done)) std::this_thread::yield();
}

// Chunks shrink with what is left, so that workers end together: the last chunks are a grain each.
void ThreadPool::take_chunks(int worker) {
  int64_t begin = next_.load(std::memory_order_relaxed);
  while (begin < units_) {
    int64_t left = units_ - begin, share = left / (2 * size());
    int64_t end = begin + std::min(left, std::max(share, grain_));
    if (!next_.compare_exchange_weak(begin, end, std::memory_order_relaxed)) continue;
    (*work_)(begin, end, worker);
    begin = next_.load(std::memory_order_relaxed);
  }
}

void ThreadPool::serve(int worker) {
  DefaultFloats floats;
  uint64_t seen = 0;
  while (wait_for_call(seen)) {
    seen = call_.load(std::memory_order_acquire);
    take_chunks(worker);
    busy_.fetch_sub(1, std::memory_order_release);
  }
}

bool ThreadPool::wait_for_call(uint64_t seen) {
  auto is_called = [this, seen] { return call_.load(std::memory_order_acquire) != seen; };
  if (!spin(is_called)) {
    std::unique_lock<std::mutex> lock(mutex_);
    wake_.wait(lock, is_called);
  }
  return !stops_.load();
}

}  // namespace quire
