// The machine's peaks, measured: the roofline of every benchmark figure.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace quire {

// One way to read a buffer with several threads.
struct ReadPattern {
  Prefetch prefetch;
  bool in_streams;  // each thread reads kReadStreams places side by side, else one
  bool
      in_halves;  // each thread reads its own contiguous part, else threads take slices of 1 MiB as they come
};

struct ReadSpeed {
  ReadPattern pattern;
  double bytes_per_second;
};

// How fast `num_threads` threads read one and the same buffer of `num_bytes` (rounded up to 1 MiB) in every
// pattern, in turn; best of `rounds`.
std::vector<ReadSpeed> measure_reads(const std::string& isa, int num_threads, int64_t num_bytes, int rounds);

// Multiplications and additions per second of `num_threads` threads in registers, with the instructions that
// products of such weights use; best of `rounds`.
double measure_flops(const std::string& isa, int num_threads, const PanelFormat& format, int rounds);

}  // namespace quire
