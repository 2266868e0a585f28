// Activations on their way into a product: written in the format that the product reads, a group of 32 at a time or a wide one.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace quire::QUIRE_ISA {

constexpr float kSmallest = 1e-30f;  // of the largest magnitude; below it the inverse of a step could overflow

static inline float largest_magnitude(const float* x) {
  vf highest = set1(0.0f);
  for (int i = 0; i < kGroup; i += kLanes) highest = max(highest, magnitude(load(x + i)));
  return max_of(highest);
}

// NaN where a value is NaN or infinite, else zero.
static inline float poison_of(const float* x) {
  vf sum = set1(0.0f);
  for (int i = 0; i < kGroup; i += kLanes) sum = fma(load(x + i), set1(0.0f), sum);
  return sum_of(sum);
}

// A group in steps of its largest magnitude / 127. The scale of values that are not finite is NaN, and so is what comes of
// them; their integers are any, so sums of them may wrap around.
template <class T>
static inline void quantise_group(const Rows& out, int64_t row, int64_t group, const float* x) {
  float highest = largest_magnitude(x);
  vf inverse = set1(highest > kSmallest ? 127.0f / highest : 0.0f);
  T* values = reinterpret_cast<T*>(out.row(row)) + group * kGroup;
  int32_t sum = store_quantised(values, x, inverse);
  out.scales(row)[group] = highest * (1.0f / 127.0f) + poison_of(x);
  out.corrections(row)[group] = static_cast<int32_t>(-static_cast<uint32_t>(out.offset) * static_cast<uint32_t>(sum));
}

#if defined(QUIRE_AMX)
constexpr float kHighestHalves = 32512.0f;  // 127 * 256

static inline void write_wide(const Rows& out, int64_t row, int64_t column, const float* x, int64_t count, vf inverse) {
  for (int64_t i = column; i < column + count; i += kGroup) {
    int8_t* values = reinterpret_cast<int8_t*>(out.row(row)) + i;
    uint32_t sum = static_cast<uint32_t>(store_quantised(values, x + i - column, inverse));
    for (uint32_t offset : {8u, 7u}) out.wide_corrections(row, offset)[i / kGroup] = static_cast<int32_t>(-offset * sum);
  }
}

static inline void write_halves(const Rows& out, int64_t row, int64_t column, const float* x, int64_t count, vf inverse) {
  for (int64_t i = column; i < column + count; i += kLanes)
    store_halves(out.upper_halves(row) + i, out.lower_halves(row) + i, mul(load(x + i - column), inverse));
}

// `count` values of a wide group from `column` on, a multiple of 32, in steps of their largest magnitude / 127 or, as halves, / 32512.
static inline void quantise_wide_group(const Rows& out, int64_t row, int64_t column, const float* x, int64_t count) {
  bool are_halves = out.format == RowFormat::kHalves;
  vf magnitudes = set1(0.0f), poison = set1(0.0f);
  for (int64_t i = 0; i < count; i += kLanes) {
    magnitudes = max(magnitudes, magnitude(load(x + i)));
    poison = fma(load(x + i), set1(0.0f), poison);
  }
  float highest = max_of(magnitudes), most = are_halves ? kHighestHalves : 127.0f;
  vf inverse = set1(highest > kSmallest ? most / highest : 0.0f);
  out.wide_scales(row)[column / kWideGroup] = highest * (1.0f / most) + sum_of(poison);
  if (are_halves) write_halves(out, row, column, x, count, inverse);
  else write_wide(out, row, column, x, count, inverse);
}
#endif

// Writes n values at `column`, a multiple of 32, of a row in any other format; x is zero from n up to 32.
static inline void write_group(const Rows& out, int64_t row, int64_t column, const float* x, int n) {
  switch (out.format) {
    case RowFormat::kInt8: return quantise_group<int8_t>(out, row, column / kGroup, x);
    case RowFormat::kInt16: return quantise_group<int16_t>(out, row, column / kGroup, x);
    case RowFormat::kBF16: {
      uint16_t* to = reinterpret_cast<uint16_t*>(out.row(row)) + column;
      for (int i = 0; i < n; i += kLanes) store_as(to + i, load(x + i), lanes_left(i, n));
      return;
    }
    default: {
      float* to = reinterpret_cast<float*>(out.row(row)) + column;
      for (int i = 0; i < n; i += kLanes) {
        vf y = load(x + i);
        store_as(to + i, out.format == RowFormat::kRounded ? round_to_bf16(y) : y, lanes_left(i, n));
      }
    }
  }
}

}  // namespace quire::QUIRE_ISA
