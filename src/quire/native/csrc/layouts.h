// Memory layouts: packed weights, activations as a product reads them, K/V pages.
//
// Weights are packed for one of two instruction families (PackLayout). `Panels` addresses packed weights,
// `ActivationRows` the other operand of a product, `KVPages` one layer's K/V cache.
#pragma once

#include <algorithm>
#include <cstdint>

namespace quire {

constexpr int kPanel = 64;  // output columns of one weight panel
constexpr int kGroup = 32;  // elements of K per quantization group; an AMX group has 8 subgroups of as many
constexpr int kAmxGroup = 256;  // elements of K per quantization group in the AMX layout
constexpr int kTmmBytes = 64;   // bytes in a row of a tmm register: elements of K per int8 TMUL
constexpr int kTile = 32;       // tokens per K/V tile

enum class Element { kF32, kBF16 };

inline int64_t element_bytes(Element e) { return e == Element::kF32 ? 4 : 2; }
inline int64_t round_up(int64_t x, int64_t multiple) { return (x + multiple - 1) / multiple * multiple; }

// How integer weights are packed; both layouts take as many bits.
//   kVnni  w = scale * (u - zero_point), one bfloat16 scale per group and column; also read without VNNI
//   kAmx   w = scale * q (int8) or scale * sub_scale * q (int4), one bfloat16 scale per AMX group and column,
//          one sub_scale of 0 to 15 per subgroup of 32 and column
enum class PackLayout { kVnni, kAmx };

enum class WeightFormat { kF32, kBF16, kInt8, kInt4, kInt8Amx, kInt4Amx };
constexpr int kNumWeightFormats = 6;

constexpr bool is_amx_format(WeightFormat f) {
  return f == WeightFormat::kInt8Amx || f == WeightFormat::kInt4Amx;
}

constexpr int64_t bits_per_weight(WeightFormat f) {
  switch (f) {
    case WeightFormat::kF32: return 32;
    case WeightFormat::kBF16: return 16;
    case WeightFormat::kInt8:
    case WeightFormat::kInt8Amx: return 8;
    default: return 4;
  }
}

// VNNI-layout products multiply the unsigned u, and subtract zero_point * sum(a) (zero-point compensation).
// The AMX layout has no zero point.
inline int32_t zero_point_of(WeightFormat f) { return f == WeightFormat::kInt4 ? 8 : 128; }

// A weight matrix W [N, K] as panels of 64 output columns; a panel is a contiguous run of groups along K, and
// a group is rows of 64 32-bit words, one word per column:
//   float32    [N/64][K/32]                        [32][64]  1 element per word
//   bfloat16   [N/64][K/32]                        [16][64]  2 elements
//   int8 VNNI  [N/64][K/32]   scales [64],         [8][64]   4 unsigned bytes
//   int4 VNNI  [N/64][K/32]   scales [64],         [4][64]   8 nibbles
//   int8 AMX   [N/64][K/256]  scales [64],         [64][64]  4 signed bytes
//   int4 AMX   [N/64][K/256]  scales [64],
//                             sub_scales [8][64],  [32][64]  8 nibbles; one SubScale byte per 32 elements
// Of 8 nibbles, elements 0 to 3 are in the low halves of a word's bytes, elements 4 to 7 in the high halves.
// Columns beyond N and elements beyond K are zero. The last AMX group ends with the 64 elements that hold the
// last one of K.
struct Panels {
  const void* base;
  WeightFormat format;
  int64_t k;
  int64_t num_panels;

  // No division by a variable: the kernels call these in inner loops.
  int64_t group_size() const { return is_amx_format(format) ? kAmxGroup : kGroup; }
  int64_t num_groups() const {
    return is_amx_format(format) ? (k + kAmxGroup - 1) / kAmxGroup : (k + kGroup - 1) / kGroup;
  }
  int64_t padded_k() const { return is_amx_format(format) ? round_up(k, kTmmBytes) : round_up(k, kGroup); }
  int64_t group_elements(int64_t group) const {
    return std::min(group_size(), padded_k() - group * group_size());
  }
  int64_t words_per_group() const { return group_size() * bits_per_weight(format) / 32; }  // per column
  int64_t bytes_for(int64_t elements) const { return elements * bits_per_weight(format) * (kPanel / 8); }
  int64_t header_bytes() const {
    if (bits_per_weight(format) > 8) return 0;
    return 2 * kPanel + (format == WeightFormat::kInt4Amx ? kAmxGroup / kGroup * kPanel : 0);
  }
  int64_t bytes_per_group() const { return header_bytes() + bytes_for(group_size()); }
  int64_t bytes_per_panel() const { return num_groups() * header_bytes() + bytes_for(padded_k()); }
  char* panel(int64_t p) const { return static_cast<char*>(const_cast<void*>(base)) + p * bytes_per_panel(); }
  // Word `word` of one column within group `g` of panel `p`.
  uint32_t* word(int64_t p, int64_t g, int64_t column, int64_t word) const {
    return reinterpret_cast<uint32_t*>(panel(p) + g * bytes_per_group() + header_bytes()) + word * kPanel +
           column;
  }
  uint16_t* scales(int64_t p, int64_t g) const {
    return reinterpret_cast<uint16_t*>(panel(p) + g * bytes_per_group());
  }
  uint8_t* sub_scales(int64_t p, int64_t g, int64_t subgroup) const {
    return reinterpret_cast<uint8_t*>(scales(p, g) + kPanel) + subgroup * kPanel;
  }
};

// A sub-scale byte: the scale in the low nibble; bit 4 selects zero point 7 instead of 8 for the nibbles.
struct SubScale {
  int32_t scale, zero_point;
  explicit SubScale(uint8_t byte) : scale(byte & 15), zero_point(byte & 16 ? 7 : 8) {}
};

// How activations are written for a product. Each instruction set reads one format per weight format.
//   kF32         float
//   kBF16AsF32   bfloat16 values held as float, for instruction sets without bfloat16 dot products
//   kBF16        bfloat16
//   kInt8        int8 [K], then one float scale per group, then one int32 -zero_point * sum(a) per group
//   kInt16       the same with int16 [K], each four elements in the order 0 2 1 3, for 16-bit dot products
//   kInt8Wide    int8 [K], then one float scale per AMX group,
//                then per 32 elements int32 -8 * sum(a), then per 32 elements -7 * sum(a)
//   kInt16Split  a = 256 * high + low: high bytes [K], then one float scale per AMX group;
//                half a stride later the low bytes [K]
enum class ActivationFormat { kF32, kBF16AsF32, kBF16, kInt8, kInt16, kInt8Wide, kInt16Split };

// Bytes between rows of kInt8Wide and kInt16Split, such that rows, and high and low bytes, share no L1 sets.
inline int64_t amx_row_stride(WeightFormat weights, int64_t k) {
  int64_t lines = round_up(k, kTmmBytes) / kTmmBytes, scale_lines = 1 + k / (16 * kAmxGroup);
  if (weights == WeightFormat::kInt4Amx) return kTmmBytes * ((lines + scale_lines + (lines + 3) / 4) | 1);
  int64_t half = lines + scale_lines;
  return 2 * kTmmBytes * (half % 16 == 0 ? half + 1 : half);
}

// Activations A [M, K], rows `stride` bytes apart; zero from k up to the weights' padded K.
struct ActivationRows {
  char* base;
  int64_t stride;
  ActivationFormat format;
  int64_t k;
  int32_t zero_point;  // of the weights they multiply; kInt8 and kInt16 only

