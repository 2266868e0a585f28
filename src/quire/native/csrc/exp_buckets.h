// e^d for d <= 0 in two parts: d = -k ln(2) / 64 + r. The bucket k is a whole number, and the shade e^r lies within half a
// percent of 1. Weights are summed a bucket at a time, shades first, so that no token needs its own power of two.
//
// The four operations alone, lane by lane and never fused: every instruction set finds the same bits, and NumPy too
// (quire/sample/buckets.py). V is double or a vector of doubles; everything is inlined into the instruction set that asks.
#pragma once

#include <cstdint>

namespace quire {

constexpr int kBucketsPerOctave = 64;
constexpr int64_t kNumBuckets = 4096;
constexpr double kBucketsPerNat = 92.33248261689366;  // 64 / ln 2
constexpr double kLeast = -44.0;  // lighter than e^-44 or 2^-63 of the best token: out of reach for 53 bits of noise, so left out
constexpr int kSumLanes = 4;      // a bucket's sum has four lanes, lane l of ids l, l + 4, ..; then (0 + 1) + (2 + 3)
constexpr double kShift = 6755399441055744.0;  // 1.5 * 2^52: added to a small number, its low bits hold the nearest integer

// The number -k of d's bucket, plus kShift.
template <class V>
static inline __attribute__((always_inline)) V shifted_bucket(V d) {
  return d * kBucketsPerNat + kShift;
}

// e^r by its Taylor series: r^6 / 6! is below 2^-54.
template <class V>
static inline __attribute__((always_inline)) V shade(V d, V shifted) {
  V n = shifted - kShift;
  V r = (d - n * 0x1.62e42fep-7) - n * 0x1.f473de6af278fp-36;  // ln 2 / 64; n times its high part is exact
  return 1.0 + r * (1.0 + r * (1.0 / 2 + r * (1.0 / 6 + r * (1.0 / 24 + r * (1.0 / 120)))));
}

}  // namespace quire
