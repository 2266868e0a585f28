// Micro-kernels over float32 and bfloat16 panels: R rows of activations by V vectors of columns, in K order.
//
// Accumulators live in `y` between calls, so that a panel can be read one K-slice at a time while the slice
// is in L1. Storing an accumulator rounds nothing: an output is one lane whose additions happen in the same
// order for every R, V and slice size.
#pragma once

#include "kernels.h"
#include "prefetch.h"
#include "simd.h"

namespace quire::QUIRE_ISA {

// Vectors of columns per R rows of accumulators: as many as fit in registers.
template <int R>
constexpr int kFloatVectors = kLanes == 16 ? 4
                              : R == 1     ? 8
                              : R == 2     ? 4
                                           : 2;

constexpr int kMaxFloatRows = 6;  // of a row panel

template <int R, int V>
struct Accumulators {
  vf at[R][V];

  void load_from(const float* y, int64_t ldy) {
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) at[r][v] = load(y + r * ldy + v * kLanes);
  }
  void store_to(float* y, int64_t ldy) const {
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) store(y + r * ldy + v * kLanes, at[r][v]);
  }
  void add(const char* const (&a)[R], int64_t k, const vf (&columns)[V]) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      vf x = broadcast(reinterpret_cast<const float*>(a[r]) + k);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) fma_into(at[r][v], x, columns[v]);
    }
  }
};

// Groups [begin, end) of K. While a row panel reads them it prefetches its part of what follows:
// `prefetch_bytes` per row of words (0: none), counted from `read`: few rows as `prefetch` says, many rows at
// the distance of a K-slice.
struct GroupRange {
  int64_t begin;
  int64_t end;
  const char* read;
  int64_t prefetch_bytes;
  bool has_few_rows;
  Prefetch prefetch;
};

// Prefetches in address order and at the rate words are read, whatever order row panels and passes read them
// in: bursts would find the line buffers full, and other orders defeat the hardware prefetcher.
class Prefetcher {
 public:
  explicit Prefetcher(const GroupRange& groups)
      : next_(groups.read),
        bytes_per_word_row_(groups.prefetch_bytes),
        has_few_rows_(groups.has_few_rows),
        prefetch_(groups.prefetch) {}

  // Call once per V vectors of words.
  template <int V>
  void advance() {
    if (bytes_per_word_row_ == 0) return;
    int64_t bytes = bytes_per_word_row_ * V * kLanes / kPanel;
    if (has_few_rows_) prefetch_stream(next_, bytes, prefetch_);
    else
      for (int64_t line = 0; line < bytes; line += kLineBytes) prefetch_l1(next_ + kL2Ahead + line);
    next_ += bytes;
  }

 private:
  const char* next_;
  int64_t bytes_per_word_row_;
  bool has_few_rows_;
  Prefetch prefetch_;
};

struct Float32 {
  static constexpr int kWords = kGroup;

  // sums += R rows times one group: `k` is its first element, `w` its first row of words, at the columns to
  // multiply.
  template <int R, int V>
  static inline void add_group(const char* const (&a)[R], int64_t k, const uint32_t* w,
                               Prefetcher& prefetcher, Accumulators<R, V>& sums) {
    for (int i = 0; i < kWords; ++i) {
      vf columns[V];
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v)
        columns[v] = load(reinterpret_cast<const float*>(w + i * kPanel + v * kLanes));
      prefetcher.advance<V>();
      sums.add(a, k + i, columns);
    }
  }
};

struct BFloat16 {
  static constexpr int kWords = kGroup / 2;

#if defined(QUIRE_BF16_DOT)
  template <int R, int V>
  static inline void add_group(const char* const (&a)[R], int64_t k, const uint32_t* w,
                               Prefetcher& prefetcher, Accumulators<R, V>& sums) {
    for (int i = 0; i < kWords; ++i) {
      vi columns[V];
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) columns[v] = load_words(w + i * kPanel + v * kLanes);
      prefetcher.advance<V>();
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        vi x = set1_word(reinterpret_cast<const uint32_t*>(a[r])[k / 2 + i]);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sums.at[r][v] = dpbf16(sums.at[r][v], x, columns[v]);
      }
    }
  }
#else
  // Activations are floats here (kBF16AsF32): the even element of each pair first, then the odd one.
  template <int R, int V>
  static inline void add_group(const char* const (&a)[R], int64_t k, const uint32_t* w,
                               Prefetcher& prefetcher, Accumulators<R, V>& sums) {
    for (int i = 0; i < kWords; ++i) {
      const uint32_t* pairs = w + i * kPanel;
      vf columns[V];
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) columns[v] = load_even_bf16(pairs + v * kLanes);
      prefetcher.advance<V>();
      sums.add(a, k + 2 * i, columns);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) columns[v] = load_odd_bf16(pairs + v * kLanes);
      sums.add(a, k + 2 * i + 1, columns);
    }
  }
#endif
};

// y [R, 64] += R rows times some groups of one panel.
template <class Format, int R>
static inline void multiply_floats(const char* const (&a)[R], const char* panel, const GroupRange& groups,
                                   float* y, int64_t ldy) {
  constexpr int V = kFloatVectors<R>;
  Prefetcher prefetcher(groups);
  for (int column = 0; column < kPanel; column += V * kLanes) {
    const uint32_t* w = reinterpret_cast<const uint32_t*>(panel) + column;
    Accumulators<R, V> sums;
    sums.load_from(y + column, ldy);
    for (int64_t group = groups.begin; group < groups.end; ++group)
      Format::template add_group<R, V>(a, group * kGroup, w + group * Format::kWords * kPanel, prefetcher,
                                       sums);
    sums.store_to(y + column, ldy);
  }
}

}  // namespace quire::QUIRE_ISA