  char* row(int64_t i) const { return base + i * stride; }
  int64_t num_groups() const { return (k + kGroup - 1) / kGroup; }
  int64_t values_bytes() const { return num_groups() * kGroup * (format == ActivationFormat::kInt8 ? 1 : 2); }
  float* scales(int64_t i) const { return reinterpret_cast<float*>(row(i) + values_bytes()); }
  int32_t* compensations(int64_t i) const { return reinterpret_cast<int32_t*>(scales(i) + num_groups()); }
  float* amx_scales(int64_t i) const { return reinterpret_cast<float*>(row(i) + round_up(k, kTmmBytes)); }
  // One per 32 elements, for that zero point (8 or 7).
  int32_t* amx_compensations(int64_t i, int64_t nibble_zero_point) const {
    int64_t subgroups = round_up(k, kTmmBytes) / kGroup;
    return reinterpret_cast<int32_t*>(amx_scales(i) + (k + kAmxGroup - 1) / kAmxGroup) +
           (8 - nibble_zero_point) * subgroups;
  }
  int8_t* high_bytes(int64_t i) const { return reinterpret_cast<int8_t*>(row(i)); }
  int8_t* low_bytes(int64_t i) const { return reinterpret_cast<int8_t*>(row(i) + stride / 2); }
};

// A matrix as it lies in a checkpoint. Strides are in elements, so slices and transposes need no copy.
struct SourceMatrix {
  const void* base;
  Element element;
  int64_t rows;
  int64_t columns;
  int64_t row_stride;
  int64_t column_stride;
};

// What K/V pages hold. Each format has its tiles here and a policy of the kernels in kv_policy.h.
enum class KVFormat { kF32, kBF16 };

// A tile of K or V as 32-bit words of one element (float32) or two (bfloat16):
//   K [D / kPerWord][32][kPerWord]   V [32 / kPerWord][D][kPerWord]
template <class T>
struct KVTiles {
  using Stored = T;
  static constexpr int64_t kPerWord = 4 / sizeof(T);

  static int64_t bytes(int64_t head_dim) { return kTile * head_dim * static_cast<int64_t>(sizeof(T)); }
  static int64_t key_at(int64_t d, int64_t token) {
    return (d / kPerWord * kTile + token) * kPerWord + d % kPerWord;
  }
  static int64_t value_at(int64_t token, int64_t d, int64_t head_dim) {
    return (token / kPerWord * head_dim + d) * kPerWord + token % kPerWord;
  }
};
struct Float32Tiles : KVTiles<float> {};
struct BFloat16Tiles : KVTiles<uint16_t> {};

// One layer's K/V cache: per block, kv head and tile of 32 tokens `tile_bytes` of K, then as many of V.
struct KVPages {
  char* base;
  KVFormat format;
  int64_t head_dim;
  int64_t num_kv_heads;
  int64_t tiles_per_block;

  int64_t tile_bytes() const {
    return format == KVFormat::kF32 ? Float32Tiles::bytes(head_dim) : BFloat16Tiles::bytes(head_dim);
  }
  int64_t block_bytes() const { return num_kv_heads * tiles_per_block * 2 * tile_bytes(); }
  char* key_tile(int64_t block, int64_t head, int64_t tile) const {
    return base + ((block * num_kv_heads + head) * tiles_per_block + tile) * 2 * tile_bytes();
  }
  char* value_tile(int64_t block, int64_t head, int64_t tile) const {
    return key_tile(block, head, tile) + tile_bytes();
  }
};

}  // namespace quire
