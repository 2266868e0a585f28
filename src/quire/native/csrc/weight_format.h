// How a panel of a weight matrix is stored: floats, or integers in groups along K that share a scale.
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>

namespace quire {

constexpr int kPanel = 64;  // output columns of one weight panel
constexpr int kGroup = 32;  // elements of K that are multiplied between two scales, of weights or activations
constexpr int kSuperGroup = 256;  // elements of K under one scale of scales, and in an AMX group
constexpr int kTmmBytes = 64;     // bytes in a row of a tmm register: elements of K per int8 TMUL

inline int64_t round_up(int64_t x, int64_t multiple) { return (x + multiple - 1) / multiple * multiple; }

// The scales of a group format.
//   kF16, kBF16  one 16-bit scale per group and column
//   kTwoLevel    a float16 d per 256 elements and column, and a signed byte s per group and column: scale = d
//   * s
enum class ScaleType { kF16, kBF16, kTwoLevel };

// What a code of b bits stands for.
//   kCenter     w = scale * (code - 2^(b-1))
//   kZeroPoint  w = scale * (code - z), z a byte per group and column
//   kMinimum    w = scale * code + minimum: 16 bits like the scale; in two levels a float16 dmin per 256
//   elements
//               and an unsigned byte m per group, and minimum = -(dmin * m)
enum class Offset { kCenter, kZeroPoint, kMinimum };

struct GroupFormat {
  int bits = 8;  // of a code: 4, 5, 6, 8
  int group =
      32;  // elements of K per scale: 32, 64, 128; in two levels 32, or 16 with 4 or 6 bits and kCenter
  ScaleType scales = ScaleType::kBF16;
  Offset offset = Offset::kCenter;

  constexpr bool has_two_levels() const { return scales == ScaleType::kTwoLevel; }
  constexpr bool has_minimums() const { return offset == Offset::kMinimum; }
  constexpr int section_elements() const { return has_two_levels() ? kSuperGroup : group; }
  constexpr int64_t header_bytes() const {
    int64_t numbers = 2 * kPanel * (has_minimums() ? 2 : 1);
    if (!has_two_levels()) return numbers + (offset == Offset::kZeroPoint ? kPanel : 0);
    return numbers + kSuperGroup / group * kPanel * (has_minimums() ? 2 : 1);
  }
  constexpr bool operator==(const GroupFormat& other) const {
    return bits == other.bits && group == other.group && scales == other.scales && offset == other.offset;
  }
};

// What a matrix is multiplied by depends on its encoding alone.
//   kGroups   GroupFormat
//   kRotated  8 bits in groups of 32, of weights and inputs that were rotated: see rotate.h
//   kInt8Amx  w = scale * q, q a signed byte, one bfloat16 scale per 256 elements and column; AMX only
enum class Encoding { kF32, kBF16, kGroups, kRotated, kInt8Amx };
constexpr int kNumEncodings = 5;

struct PanelFormat {
  Encoding encoding = Encoding::kF32;
  GroupFormat groups;  // of kGroups and kRotated

  constexpr bool has_groups() const {
    return encoding == Encoding::kGroups || encoding == Encoding::kRotated;
  }

  // A panel is sections along K, each with a header and blocks of 32 elements.
  constexpr int64_t section_elements() const {
    if (encoding == Encoding::kInt8Amx) return kSuperGroup;
    return has_groups() ? groups.section_elements() : kGroup;
  }
  constexpr int64_t header_bytes() const {
    if (encoding == Encoding::kInt8Amx) return 2 * kPanel;
    return has_groups() ? groups.header_bytes() : 0;
  }
  constexpr int64_t bits() const {
    switch (encoding) {
      case Encoding::kF32: return 32;
      case Encoding::kBF16: return 16;
      case Encoding::kInt8Amx: return 8;
      default: return groups.bits;
    }
  }
  constexpr int64_t block_bytes() const { return kGroup * kPanel * bits() / 8; }
  constexpr int64_t section_bytes() const { return header_bytes() + bytes_of(section_elements()); }
  constexpr int64_t bytes_of(int64_t elements) const { return elements / kGroup * block_bytes(); }
  // K up to which elements are stored: whole blocks, or whole TMULs.
  int64_t padded_k(int64_t k) const {
    return round_up(k, encoding == Encoding::kInt8Amx ? kTmmBytes : kGroup);
  }
  int64_t num_sections(int64_t k) const { return (k + section_elements() - 1) / section_elements(); }
  int64_t panel_bytes(int64_t k) const { return num_sections(k) * header_bytes() + bytes_of(padded_k(k)); }
};

inline bool is_supported(const GroupFormat& f) {
  if (f.bits != 4 && f.bits != 5 && f.bits != 6 && f.bits != 8) return false;
  if (!f.has_two_levels()) return f.group == 32 || f.group == 64 || f.group == 128;
  if (f.group == 16) return f.offset == Offset::kCenter && (f.bits == 4 || f.bits == 6);
  return f.group == 32 && f.offset != Offset::kZeroPoint;
}

}  // namespace quire
