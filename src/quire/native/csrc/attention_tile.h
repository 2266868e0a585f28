// The micro-kernels of attention: rows of queries or probabilities times the columns of one K/V tile.
//
// An output is one lane fed in K order, one multiply-add per element (per pair with bfloat16 dot products),
// whatever the number of rows and wherever the columns are: in the pages, or widened to float32 in scratch.
// Both hold the same values, so they give the same bits. Widening a tile pays off only for many rows.
#pragma once

#include "prefetch.h"
#include "kernels.h"
#include "kv_policy.h"
#include "row_dispatch.h"
#include "simd.h"

namespace quire::QUIRE_ISA {

constexpr int64_t kMinRowsToWiden = 16;

// Returns the pointer, opaque to the compiler, which would otherwise recompute it from other pointers in the
// loop instead of keeping it in a register.
template <class T>
static QUIRE_INLINE const T* opaque_pointer(const T* pointer) {
  asm("" : "+r"(pointer));
  return pointer;
}

// Columns of a K/V tile in a page, `stride` elements between rows of K; the next tile is `ahead` bytes away.
template <class T>
struct PageColumns {
  const T* base;
  int64_t stride;
  int64_t ahead;

  PageColumns from(int64_t column) const { return {base + column, stride, ahead}; }
  const T* row(int64_t k) const { return base + k * stride; }
  template <int V>
  void prefetch_ahead(int64_t k) const {
    const char* line = reinterpret_cast<const char*>(row(k)) + ahead;
    for (int64_t i = 0; i < V * kLanes * static_cast<int64_t>(sizeof(T)); i += kLineBytes)
      prefetch_l1(reinterpret_cast<const char*>(line + i));
  }
};

struct WidenedColumns {
  const float* base;
  int64_t stride;

  WidenedColumns from(int64_t column) const { return {base + column, stride}; }
  const float* row(int64_t k) const { return base + k * stride; }
  template <int V>
  void prefetch_ahead(int64_t) const {}
};

template <int R, int V>
static QUIRE_INLINE void add_column(const float* const* a, int64_t k, const vf (&column)[V],
                                    vf (&acc)[R][V]) {
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    vf x = set1(a[r][k]);
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) acc[r][v] = fma(x, column[v], acc[r][v]);
  }
}

// acc[r][v] += a[r][k] * w[k][column v] for k in [k_begin, k_end), over float32 columns.
template <int R, int V, class Columns>
static QUIRE_INLINE void add_products(const float* const* a, const Columns& w, int64_t k_begin, int64_t k_end,
                                      vf (&acc)[R][V]) {
  for (int64_t k = k_begin; k < k_end; ++k) {
    vf column[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) column[v] = load(w.row(k) + v * kLanes);
    w.template prefetch_ahead<V>(k);
    add_column<R, V>(a, k, column, acc);
  }
}

#if !defined(QUIRE_BF16_DOT)

// Element k of each pair, widened in registers.
template <int R, int V>
static QUIRE_INLINE void add_half(const float* const* a, const uint32_t* pairs, int64_t k, vf (&acc)[R][V]) {
  vf column[V];
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) {
    vi pair = load_words(pairs + v * kLanes);
    column[v] = k % 2 == 0 ? even_bf16(pair) : odd_bf16(pair);
  }
  add_column<R, V>(a, k, column, acc);
}

// Elements k and k + 1, k even. Few rows keep theirs in registers; with many rows a pair is loaded twice
// rather than kept.
template <int R, int V>
static QUIRE_INLINE void add_halves(const float* const* a, const uint32_t* pairs, int64_t k,
                                    vf (&acc)[R][V]) {
  if constexpr (R > 2) {
    add_half<R, V>(a, pairs, k, acc);
    add_half<R, V>(a, opaque_pointer(pairs), k + 1, acc);
  } else {
    vf even[R], odd[R];
    for (int r = 0; r < R; ++r) even[r] = set1(a[r][k]), odd[r] = set1(a[r][k + 1]);
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      vi pair = load_words(pairs + v * kLanes);
      for (int r = 0; r < R; ++r) acc[r][v] = fma(even[r], even_bf16(pair), acc[r][v]);
      for (int r = 0; r < R; ++r) acc[r][v] = fma(odd[r], odd_bf16(pair), acc[r][v]);
    }
  }
}

// The same over columns of bfloat16 pairs.
template <int R, int V>
static QUIRE_INLINE void add_products(const float* const* a, const PageColumns<uint32_t>& w, int64_t k_begin,
                                      int64_t k_end, vf (&acc)[R][V]) {
  int64_t k = k_begin;
  if (k % 2 != 0 && k < k_end) add_half<R, V>(a, w.row(k / 2), k, acc), ++k;
  for (; k + 1 < k_end; k += 2) {
    w.template prefetch_ahead<V>(k / 2);
    add_halves<R, V>(a, w.row(k / 2), k, acc);
  }
  if (k < k_end) add_half<R, V>(a, w.row(k / 2), k, acc);
}

#else

template <int R, int V>
static QUIRE_INLINE void add_pair(const uint32_t* const* a, const PageColumns<uint32_t>& w, int64_t pair,
                                  uint32_t mask, vf (&acc)[R][V]) {
  vi column[V];
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) column[v] = and_bits(load_words(w.row(pair) + v * kLanes), mask);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    vi x = set1_word(a[r][pair]);
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) acc[r][v] = dpbf16(acc[r][v], x, column[v]);
  }
}

// The same with pairs on both sides. The half of a pair outside the range is cleared: it may be infinite.
template <int R, int V>
static QUIRE_INLINE void add_products(const uint32_t* const* a, const PageColumns<uint32_t>& w,
                                      int64_t k_begin, int64_t k_end, vf (&acc)[R][V]) {
  for (int64_t pair = k_begin / 2; 2 * pair < k_end; ++pair) {
    w.template prefetch_ahead<V>(pair);
    uint32_t mask = (2 * pair < k_begin ? 0xffff0000u : 0xffffffffu) &
                    (2 * pair + 1 >= k_end ? 0x0000ffffu : 0xffffffffu);
    add_pair<R, V>(a, w, pair, mask, acc);
  }
}

#endif

// Widens pairs [k / 2][columns] to float32 [k][stride], once for many rows.
static inline void widen(const PageColumns<uint32_t>& pairs, int64_t num_pairs, int64_t columns, float* out,
                         int64_t stride) {
  for (int64_t p = 0; p < num_pairs; ++p)
    for (int64_t c = 0; c < columns; c += kLanes) {
      vi pair = load_words(pairs.row(p) + c);
      store(out + 2 * p * stride + c, even_bf16(pair));
      store(out + (2 * p + 1) * stride + c, odd_bf16(pair));
    }
}

// Calls body.run<R>(first_row) for row panels that cover [begin, end): R is kMost, 6 or 4, while possible,
// then 4, 2, 1.
template <int kMost, class Body>
static inline void for_rows(int64_t begin, int64_t end, const Body& body) {
  for (; end - begin >= kMost; begin += kMost) body.template run<kMost>(begin);
  if (kMost > 4 && end - begin >= 4) {
    body.template run<4>(begin);
    begin += 4;
  }
  if (end - begin >= 2) {
    body.template run<2>(begin);
    begin += 2;
  }
  if (end - begin >= 1) body.template run<1>(begin);
}

}  // namespace quire::QUIRE_ISA
