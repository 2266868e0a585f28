// Packs up to 64 rows of a checkpoint's matrix into one panel: 32 elements of K at a time, or 256 for AMX.
#pragma once

#include "pack_quantize.h"
#include "quantize_two_level.h"
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

// Quantizes a group of 64 columns to 8 bits.
static inline void write_int8(const float (*x)[kPanel], const Panel& target, int64_t section) {
  for (int n = 0; n < kPanel; n += kLanes) {
    const float (*columns)[kPanel] = reinterpret_cast<const float (*)[kPanel]>(&x[0][n]);
    Extremes extremes = extremes_of(columns, kGroup);
    vf size = magnitude(extremes.value), wanted = best_scale(columns, extremes.value);
    vf scale = store_scales(wanted, size, extremes.nan_or_zero, target.scales(section) + n);
    vf inverse = inverse_of(scale, size);
    for (int i = 0; i < kGroup / 4; ++i) {
      word_lanes word{};
      for (int byte = 0; byte < 4; ++byte)
        word |= quantized(load(columns[4 * i + byte]), inverse, set1(-128.0f), set1(127.0f), set1(128.0f))
                << (8 * byte);
      std::memcpy(target.words(section, n) + i * kPanel, &word, sizeof word);
    }
  }
}

static inline void write_packed_group(const float (*x)[kPanel], const Panel& target, int64_t section) {
  uint32_t (*words)[kPanel] = reinterpret_cast<uint32_t (*)[kPanel]>(target.words(section, 0));
  switch (target.format.encoding) {
    case Encoding::kF32: std::memcpy(words, x, sizeof(TransposedGroup)); return;
    case Encoding::kBF16: return round_to_pairs(x, words);
    default: return write_int8(x, target, section);
  }
}

// Transposed bfloat16 pairs are what a bfloat16 panel holds; all other formats are packed from floats.
static void pack(const SourceMatrix& source, int64_t first_row, const Panel& target) {
#if defined(QUIRE_AMX)
  if (target.format.encoding == Encoding::kInt8Amx) return pack_amx(source, first_row, target);
#endif
  if (target.format.encoding == Encoding::kGroups && target.format.groups.has_two_levels())
    return pack_two_level(source, first_row, target);
  TransposedGroup floats;
  for (int64_t section = 0; section < target.num_sections(); ++section) {
    int64_t k = section * kGroup;
    if (source.element == Element::kBF16 && target.format.encoding == Encoding::kBF16) {
      transpose<uint16_t>(source, first_row, k,
                          reinterpret_cast<uint32_t (*)[kPanel]>(target.words(section, 0)));
      continue;
    }
    read_group(source, first_row, k, floats.rows);
    if (target.format.encoding == Encoding::kRotated) rotate_weights(floats.rows, target.input_factors + k);
    write_packed_group(floats.rows, target, section);
  }
}

}  // namespace quire::QUIRE_ISA
