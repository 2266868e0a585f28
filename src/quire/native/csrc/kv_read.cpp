// Keys and values as numbers, read back from pages and own tiles.
#include <algorithm>
#include <cstring>
#include <limits>

#include "decoder.h"
#include "hadamard.h"

namespace quire {

static float widened(float x) { return x; }

static float widened(uint16_t bfloat16) {
  uint32_t bits = static_cast<uint32_t>(bfloat16) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

static float number_at(const char* tile, int64_t offset, int64_t index) {
  return widened(reinterpret_cast<const uint16_t*>(tile + offset)[index]);
}

static float code_at(const char* tile, int64_t at) { return static_cast<int8_t>(tile[at]); }

// Four bits of a byte.
static float half_at(const char* tile, int64_t at, bool is_high) {
  return static_cast<float>(static_cast<uint8_t>(tile[at]) >> (is_high ? 4 : 0) & 15);
}

template <class Tiles>
static void read_float_key(const char* tile, int64_t t, int64_t size, float* key) {
  auto stored = reinterpret_cast<const typename Tiles::Stored*>(tile);
  for (int64_t d = 0; d < size; ++d) key[d] = widened(stored[Tiles::key_at(d, t)]);
}

template <class Tiles>
static void read_float_value(const char* tile, int64_t t, int64_t size, float* value) {
  auto stored = reinterpret_cast<const typename Tiles::Stored*>(tile);
  for (int64_t d = 0; d < size; ++d) value[d] = widened(stored[Tiles::value_at(t, d, size)]);
}

// Both rotations of keys are the same: see hadamard.h.
static void turn_back(float* x, int64_t size) {
  int64_t part = hadamard_size(size);
  for (float* begin = x; begin < x + size; begin += part) {
    for (int64_t stride = 1; stride < part; stride *= 2)
      for (int64_t i = 0; i < part; ++i)
        if ((i & stride) == 0) {
          float low = begin[i], high = begin[i + stride];
          begin[i] = low + high, begin[i + stride] = low - high;
        }
    for (int64_t i = 0; i < part; ++i) begin[i] *= hadamard_factor(part);
  }
}

static void read_int8_key(const char* tile, int64_t t, int64_t size, float* key) {
  float scale = number_at(tile, Int8KeyTiles::scales_at(size), t);
  for (int64_t d = 0; d < size; ++d) key[d] = scale * code_at(tile, Int8KeyTiles::code_at(d, t));
}

static void read_int4_key(const char* tile, int64_t t, int64_t size, float* key) {
  for (int64_t d = 0; d < size; ++d)
    key[d] = number_at(tile, Int4KeyTiles::minimums_at(size), d) +
             number_at(tile, Int4KeyTiles::scales_at(size), d) *
                 half_at(tile, Int4KeyTiles::byte_at(d, t), d % 8 >= 4);
}

static void read_int8_value(const char* tile, int64_t t, int64_t size, float* value) {
  float scale = number_at(tile, Int8ValueTiles::scales_at(size), t);
  for (int64_t d = 0; d < size; ++d) value[d] = scale * code_at(tile, Int8ValueTiles::code_at(t, d, size));
}

static void read_int4_value(const char* tile, int64_t t, int64_t size, int64_t group, float* value) {
  for (int64_t d = 0; d < size; ++d) {
    int64_t at = d / group * kTile + t;
    value[d] = number_at(tile, Int4ValueTiles::minimums_at(size, group), at) +
               number_at(tile, Int4ValueTiles::scales_at(size), at) *
                   half_at(tile, Int4ValueTiles::byte_at(t, d, size), d % 16 >= 8);
  }
}

static void read_key(const KVPages& p, const char* tile, int64_t t, float* key) {
  switch (p.keys) {
    case KVElement::kF32: return read_float_key<Float32Tiles>(tile, t, p.head_dim, key);
    case KVElement::kBF16: return read_float_key<BFloat16Tiles>(tile, t, p.head_dim, key);
    case KVElement::kInt8: return read_int8_key(tile, t, p.head_dim, key);
    case KVElement::kInt4: return read_int4_key(tile, t, p.head_dim, key);
  }
}

static void read_value(const KVPages& p, const char* tile, int64_t t, float* value) {
  switch (p.values) {
    case KVElement::kF32: return read_float_value<Float32Tiles>(tile, t, p.head_dim, value);
    case KVElement::kBF16: return read_float_value<BFloat16Tiles>(tile, t, p.head_dim, value);
    case KVElement::kInt8: return read_int8_value(tile, t, p.head_dim, value);
    case KVElement::kInt4: return read_int4_value(tile, t, p.head_dim, p.value_group, value);
  }
}

// One head of a slot of the pages; NaN where its tile is not full, because its K/V are in an own tile then.
void Decoder::read_paged_head(const KVPages& p, int64_t slot, int64_t head, float* key, float* value) const {
  int64_t block = slot / block_size(), tile = slot / kTile % tiles_per_block_;
  if (has_own_tiles() && !is_full_[full_at(block, tile)]) {
    std::fill(key, key + p.head_dim, std::numeric_limits<float>::quiet_NaN());
    std::fill(value, value + p.head_dim, std::numeric_limits<float>::quiet_NaN());
    return;
  }
  read_key(p, p.key_tile(block, head, tile), slot % kTile, key);
  read_value(p, p.value_tile(block, head, tile), slot % kTile, value);
}

void Decoder::read_kv(int64_t layer, const int32_t* slots, int64_t count, float* keys, float* values) const {
  if (count == 0) return;
  const KVPages& p = pages(layer);
  const OwnTiles own = own_tiles(layer);
  const int64_t size = p.head_dim, num_paged = num_blocks_ * block_size();
  for (int64_t i = 0; i < count; ++i)
    for (int64_t head = 0; head < p.num_kv_heads; ++head, keys += size, values += size) {
      if (slots[i] < num_paged) {
        read_paged_head(p, slots[i], head, keys, values);
      } else {
        const char* tile =
            own.kept + (slots[i] - num_paged) / kTile * own.tile_bytes() + head * own.head_bytes();
        read_float_key<BFloat16Tiles>(tile, slots[i] % kTile, size, keys);
        read_float_value<BFloat16Tiles>(tile + BFloat16Tiles::bytes(size), slots[i] % kTile, size, values);
      }
      if (p.keys == KVElement::kInt4) turn_back(keys, size);
    }
}

}  // namespace quire
