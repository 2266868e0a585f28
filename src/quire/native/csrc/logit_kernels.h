// Kernels over one row of logits: the maximum of each span of 64, selection by value, bucketed and
// approximate sums of e^x.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "exp_buckets.h"
#include "kernels.h"
#include "prefetch.h"
#include "simd.h"

namespace quire::QUIRE_ISA {

typedef float vs
    __attribute__((vector_size(sizeof(vf))));  // vf as the compiler's own vector type, to compare and index
typedef double vd __attribute__((vector_size(sizeof(vf))));
typedef int64_t vl __attribute__((vector_size(sizeof(vf))));
typedef float vh __attribute__((vector_size(sizeof(vf) / 2)));
constexpr int kDoubleLanes = kLanes / 2;

static inline vd set1_double(double x) { return vd{} + x; }

static inline vd load_doubles(const double* p) {
  vd x;
  std::memcpy(&x, p, sizeof x);
  return x;
}

static inline vd load_doubles(const float* p) {
  vh x;
  std::memcpy(&x, p, sizeof x);
  return __builtin_convertvector(x, vd);
}

// Buckets, counted from the range's first, and residuals of kDoubleLanes logits.
template <class T>
static inline __attribute__((always_inline)) void split_exp(const T* x, const SoftmaxParams& s,
                                                            BucketRange range, int64_t* buckets,
                                                            double* residuals) {
  vd d = (load_doubles(x) - s.best) * s.sharpness;
  vd shifted = shifted_bucket(d), y = residual(d, shifted);
  vd number = kRoundShift - shifted;
  vl is_inside = (d >= s.least) & (number >= static_cast<double>(range.begin)) &
                 (number < static_cast<double>(range.end));
  vl bucket = (vl)set1_double(kRoundShift) - (vl)shifted - range.begin;
  bucket = is_inside ? bucket : vl{} + (range.end - range.begin);
  std::memcpy(buckets, &bucket, sizeof bucket);
  std::memcpy(residuals, &y, sizeof y);
}

template <class T>
static void add_residuals(const T* x, const uint32_t* ids, int64_t n, const SoftmaxParams& s,
                          BucketRange range, double* sums) {
  int64_t buckets[kLogitSpan];
  double residuals[kLogitSpan];
  T rest[kLogitSpan];
  for (int64_t begin = 0; begin < n; begin += kLogitSpan, x += kLogitSpan, ids += kLogitSpan) {
    int64_t size = n - begin < kLogitSpan ? n - begin : kLogitSpan;
    const T* span = x;
    if (size < kLogitSpan) {
      for (int i = 0; i < kLogitSpan; ++i) rest[i] = x[i < size ? i : 0];
      span = rest;
    }
    for (int i = 0; i < kLogitSpan; i += kDoubleLanes)
      split_exp(span + i, s, range, buckets + i, residuals + i);
#pragma GCC unroll 4
    for (int64_t i = 0; i < size; ++i) sums[buckets[i] * kSumLanes + ids[i] % kSumLanes] += residuals[i];
  }
}

static inline uint32_t lanes_between(const float* x, double low, double high) {
  vf y = load(x);
  return mask_at_least(y, set1(static_cast<float>(low))) & mask_at_least(set1(static_cast<float>(high)), y);
}

static inline uint32_t lanes_between(const double* x, double low, double high) {
  uint32_t found = 0;
  for (int i = 0; i < kLanes; i += kDoubleLanes) {
    vd y = load_doubles(x + i);
    found |= (mask_at_least(y, set1_double(low)) & mask_at_least(set1_double(high), y)) << i;
  }
  return found;
}

template <class T>
static QUIRE_INLINE void prefetch_span(const T* span) {
  prefetch_lines(reinterpret_cast<const char*>(span), kLineBytes, kLogitSpan * sizeof(T) / kLineBytes);
}

template <class T>
static QUIRE_INLINE int64_t select_in_span(const T* x, uint32_t id, int64_t n, double low, double high,
                                           uint32_t* __restrict ids, T* __restrict logits) {
  const T* span = x + id;
  T rest[kLogitSpan];
  if (n < kLogitSpan) {
    for (int i = 0; i < kLogitSpan; ++i) rest[i] = i < n ? span[i] : std::numeric_limits<T>::quiet_NaN();
    span = rest;
  }
  uint32_t found[kLogitSpan / kLanes], any = 0;
#pragma GCC unroll 16
  for (int v = 0; v < kLogitSpan / kLanes; ++v) any |= found[v] = lanes_between(span + v * kLanes, low, high);
  if (any == 0) return 0;
  int64_t count = 0;
#pragma GCC unroll 16
  for (int v = 0; v < kLogitSpan / kLanes; ++v) {
    store_indices(ids + count, id + static_cast<uint32_t>(v * kLanes), found[v]);
    store_lanes(logits + count, span + v * kLanes, found[v]);
    count += __builtin_popcount(found[v]);
  }
  return count;
}

template <class T>
static int64_t select(const T* x, uint32_t id, int64_t n, const T* maxima, double low, double high,
                      uint32_t* __restrict ids, T* __restrict logits) {
  constexpr int64_t kAhead = 4 * kLogitSpan;
  int64_t count = 0;
  for (int64_t begin = 0; begin < n; begin += kLogitSpan) {
    if (maxima && maxima[begin / kLogitSpan] < static_cast<T>(low)) continue;
    prefetch_span(x + id + begin + kAhead);
    count += select_in_span(x, id + static_cast<uint32_t>(begin), std::min<int64_t>(kLogitSpan, n - begin),
                            low, high, ids + count, logits + count);
  }
  return count;
}

static inline float largest_lane(vs x) {
  vf y;
  std::memcpy(&y, &x, sizeof y);
  return reduce_max(y);
}

static inline double largest_lane(vd x) {
  double best = x[0];
  for (int lane = 1; lane < kDoubleLanes; ++lane) best = best > x[lane] ? best : x[lane];
  return best;
}

// The largest value of a span, whose values are added to `sum`.
template <class T, class V>
static inline T span_max(const T* x, V& sum) {
  constexpr int kWidth = sizeof(V) / sizeof(T);
  V top;
  std::memcpy(&top, x, sizeof top);
  V all = top;
#pragma GCC unroll 16
  for (int i = kWidth; i < kLogitSpan; i += kWidth) {
    V y;
    std::memcpy(&y, x + i, sizeof y);
    all += y;
    top = top > y ? top : y;
  }
  sum += all;
  return largest_lane(top);
}

static inline bool is_nan(double x) { return x != x; }

// A sum with a NaN is NaN, and one with an infinity is not finite, which is cheaper than testing every value;
// rarely, infinities sum to NaN, and finite values to infinity.
template <class T, class V>
static RowValues span_maxima(const T* x, int64_t n, T* maxima) {
  V sum = {};
  int64_t whole = n / kLogitSpan;
  for (int64_t s = 0; s < whole; ++s) maxima[s] = span_max<T, V>(x + s * kLogitSpan, sum);
  T total = 0;
  for (size_t lane = 0; lane < sizeof(V) / sizeof(T); ++lane) total += sum[lane];
  if (n % kLogitSpan != 0) maxima[whole] = x[whole * kLogitSpan];
  for (int64_t i = whole * kLogitSpan; i < n; ++i) {
    total += x[i];
    maxima[whole] = maxima[whole] > x[i] ? maxima[whole] : x[i];
  }
  if (std::isfinite(total)) return RowValues::kFinite;
  bool has_nan = is_nan(total) && std::any_of(x, x + n, [](T value) { return is_nan(value); });
  return has_nan ? RowValues::kNan : RowValues::kOrdered;
}

static bool is_finite(const float* x, int64_t n) {
  vf zeros[4] = {set1(0.0f), set1(0.0f), set1(0.0f), set1(0.0f)};  // x - x, which is NaN if x is not finite
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes)
    for (int v = 0; v < 4; ++v) {
      vf y = load(x + i + v * kLanes);
      zeros[v] = add(zeros[v], sub(y, y));
    }
  float zero = reduce_add(add(add(zeros[0], zeros[1]), add(zeros[2], zeros[3])));
  for (; i < n; ++i) zero += x[i] - x[i];
  return zero == 0.0f;
}

