// The machine's limits, measured: what stands beside every benchmark figure.
#pragma once

#include <string>

#include "kernels.h"

namespace quire {

// Bytes a second that `num_threads` threads read from memory, over a buffer of `num_bytes` (rounded up to 1 MiB), best of `rounds`.
double measure_bandwidth(const std::string& isa, int num_threads, int64_t num_bytes, int rounds);

// Multiplications and additions a second of `num_threads` threads in registers, as products with such weights do them; best of
// `rounds`.
double measure_flops(const std::string& isa, int num_threads, WeightFormat format, int rounds);

}  // namespace quire
