// Rotation of 32 inputs of a product by a Hadamard matrix H, so that no outlier takes all of their scale: a'
// = H (a / s), w' = H (w s) / 32, and the products are the same, because H H = 32. The factors s are powers
// of two, so that only the butterflies round, each sum and difference once.
#pragma once

#include "hadamard.h"
#include "simd.h"
#include "weight_format.h"

namespace quire::QUIRE_ISA {

typedef float floats4 __attribute__((vector_size(16)));
typedef int32_t lanes4 __attribute__((vector_size(16)));

// x = H x
template <int kFours>
static inline void rotate(floats4 (&x)[kFours]) {
  for (floats4& four : x) {
    four = __builtin_shuffle(four, lanes4{1, 0, 3, 2}) + four * floats4{1, -1, 1, -1};
    four = __builtin_shuffle(four, lanes4{2, 3, 0, 1}) + four * floats4{1, 1, -1, -1};
  }
  for (int stride = 1; stride < kFours; stride *= 2)
    for (int i = 0; i < kFours; ++i)
      if ((i & stride) == 0) {
        floats4 low = x[i], high = x[i + stride];
        x[i] = low + high, x[i + stride] = low - high;
      }
}

// One stage of butterflies over x [size] between elements `stride` apart, a multiple of 4.
static inline void add_and_subtract(float* x, int64_t size, int64_t stride) {
  for (int64_t i = 0; i < size; i += 2 * stride)
    for (int64_t j = i; j < i + stride; j += 4) {
      floats4 low, high;
      std::memcpy(&low, x + j, sizeof low);
      std::memcpy(&high, x + j + stride, sizeof high);
      floats4 sum = low + high, difference = low - high;
      std::memcpy(x + j, &sum, sizeof sum);
      std::memcpy(x + j + stride, &difference, sizeof difference);
    }
}

// The same between elements `stride` apart and then between those 2 `stride` apart, in whole vectors.
static inline void add_and_subtract_twice(float* x, int64_t size, int64_t stride) {
  for (int64_t i = 0; i < size; i += 4 * stride)
    for (int64_t j = i; j < i + stride; j += kLanes) {
      vf a = load(x + j), b = load(x + j + stride), c = load(x + j + 2 * stride),
         d = load(x + j + 3 * stride);
      vf sum = add(a, b), difference = sub(a, b), next_sum = add(c, d), next_difference = sub(c, d);
      store(x + j, add(sum, next_sum));
      store(x + j + stride, add(difference, next_difference));
      store(x + j + 2 * stride, sub(sum, next_sum));
      store(x + j + 3 * stride, sub(difference, next_difference));
    }
}

// A head of queries or of keys, whose products stay the same: see hadamard.h.
static inline void rotate_head(float* x, int64_t size) {
  const int64_t part = hadamard_size(size);
  for (int64_t i = 0; i < size; i += 8) {
    floats4 eight[2];
    std::memcpy(eight, x + i, sizeof eight);
    rotate(eight);
    std::memcpy(x + i, eight, sizeof eight);
  }
  int64_t stride = 8;
  for (; stride < kLanes && stride < part; stride *= 2) add_and_subtract(x, size, stride);
  for (; 4 * stride <= part; stride *= 4) add_and_subtract_twice(x, size, stride);
  if (stride < part) add_and_subtract(x, size, stride);
  const vf factor = set1(hadamard_factor(part));
  for (int64_t i = 0; i < size; i += kLanes) {
    int n = lanes_left(i, size);
    store_n(x + i, mul(load_n(x + i, n), factor), n);
  }
}

// x [32] = H (x * factors)
static inline void rotate_inputs(float* x, const float* factors) {
  floats4 fours[kGroup / 4], by[kGroup / 4];
  std::memcpy(fours, x, sizeof fours);
  std::memcpy(by, factors, sizeof by);
  for (int i = 0; i < kGroup / 4; ++i) fours[i] *= by[i];
  rotate(fours);
  std::memcpy(x, fours, sizeof fours);
}

// x [32] = (H x) * factors: what was rotated as weights are, turned back.
static inline void rotate_back(float* x, const float* factors) {
  floats4 fours[kGroup / 4], by[kGroup / 4];
  std::memcpy(fours, x, sizeof fours);
  std::memcpy(by, factors, sizeof by);
  rotate(fours);
  for (int i = 0; i < kGroup / 4; ++i) fours[i] *= by[i];
  std::memcpy(x, fours, sizeof fours);
}

// x [32][64] = H (x / factors) / 32, in the same order.
static inline void rotate_weights(float (*x)[kPanel], const float* factors) {
  for (int i = 0; i < kGroup; ++i)
    for (int n = 0; n < kPanel; ++n) x[i][n] *= 1.0f / (kGroup * factors[i]);
  for (int stride = 1; stride < kGroup; stride *= 2)
    for (int i = 0; i < kGroup; ++i)
      if ((i & stride) == 0)
        for (int n = 0; n < kPanel; ++n) {
          float low = x[i][n], high = x[i + stride][n];
          x[i][n] = low + high, x[i + stride][n] = low - high;
        }
}

}  // namespace quire::QUIRE_ISA
