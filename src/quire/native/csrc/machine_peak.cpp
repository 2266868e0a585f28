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

template <class Call>
static double seconds_of(Call call) {
  auto start = std::chrono::steady_clock::now();
  call();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

static constexpr int64_t kSlice = 1 << 20;

// A buffer on large pages, which each thread first touches where it reads halves.
class ReadBuffer {
 public:
  ReadBuffer(const Kernels& kernels, ThreadPool& threads, int64_t num_bytes)
      : kernels_(kernels),
        threads_(threads),
        num_slices_(1 + (num_bytes - 1) / kSlice),
        data_(checked_bytes({num_slices_, kSlice})) {
    threads_.run(threads_.size(), 1, [&](int64_t begin, int64_t end, int) {
      std::memset(slice(first_of(begin)), 1,
                  static_cast<size_t>(slice(first_of(end)) - slice(first_of(begin))));
    });
  }

  int64_t num_bytes() const { return static_cast<int64_t>(data_.size()); }

  void read(const ReadPattern& pattern) {
    auto read_slices = [&](int64_t begin, int64_t end) {
      sink_ += kernels_.read(slice(begin), (end - begin) * kSlice, pattern.prefetch, pattern.in_streams);
    };
    if (pattern.in_halves)
      threads_.run(threads_.size(), 1,
                   [&](int64_t begin, int64_t end, int) { read_slices(first_of(begin), first_of(end)); });
    else threads_.run(num_slices_, 1, [&](int64_t begin, int64_t end, int) { read_slices(begin, end); });
  }

 private:
  char* slice(int64_t index) const { return data_.get() + index * kSlice; }
  int64_t first_of(int64_t part) const { return num_slices_ * part / threads_.size(); }

  const Kernels& kernels_;
  ThreadPool& threads_;
  const int64_t num_slices_;
  Buffer data_;
  std::atomic<uint64_t> sink_{0};
};

std::vector<ReadSpeed> measure_reads(const std::string& isa, int num_threads, int64_t num_bytes, int rounds) {
  const Kernels& kernels = choose_kernels(isa);
  require_positive(num_bytes, "num_bytes");
  require_positive(rounds, "rounds");
  ThreadPool threads(num_threads);
  ReadBuffer buffer(kernels, threads, num_bytes);
  std::vector<ReadSpeed> speeds;
  for (Prefetch prefetch : kAllPrefetches)
    for (bool in_streams : {false, true})
      for (bool in_halves : {false, true}) speeds.push_back({{prefetch, in_streams, in_halves}, 0});
  for (int round = 0; round < rounds; ++round)
    for (ReadSpeed& each : speeds) {
      double seconds = seconds_of([&] { buffer.read(each.pattern); });
      each.bytes_per_second =
          std::max(each.bytes_per_second, static_cast<double>(buffer.num_bytes()) / seconds);
    }
  return speeds;
}

double measure_flops(const std::string& isa, int num_threads, const PanelFormat& format, int rounds) {
  constexpr int64_t kRounds = 1 << 20, kUnits = 4;
  const Kernels& kernels = choose_kernels(isa);
  require_positive(rounds, "rounds");
  ThreadPool threads(num_threads);
  std::atomic<int64_t> flops{0};
  std::atomic<int> sink{0};
  double best = 0;
  for (int round = 0; round < rounds; ++round) {
    flops = 0;
    double seconds = seconds_of([&] {
      threads.run(num_threads * kUnits, 1, [&](int64_t begin, int64_t end, int) {
        float sum = 0.0f;
        flops += kernels.peak_flops(format, (end - begin) * kRounds, sum);
        sink += sum > 0.0f;
      });
    });
    best = std::max(best, static_cast<double>(flops) / seconds);
  }
  return best;
}

}  // namespace quire
