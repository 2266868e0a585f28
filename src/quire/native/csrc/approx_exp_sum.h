// The sum of a row's weights, roughly, at a third of the exact one's cost: in float, with fused operations, so its last bits are
// the instruction set's own. `Buckets` finds the exact token all the same.
//
//   x * sharpness / ln 2 = n + r      n whole, |r| up to 1/2; a fused product is rounded once
//   weight * 2^pivot     = 2^r * 2^n  2^r by a polynomial
//
// In units of 2^-24, a half of which is a rounding's: r is right to 1.1, 2^r to 1.4 more, and adding a block's weights by halves costs 3
// at most (blocks are added in double). kRoughness is 6 of them.
#pragma once

#include <cmath>

#include "logit_kernels.h"

namespace quire::QUIRE_ISA {

static inline __attribute__((always_inline)) vf two_to(vf r) {
  vf p = set1(1.5353362e-4f);
  p = fma(p, r, set1(1.33988750e-3f));
  p = fma(p, r, set1(9.61843692e-3f));
  p = fma(p, r, set1(5.55033237e-2f));
  p = fma(p, r, set1(2.40226477e-1f));
  p = fma(p, r, set1(6.93147182e-1f));
  return fma(p, r, set1(1.0f));
}

// What turns logits into octaves below the best one's.
struct Octaves {
  float unit, unit_rest;  // octaves of a logit's 1, and what rounding it to float left
  float pivot;            // a whole number of octaves, the best logit's
  double floor;           // logits below, 120 octaves from the best one, weigh nothing

  // x and, where it is no float, what rounding it left.
  template <bool kHasRest>
  vf weight(vf x, vf rest) const {
    vf minus_n = to_nearest(mul(x, set1(-unit)));
    vf r = fma(x, set1(unit), minus_n);
    r = fma(x, set1(unit_rest), r);
    if (kHasRest) r = fma(rest, set1(unit), r);
    return mul(two_to(r), power_of_two(sub(set1(-pivot), minus_n)));
  }
};

// A block as floats no lower than the floor, and what rounding left.
static inline void split(const float* x, const Octaves& octaves, float* values, float*) {
  for (int i = 0; i < kBlock; i += kLanes) store(values + i, max(load(x + i), set1(static_cast<float>(octaves.floor))));
}

static inline void split(const double* x, const Octaves& octaves, float* values, float* rests) {
  for (int i = 0; i < kBlock; ++i) {
    double value = x[i] > octaves.floor ? x[i] : octaves.floor;
    values[i] = static_cast<float>(value);
    rests[i] = static_cast<float>(value - values[i]);
  }
}

template <class T>
static inline vf block_sum(const T* x, const Octaves& octaves) {
  constexpr int kVectors = kBlock / kLanes;
  float values[kBlock], rests[kBlock] = {};
  split(x, octaves, values, rests);
  vf sums[kVectors];
#pragma GCC unroll 16
  for (int v = 0; v < kVectors; ++v)
    sums[v] = octaves.template weight<!std::is_same<T, float>::value>(load(values + v * kLanes), load(rests + v * kLanes));
#pragma GCC unroll 4
  for (int width = kVectors / 2; width > 0; width /= 2)
#pragma GCC unroll 8
    for (int v = 0; v < width; ++v) sums[v] = add(sums[v], sums[v + width]);
  return sums[0];
}

template <class T>
static double rough_sum(const T* x, int64_t n, const Weighing& w) {
  constexpr bool kFuses = kLanes > 4;
  constexpr double kReach = 1 << 15;  // octaves of which 2^-24 is a small part of one
  double unit = w.sharpness / 0.6931471805599453;
  double pivot = w.best * unit;
  if (!kFuses || w.least > kLeast || !(std::fabs(pivot) < kReach)) return std::numeric_limits<double>::quiet_NaN();
  Octaves octaves{static_cast<float>(unit), 0.0f, static_cast<float>(std::nearbyint(pivot)), w.best - 120 / unit};
  octaves.unit_rest = static_cast<float>(unit - octaves.unit);
  vd sums[2] = {};
  auto add_block = [&](const T* block) {
    vf sum = block_sum(block, octaves);
    vh halves[2];
    std::memcpy(halves, &sum, sizeof sum);
    for (int half = 0; half < 2; ++half) sums[half] += __builtin_convertvector(halves[half], vd);
  };
  int64_t whole = n / kBlock * kBlock;
  for (int64_t i = 0; i < whole; i += kBlock) add_block(x + i);
  if (whole < n) {
    T rest[kBlock];
    for (int i = 0; i < kBlock; ++i) rest[i] = whole + i < n ? x[whole + i] : -std::numeric_limits<T>::infinity();
    add_block(rest);
  }
  double sum = 0;
  for (int lane = 0; lane < kWide; ++lane) sum += sums[0][lane] + sums[1][lane];
  return sum * std::exp2(octaves.pivot - pivot);
}

}  // namespace quire::QUIRE_ISA
