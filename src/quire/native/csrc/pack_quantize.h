// Integers and their scales: of kLanes columns at a time, each of which is a lane. What is stored is the same for every instruction
// set of a form: values are rounded lane by lane, and sums over a group are taken by eight partial sums and then in a fixed order.
#pragma once

#include "pack_transpose.h"
#include "quantize_activations.h"

namespace quire::QUIRE_ISA {

static inline vf clamp(vf x, vf low, vf high) { return min(max(x, low), high); }

// For |x| < 2^22: 1.5 * 2^23 leaves no fraction bits, and the integer itself in the low bits.
constexpr float kMagic = 12582912.0f;

// Of each column of `count` rows: the value of largest magnitude, with its sign, and NaN where a weight is not finite, else zero.
struct Extremes {
  vf value, poison;
};
static inline Extremes extremes_of(const float (*x)[kPanel], int64_t count) {
  vf high = load(x[0]), low = high, poison = set1(0.0f);
  for (int64_t i = 0; i < count; ++i) {
    vf each = load(x[i]);
    high = max(each, high);
    low = min(each, low);
    poison = add(poison, mul(each, set1(0.0f)));
  }
  return {if_less(high, sub(set1(0.0f), low), low, high), poison};
}

// Two sums over a group: of unit * q, in the order of eight partial sums, and of q * q, exact in any order.
struct Fit {
  vf with_x, with_itself;
};
static inline Fit fit(const vf (&units)[kGroup], vf steps) {
  vf parts[8], all_squares = set1(0.0f);
  for (int lane = 0; lane < 8; ++lane) {
    vf sum = set1(0.0f), squares = set1(0.0f);
    for (int i = lane; i < kGroup; i += 8) {
      vf q = sub(add(clamp(mul(units[i], steps), set1(-8.0f), set1(7.0f)), set1(kMagic)), set1(kMagic));
      sum = add(sum, mul(units[i], q));
      squares = add(squares, mul(q, q));
    }
    parts[lane] = sum;
    all_squares = add(all_squares, squares);
  }
  vf even = add(add(parts[0], parts[4]), add(parts[2], parts[6])), odd = add(add(parts[1], parts[5]), add(parts[3], parts[7]));
  return {add(even, odd), all_squares};
}

// The scale that suits steps in [-8, 7] best: steps of several sizes are tried, each with the scale of least squares.
static inline vf best_int4_scale(const float (*x)[kPanel], vf extreme) {
  constexpr int kTries = 7;
  vf units[kGroup], unit = div(set1(1.0f), extreme);
  for (int i = 0; i < kGroup; ++i) units[i] = mul(load(x[i]), unit);
  vf best = set1(-0.125f), most = set1(-1.0f);  // in units of the extreme
  for (int i = 0; i < kTries; ++i) {
    Fit found = fit(units, set1(-6.5f - 0.375f * static_cast<float>(i)));
    vf dot = found.with_x, square = found.with_itself, gain = mul(dot, dot), bar = mul(most, square);
    vf is_better = if_less(bar, gain, set1(1.0f), set1(0.0f)), is_some = if_less(set1(0.0f), square, is_better, set1(0.0f));
    most = if_less(set1(0.0f), is_some, div(gain, square), most);
    best = if_less(set1(0.0f), is_some, div(dot, square), best);
  }
  return mul(best, extreme);
}

// Scales as they are stored, of columns whose largest magnitudes are `size`: zero where these are tiny, NaN where a weight is not finite.
static inline vf store_scales(vf wanted, vf size, vf poison, uint16_t* scales) {
  vf scale = round_to_bf16(if_less(size, set1(kSmallest), set1(0.0f), wanted));
  scale = if_less(poison, set1(1.0f), scale, set1(float_of(0x7fc00000)));
  word_lanes bits = bits_of(scale) >> 16;
  for (int lane = 0; lane < kLanes; ++lane) scales[lane] = static_cast<uint16_t>(bits[lane]);
  return scale;
}

static inline vf inverse_of(vf scale, vf size) { return if_less(size, set1(kSmallest), set1(0.0f), div(set1(1.0f), scale)); }

// The integer that stands for x, `offset` added, in the low bits of a word.
static inline word_lanes quantised(vf x, vf inverse, vf low, vf high, vf offset) {
  return bits_of(add(clamp(mul(x, inverse), low, high), add(set1(kMagic), offset))) & 0xff;
}

}  // namespace quire::QUIRE_ISA
