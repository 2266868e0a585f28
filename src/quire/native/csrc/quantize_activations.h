// Writes activations in the format that the next product reads: 32 values, or 256 for AMX, at a time.
#pragma once

#include "kernels.h"
#include "rotate.h"
#include "simd.h"

namespace quire::QUIRE_ISA {

// The smallest absolute maximum that is quantized; below it the inverse scale could overflow.
constexpr float kSmallest = 1e-30f;

static inline float abs_max(const float* x) {
  vf highest = set1(0.0f);
  for (int i = 0; i < kGroup; i += kLanes) highest = max(highest, magnitude(load(x + i)));
  return reduce_max(highest);
}

// NaN if a value is NaN or infinite, else zero.
static inline float nan_if_not_finite(const float* x) {
  vf sum = set1(0.0f);
  for (int i = 0; i < kGroup; i += kLanes) sum = fma(load(x + i), set1(0.0f), sum);
  return reduce_add(sum);
}

// Quantizes 32 values with the scale abs_max / 127. If a value is not finite, the scale is NaN, and so is
// every product with it; the integers are then arbitrary.
static inline void quantize_group(const ActivationRows& out, int64_t row, int64_t group, const float* x) {
  float highest = abs_max(x), scale = highest * (1.0f / 127.0f) + nan_if_not_finite(x);
  vf inverse = set1(highest > kSmallest ? 127.0f / highest : 0.0f);
  HalfSums sums = store_quantized(reinterpret_cast<int8_t*>(out.row(row)) + group * kGroup, x, inverse);
  out.scales(row)[group] = scale;
  const uint32_t sum = sums.first + sums.second;
  out.scaled_sums(row)[group] = scale * static_cast<float>(static_cast<int32_t>(sum));
  out.negative_sums(row)[group] = -sum;
  out.negative_half_sums(row)[2 * group] = -sums.first;
  out.negative_half_sums(row)[2 * group + 1] = -sums.second;
}

static inline void quantize_rotated_group(const ActivationRows& out, int64_t row, int64_t group,
                                          const float* x) {
  alignas(64) float rotated[kGroup];
  std::memcpy(rotated, x, sizeof rotated);
  rotate_inputs(rotated, out.input_factors + group * kGroup);
  quantize_group(out, row, group, rotated);
}

#if defined(QUIRE_AMX)
constexpr float kMaxInt16Split = 32512.0f;  // 127 * 256

// Quantizes `count` values of a group of 256 from `column` on with the scale abs_max / 32512.
static inline void quantize_split_group(const ActivationRows& out, int64_t row, int64_t column,
                                        const float* x, int64_t count) {
  vf magnitudes = set1(0.0f), nan_or_zero = set1(0.0f);
  for (int64_t i = 0; i < count; i += kLanes) {
    magnitudes = max(magnitudes, magnitude(load(x + i)));
    nan_or_zero = fma(load(x + i), set1(0.0f), nan_or_zero);
  }
  float highest = reduce_max(magnitudes);
  vf inverse = set1(highest > kSmallest ? kMaxInt16Split / highest : 0.0f);
  out.split_scales(row)[column / kSuperGroup] = highest * (1.0f / kMaxInt16Split) + reduce_add(nan_or_zero);
  for (int64_t i = column; i < column + count; i += kLanes)
    store_high_low(out.high_bytes(row) + i, out.low_bytes(row) + i, mul(load(x + i - column), inverse));
}
#endif

// Writes n values at `column`, a multiple of 32, of a row in any other format; x is zero from n up to 32.
static inline void write_group(const ActivationRows& out, int64_t row, int64_t column, const float* x,
                               int n) {
  switch (out.format) {
    case ActivationFormat::kInt8: return quantize_group(out, row, column / kGroup, x);
    case ActivationFormat::kInt8Rotated: return quantize_rotated_group(out, row, column / kGroup, x);
    case ActivationFormat::kBF16: {
      uint16_t* to = reinterpret_cast<uint16_t*>(out.row(row)) + column;
      for (int i = 0; i < n; i += kLanes) store_as(to + i, load(x + i), lanes_left(i, n));
      return;
    }
    default: {
      float* to = reinterpret_cast<float*>(out.row(row)) + column;
      for (int i = 0; i < n; i += kLanes) {
        vf y = load(x + i);
        store_as(to + i, out.format == ActivationFormat::kBF16AsF32 ? round_to_bf16(y) : y, lanes_left(i, n));
      }
    }
  }
}

}  // namespace quire::QUIRE_ISA
