// The micro-kernel: R rows times a strip of columns, fed in K order. GEMM, attention scores and attention values all use
// it, so each output is one lane whose additions happen in the same order whatever R is.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace quire::QUIRE_ISA {

// Vectors a strip is wide: as many as leave 6 rows of accumulators in registers.
constexpr int kStripVectors = kLanes == 16 ? 4 : 2;

// acc[r][v] += a[r][k] * w[k][column v] for k in [k_begin, k_end). `w` points at the strip in row 0, rows `stride` apart.
template <int R, int V>
static inline void accumulate(const float* const* a, const float* w, int64_t stride, int64_t k_begin, int64_t k_end, vf (&acc)[R][V]) {
  for (int64_t k = k_begin; k < k_end; ++k) {
    vf column[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) column[v] = load(w + k * stride + v * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      vf x = set1(a[r][k]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) acc[r][v] = fma(x, column[v], acc[r][v]);
    }
  }
}

// The same over pairs of bfloat16: k counts pairs, `stride` is in pairs.
template <int R, int V>
static inline void accumulate(const uint32_t* const* a, const uint32_t* w, int64_t stride, int64_t k_begin, int64_t k_end, vf (&acc)[R][V]) {
  for (int64_t k = k_begin; k < k_end; ++k) {
    vi column[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) column[v] = load_pairs(w + k * stride + v * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      vi x = set1_pair(a[r][k]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) acc[r][v] = dot_pairs(acc[r][v], x, column[v]);
    }
  }
}

// out[r][0..W) = sum over k of a[r][k] * w[k][..]
template <int R, int W, class T>
static inline void multiply(const T* const* a, const T* w, int64_t k_end, float* out, int64_t ldo) {
  constexpr int V = W / kLanes < kStripVectors ? W / kLanes : kStripVectors;
  for (int c = 0; c < W; c += V * kLanes) {
    vf acc[R][V];
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) acc[r][v] = set1(0.0f);
    accumulate<R, V>(a, w + c, W, 0, k_end, acc);
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) store(out + r * ldo + c + v * kLanes, acc[r][v]);
  }
}

// Calls body.run<R>(first_row) so that the R's add up to `rows`: 6 while they last, then 4, 2, 1.
template <class Body>
static inline void for_row_tiles(int64_t rows, Body&& body) {
  int64_t r = 0;
  for (; rows - r >= 6; r += 6) body.template run<6>(r);
  if (rows - r >= 4) { body.template run<4>(r); r += 4; }
  if (rows - r >= 2) { body.template run<2>(r); r += 2; }
  if (rows - r >= 1) body.template run<1>(r);
}

}  // namespace quire::QUIRE_ISA
