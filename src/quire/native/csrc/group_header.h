// The header of a section of a group format as floats: a scale and a minimum per group and column.
#pragma once

#include "layouts.h"
#include "row_dispatch.h"
#include "simd.h"

namespace quire::QUIRE_ISA {

// Where the parts of a header begin.
struct GroupHeader {
  const uint16_t* scales;    // one level: scales; two levels: d
  const uint16_t* minimums;  // one level: minimums; two levels: dmin
  const uint8_t* zero_points;
  const int8_t* multipliers;
  const uint8_t* minimum_multipliers;

  GroupHeader(const GroupFormat& f, const char* section)
      : scales(reinterpret_cast<const uint16_t*>(section)),
        minimums(scales + kPanel),
        zero_points(reinterpret_cast<const uint8_t*>(minimums)),
        multipliers(reinterpret_cast<const int8_t*>(scales + (f.has_minimums() ? 2 : 1) * kPanel)),
        minimum_multipliers(reinterpret_cast<const uint8_t*>(multipliers) + kSuperGroup / f.group * kPanel) {}
};

template <ScaleType kType>
static QUIRE_INLINE vf load_scale(const uint16_t* p) {
  return kType == ScaleType::kBF16 ? load_bf16(p) : load_f16(p);
}

template <ScaleType kType>
static inline void decode_one_level(const GroupFormat& f, const GroupHeader& h, float* scales,
                                    float* minimums) {
#pragma GCC unroll 4
  for (int n = 0; n < kPanel; n += kLanes) store(scales + n, load_scale<kType>(h.scales + n));
  if (f.has_minimums())
    for (int n = 0; n < kPanel; n += kLanes) store(minimums + n, load_scale<kType>(h.minimums + n));
  if (f.offset == Offset::kZeroPoint)
    for (int n = 0; n < kPanel; n += kLanes)
      store(minimums + n, mul(sub(set1(0.0f), load(scales + n)), load_uint8(h.zero_points + n)));
}

static inline void decode_two_levels(const GroupFormat& f, const GroupHeader& h, float* scales,
                                     float* minimums) {
  const int values = kSuperGroup / f.group * kPanel;
  for (int n = 0; n < kPanel; n += kLanes) {
    vf d = load_f16(h.scales + n);
    for (int i = n; i < values; i += kPanel) store(scales + i, mul(d, load_int8(h.multipliers + i)));
    if (!f.has_minimums()) continue;
    vf dmin = sub(set1(0.0f), load_f16(h.minimums + n));
    for (int i = n; i < values; i += kPanel)
      store(minimums + i, mul(dmin, load_uint8(h.minimum_multipliers + i)));
  }
}

// Writes scales and minimums [groups of the section, 64]; minimums only where the format has some. With zero
// points z, w = scale * code + minimum for minimum = -(scale * z).
[[gnu::noinline]] static void decode_header(const GroupFormat& f, const char* section, float* scales,
                                            float* minimums) {
  const GroupHeader header(f, section);
  switch (f.scales) {
    case ScaleType::kBF16: return decode_one_level<ScaleType::kBF16>(f, header, scales, minimums);
    case ScaleType::kF16: return decode_one_level<ScaleType::kF16>(f, header, scales, minimums);
    default: return decode_two_levels(f, header, scales, minimums);
  }
}

}  // namespace quire::QUIRE_ISA
