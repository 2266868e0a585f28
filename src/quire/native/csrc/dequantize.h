// One output column of a panel as floats: the values that products multiply with, each step rounded once.
#pragma once

#include "group_header.h"
#include "rotate.h"

namespace quire::QUIRE_ISA {

static inline float scale_of(ScaleType type, uint16_t bits) {
  return type == ScaleType::kBF16 ? from_bf16(bits) : from_f16(bits);
}

// The scale and minimum of one group of a column.
struct GroupScale {
  float scale, minimum;

  GroupScale(const GroupFormat& f, const GroupHeader& h, int64_t group, int64_t column) {
    scale = scale_of(f.scales, h.scales[column]);
    minimum = f.has_minimums() ? scale_of(f.scales, h.minimums[column]) : 0.0f;
    if (f.has_two_levels()) {
      int64_t at = group * kPanel + column;
      scale *= static_cast<float>(h.multipliers[at]);
      if (f.has_minimums()) minimum *= -static_cast<float>(h.minimum_multipliers[at]);
    }
  }
};

// The code of an element of a block; `words` are the block's, from the column on.
static inline uint32_t code_of(int bits, const uint32_t* words, int64_t element) {
  int64_t byte = element % 4 * 8, four = element / 4;
  if (bits == 8) return words[four * kPanel] >> byte & 0xff;
  uint32_t code = words[four / 2 * kPanel] >> (byte + four % 2 * 4) & 0xf;
  if (bits == 5) code |= (words[4 * kPanel] >> (byte + four) & 1) << 4;
  if (bits == 6) code |= (words[(4 + four / 4) * kPanel] >> (byte + four % 4 * 2) & 3) << 4;
  return code;
}

static inline void dequantize_groups(const Panel& w, int64_t section, int64_t column, float* x,
                                     int64_t count) {
  const GroupFormat& f = w.format.groups;
  const GroupHeader header(f, w.section(section));
  for (int64_t begin = 0; begin < count; begin += f.group) {
    const GroupScale group(f, header, begin / f.group, column);
    int32_t zero = f.offset == Offset::kCenter      ? 1 << (f.bits - 1)
                   : f.offset == Offset::kZeroPoint ? header.zero_points[column]
                                                    : 0;
    for (int64_t i = begin; i < std::min<int64_t>(begin + f.group, count); ++i) {
      const uint32_t* words = reinterpret_cast<const uint32_t*>(w.block(section, i / kGroup)) + column;
      int32_t code = static_cast<int32_t>(code_of(f.bits, words, i % kGroup));
      x[i] = group.scale * static_cast<float>(code - zero);
      if (f.has_minimums()) x[i] += group.minimum;
    }
  }
}

static inline void dequantize_rotated(const Panel& w, int64_t section, int64_t column, float* x,
                                      int64_t count) {
  float rotated[kGroup];
  dequantize_groups(w, section, column, rotated, kGroup);
  rotate_back(rotated, w.input_factors + section * kGroup);
  std::memcpy(x, rotated, static_cast<size_t>(count) * sizeof *x);
}

static inline void dequantize_section(const Panel& w, int64_t section, int64_t column, float* x,
                                      int64_t count) {
  const uint32_t* words = w.words(section, column);
  switch (w.format.encoding) {
    case Encoding::kF32:
      for (int64_t i = 0; i < count; ++i) x[i] = float_from_bits(words[i * kPanel]);
      return;
    case Encoding::kBF16:
      for (int64_t i = 0; i < count; ++i)
        x[i] = from_bf16(static_cast<uint16_t>(words[i / 2 * kPanel] >> (i % 2 * 16)));
      return;
    case Encoding::kInt8Amx:
      for (int64_t i = 0; i < count; ++i)
        x[i] = from_bf16(w.scales(section)[column]) *
               static_cast<float>(static_cast<int8_t>(words[i / 4 * kPanel] >> (i % 4 * 8)));
      return;
    case Encoding::kRotated: return dequantize_rotated(w, section, column, x, count);
    default: return dequantize_groups(w, section, column, x, count);
  }
}

// x [K]
static void dequantize(const Panel& w, int64_t column, float* x) {
  int64_t size = w.format.section_elements();
  for (int64_t section = 0; section < w.num_sections(); ++section)
    dequantize_section(w, section, column, x + section * size, std::min(size, w.k - section * size));
}

}  // namespace quire::QUIRE_ISA
