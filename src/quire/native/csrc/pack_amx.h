// Packs integers for AMX. 256 elements share a scale, so that sums stay integers for as long; it maps the
// value of largest magnitude to -128.
#pragma once

#include "pack_quantize.h"

namespace quire::QUIRE_ISA {

struct alignas(64) TransposedAmxGroup {
  float rows[kSuperGroup][kPanel];
};

static inline void write_int8_columns(const TransposedAmxGroup& x, int n, const Panel& target,
                                      int64_t section) {
  int64_t count = target.elements_of(section);
  const float (*columns)[kPanel] = reinterpret_cast<const float (*)[kPanel]>(&x.rows[0][n]);
  Extremes extremes = extremes_of(columns, count);
  vf size = magnitude(extremes.value);
  vf scale = store_scales(div(extremes.value, set1(-128.0f)), size, extremes.nan_or_zero,
                          target.scales(section) + n);
  vf inverse = inverse_of(scale, size);
  for (int64_t i = 0; i < count / 4; ++i) {
    word_lanes word{};
    for (int byte = 0; byte < 4; ++byte)
      word |= quantized(load(columns[4 * i + byte]), inverse, set1(-128.0f), set1(127.0f), set1(0.0f))
              << (8 * byte);
    std::memcpy(target.words(section, n) + i * kPanel, &word, sizeof word);
  }
}

static inline void pack_amx(const SourceMatrix& source, int64_t first_row, const Panel& target) {
  TransposedAmxGroup transposed;
  for (int64_t section = 0; section < target.num_sections(); ++section) {
    for (int64_t i = 0; i < target.elements_of(section); i += kGroup)
      read_group(source, first_row, section * kSuperGroup + i, transposed.rows + i);
    for (int n = 0; n < kPanel; n += kLanes) write_int8_columns(transposed, n, target, section);
  }
}

}  // namespace quire::QUIRE_ISA
