// The machine's peaks, measured: the roofline of every benchmark figure.
#pragma once

#include <string>

#include "kernels.h"

namespace quire {

// Bytes per second that `num_threads` threads read from memory, over a buffer of `num_bytes` (rounded up to 1
// MiB); best of `rounds`.
double measure_bandwidth(const std::string& isa, int num_threads, int64_t num_bytes, int rounds);

// Multiplications and additions per second of `num_threads` threads in registers, with the instructions that
// products of such weights use; best of `rounds`.
double measure_flops(const std::string& isa, int num_threads, const PanelFormat& format, int rounds);

}  // namespace quire
