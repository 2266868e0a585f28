// Activations on their way into a product: written in the format that the product reads, up to a group of 32 at a time.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace quire::QUIRE_ISA {

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
  constexpr float kSmallest = 1e-30f;  // below it 127 / highest could overflow
  float highest = largest_magnitude(x);
  vf inverse = set1(highest > kSmallest ? 127.0f / highest : 0.0f);
  T* values = reinterpret_cast<T*>(out.row(row)) + group * kGroup;
  int32_t sum = store_quantised(values, x, inverse);
  out.scales(row)[group] = highest * (1.0f / 127.0f) + poison_of(x);
  out.corrections(row)[group] = static_cast<int32_t>(-static_cast<uint32_t>(out.offset) * static_cast<uint32_t>(sum));
}

// Writes n values at `column`, a multiple of 32, of a row; x is zero from n up to 32.
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
