// Keys and values as integers: what the quantized KV formats store, see layouts.h. A scale, and a minimum, is
// a bfloat16 that depends on one token or on one tile alone; codes are rounded to nearest, ties to even.
// Every operation rounds as float32 in every instruction set, so that all of them store the same bits.
//
// No code exceeds its bits: a scale is rounded up, and code = value / scale by one rounding of each operand.
#pragma once

#include <limits>

#include "kv_policy.h"

namespace quire::QUIRE_ISA {

constexpr float kLeastRange = 0x1p-100f;  // values within less are all the same, and their scale is zero
constexpr uint16_t kNotANumber = 0x7fc0;  // the scale of what is not finite: no number is ever made of it

struct KVScale {
  uint16_t stored;  // bfloat16
  float inverse;    // by which values become codes

  bool is_number() const { return stored != kNotANumber; }
};

// The scale of codes that take `num_steps` steps through `range`, which is NaN where a value is not finite.
static inline KVScale scale_of(float range, float num_steps) {
  if (!(range <= std::numeric_limits<float>::max())) return {kNotANumber, 0.0f};
  if (range < kLeastRange) return {0, 0.0f};
  float exact = range / num_steps;
  uint32_t bits;
  std::memcpy(&bits, &exact, sizeof bits);
  uint16_t stored = static_cast<uint16_t>((bits + 0xffff) >> 16);
  return {stored, 1.0f / from_bf16(stored)};
}

// The largest magnitude, or NaN where a value is not finite.
static inline float largest_magnitude(const float* x, int64_t size) {
  vf most = set1(0.0f), nan_or_zero = set1(0.0f);
  for (int64_t i = 0; i < size; i += kLanes) {
    vf each = load_n(x + i, lanes_left(i, size));
    most = max(most, magnitude(each));
    nan_or_zero = add(nan_or_zero, mul(each, set1(0.0f)));
  }
  return reduce_max(most) + reduce_add(nan_or_zero);
}

// One head of a token as signed codes with one scale: visit(d, codes, count) is called for elements d to
// d + count, 32 at a time. False where an element is not finite.
template <class Visit>
static inline bool quantize_head(const float* x, int64_t size, uint16_t* stored_scale, const Visit& visit) {
  KVScale scale = scale_of(largest_magnitude(x, size), 127.0f);
  *stored_scale = scale.stored;
  for (int64_t d = 0; d < size; d += kGroup) {
    int64_t count = std::min<int64_t>(kGroup, size - d);
    float rest[kGroup] = {};
    if (count < kGroup) std::memcpy(rest, x + d, static_cast<size_t>(count) * sizeof *x);
    int8_t codes[kGroup];
    store_quantized(codes, count < kGroup ? rest : x + d, set1(scale.inverse));
    visit(d, codes, count);
  }
  return scale.is_number();
}

struct KVRange {
  float least, size;  // `size` is NaN where a value is not finite
};

static inline KVRange range_of(const float* x, int64_t count) {
  vf least = set1(x[0]), most = least, nan_or_zero = set1(0.0f);
  for (int64_t i = 0; i < count; i += kLanes) {
    int n = lanes_left(i, count);
    vf each = load_n(x + i, n);
    if (n < kLanes) each = select_less(lane_index(), set1(static_cast<float>(n)), each, set1(x[0]));
    least = min(least, each);
    most = max(most, each);
    nan_or_zero = add(nan_or_zero, mul(each, set1(0.0f)));
  }
  float lowest = -reduce_max(mul(least, set1(-1.0f)));
  return {lowest, reduce_max(most) - lowest + reduce_add(nan_or_zero)};
}

// Adds `steps`, rounded to integers, to words: their low bits, moved up by `shift`.
static inline void add_codes(vf steps, uint32_t low_bits, int shift, uint32_t* words) {
  word_lanes sum, codes = bits_of(add(steps, set1(0x1.8p23f)));  // an integer lies in the low bits of this
  std::memcpy(&sum, words, sizeof sum);
  sum |= (codes & low_bits) << shift;
  std::memcpy(words, &sum, sizeof sum);
}

// Values x [count] that share a scale and a minimum, as codes of 4 bits moved up by `shift` bits and added to
// words [count, in whole vectors]. The minimum needs no rounding, because the values are bfloat16. False
// where a value, or their range, is not finite.
static inline bool quantize_nibbles(const float* x, int64_t count, int shift, uint32_t* words,
                                    uint16_t* scale, uint16_t* minimum) {
  KVRange range = range_of(x, count);
  KVScale found = scale_of(range.size, 15.0f);
  for (int64_t i = 0; i < count; i += kLanes)
    add_codes(mul(sub(load_n(x + i, lanes_left(i, count)), set1(range.least)), set1(found.inverse)), 15,
              shift, words + i);
  *scale = found.stored;
  *minimum = to_bf16(range.least);
  return found.is_number();
}

// Element d of all tokens of an own tile of keys, from the words of its pair.
static inline void read_channel(const uint32_t* pairs, int64_t d, float* x) {
  for (int64_t t = 0; t < kTile; t += kLanes) {
    vi words = load_words(pairs + t);
    store(x + t, d % 2 ? odd_bf16(words) : even_bf16(words));
  }
}

static inline uint16_t* numbers_at(char* tile, int64_t offset) {
  return reinterpret_cast<uint16_t*>(tile + offset);
}

// A full tile of keys from its own tile, 4 bits: one scale and minimum per element over all tokens.
static inline bool quantize_int4_keys(const uint32_t* own, int64_t size, char* tile) {
  uint16_t *scales = numbers_at(tile, Int4KeyTiles::scales_at(size)),
           *minimums = numbers_at(tile, Int4KeyTiles::minimums_at(size));
  bool is_finite = true;
  float x[kTile];
  for (int64_t d = 0; d < size; ++d) {
    uint32_t* words = reinterpret_cast<uint32_t*>(tile) + d / 8 * kTile;
    if (d % 8 == 0) std::memset(words, 0, kTile * sizeof *words);
    read_channel(own + d / 2 * kTile, d, x);
    int shift = static_cast<int>(d % 4 * 8 + d % 8 / 4 * 4);
    is_finite &= quantize_nibbles(x, kTile, shift, words, scales + d, minimums + d);
  }
  return is_finite;
}

// A full tile of keys from its own tile, 8 bits: one scale per token.
static inline bool quantize_int8_keys(const uint32_t* own, int64_t size, char* tile) {
  uint16_t* scales = numbers_at(tile, Int8KeyTiles::scales_at(size));
  float most[kTile] = {}, nan_or_zero[kTile] = {}, inverses[kTile], x[kTile];
  for (int64_t d = 0; d < size; ++d) {
    read_channel(own + d / 2 * kTile, d, x);
    for (int64_t t = 0; t < kTile; t += kLanes) {
      store(most + t, max(load(most + t), magnitude(load(x + t))));
      store(nan_or_zero + t, add(load(nan_or_zero + t), mul(load(x + t), set1(0.0f))));
    }
  }
  bool is_finite = true;
  for (int64_t t = 0; t < kTile; ++t) {
    KVScale scale = scale_of(most[t] + nan_or_zero[t], 127.0f);
    scales[t] = scale.stored;
    inverses[t] = scale.inverse;
    is_finite &= scale.is_number();
  }
  for (int64_t d = 0; d < size; ++d) {
    uint32_t* words = reinterpret_cast<uint32_t*>(tile) + d / 4 * kTile;
    if (d % 4 == 0) std::memset(words, 0, kTile * sizeof *words);
    read_channel(own + d / 2 * kTile, d, x);
    int shift = static_cast<int>(d % 4 * 8);
    for (int64_t t = 0; t < kTile; t += kLanes)
      add_codes(mul(load(x + t), load(inverses + t)), 0xff, shift, words + t);
  }
  return is_finite;
}

// Values of one token that share a scale and a minimum, from the words of its pair of tokens.
static inline void read_group(const uint32_t* pairs, int64_t token, int64_t count, float* x) {
  for (int64_t d = 0; d < count; d += kLanes) {
    vi words = load_words(pairs + d);
    store(x + d, token % 2 ? odd_bf16(words) : even_bf16(words));
  }
}

// Strips of 16 words of four codes as 8 words each: elements 8 to 15 go to the high halves of bytes.
static inline void store_strips(const uint32_t* words, int64_t count, uint32_t* strips) {
  for (int64_t d = 0; d < count; d += 16)
    for (int64_t i = 0; i < 8; ++i) strips[d / 2 + i] = words[d + i] | words[d + 8 + i] << 4;
}

// A full tile of values from its own tile, 4 bits: one scale and minimum per token and group of elements.
static inline bool quantize_int4_values(const uint32_t* own, int64_t size, int64_t group, char* tile) {
  constexpr int64_t kMost = 64 + 16;  // a group, and the rest of a strip or of a vector
  uint16_t *scales = numbers_at(tile, Int4ValueTiles::scales_at(size)),
           *minimums = numbers_at(tile, Int4ValueTiles::minimums_at(size, group));
  bool is_finite = true;
  for (int64_t quad = 0; quad < kTile / 4; ++quad)
    for (int64_t first = 0; first < size; first += group) {
      int64_t count = std::min(group, size - first);
      uint32_t words[kMost] = {};
      for (int64_t token = 4 * quad; token < 4 * quad + 4; ++token) {
        float x[kMost];
        int64_t at = first / group * kTile + token;
        read_group(own + token / 2 * size + first, token, count, x);
        is_finite &=
            quantize_nibbles(x, count, static_cast<int>(token % 4 * 8), words, scales + at, minimums + at);
      }
      std::memset(words + count, 0, 8 * sizeof *words);
      char* strips = tile + quad * Int4ValueTiles::quad_bytes(size) + first * 2;
      store_strips(words, count, reinterpret_cast<uint32_t*>(strips));
    }
  return is_finite;
}

}  // namespace quire::QUIRE_ISA
