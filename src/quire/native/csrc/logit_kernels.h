// Kernels over one row of logits: the largest of each block, and the buckets of its weights.
#pragma once

#include <algorithm>
#include <limits>
#include <type_traits>

#include "kernels.h"
#include "exp_buckets.h"
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

// Buckets, counted from the range's first, and shades of kWide logits.
template <class T>
static inline __attribute__((always_inline)) void divide(const T* x, const Weighing& w, BucketRange range, int64_t* buckets, double* shades) {
  vd d = (load_wide(x) - w.best) * w.sharpness;
  vd shifted = shifted_bucket(d), y = shade(d, shifted);
  vd number = kShift - shifted;
  vl is_inside = (d >= w.least) & (number >= static_cast<double>(range.begin)) & (number < static_cast<double>(range.end));
  vl bucket = (vl)wide(kShift) - (vl)shifted - range.begin;
  bucket = is_inside ? bucket : vl{} + (range.end - range.begin);
  std::memcpy(buckets, &bucket, sizeof bucket);
  std::memcpy(shades, &y, sizeof y);
}

template <class T>
static void add_shades(const T* x, const uint32_t* ids, int64_t n, const Weighing& w, BucketRange range, double* sums) {
  int64_t buckets[kBlock];
  double shades[kBlock];
  T gathered[kBlock];
  for (int64_t begin = 0; begin < n; begin += kBlock, ids += kBlock) {
    int64_t size = n - begin < kBlock ? n - begin : kBlock;
    const T* block = x + ids[0];
    if (size < kBlock || ids[kBlock - 1] - ids[0] >= kBlock) {
      for (int i = 0; i < kBlock; ++i) gathered[i] = x[ids[i < size ? i : 0]];
      block = gathered;
    }
    for (int i = 0; i < kBlock; i += kWide) divide(block + i, w, range, buckets + i, shades + i);
#pragma GCC unroll 4
    for (int64_t i = 0; i < size; ++i) sums[buckets[i] * kSumLanes + ids[i] % kSumLanes] += shades[i];
  }
}

static inline uint32_t lanes_between(const float* x, double low, double high) {
  vf y = load(x);
  return lanes_at_least(y, set1(static_cast<float>(low))) & lanes_at_least(set1(static_cast<float>(high)), y);
}

static inline uint32_t lanes_between(const double* x, double low, double high) {
  uint32_t found = 0;
  for (int i = 0; i < kLanes; i += kWide) {
    vd y = load_wide(x + i);
    found |= (lanes_at_least(y, wide(low)) & lanes_at_least(wide(high), y)) << i;
  }
  return found;
}

template <class T>
static int64_t select_ids(const T* x, uint32_t id, int64_t n, double low, double high, uint32_t* ids) {
  const T* block = x + id;
  T rest[kBlock];
  if (n < kBlock) {
    for (int i = 0; i < kBlock; ++i) rest[i] = i < n ? block[i] : std::numeric_limits<T>::quiet_NaN();
    block = rest;
  }
  uint32_t found[kBlock / kLanes], any = 0;
#pragma GCC unroll 16
  for (int v = 0; v < kBlock / kLanes; ++v) any |= found[v] = lanes_between(block + v * kLanes, low, high);
  if (any == 0) return 0;
  uint32_t* end = ids;
#pragma GCC unroll 16
  for (uint32_t v = 0; v < kBlock / kLanes; ++v) end = store_numbers(end, id + v * kLanes, found[v]);
  return end - ids;
}

// The largest of a block, whose values are added to `sum`.
template <class T, class V>
static inline T block_max(const T* x, V& sum) {
  constexpr int kWidth = sizeof(V) / sizeof(T);
  V top;
  std::memcpy(&top, x, sizeof top);
  V all = top;
#pragma GCC unroll 16
  for (int i = kWidth; i < kBlock; i += kWidth) {
    V y;
    std::memcpy(&y, x + i, sizeof y);
    all += y;
    top = top > y ? top : y;
  }
  sum += all;
  T best = top[0];
  for (int lane = 1; lane < kWidth; ++lane) best = best > top[lane] ? best : top[lane];
  return best;
}

static inline bool is_nan(double x) { return x != x; }

// A sum with NaN in it is NaN, which costs less than asking every value; so, seldom, is one with infinities in it.
template <class T, class V>
static bool block_maxima(const T* x, int64_t n, T* maxima) {
  V sum = {};
  int64_t whole = n / kBlock;
  for (int64_t b = 0; b < whole; ++b) maxima[b] = block_max<T, V>(x + b * kBlock, sum);
  bool is_suspect = false;
  for (size_t lane = 0; lane < sizeof(V) / sizeof(T); ++lane) is_suspect |= is_nan(sum[lane]);
  if (n % kBlock != 0) maxima[whole] = x[whole * kBlock];
  for (int64_t i = whole * kBlock; i < n; ++i) {
    is_suspect |= is_nan(x[i]);
    maxima[whole] = maxima[whole] > x[i] ? maxima[whole] : x[i];
  }
  return is_suspect && std::any_of(x, x + n, [](T value) { return is_nan(value); });
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
