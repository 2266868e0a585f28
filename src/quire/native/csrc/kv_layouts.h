// Memory layouts of K/V: tiles of 32 tokens of one kv head, the pages they lie in, and own tiles.
//
// Keys and values of a layer have an element each. Tiles of floats are 32-bit words of one element (float32)
// or two (bfloat16):
//   K [D / kPerWord][32][kPerWord]   V [32 / kPerWord][D][kPerWord]
// Tiles of integers are codes, then scales and minimums in bfloat16. A value is scale * code, of kInt4
// minimum + scale * code with codes from 0 to 15. Every part is rounded up to whole cache lines.
//   K kInt8  codes [D / 4][32][4], scales [32]
//   K kInt4  words of 8 codes [D / 8][32]: low halves of bytes are elements 0 to 3, high halves 4 to 7; then
//            scales [D], minimums [D]
//   V kInt8  codes [32 / 4][D][4], scales [32]
//   V kInt4  bytes [32 / 4][D / 16][32], of tokens 4 q to 4 q + 3: low halves of byte b are token b % 4 of
//            element b / 4, high halves that of element 8 + b / 4; then scales [G][32], minimums [G][32] of G
//            groups of elements, the last of which may be short
#pragma once

#include <cstdint>

#include "weight_format.h"

namespace quire {

constexpr int kTile = 32;         // tokens per K/V tile
constexpr int kKVAlignment = 64;  // bytes that every part of a tile is a multiple of

// The formats of a K/V cache, see KVFormat in quire/config.py, and what the keys or the values of a layer
// are. Each element has a policy of the kernels in kv_policy.h.
enum class KVFormat { kF32, kBF16, kInt8, kInt8Int4, kInt4 };
enum class KVElement { kF32, kBF16, kInt8, kInt4 };

inline KVElement key_element(KVFormat format) {
  switch (format) {
    case KVFormat::kF32: return KVElement::kF32;
    case KVFormat::kBF16: return KVElement::kBF16;
    case KVFormat::kInt8: return KVElement::kInt8;
    case KVFormat::kInt8Int4: return KVElement::kInt8;
    case KVFormat::kInt4: return KVElement::kInt4;
  }
  return KVElement::kF32;
}

inline KVElement value_element(KVFormat format) {
  return format == KVFormat::kInt8Int4 ? KVElement::kInt4 : key_element(format);
}

// Elements of a token's values that share a scale and a minimum; 0 where all do.
inline int64_t value_group(KVFormat format) {
  return format == KVFormat::kInt8Int4 ? 32 : format == KVFormat::kInt4 ? 64 : 0;
}

// Whether rows read the tile that they stand in as bfloat16: where a scale depends on a whole tile, or is as
// coarse as 4 bits.
inline bool has_own_tiles(KVFormat format) { return value_element(format) == KVElement::kInt4; }

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

inline int64_t kv_lines(int64_t bytes) { return round_up(bytes, kKVAlignment); }

// Offsets are in bytes from the tile's start.
struct Int8KeyTiles {
  static int64_t code_at(int64_t d, int64_t token) { return (d / 4 * kTile + token) * 4 + d % 4; }
  static int64_t scales_at(int64_t head_dim) { return round_up(head_dim, 4) * kTile; }
  static int64_t bytes(int64_t head_dim) { return scales_at(head_dim) + kv_lines(kTile * 2); }
};

struct Int4KeyTiles {
  // The byte of a code; its high half holds the elements d with d % 8 >= 4.
  static int64_t byte_at(int64_t d, int64_t token) { return (d / 8 * kTile + token) * 4 + d % 4; }
  static int64_t scales_at(int64_t head_dim) { return round_up(head_dim, 8) / 2 * kTile; }
  static int64_t minimums_at(int64_t head_dim) { return scales_at(head_dim) + kv_lines(head_dim * 2); }
  static int64_t bytes(int64_t head_dim) { return minimums_at(head_dim) + kv_lines(head_dim * 2); }
};

struct Int8ValueTiles {
  static int64_t code_at(int64_t token, int64_t d, int64_t head_dim) {
    return (token / 4 * head_dim + d) * 4 + token % 4;
  }
  static int64_t scales_at(int64_t head_dim) { return kTile * head_dim; }
  static int64_t bytes(int64_t head_dim) { return scales_at(head_dim) + kv_lines(kTile * 2); }
};

struct Int4ValueTiles {
  static int64_t quad_bytes(int64_t head_dim) { return round_up(head_dim, 16) / 16 * 32; }
  // The byte of a code; its high half holds the elements d with d % 16 >= 8.
  static int64_t byte_at(int64_t token, int64_t d, int64_t head_dim) {
    return token / 4 * quad_bytes(head_dim) + d / 16 * 32 + d % 8 * 4 + token % 4;
  }
  static int64_t num_groups(int64_t head_dim, int64_t group) { return (head_dim + group - 1) / group; }
  static int64_t scales_at(int64_t head_dim) { return kTile / 4 * quad_bytes(head_dim); }
  static int64_t minimums_at(int64_t head_dim, int64_t group) {
    return scales_at(head_dim) + kv_lines(num_groups(head_dim, group) * kTile * 2);
  }
  static int64_t bytes(int64_t head_dim, int64_t group) {
    return minimums_at(head_dim, group) + kv_lines(num_groups(head_dim, group) * kTile * 2);
  }
};

// One layer's K/V cache: per block, kv head and tile of 32 tokens the tile of K, then that of V.
struct KVPages {
  char* base;
  KVElement keys;
  KVElement values;
  int64_t value_group;  // see value_group(KVFormat)
  int64_t head_dim;
  int64_t num_kv_heads;
  int64_t tiles_per_block;

