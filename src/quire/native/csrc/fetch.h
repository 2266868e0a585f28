// Fetching by software what is read in the order of addresses.
#pragma once

#include <cstdint>

namespace quire::QUIRE_ISA {

constexpr int64_t kLineBytes = 64;
constexpr int64_t kFarAhead = 16 << 10;
constexpr int64_t kNearAhead = 4 << 10;

// For a reader that waits for memory and is at `at`, about to read so many bytes: far ahead into the second-level cache, which has
// more line buffers than the first, and from there near ahead into the first.
static inline void fetch_stream(const char* at, int64_t bytes) {
  for (int64_t line = 0; line < bytes; line += kLineBytes) {
    __builtin_prefetch(at + kFarAhead + line, 0, 2);
    __builtin_prefetch(at + kNearAhead + line, 0, 3);
  }
}

}  // namespace quire::QUIRE_ISA
