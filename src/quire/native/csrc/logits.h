// Kernels over one row of logits: the largest of each block, and the buckets of its weights.
#pragma once

#include "kernels.h"
#include "shades.h"
#include "simd.h"

namespace quire::QUIRE_ISA {

typedef float vs __attribute__((vector_size(sizeof(vf))));  // vf as the compiler's own vector type, to compare and index
typedef double vd __attribute__((vector_size(sizeof(vf))));
typedef int64_t vl __attribute__((vector_size(sizeof(vf))));
typedef float vh __attribute__((vector_size(sizeof(vf) / 2)));
constexpr int kWide = kLanes / 2;

static inline vd wide(double x) { return vd{} + x; }

static inline vd load_wide(const double* p) {
  vd x;
  std::memcpy(&x, p, sizeof x);
  return x;
}

static inline vd load_wide(const float* p) {
  vh x;
  std::memcpy(&x, p, sizeof x);
  return __builtin_convertvector(x, vd);
}

// Buckets and shades of kWide logits.
template <class T>
static inline __attribute__((always_inline)) void divide(const T* x, vd best, vd sharpness, vd least, int64_t* buckets, double* shades) {
  vd d = (load_wide(x) - best) * sharpness;
  vd shifted = shifted_bucket(d), y = shade(d, shifted);
  vl bucket = (vl)wide(kShift) - (vl)shifted;
  bucket = d >= least ? bucket : vl{} + kNumBuckets;
  std::memcpy(buckets, &bucket, sizeof bucket);
  std::memcpy(shades, &y, sizeof y);
}

template <class T>
static void fill_buckets(const T* x, int64_t n, const Weighing& w, uint16_t* buckets, double* sums) {
  vd best = wide(w.best), sharpness = wide(w.sharpness), least = wide(w.least);
  int64_t bucket[kBlock];
  double shades[kBlock];
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    int64_t size = n - begin < kBlock ? n - begin : kBlock;
    const T* block = x + begin;
    T rest[kBlock];
    if (size < kBlock) {
      for (int i = 0; i < kBlock; ++i) rest[i] = block[i < size ? i : 0];
      block = rest;
    }
    for (int i = 0; i < kBlock; i += kWide) divide(block + i, best, sharpness, least, bucket + i, shades + i);
    for (int64_t i = 0; i < size; ++i) buckets[begin + i] = static_cast<uint16_t>(bucket[i]);
    std::memset(shades + size, 0, static_cast<size_t>(kBlock - size) * sizeof(double));
    for (int i = 0; i < kBlock; i += kSumLanes)
#pragma GCC unroll 4
      for (int lane = 0; lane < kSumLanes; ++lane) sums[bucket[i + lane] * kSumLanes + lane] += shades[i + lane];
  }
}

template <class T, class V>
static inline T block_max(const T* x) {
  constexpr int kWidth = sizeof(V) / sizeof(T);
  V top;
  std::memcpy(&top, x, sizeof top);
#pragma GCC unroll 16
  for (int i = kWidth; i < kBlock; i += kWidth) {
    V y;
    std::memcpy(&y, x + i, sizeof y);
    top = top > y ? top : y;
  }
  T best = top[0];
  for (int lane = 1; lane < kWidth; ++lane) best = best > top[lane] ? best : top[lane];
  return best;
}

template <class T, class V>
static void block_maxima(const T* x, int64_t n, T* maxima) {
  int64_t whole = n / kBlock;
  for (int64_t b = 0; b < whole; ++b) maxima[b] = block_max<T, V>(x + b * kBlock);
  if (n % kBlock == 0) return;
  maxima[whole] = x[whole * kBlock];
  for (int64_t i = whole * kBlock + 1; i < n; ++i) maxima[whole] = maxima[whole] > x[i] ? maxima[whole] : x[i];
}

static bool is_finite(const float* x, int64_t n) {
  vf zeros[4] = {set1(0.0f), set1(0.0f), set1(0.0f), set1(0.0f)};  // x - x, NaN where x is not finite
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes)
    for (int v = 0; v < 4; ++v) {
      vf y = load(x + i + v * kLanes);
      zeros[v] = add(zeros[v], sub(y, y));
    }
  float zero = sum_of(add(add(zeros[0], zeros[1]), add(zeros[2], zeros[3])));
  for (; i < n; ++i) zero += x[i] - x[i];
  return zero == 0.0f;
}

}  // namespace quire::QUIRE_ISA
