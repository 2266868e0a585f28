// Packing: up to 64 rows of a checkpoint's matrix become one panel, a group of 32 elements of K at a time.
//
// What is stored is the same for every instruction set: values are rounded lane by lane, and sums over a group are taken by
// eight lanes and then in a fixed order.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace quire::QUIRE_ISA {

typedef float v8 __attribute__((vector_size(32)));
typedef int32_t v8i __attribute__((vector_size(32)));

// A group of K of a panel's rows.
struct SourceTile {
  float rows[kPanel][kGroup];
};

static inline v8 load8(const float* p) {
  v8 x;
  std::memcpy(&x, p, sizeof x);
  return x;
}
static inline v8 all8(float x) { return v8{x, x, x, x, x, x, x, x}; }
static inline float sum8(v8 x) { return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7])); }
static inline v8 nearest8(v8 x, float low, float high) {
  v8 magic = all8(12582912.0f);  // 1.5 * 2^23: adding it leaves no fraction bits, for |x| < 2^22
  x = x < all8(low) ? all8(low) : x > all8(high) ? all8(high) : x;
  return (x + magic) - magic;
}

static inline float widened(float x) { return x; }
static inline float widened(uint16_t x) { return from_bf16(x); }

template <class From>
static inline void read_tile(const SourceMatrix& source, int64_t first_row, int64_t k, SourceTile& tile) {
  int64_t rows = source.rows - first_row < kPanel ? source.rows - first_row : kPanel;
  int64_t depth = source.columns - k < kGroup ? source.columns - k : kGroup;
  for (int64_t n = 0; n < rows; ++n) {
    const From* from = static_cast<const From*>(source.base) + (first_row + n) * source.row_stride + k * source.column_stride;
    if (source.column_stride == 1 && depth == kGroup) {
      for (int64_t i = 0; i < kGroup; ++i) tile.rows[n][i] = widened(from[i]);
      continue;
    }
    for (int64_t i = 0; i < kGroup; ++i) tile.rows[n][i] = i < depth ? widened(from[i * source.column_stride]) : 0.0f;
  }
  for (int64_t n = rows; n < kPanel; ++n)
    for (int64_t i = 0; i < kGroup; ++i) tile.rows[n][i] = 0.0f;
}

// Word `word` of every column, as `word_of(column)` gives it.
template <class WordOf>
static inline void write_words(const Panels& target, int64_t panel, int64_t group, int word, const WordOf& word_of) {
  uint32_t* to = target.word(panel, group, 0, word);
  for (int n = 0; n < kPanel; ++n) to[n] = word_of(n);
}

static inline uint32_t word_at(const void* base, int word) {
  uint32_t bits;
  std::memcpy(&bits, static_cast<const char*>(base) + 4 * word, sizeof bits);
  return bits;
}

static inline void write_f32(const SourceTile& tile, const Panels& target, int64_t panel, int64_t group) {
  for (int i = 0; i < kGroup; ++i) write_words(target, panel, group, i, [&](int n) { return word_at(tile.rows[n], i); });
}

static inline void write_bf16(const SourceTile& tile, const Panels& target, int64_t panel, int64_t group) {
  uint16_t bits[kPanel][kGroup];
  for (int n = 0; n < kPanel; ++n)
    for (int i = 0; i < kGroup; i += kLanes) store_as(bits[n] + i, load(tile.rows[n] + i), kLanes);
  for (int i = 0; i < kGroup / 2; ++i) write_words(target, panel, group, i, [&](int n) { return word_at(bits[n], i); });
}

// The value of largest magnitude, with its sign.
static inline float extreme_of(const float* x) {
  v8 high = load8(x), low = high;
  for (int i = 8; i < kGroup; i += 8) {
    v8 each = load8(x + i);
    high = each > high ? each : high;
    low = each < low ? each : low;
  }
  float highest = high[0], lowest = low[0];
  for (int lane = 1; lane < 8; ++lane) {
    highest = high[lane] > highest ? high[lane] : highest;
    lowest = low[lane] < lowest ? low[lane] : lowest;
  }
  return -lowest > highest ? lowest : highest;
}

