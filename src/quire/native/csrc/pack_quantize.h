// Weight quantization: scales and integers of kLanes columns at a time, one column per lane. All instruction
// sets store the same bits: values are rounded lane by lane, and sums over a group are eight
// partial sums added in a fixed order.
#pragma once

#include "pack_transpose.h"
#include "quantize_activations.h"

namespace quire::QUIRE_ISA {

static inline vf clamp(vf x, vf low, vf high) { return min(max(x, low), high); }

// 1.5 * 2^23: adding it to |x| < 2^22 rounds x to an integer, which the low bits then hold.
constexpr float kMagic = 12582912.0f;

// Per column of `count` rows: the value of largest magnitude, with its sign; and NaN if a weight is not
// finite, else zero.
struct Extremes {
  vf value, nan_or_zero;
};
static inline Extremes extremes_of(const float (*x)[kPanel], int64_t count) {
  vf high = load(x[0]), low = high, nan_or_zero = set1(0.0f);
  for (int64_t i = 0; i < count; ++i) {
    vf each = load(x[i]);
    high = max(each, high);
    low = min(each, low);
    nan_or_zero = add(nan_or_zero, mul(each, set1(0.0f)));
  }
  return {select_less(high, sub(set1(0.0f), low), low, high), nan_or_zero};
}

// Sums over a group with q = units quantized to 8 bits: sum(unit * q), as eight partial sums; and sum(q *
// q), exact in any order.
struct Fit {
  vf unit_q, q_q;
};
static inline Fit fit(const vf (&units)[kGroup], vf inverse_scale) {
  vf parts[8], q_q = set1(0.0f);
  for (int lane = 0; lane < 8; ++lane) {
    vf sum = set1(0.0f), squares = set1(0.0f);
    for (int i = lane; i < kGroup; i += 8) {
      vf q = sub(add(clamp(mul(units[i], inverse_scale), set1(-128.0f), set1(127.0f)), set1(kMagic)),
                 set1(kMagic));
      sum = add(sum, mul(units[i], q));
      squares = add(squares, mul(q, q));
    }
    parts[lane] = sum;
    q_q = add(q_q, squares);
  }
  vf even = add(add(parts[0], parts[4]), add(parts[2], parts[6])),
     odd = add(add(parts[1], parts[5]), add(parts[3], parts[7]));
  return {add(even, odd), q_q};
}

// The best 8-bit scale of ten candidates: each quantizes the group with another step size, from 1% more than
// the largest value asks for to 8% less, then takes the least-squares scale of the integers it found.
static inline vf best_scale(const float (*x)[kPanel], vf extreme) {
  constexpr int kTries = 10;
  vf units[kGroup], unit = div(set1(1.0f), extreme);
  for (int i = 0; i < kGroup; ++i) units[i] = mul(load(x[i]), unit);
  vf best = set1(1.0f / 127.0f), most = set1(-1.0f);  // in units of the extreme value
  for (int i = 0; i < kTries; ++i) {
    Fit found = fit(units, set1(127.0f / (1.01f - 0.01f * static_cast<float>(i))));
    vf dot = found.unit_q, square = found.q_q, gain = mul(dot, dot), bar = mul(most, square);
    vf is_better = select_less(bar, gain, set1(1.0f), set1(0.0f)),
       is_some = select_less(set1(0.0f), square, is_better, set1(0.0f));
    most = select_less(set1(0.0f), is_some, div(gain, square), most);
    best = select_less(set1(0.0f), is_some, div(dot, square), best);
  }
  return mul(best, extreme);
}

// Stores scales as bfloat16 and returns them. `size` is the largest magnitude of each column: the scale is
// zero if that is tiny, and NaN if a weight is not finite.
static inline vf store_scales(vf wanted, vf size, vf nan_or_zero, uint16_t* scales) {
  vf scale = round_to_bf16(select_less(size, set1(kSmallest), set1(0.0f), wanted));
  scale = select_less(nan_or_zero, set1(1.0f), scale, set1(float_from_bits(0x7fc00000)));
  word_lanes bits = bits_of(scale) >> 16;
  for (int lane = 0; lane < kLanes; ++lane) scales[lane] = static_cast<uint16_t>(bits[lane]);
  return scale;
}

static inline vf inverse_of(vf scale, vf size) {
  return select_less(size, set1(kSmallest), set1(0.0f), div(set1(1.0f), scale));
}

// x quantized to [low, high], plus zero_point, in the low byte of a word.
static inline word_lanes quantized(vf x, vf inverse, vf low, vf high, vf zero_point) {
  return bits_of(add(clamp(mul(x, inverse), low, high), add(set1(kMagic), zero_point))) & 0xff;
}

}  // namespace quire::QUIRE_ISA
