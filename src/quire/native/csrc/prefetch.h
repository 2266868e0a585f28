// Fetching by software what is read in the order of addresses.
#pragma once

#include <cstdint>

#include "row_dispatch.h"

namespace quire::QUIRE_ISA {

constexpr int64_t kLineBytes = 64;
constexpr int64_t kL2Ahead = 16 << 10;
constexpr int64_t kL1Ahead = 4 << 10;

// Into the first-level cache, or no nearer than the second. GCC takes a function that only prefetches for one without effect and drops its
// calls, and moves prefetches away from the tile instructions that they are spread between; it does neither to assembly.
#if defined(__x86_64__)
static QUIRE_INLINE void prefetch_l1(const char* at) { asm volatile("prefetcht0 %0" : : "m"(*at)); }
static QUIRE_INLINE void prefetch_l2(const char* at) { asm volatile("prefetcht1 %0" : : "m"(*at)); }
#else
static QUIRE_INLINE void prefetch_l1(const char* at) { __builtin_prefetch(at, 0, 3); }
static QUIRE_INLINE void prefetch_l2(const char* at) { __builtin_prefetch(at, 0, 2); }
#endif

// Lines that are `stride` bytes apart, into the first-level cache.
static QUIRE_INLINE void prefetch_lines(const char* first, int64_t stride, int count) {
  for (int i = 0; i < count; ++i) prefetch_l1(first + i * stride);
}

// For a reader that waits for memory and is at `at`, about to read so many bytes: far ahead into the second-level cache, which has
// more line buffers than the first, and from there near ahead into the first.
static QUIRE_INLINE void prefetch_stream(const char* at, int64_t bytes) {
  for (int64_t line = 0; line < bytes; line += kLineBytes) {
    prefetch_l2(at + kL2Ahead + line);
    prefetch_l1(at + kL1Ahead + line);
  }
}

}  // namespace quire::QUIRE_ISA
