// Packs integers in the AMX layout. 256 elements share a scale, so that sums stay integers for as long. In
// int8 the scale maps the value of largest magnitude to -128. In int4 each 32 elements have a sub-scale, and
// the scale maps the largest of these to 15.
#pragma once

#include "pack_quantize.h"

namespace quire::QUIRE_ISA {

constexpr int64_t kSubgroups = kAmxGroup / kGroup;

struct alignas(64) TransposedAmxGroup {
  float rows[kAmxGroup][kPanel];
};
using Columns = const float (*)[kPanel];  // kLanes of them

static inline Columns columns_at(const TransposedAmxGroup& x, int64_t row, int column) {
  return reinterpret_cast<Columns>(&x.rows[row][column]);
}

static inline void write_int8_columns(const TransposedAmxGroup& x, int n, const Panels& target, int64_t panel,
                                      int64_t group) {
  int64_t count = target.group_elements(group);
  Columns columns = columns_at(x, 0, n);
  Extremes extremes = extremes_of(columns, count);
  vf size = magnitude(extremes.value);
  vf scale = store_scales(div(extremes.value, set1(-128.0f)), size, extremes.nan_or_zero,
                          target.scales(panel, group) + n);
  vf inverse = inverse_of(scale, size);
  for (int64_t i = 0; i < count / 4; ++i) {
    word_lanes word{};
    for (int byte = 0; byte < 4; ++byte)
      word |= quantized(load(columns[4 * i + byte]), inverse, set1(-128.0f), set1(127.0f), set1(0.0f))
              << (8 * byte);
    std::memcpy(target.word(panel, group, n, i), &word, sizeof word);
  }
}

// Rounds the wanted int4 scales of one subgroup of kLanes columns to sub-scales in units of `scale`, stores
// these, and quantizes with them. A negative wanted scale selects zero point 7.
struct SubgroupQuantizer {
  vf inverse, zero_point;

  SubgroupQuantizer(vf wanted, vf scale, uint8_t* sub_scales) {
    vf zero = set1(0.0f), one = set1(1.0f), width = magnitude(wanted);
    vf least = select_less(zero, width, one, zero);
    vf sub_scale = min(max(sub(add(div(width, scale), set1(kMagic)), set1(kMagic)), least), set1(15.0f));
    vf is_negative = select_less(wanted, zero, one, zero);
    sub_scale = select_less(zero, width, sub_scale, zero);
    zero_point = sub(set1(8.0f), is_negative);
    inverse = select_less(zero, sub_scale, div(one, mul(sub_scale, scale)), zero);
    word_lanes word = bits_of(add(fma(is_negative, set1(16.0f), sub_scale), set1(kMagic)));
    for (int lane = 0; lane < kLanes; ++lane) sub_scales[lane] = static_cast<uint8_t>(word[lane] & 31);
  }

  word_lanes operator()(const float* x) const {
    return quantized(load(x), inverse, sub(set1(0.0f), zero_point), sub(set1(15.0f), zero_point), zero_point);
  }
};

static inline void write_int4_columns(const TransposedAmxGroup& x, int n, const Panels& target, int64_t panel,
                                      int64_t group) {
  int64_t subgroups = target.group_elements(group) / kGroup;
  vf wanted[kSubgroups], widest = set1(0.0f), nan_or_zero = set1(0.0f);
  for (int64_t s = 0; s < subgroups; ++s) {
    Columns columns = columns_at(x, s * kGroup, n);
    Extremes extremes = extremes_of(columns, kGroup);
    wanted[s] = select_less(magnitude(extremes.value), set1(kSmallest), set1(0.0f),
                            best_int4_scale(columns, extremes.value));
    widest = max(magnitude(wanted[s]), widest);
    nan_or_zero = add(nan_or_zero, extremes.nan_or_zero);
  }
  vf is_some = select_less(set1(0.0f), widest, set1(1.0f), set1(0.0f));
  vf scale = store_scales(div(widest, set1(15.0f)), is_some, nan_or_zero, target.scales(panel, group) + n);
  for (int64_t s = 0; s < subgroups; ++s) {
    Columns columns = columns_at(x, s * kGroup, n);
    SubgroupQuantizer quantize(wanted[s], scale, target.sub_scales(panel, group, s) + n);
    for (int64_t i = 0; i < kGroup / 8; ++i) {
      word_lanes word{};
      for (int byte = 0; byte < 4; ++byte) {
        word |= quantize(columns[8 * i + byte]) << (8 * byte);
        word |= quantize(columns[8 * i + 4 + byte]) << (8 * byte + 4);
      }
      std::memcpy(target.word(panel, group, n, s * (kGroup / 8) + i), &word, sizeof word);
    }
  }
}

static inline void pack_amx(const SourceMatrix& source, int64_t first_row, const Panels& target,
                            int64_t panel) {
  TransposedAmxGroup transposed;
  for (int64_t group = 0; group < target.num_groups(); ++group) {
    for (int64_t i = 0; i < target.group_elements(group); i += kGroup)
      read_group(source, first_row, group * kAmxGroup + i, transposed.rows + i);
    for (int n = 0; n < kPanel; n += kLanes) {
      if (target.format == WeightFormat::kInt8Amx) write_int8_columns(transposed, n, target, panel, group);
      else write_int4_columns(transposed, n, target, panel, group);
    }
  }
}

}  // namespace quire::QUIRE_ISA
