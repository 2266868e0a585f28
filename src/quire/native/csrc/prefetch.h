// Software prefetch of data that is read in address order.
#pragma once

#include <cstdint>

#include "kernels.h"
#include "row_dispatch.h"

namespace quire::QUIRE_ISA {

constexpr int64_t kLineBytes = 64;
constexpr int64_t kL2Ahead = 16 << 10;
constexpr int64_t kL1Ahead = 4 << 10;

// Into L1, or no closer than L2. Written in assembly because GCC 12 treats a function that only prefetches as
// free of side effects, drops its calls, and moves prefetches away from the TMULs they are interleaved with.
#if defined(__x86_64__)
static QUIRE_INLINE void prefetch_l1(const char* at) { asm volatile("prefetcht0 %0" : : "m"(*at)); }
static QUIRE_INLINE void prefetch_l2(const char* at) { asm volatile("prefetcht1 %0" : : "m"(*at)); }
#else
static QUIRE_INLINE void prefetch_l1(const char* at) { __builtin_prefetch(at, 0, 3); }
static QUIRE_INLINE void prefetch_l2(const char* at) { __builtin_prefetch(at, 0, 2); }
#endif

// `count` lines that are `stride` bytes apart, into L1.
static QUIRE_INLINE void prefetch_lines(const char* first, int64_t stride, int count) {
  for (int i = 0; i < count; ++i) prefetch_l1(first + i * stride);
}

static QUIRE_INLINE bool has(Prefetch prefetch, Prefetch part) {
  return (static_cast<int>(prefetch) & static_cast<int>(part)) != 0;
}

// Keeps a few lines' loads apart. A core that runs far ahead has its line buffers full of loads, and the
// hardware prefetchers, which bring more lines at a time, get none.
static QUIRE_INLINE void pace(int64_t bytes) {
  for (int64_t line = 0; line < bytes; line += kLineBytes) asm volatile(".rept 16\n\tnop\n\t.endr");
}

// For a memory-bound reader at `at` that is about to read `bytes`: far ahead into L2, which has more line
// buffers than L1, and from there a shorter distance ahead into L1; or what `prefetch` has of these.
static QUIRE_INLINE void prefetch_stream(const char* at, int64_t bytes, Prefetch prefetch) {
  if (has(prefetch, Prefetch::kFar))
    for (int64_t line = 0; line < bytes; line += kLineBytes) prefetch_l2(at + kL2Ahead + line);
  if (has(prefetch, Prefetch::kNear))
    for (int64_t line = 0; line < bytes; line += kLineBytes) prefetch_l1(at + kL1Ahead + line);
  if (has(prefetch, Prefetch::kPaced)) pace(bytes);
}

}  // namespace quire::QUIRE_ISA
