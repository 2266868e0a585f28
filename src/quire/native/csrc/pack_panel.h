// Packs up to 64 rows of a checkpoint's matrix into one panel: a group of 32 elements of K at a time, or an
// AMX group of 256.
#pragma once

#include "pack_quantize.h"
#if defined(QUIRE_AMX)
#include "pack_amx.h"
#endif

namespace quire::QUIRE_ISA {

static inline void round_to_pairs(const float (*from)[kPanel], uint32_t (*pairs)[kPanel]) {
  for (int i = 0; i < kGroup / 2; ++i)
    for (int n = 0; n < kPanel; n += kLanes) {
      word_lanes even = bits_of(round_to_bf16(load(&from[2 * i][n]))),
                 odd = bits_of(round_to_bf16(load(&from[2 * i + 1][n])));
      word_lanes pair = even >> 16 | odd;
      std::memcpy(&pairs[i][n], &pair, sizeof pair);
    }
}

// Writes the scales of kLanes columns and returns their inverses.
static inline vf write_scales(WeightFormat format, const float (*x)[kPanel], uint16_t* scales) {
  Extremes extremes = extremes_of(x, kGroup);
  vf size = magnitude(extremes.value);
  vf wanted =
      format == WeightFormat::kInt4 ? best_int4_scale(x, extremes.value) : div(extremes.value, set1(-128.0f));
  return inverse_of(store_scales(wanted, size, extremes.nan_or_zero, scales), size);
}

// One element of each column as the unsigned integer that is stored.
template <WeightFormat format>
static inline word_lanes quantized_unsigned(const float* x, vf inverse) {
  constexpr float kZeroPoint = format == WeightFormat::kInt4 ? 8.0f : 128.0f;
  return quantized(load(x), inverse, set1(-kZeroPoint), set1(kZeroPoint - 1.0f), set1(kZeroPoint));
}

template <WeightFormat format>
static inline void write_ints(const float (*x)[kPanel], const Panels& target, int64_t panel, int64_t group) {
  for (int n = 0; n < kPanel; n += kLanes) {
    const float (*columns)[kPanel] = reinterpret_cast<const float (*)[kPanel]>(&x[0][n]);
    vf inverse = write_scales(format, columns, target.scales(panel, group) + n);
    for (int i = 0; i < target.words_per_group(); ++i) {
      word_lanes word{};
      for (int byte = 0; byte < 4; ++byte) {
        if (format == WeightFormat::kInt8) {
          word |= quantized_unsigned<format>(columns[4 * i + byte], inverse) << (8 * byte);
        } else {
          word |= quantized_unsigned<format>(columns[8 * i + byte], inverse) << (8 * byte);
          word |= quantized_unsigned<format>(columns[8 * i + 4 + byte], inverse) << (8 * byte + 4);
        }
      }
      std::memcpy(target.word(panel, group, n, i), &word, sizeof word);
    }
  }
}

static inline void write_packed_group(const float (*x)[kPanel], const Panels& target, int64_t panel,
                                      int64_t group) {
  switch (target.format) {
    case WeightFormat::kF32: std::memcpy(target.word(panel, group, 0, 0), x, sizeof(TransposedGroup)); return;
    case WeightFormat::kBF16:
      return round_to_pairs(x, reinterpret_cast<uint32_t (*)[kPanel]>(target.word(panel, group, 0, 0)));
    case WeightFormat::kInt8: return write_ints<WeightFormat::kInt8>(x, target, panel, group);
    default: return write_ints<WeightFormat::kInt4>(x, target, panel, group);
  }
}

// Transposed bfloat16 pairs are what a bfloat16 panel holds; all other formats are packed from floats.
static void pack(const SourceMatrix& source, int64_t first_row, const Panels& target, int64_t panel) {
#if defined(QUIRE_AMX)
  if (is_amx_format(target.format)) return pack_amx(source, first_row, target, panel);
#endif
  TransposedGroup floats;
  for (int64_t group = 0; group < target.num_groups(); ++group) {
    int64_t k = group * kGroup;
    if (source.element == Element::kBF16 && target.format == WeightFormat::kBF16) {
      transpose<uint16_t>(source, first_row, k,
                          reinterpret_cast<uint32_t (*)[kPanel]>(target.word(panel, group, 0, 0)));
      continue;
    }
    read_group(source, first_row, k, floats.rows);
    write_packed_group(floats.rows, target, panel, group);
  }
}

}  // namespace quire::QUIRE_ISA
