#include "canary.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

#include "buffer.h"
#include "cpu.h"
#include "threads.h"

namespace quire {

// Seconds of the fastest of `rounds` calls.
template <class Call>
static double best_seconds(int rounds, Call call) {
  double best = 1e30;
  for (int i = 0; i < rounds; ++i) {
    auto start = std::chrono::steady_clock::now();
    call();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

double measure_bandwidth(const std::string& isa, int num_threads, int64_t num_bytes, int rounds) {
  constexpr int64_t kSlice = 1 << 20;
  const Kernels& kernels = choose_kernels(isa);
  ThreadPool threads(num_threads);
  std::atomic<uint64_t> sink{0};
  int64_t num_slices = (num_bytes + kSlice - 1) / kSlice;
  Buffer data(static_cast<size_t>(num_slices * kSlice));
  std::memset(data.get(), 1, data.size());
  double seconds = best_seconds(rounds, [&] {
    threads.run(num_slices, 1, [&](int64_t begin, int64_t end, int) {
      sink += kernels.read(data.get() + begin * kSlice, (end - begin) * kSlice);
    });
  });
  return static_cast<double>(num_slices * kSlice) / seconds;
}

double measure_flops(const std::string& isa, int num_threads, WeightFormat format, int rounds) {
  constexpr int64_t kSpins = 1 << 20, kUnits = 4;
  const Kernels& kernels = choose_kernels(isa);
  ThreadPool threads(num_threads);
  std::atomic<int64_t> flops{0};
  std::atomic<int> sink{0};
  double seconds = best_seconds(rounds, [&] {
    flops = 0;
    threads.run(num_threads * kUnits, 1, [&](int64_t begin, int64_t end, int) {
      float sum = 0.0f;
      flops += kernels.spin(format, (end - begin) * kSpins, sum);
      sink += sum > 0.0f;
    });
  });
  return static_cast<double>(flops) / seconds;
}

}  // namespace quire
