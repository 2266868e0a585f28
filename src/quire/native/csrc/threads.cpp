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

bool Share::take(End from, int64_t grain, int64_t& begin, int64_t& end) {
  uint64_t units = units_.load(std::memory_order_relaxed), rest;
  do {
    begin = static_cast<int64_t>(units & 0xffffffffu);
    end = static_cast<int64_t>(units >> 32);
    if (begin >= end) return false;
    int64_t taken = std::min(end - begin, std::max((end - begin) / 2, grain));
    int64_t border = from == End::kFront ? begin + taken : end - taken;
    rest = from == End::kFront ? packed(border, end) : packed(begin, border);
    (from == End::kFront ? end : begin) = border;
  } while (!units_.compare_exchange_weak(units, rest, std::memory_order_relaxed));
  return true;
}

ThreadPool::ThreadPool(int num_threads) : shares_(static_cast<size_t>(num_threads)) {
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
  grain_ = grain;
  for (int worker = 0; worker < size(); ++worker)
    shares_[static_cast<size_t>(worker)].reset(units * worker / size(), units * (worker + 1) / size());
  busy_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    call_.fetch_add(1, std::memory_order_release);
  }
  wake_.notify_all();
  work_through(0);
  auto all_done = [this] { return busy_.load(std::memory_order_acquire) == 0; };
  while (!spin(all_done)) std::this_thread::yield();
}

void ThreadPool::work_through(int worker) {
  take_all(shares_[static_cast<size_t>(worker)], Share::End::kFront, worker);
  for (int other = 1; other < size(); ++other) take_all(shares_[static_cast<size_t>((worker + other) % size())], Share::End::kBack, worker);
}

void ThreadPool::take_all(Share& share, Share::End from, int worker) {
  int64_t begin, end;
  while (share.take(from, grain_, begin, end)) (*work_)(begin, end, worker);
}

void ThreadPool::serve(int worker) {
  DefaultFloats floats;
  uint64_t seen = 0;
  while (wait_for_call(seen)) {
    seen = call_.load(std::memory_order_acquire);
    work_through(worker);
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
