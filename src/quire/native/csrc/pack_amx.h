// Packing integers for matrix tiles. A wide group shares a scale, so that sums stay integers for as long. In int8 the scale takes its
// largest value to -128 steps. In int4 each 32 elements keep a multiplier, and the scale takes the largest of these to 15.
#pragma once

#include "pack_quantize.h"

namespace quire::QUIRE_ISA {

constexpr int64_t kPartsOfGroup = kWideGroup / kGroup;

struct alignas(64) TurnedWideGroup {
  float rows[kWideGroup][kPanel];
};
using Columns = const float (*)[kPanel];  // kLanes of them

static inline Columns columns_at(const TurnedWideGroup& x, int64_t row, int column) {
  return reinterpret_cast<Columns>(&x.rows[row][column]);
}

static inline void write_int8_columns(const TurnedWideGroup& x, int n, const Panels& target, int64_t panel, int64_t group) {
  int64_t count = target.elements_of(group);
  Columns columns = columns_at(x, 0, n);
  Extremes extremes = extremes_of(columns, count);
  vf size = magnitude(extremes.value);
  vf scale = store_scales(div(extremes.value, set1(-128.0f)), size, extremes.poison, target.scales(panel, group) + n);
  vf inverse = inverse_of(scale, size);
  for (int64_t i = 0; i < count / 4; ++i) {
    word_lanes word{};
    for (int byte = 0; byte < 4; ++byte)
      word |= quantised(load(columns[4 * i + byte]), inverse, set1(-128.0f), set1(127.0f), set1(0.0f)) << (8 * byte);
    std::memcpy(target.word(panel, group, n, i), &word, sizeof word);
  }
}

// Multipliers of 32 elements of kLanes columns, which are `wanted` wide with a sign and become multiples of `scale`.
struct Multipliers {
  vf inverse, offset;

  Multipliers(vf wanted, vf scale, uint8_t* bytes) {
    vf zero = set1(0.0f), one = set1(1.0f), width = magnitude(wanted);
    vf least = if_less(zero, width, one, zero);
    vf size = min(max(sub(add(div(width, scale), set1(kMagic)), set1(kMagic)), least), set1(15.0f));
    vf is_turned = if_less(wanted, zero, one, zero);
    size = if_less(zero, width, size, zero);
    offset = sub(set1(8.0f), is_turned);
    inverse = if_less(zero, size, div(one, mul(size, scale)), zero);
    word_lanes word = bits_of(add(fma(is_turned, set1(16.0f), size), set1(kMagic)));
    for (int lane = 0; lane < kLanes; ++lane) bytes[lane] = static_cast<uint8_t>(word[lane] & 31);
  }

  word_lanes operator()(const float* x) const {
    return quantised(load(x), inverse, sub(set1(0.0f), offset), sub(set1(15.0f), offset), offset);
  }
};

static inline void write_int4_columns(const TurnedWideGroup& x, int n, const Panels& target, int64_t panel, int64_t group) {
  int64_t parts = target.elements_of(group) / kGroup;
  vf wanted[kPartsOfGroup], widest = set1(0.0f), poison = set1(0.0f);
  for (int64_t part = 0; part < parts; ++part) {
    Columns columns = columns_at(x, part * kGroup, n);
    Extremes extremes = extremes_of(columns, kGroup);
    wanted[part] = if_less(magnitude(extremes.value), set1(kSmallest), set1(0.0f), best_int4_scale(columns, extremes.value));
    widest = max(magnitude(wanted[part]), widest);
    poison = add(poison, extremes.poison);
  }
  vf is_some = if_less(set1(0.0f), widest, set1(1.0f), set1(0.0f));
  vf scale = store_scales(div(widest, set1(15.0f)), is_some, poison, target.scales(panel, group) + n);
  for (int64_t part = 0; part < parts; ++part) {
    Columns columns = columns_at(x, part * kGroup, n);
    Multipliers multiplied(wanted[part], scale, target.multipliers(panel, group, part) + n);
    for (int64_t i = 0; i < kGroup / 8; ++i) {
      word_lanes word{};
      for (int byte = 0; byte < 4; ++byte) {
        word |= multiplied(columns[8 * i + byte]) << (8 * byte);
        word |= multiplied(columns[8 * i + 4 + byte]) << (8 * byte + 4);
      }
      std::memcpy(target.word(panel, group, n, part * (kGroup / 8) + i), &word, sizeof word);
    }
  }
}

static inline void pack_for_tiles(const SourceMatrix& source, int64_t first_row, const Panels& target, int64_t panel) {
  TurnedWideGroup turned;
  for (int64_t group = 0; group < target.num_groups(); ++group) {
    for (int64_t i = 0; i < target.elements_of(group); i += kGroup) read_group(source, first_row, group * kWideGroup + i, turned.rows + i);
    for (int n = 0; n < kPanel; n += kLanes) {
      if (target.format == WeightFormat::kInt8Tiles) write_int8_columns(turned, n, target, panel, group);
      else write_int4_columns(turned, n, target, panel, group);
    }
  }
}

}  // namespace quire::QUIRE_ISA
