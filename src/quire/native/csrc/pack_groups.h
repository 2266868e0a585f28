// Writes codes and scales that are given, of a checkpoint or a quantizer, into a panel of a group format.
#pragma once

#include <cstring>

#include "layouts.h"

namespace quire {

// One section of a panel: 64 columns by up to 256 elements of K. Which parts are read, the format says. What
// lies beyond N or K may be anything finite.
struct alignas(64) GroupSection {
  uint8_t codes[kPanel][kSuperGroup];                         // by column; below 2^bits
  uint16_t scales[kPanel];                                    // one level: scales; two levels: d
  uint16_t minimums[kPanel];                                  // one level: minimums; two levels: dmin
  uint8_t zero_points[kPanel];                                // one level
  int8_t multipliers[kSuperGroup / 16][kPanel];               // two levels: s per group
  uint8_t minimum_multipliers[kSuperGroup / kGroup][kPanel];  // two levels: m per group
};

inline uint32_t four_codes(const uint8_t* codes, int64_t four) {
  uint32_t word;
  std::memcpy(&word, codes + 4 * four, sizeof word);
  return word;
}

// Writes 32 codes of one column.
inline void write_column(int bits, const uint8_t* codes, uint32_t* words) {
  if (bits == 8) {
    for (int i = 0; i < kGroup / 4; ++i) words[i * kPanel] = four_codes(codes, i);
    return;
  }
  uint32_t planes[2] = {0, 0};
  for (int i = 0; i < kGroup / 8; ++i) {
    uint32_t low = four_codes(codes, 2 * i), high = four_codes(codes, 2 * i + 1);
    words[i * kPanel] = (low & 0x0f0f0f0fu) | (high & 0x0f0f0f0fu) << 4;
    if (bits == 5) planes[0] |= (low >> 4 & 0x01010101u) << 2 * i | (high >> 4 & 0x01010101u) << (2 * i + 1);
    if (bits == 6)
      planes[i / 2] |= (low >> 4 & 0x03030303u) << i % 2 * 4 | (high >> 4 & 0x03030303u) << (i % 2 * 4 + 2);
  }
  for (int plane = 0; plane < bits - 4; ++plane) words[(4 + plane) * kPanel] = planes[plane];
}

// Writes a section's header.
inline void write_header(const GroupFormat& f, const GroupSection& from, char* to) {
  auto append = [&to](const void* part, size_t bytes) {
    std::memcpy(to, part, bytes);
    to += bytes;
  };
  const size_t groups = static_cast<size_t>(kSuperGroup / f.group);
  append(from.scales, sizeof from.scales);
  if (f.has_minimums()) append(from.minimums, sizeof from.minimums);
  if (f.offset == Offset::kZeroPoint) append(from.zero_points, sizeof from.zero_points);
  if (f.has_two_levels()) append(from.multipliers, groups * kPanel);
  if (f.has_two_levels() && f.has_minimums()) append(from.minimum_multipliers, groups * kPanel);
}

// Writes one section of a panel whose encoding is kGroups. Its bytes are the same on every machine.
inline void write_section(const Panel& panel, int64_t section, const GroupSection& from) {
  const GroupFormat& f = panel.format.groups;
  write_header(f, from, panel.section(section));
  for (int64_t block = 0; block < panel.elements_of(section) / kGroup; ++block)
    for (int64_t n = 0; n < kPanel; ++n)
      write_column(f.bits, from.codes[n] + block * kGroup,
                   reinterpret_cast<uint32_t*>(panel.block(section, block)) + n);
}

}  // namespace quire
