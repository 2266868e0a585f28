// A thread pool under load, for ThreadSanitizer (see scripts/test-sanitized): pools of several sizes, calls close together and calls after
// the workers have parked, uneven work, pools that end at once, and a fork between calls. Ends with 0 where every unit was done once.
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <thread>
#include <vector>

#include "threads.h"

using quire::ThreadPool;

// Every unit adds to a place of its own, without a lock: a unit done twice at once is a race, one done never a wrong sum.
static bool is_done_once(ThreadPool& pool, int64_t units, int64_t grain) {
  std::vector<int64_t> done(static_cast<size_t>(units), 0);
  pool.run(units, grain, [&](int64_t begin, int64_t end, int worker) {
    for (int64_t unit = begin; unit < end; ++unit) done[static_cast<size_t>(unit)] += 1 + (worker >= pool.size());
    if (begin % 7 == 0) std::this_thread::yield();
  });
  for (int64_t count : done)
    if (count != 1) return false;
  return true;
}

static bool is_right(int num_threads, int num_calls) {
  ThreadPool pool(num_threads);
  for (int call = 0; call < num_calls; ++call) {
    if (!is_done_once(pool, 1 + call * 37 % 500, 1 + call % 9)) return false;
    if (call % 100 == 99) std::this_thread::sleep_for(std::chrono::milliseconds(1));  // longer than workers spin
  }
  return true;
}

static bool is_right_in_a_child(int num_threads) {
  ThreadPool pool(num_threads);
  if (!is_done_once(pool, 300, 1)) return false;
  pid_t child = fork();
  if (child == 0) {
    bool is_right_here = is_done_once(pool, 300, 1) && is_done_once(pool, 200, 3);
    _exit(is_right_here ? 0 : 1);
  }
  int status = 1;
  return waitpid(child, &status, 0) == child && status == 0 && is_done_once(pool, 300, 1);
}

int main() {
  bool is_all_right = true;
  for (int num_threads = 1; num_threads <= 6; ++num_threads) {
    is_all_right &= is_right(num_threads, 2000);
    for (int pool = 0; pool < 100; ++pool) is_all_right &= is_right(num_threads, pool % 3);
    is_all_right &= is_right_in_a_child(num_threads);
  }
  std::puts(is_all_right ? "threads: every unit was done once" : "threads: a unit was not done once");
  return is_all_right ? 0 : 1;
}
