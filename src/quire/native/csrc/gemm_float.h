// Micro-kernels over float32 and bfloat16 panels: R rows of activations times V vectors of columns, fed in K order.
//
// The sums live in `y` between calls, so that a panel can be read a piece of K at a time while it is in the first-level cache.
// Leaving registers rounds nothing: an output is one lane whose additions happen in the same order whatever R, V and the
// pieces are.
#pragma once

#include "prefetch.h"
#include "kernels.h"
#include "simd.h"

namespace quire::QUIRE_ISA {

// Vectors of columns beside R rows of sums: all that fit into registers.
template <int R>
constexpr int kFloatVectors = kLanes == 16 ? 4 : R == 1 ? 8 : R == 2 ? 4 : 2;

constexpr int kMaxFloatRows = 6;

template <int R, int V>
struct Sums {
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
      vf x = everywhere(reinterpret_cast<const float*>(a[r]) + k);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) add_product(at[r][v], x, columns[v]);
    }
  }
};

// Groups [begin, end) of K. While a tile of rows meets them, it prefetches its part of what follows: `prefetch_bytes` for every row of
// words (0: nothing), counted from `read` on, as far ahead as is best for few rows or for many.
struct GroupRange {
  int64_t begin;
  int64_t end;
  const char* read;
  int64_t prefetch_bytes;
  bool has_few_rows;
};

// Fetches in the order of addresses and as evenly as words are read, whatever the order in which tiles and passes read them:
// bursts would find the line buffers full, and other orders the hardware's prefetcher asleep.
class Prefetcher {
 public:
  explicit Prefetcher(const GroupRange& groups) : next_(groups.read), bytes_per_word_row_(groups.prefetch_bytes), has_few_rows_(groups.has_few_rows) {}

  // Called once for V vectors of words.
  template <int V>
  void step() {
    if (bytes_per_word_row_ == 0) return;
    int64_t bytes = bytes_per_word_row_ * V * kLanes / kPanel;
    if (has_few_rows_)
      prefetch_stream(next_, bytes);
    else
      for (int64_t line = 0; line < bytes; line += kLineBytes) prefetch_l1(next_ + kL2Ahead + line);
    next_ += bytes;
  }

 private:
  const char* next_;
  int64_t bytes_per_word_row_;
  bool has_few_rows_;
};

struct Float32 {
  static constexpr int kWords = kGroup;

  // A group: `k` is its first element, `w` its first row of words from the columns on.
  template <int R, int V>
  static inline void add_group(const char* const (&a)[R], int64_t k, const uint32_t* w, Prefetcher& prefetcher, Sums<R, V>& sums) {
    for (int i = 0; i < kGroup; ++i) {
      vf columns[V];
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) columns[v] = load(reinterpret_cast<const float*>(w + i * kPanel + v * kLanes));
      prefetcher.step<V>();
      sums.add(a, k + i, columns);
    }
  }
};

struct BFloat16 {
  static constexpr int kWords = kGroup / 2;

#if defined(QUIRE_BF16_DOT)
  template <int R, int V>
  static inline void add_group(const char* const (&a)[R], int64_t k, const uint32_t* w, Prefetcher& prefetcher, Sums<R, V>& sums) {
    for (int i = 0; i < kWords; ++i) {
      vi columns[V];
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) columns[v] = load_pairs(w + i * kPanel + v * kLanes);
      prefetcher.step<V>();
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        vi x = set1_pair(reinterpret_cast<const uint32_t*>(a[r])[k / 2 + i]);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sums.at[r][v] = dot_pairs(sums.at[r][v], x, columns[v]);
      }
    }
  }
#else
  // Rows are floats here: the even element of every pair first, then the odd one.
  template <int R, int V>
  static inline void add_group(const char* const (&a)[R], int64_t k, const uint32_t* w, Prefetcher& prefetcher, Sums<R, V>& sums) {
    for (int i = 0; i < kWords; ++i) {
      const uint32_t* pairs = w + i * kPanel;
      vf columns[V];
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) columns[v] = even_at(pairs + v * kLanes);
      prefetcher.step<V>();
      sums.add(a, k + 2 * i, columns);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) columns[v] = odd_at(pairs + v * kLanes);
      sums.add(a, k + 2 * i + 1, columns);
    }
  }
#endif
};

// y [R, 64] += the products of some groups of K of one panel.
template <class Format, int R>
static inline void multiply_floats(const char* const (&a)[R], const char* panel, const GroupRange& groups, float* y, int64_t ldy) {
  constexpr int V = kFloatVectors<R>;
  Prefetcher prefetcher(groups);
  for (int column = 0; column < kPanel; column += V * kLanes) {
    const uint32_t* w = reinterpret_cast<const uint32_t*>(panel) + column;
    Sums<R, V> sums;
    sums.load_from(y + column, ldy);
    for (int64_t group = groups.begin; group < groups.end; ++group)
      Format::template add_group<R, V>(a, group * kGroup, w + group * Format::kWords * kPanel, prefetcher, sums);
    sums.store_to(y + column, ldy);
  }
}

}  // namespace quire::QUIRE_ISA