  int64_t key_tile_bytes() const {
    switch (keys) {
      case KVElement::kF32: return Float32Tiles::bytes(head_dim);
      case KVElement::kBF16: return BFloat16Tiles::bytes(head_dim);
      case KVElement::kInt8: return Int8KeyTiles::bytes(head_dim);
      case KVElement::kInt4: return Int4KeyTiles::bytes(head_dim);
    }
    return 0;
  }
  int64_t value_tile_bytes() const {
    switch (values) {
      case KVElement::kF32: return Float32Tiles::bytes(head_dim);
      case KVElement::kBF16: return BFloat16Tiles::bytes(head_dim);
      case KVElement::kInt8: return Int8ValueTiles::bytes(head_dim);
      case KVElement::kInt4: return Int4ValueTiles::bytes(head_dim, value_group);
    }
    return 0;
  }
  int64_t tile_bytes() const { return key_tile_bytes() + value_tile_bytes(); }
  int64_t block_bytes() const { return num_kv_heads * tiles_per_block * tile_bytes(); }
  char* key_tile(int64_t block, int64_t head, int64_t tile) const {
    return base + ((block * num_kv_heads + head) * tiles_per_block + tile) * tile_bytes();
  }
  char* value_tile(int64_t block, int64_t head, int64_t tile) const {
    return key_tile(block, head, tile) + key_tile_bytes();
  }
};

// The own tiles of one layer, BFloat16Tiles of K and then of V for each kv head: those that requests keep,
// and those of the step's other tiles, which are complete at its end. A row reads and writes the tile that it
// stands in here.
struct OwnTiles {
  char* kept;     // [num_kept][K]
  char* scratch;  // [..][K]
  int64_t num_kept;
  int64_t head_dim;
  int64_t num_kv_heads;
  const int32_t* tile_of_row;  // [T] the kept ones, then the scratch ones; null: the format has no own tiles

  int64_t head_bytes() const { return 2 * BFloat16Tiles::bytes(head_dim); }
  int64_t tile_bytes() const { return num_kv_heads * head_bytes(); }
  char* key_tile(int64_t row, int64_t head) const {
    int64_t tile = tile_of_row[row];
    char* at = tile < num_kept ? kept + tile * tile_bytes() : scratch + (tile - num_kept) * tile_bytes();
    return at + head * head_bytes();
  }
  char* value_tile(int64_t row, int64_t head) const {
    return key_tile(row, head) + BFloat16Tiles::bytes(head_dim);
  }
};

}  // namespace quire