// The approximate sum of a row's weights costs a third of the exact one: it is computed in float with fused
// operations, so its last bits differ between instruction sets. BucketSampler finds the exact token all the
// same.
//
//   x * sharpness / ln 2 = n + r      n an integer, |r| <= 1/2; the fused product is rounded once
//   weight * 2^pivot     = 2^r * 2^n  2^r by a polynomial
//
// Errors in units of 2^-24 (rounding to nearest is half a unit): r 1.1, 2^r another 1.4, adding a span
// pairwise at most 3; spans are added in double. kApproxSumError is 6 units.
static inline __attribute__((always_inline)) vf exp2_residual(vf r) {
  vf p = set1(1.5353362e-4f);
  p = fma(p, r, set1(1.33988750e-3f));
  p = fma(p, r, set1(9.61843692e-3f));
  p = fma(p, r, set1(5.55033237e-2f));
  p = fma(p, r, set1(2.40226477e-1f));
  p = fma(p, r, set1(6.93147182e-1f));
  return fma(p, r, set1(1.0f));
}

// 1.5 * 2^23: adding it to a small float leaves its nearest integer in the low bits.
constexpr float kFloatRoundShift = 12582912.0f;

// Converts logits to octaves below the best one.
struct Octaves {
  float unit, unit_rest;  // octaves per logit, and the rounding error of `unit`
  float pivot;            // the best logit's octaves, rounded to an integer
  double floor;           // 120 octaves below the best logit: anything lower has weight zero

