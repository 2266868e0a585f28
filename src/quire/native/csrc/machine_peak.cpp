#include "machine_peak.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <stdexcept>

#include "buffer.h"
#include "checked.h"
#include "cpu.h"
#include "threads.h"

namespace quire {

static void require_positive(int64_t value, const char* name) {
  if (value < 1) throw std::invalid_argument(std::string(name) + " must be positive");
}

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
  require_positive(num_bytes, "num_bytes");
  require_positive(rounds, "rounds");
  ThreadPool threads(num_threads);
  std::atomic<uint64_t> sink{0};
  int64_t num_slices = 1 + (num_bytes - 1) / kSlice;
  Buffer data(checked_bytes({num_slices, kSlice}));
  std::memset(data.get(), 1, data.size());
  double seconds = best_seconds(rounds, [&] {
    threads.run(num_slices, 1, [&](int64_t begin, int64_t end, int) {
      sink += kernels.read(data.get() + begin * kSlice, (end - begin) * kSlice);
    });
  });
  return static_cast<double>(num_slices * kSlice) / seconds;
}

double measure_flops(const std::string& isa, int num_threads, const PanelFormat& format, int rounds) {
  constexpr int64_t kRounds = 1 << 20, kUnits = 4;
  const Kernels& kernels = choose_kernels(isa);
  require_positive(rounds, "rounds");
  ThreadPool threads(num_threads);
  std::atomic<int64_t> flops{0};
  std::atomic<int> sink{0};
  double seconds = best_seconds(rounds, [&] {
    flops = 0;
    threads.run(num_threads * kUnits, 1, [&](int64_t begin, int64_t end, int) {
      float sum = 0.0f;
      flops += kernels.peak_flops(format, (end - begin) * kRounds, sum);
      sink += sum > 0.0f;
    });
  });
  return static_cast<double>(flops) / seconds;
}

}  // namespace quire
