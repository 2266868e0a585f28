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

double measure_flops(const std::string& isa, int num_threads, Element element, int rounds) {
  constexpr int64_t kSpins = 1 << 20;
  const Kernels& kernels = choose_kernels(isa);
  ThreadPool threads(num_threads);
  std::atomic<int> sink{0};
  int64_t units = num_threads * 4;
  double seconds = best_seconds(rounds, [&] {
    threads.run(units, 1, [&](int64_t begin, int64_t end, int) { sink += kernels.spin(element, (end - begin) * kSpins) > 0; });
  });
  double per_round = static_cast<double>(element == Element::kBF16 ? kernels.spin_flops_bf16 : kernels.spin_flops_f32);
  return static_cast<double>(units * kSpins) * per_round / seconds;
}

}  // namespace quire