  // `rest`: the rounding error of x where logits are double. 2^(n - pivot) is added to the exponent of 2^r,
  // which is near 1.
  template <bool kHasRest>
  vf weight(vf x, vf rest) const {
    vf shifted = fma(x, set1(unit), set1(kFloatRoundShift));
    vf r = fma(x, set1(unit), sub(set1(kFloatRoundShift), shifted));
    r = fma(x, set1(unit_rest), r);
    if (kHasRest) r = fma(rest, set1(unit), r);
    word_lanes exponents = bits_of(shifted) - bits_of(set1(kFloatRoundShift + pivot));
    word_lanes bits = bits_of(exp2_residual(r)) + (exponents << 23);
    vf weights;
    std::memcpy(&weights, &bits, sizeof weights);
    return weights;
  }
};

// A span as floats, raised to the floor, and their rounding errors.
static inline void split_rounding(const float* x, const Octaves& octaves, float* values, float*) {
  for (int i = 0; i < kLogitSpan; i += kLanes)
    store(values + i, max(load(x + i), set1(static_cast<float>(octaves.floor))));
}

static inline void split_rounding(const double* x, const Octaves& octaves, float* values, float* rests) {
  for (int i = 0; i < kLogitSpan; ++i) {
    double value = x[i] > octaves.floor ? x[i] : octaves.floor;
    values[i] = static_cast<float>(value);
    rests[i] = static_cast<float>(value - values[i]);
  }
}

template <class T>
static inline vf span_sum(const T* x, const Octaves& octaves) {
  constexpr int kVectors = kLogitSpan / kLanes;
  float values[kLogitSpan], rests[kLogitSpan] = {};
  split_rounding(x, octaves, values, rests);
  vf sums[kVectors];
#pragma GCC unroll 16
  for (int v = 0; v < kVectors; ++v)
    sums[v] = octaves.template weight<!std::is_same<T, float>::value>(load(values + v * kLanes),
                                                                      load(rests + v * kLanes));
#pragma GCC unroll 4
  for (int width = kVectors / 2; width > 0; width /= 2)
#pragma GCC unroll 8
    for (int v = 0; v < width; ++v) sums[v] = add(sums[v], sums[v + width]);
  return sums[0];
}

// NaN where the error bound does not hold: no FMA, or logits out of reach.
template <class T>
static double approx_exp_sum(const T* x, int64_t n, const SoftmaxParams& s) {
  constexpr bool kFuses = kLanes > 4;
  constexpr double kReach = 1 << 15;  // octaves of which 2^-24 is still a small fraction of one
  double unit = s.sharpness / 0.6931471805599453;
  double pivot = s.best * unit;
  if (!kFuses || s.least > kMinNats || !(std::fabs(pivot) < kReach))
    return std::numeric_limits<double>::quiet_NaN();
  Octaves octaves{static_cast<float>(unit), 0.0f, static_cast<float>(std::nearbyint(pivot)),
                  s.best - 120 / unit};
  octaves.unit_rest = static_cast<float>(unit - octaves.unit);
  vd sums[2] = {};
  constexpr int64_t kAhead =
      4096;  // rows are summed in pieces of as many, and the next one is read behind: see LogitRow
  auto add_span = [&](const T* span) {
    vf sum = span_sum(span, octaves);
    vh halves[2];
    std::memcpy(halves, &sum, sizeof sum);
    for (int half = 0; half < 2; ++half) sums[half] += __builtin_convertvector(halves[half], vd);
  };
  int64_t whole = n / kLogitSpan * kLogitSpan;
  for (int64_t i = 0; i < whole; i += kLogitSpan) {
    prefetch_span(x + i + kAhead);
    add_span(x + i);
  }
  if (whole < n) {
    T rest[kLogitSpan];
    for (int i = 0; i < kLogitSpan; ++i)
      rest[i] = whole + i < n ? x[whole + i] : -std::numeric_limits<T>::infinity();
    add_span(rest);
  }
  double sum = 0;
  for (int lane = 0; lane < kDoubleLanes; ++lane) sum += sums[0][lane] + sums[1][lane];
  return sum * std::exp2(octaves.pivot - pivot);
}

}  // namespace quire::QUIRE_ISA
