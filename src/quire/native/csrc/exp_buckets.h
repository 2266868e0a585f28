// e^d for d <= 0 in two parts: d = -k ln(2) / 64 + r. The bucket k is an integer, and the residual e^r lies
// within half a percent of 1. Residuals are summed per bucket, so that a token needs no power of two of its
// own.
//
// Only the four operations, lane by lane and never fused, so that every instruction set finds the same bits,
// and NumPy too (quire/sample/buckets.py). V is double or a vector of doubles; everything is inlined into the
// calling instruction set.
#pragma once

#include <cstdint>

namespace quire {

constexpr int kBucketsPerOctave = 64;
constexpr int64_t kNumBuckets = 4096;
constexpr double kBucketsPerNat = 92.33248261689366;  // 64 / ln 2
// Tokens lighter than e^-44, about 2^-63 of the best one, are dropped: 53 bits of noise never select them.
constexpr double kMinNats = -44.0;
// A bucket's sum has four lanes, lane l for ids l, l + 4, ..; they are added as (0 + 1) + (2 + 3).
constexpr int kSumLanes = 4;
// 1.5 * 2^52: adding it to a small number leaves its nearest integer in the low bits.
constexpr double kRoundShift = 6755399441055744.0;

// -k of d's bucket, plus kRoundShift.
template <class V>
static inline __attribute__((always_inline)) V shifted_bucket(V d) {
  return d * kBucketsPerNat + kRoundShift;
}

// e^r by its Taylor series: r^6 / 6! is below 2^-54.
template <class V>
static inline __attribute__((always_inline)) V residual(V d, V shifted) {
  V n = shifted - kRoundShift;
  V r = (d - n * 0x1.62e42fep-7) - n * 0x1.f473de6af278fp-36;  // ln 2 / 64; n times its high part is exact
  return 1.0 + r * (1.0 + r * (1.0 / 2 + r * (1.0 / 6 + r * (1.0 / 24 + r * (1.0 / 120)))));
}

}  // namespace quire