// NaN where a weight is not finite, else zero.
static inline float poison8(const float* x) {
  v8 sum = all8(0.0f);
  for (int i = 0; i < kGroup; i += 8) sum += load8(x + i) * all8(0.0f);
  return sum8(sum);
}

// The scale that suits steps in [-8, 7] best: steps of several sizes are tried, each with the scale of least squares.
static inline float best_int4_scale(const float* x, float extreme) {
  constexpr int kTries = 12;
  float best = -0.125f, most = -1.0f;  // in units of the extreme
  v8 unit = all8(1.0f / extreme);
  for (int i = 0; i < kTries; ++i) {
    v8 steps = all8(-6.25f - 0.25f * static_cast<float>(i));
    v8 with_x = all8(0.0f), with_itself = all8(0.0f);
    for (int c = 0; c < kGroup; c += 8) {
      v8 each = load8(x + c) * unit, q = nearest8(each * steps, -8.0f, 7.0f);
      with_x += each * q;
      with_itself += q * q;
    }
    float dot = sum8(with_x), square = sum8(with_itself);
    if (square > 0.0f && dot * dot > most * square) {
      most = dot * dot / square;
      best = dot / square;
    }
  }
  return best * extreme;
}

// Writes the unsigned values of one row's group and returns its scale's bits.
static inline uint16_t quantise_weights(WeightFormat format, const float* x, uint8_t* values) {
  constexpr float kSmallest = 1e-30f;
  float offset = static_cast<float>(weight_offset(format)), extreme = extreme_of(x);
  bool is_zero = extreme < kSmallest && extreme > -kSmallest;
  float wanted = is_zero ? 0.0f : format == WeightFormat::kInt4 ? best_int4_scale(x, extreme) : extreme / -offset;
  uint16_t bits = to_bf16(wanted + poison8(x));
  v8 inverse = all8(is_zero ? 0.0f : 1.0f / from_bf16(bits));
  for (int i = 0; i < kGroup; i += 8) {
    v8i u = __builtin_convertvector(nearest8(load8(x + i) * inverse, -offset, offset - 1.0f) + all8(offset), v8i);
    for (int lane = 0; lane < 8; ++lane) values[i + lane] = static_cast<uint8_t>(u[lane]);
  }
  return bits;
}

static inline void write_ints(const SourceTile& tile, const Panels& target, int64_t panel, int64_t group) {
  uint8_t values[kPanel][kGroup];
  uint16_t* scales = target.scales(panel, group);
  for (int n = 0; n < kPanel; ++n) scales[n] = quantise_weights(target.format, tile.rows[n], values[n]);
  if (target.format == WeightFormat::kInt8) {
    for (int i = 0; i < kGroup / 4; ++i) write_words(target, panel, group, i, [&](int n) { return word_at(values[n], i); });
  } else {
    for (int i = 0; i < kGroup / 8; ++i)
      write_words(target, panel, group, i, [&](int n) { return word_at(values[n], 2 * i) | word_at(values[n], 2 * i + 1) << 4; });
  }
}

static void pack(const SourceMatrix& source, int64_t first_row, const Panels& target, int64_t panel) {
  SourceTile tile;
  for (int64_t group = 0; group < target.num_groups(); ++group) {
    if (source.element == Element::kF32)
      read_tile<float>(source, first_row, group * kGroup, tile);
    else
      read_tile<uint16_t>(source, first_row, group * kGroup, tile);
    switch (target.format) {
      case WeightFormat::kF32: write_f32(tile, target, panel, group); break;
      case WeightFormat::kBF16: write_bf16(tile, target, panel, group); break;
      default: write_ints(tile, target, panel, group);
    }
  }
}

}  // namespace quire::QUIRE_ISA
