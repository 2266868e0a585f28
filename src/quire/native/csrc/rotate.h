// Rotation of 32 inputs of a product by a Hadamard matrix H, so that no outlier takes all of their scale: a'
// = H (a / s), w' = H (w s) / 32, and the products are the same, because H H = 32. The factors s are powers
// of two, so that only the butterflies round, each sum and difference once.
#pragma once

#include "hadamard.h"
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

// x [4 kFours] = H x, as long as x was
template <int kFours>
static inline void rotate_in_place(float* x) {
  floats4 fours[kFours];
  std::memcpy(fours, x, sizeof fours);
  rotate(fours);
  for (floats4& four : fours) four *= hadamard_factor(4 * kFours);
  std::memcpy(x, fours, sizeof fours);
}

// A head of queries or of keys, whose products stay the same: see hadamard.h.
static inline void rotate_head(float* x, int64_t size) {
  int64_t part = hadamard_size(size);
  for (int64_t i = 0; i < size; i += part) switch (part) {
      case 8: rotate_in_place<2>(x + i); break;
      case 16: rotate_in_place<4>(x + i); break;
      case 32: rotate_in_place<8>(x + i); break;
      case 64: rotate_in_place<16>(x + i); break;
      default: rotate_in_place<32>(x + i);
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
