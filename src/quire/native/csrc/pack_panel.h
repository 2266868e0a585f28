// Packing: up to 64 rows of a checkpoint's matrix become one panel, a group of 32 elements of K at a time, or a wide group for tiles.
#pragma once

#include "pack_quantize.h"
#if defined(QUIRE_AMX)
#include "pack_amx.h"
#endif

namespace quire::QUIRE_ISA {

static inline void round_to_pairs(const float (*from)[kPanel], uint32_t (*pairs)[kPanel]) {
  for (int i = 0; i < kGroup / 2; ++i)
    for (int n = 0; n < kPanel; n += kLanes) {
      word_lanes even = bits_of(round_to_bf16(load(&from[2 * i][n]))), odd = bits_of(round_to_bf16(load(&from[2 * i + 1][n])));
      word_lanes pair = even >> 16 | odd;
      std::memcpy(&pairs[i][n], &pair, sizeof pair);
    }
}

// Writes kLanes columns' scales and returns what their values are multiplied by.
static inline vf write_scales(WeightFormat format, const float (*x)[kPanel], uint16_t* scales) {
  Extremes extremes = extremes_of(x, kGroup);
  vf size = magnitude(extremes.value);
  vf wanted = format == WeightFormat::kInt4 ? best_int4_scale(x, extremes.value) : div(extremes.value, set1(-128.0f));
  return inverse_of(store_scales(wanted, size, extremes.poison, scales), size);
}

// The unsigned value of each column.
template <WeightFormat format>
static inline word_lanes unsigned_of(const float* x, vf inverse) {
  constexpr float kOffset = format == WeightFormat::kInt4 ? 8.0f : 128.0f;
  return quantised(load(x), inverse, set1(-kOffset), set1(kOffset - 1.0f), set1(kOffset));
}

template <WeightFormat format>
static inline void write_ints(const float (*x)[kPanel], const Panels& target, int64_t panel, int64_t group) {
  for (int n = 0; n < kPanel; n += kLanes) {
    const float(*columns)[kPanel] = reinterpret_cast<const float(*)[kPanel]>(&x[0][n]);
    vf inverse = write_scales(format, columns, target.scales(panel, group) + n);
    for (int i = 0; i < target.words(); ++i) {
      word_lanes word{};
      for (int byte = 0; byte < 4; ++byte) {
        if (format == WeightFormat::kInt8) {
          word |= unsigned_of<format>(columns[4 * i + byte], inverse) << (8 * byte);
        } else {
          word |= unsigned_of<format>(columns[8 * i + byte], inverse) << (8 * byte);
          word |= unsigned_of<format>(columns[8 * i + 4 + byte], inverse) << (8 * byte + 4);
        }
      }
      std::memcpy(target.word(panel, group, n, i), &word, sizeof word);
    }
  }
}

static inline void write_group_of(const float (*x)[kPanel], const Panels& target, int64_t panel, int64_t group) {
  switch (target.format) {
    case WeightFormat::kF32: std::memcpy(target.word(panel, group, 0, 0), x, sizeof(TurnedGroup)); return;
    case WeightFormat::kBF16: return round_to_pairs(x, reinterpret_cast<uint32_t(*)[kPanel]>(target.word(panel, group, 0, 0)));
    case WeightFormat::kInt8: return write_ints<WeightFormat::kInt8>(x, target, panel, group);
    default: return write_ints<WeightFormat::kInt4>(x, target, panel, group);
  }
}

// Turned pairs of bfloat16 are what a bfloat16 panel holds; everything else goes through floats.
static void pack(const SourceMatrix& source, int64_t first_row, const Panels& target, int64_t panel) {
#if defined(QUIRE_AMX)
  if (is_for_tiles(target.format)) return pack_for_tiles(source, first_row, target, panel);
#endif
  TurnedGroup floats;
  for (int64_t group = 0; group < target.num_groups(); ++group) {
    int64_t k = group * kGroup;
    if (source.element == Element::kBF16 && target.format == WeightFormat::kBF16) {
      turn<uint16_t>(source, first_row, k, reinterpret_cast<uint32_t(*)[kPanel]>(target.word(panel, group, 0, 0)));
      continue;
    }
    read_group(source, first_row, k, floats.rows);
    write_group_of(floats.rows, target, panel, group);
  }
}

}  // namespace quire::QUIRE_ISA
