// Where a step writes one head of a token's K and V: into its slot, or into its own tile; and own tiles that
// became full into their pages.
#pragma once

#include "kernels.h"
#include "kv_quantize.h"
#include "prefetch.h"

namespace quire::QUIRE_ISA {

// Where K and V of a slot lie, in all heads.
struct SlotTiles {
  const KVPages& pages;
  int64_t block, tile, offset;

  SlotTiles(const KVPages& all, int64_t slot)
      : pages(all),
        block(slot / (all.tiles_per_block * kTile)),
        tile(slot / kTile % all.tiles_per_block),
        offset(slot % kTile) {}
  char* keys(int64_t head) const { return pages.key_tile(block, head, tile); }
  char* values(int64_t head) const { return pages.value_tile(block, head, tile); }
};

// One token of a tile of keys: 4 bytes in each row of 32 words.
static inline void prefetch_key(const char* tile, int64_t offset, int64_t num_words) {
  for (int64_t word = 0; word < num_words; ++word) prefetch_l1(tile + (word * kTile + offset) * 4);
}

// Tiles of floats: a key scatters over as many cache lines as it has words.
template <class Pages>
static inline void prefetch_floats(const char* keys, const char* values, int64_t offset, int64_t size) {
  prefetch_key(keys, offset, size / Pages::kPerWord);
  for (int64_t byte = 0; byte < 4 * size; byte += kLineBytes)
    prefetch_l1(values + offset / Pages::kPerWord * 4 * size + byte);
}

template <class Pages>
struct FloatStore {
  using Query = typename Pages::Stored;

  const RopeAppendKV& a;
  SlotTiles to;
  int64_t head;

  FloatStore(const RopeAppendKV& append, int64_t row, int64_t kv_head)
      : a(append), to(append.pages, append.slots[row]), head(kv_head) {}
  void prefetch() const {
    prefetch_floats<Pages>(to.keys(head), to.values(head), to.offset, a.pages.head_dim);
  }
  void store(const float* k, const float* v) const {
    Pages::store_head(reinterpret_cast<Query*>(to.keys(head)), reinterpret_cast<Query*>(to.values(head)),
                      to.offset, k, v, a.pages.head_dim);
  }
};

// Whether all of a head are numbers as bfloat16 too.
static inline bool is_finite_head(const float* x, int64_t size) {
  constexpr float kRoundsToInfinity = 0x1.ffp127f;
  return largest_magnitude(x, size) < kRoundsToInfinity;
}

static inline void report_not_finite(int32_t* not_finite) {
  __atomic_store_n(not_finite, 1, __ATOMIC_RELAXED);
}

// Own tiles hold bfloat16, in every format that has them.
struct OwnTileStore {
  using Query = uint16_t;

  const RopeAppendKV& a;
  int64_t row, head;

  OwnTileStore(const RopeAppendKV& append, int64_t step_row, int64_t kv_head)
      : a(append), row(step_row), head(kv_head) {}
  int64_t offset() const { return a.slots[row] % kTile; }
  void prefetch() const {
    prefetch_floats<BFloat16Pages>(a.own.key_tile(row, head), a.own.value_tile(row, head), offset(),
                                   a.pages.head_dim);
  }
  void store(const float* k, const float* v) const {
    int64_t size = a.pages.head_dim;
    if (!is_finite_head(k, size) || !is_finite_head(v, size)) report_not_finite(a.not_finite);
    BFloat16Pages::store_head(reinterpret_cast<uint16_t*>(a.own.key_tile(row, head)),
                              reinterpret_cast<uint16_t*>(a.own.value_tile(row, head)), offset(), k, v, size);
  }
};

// Values of 8 bits, and keys of 8 bits, or in bfloat16 where they are kept exact.
struct Int8Store {
  using Query = uint16_t;

  const RopeAppendKV& a;
  SlotTiles to;
  int64_t head;

  Int8Store(const RopeAppendKV& append, int64_t row, int64_t kv_head)
      : a(append), to(append.pages, append.slots[row]), head(kv_head) {}

  void prefetch() const {
    int64_t size = a.pages.head_dim;
    prefetch_key(to.keys(head), to.offset, size / (a.pages.keys == KVElement::kBF16 ? 2 : 4));
    for (int64_t byte = 0; byte < 4 * size; byte += kLineBytes)
      prefetch_l1(to.values(head) + to.offset / 4 * 4 * size + byte);
  }
  void store(const float* k, const float* v) const {
    bool is_finite = a.pages.keys == KVElement::kBF16 ? store_exact_key(k) : store_key(k);
    if (!store_value(v) || !is_finite) report_not_finite(a.not_finite);
  }

 private:
  bool store_exact_key(const float* k) const {
    uint16_t* keys = reinterpret_cast<uint16_t*>(to.keys(head));
    for (int64_t d = 0; d < a.pages.head_dim; ++d) keys[BFloat16Tiles::key_at(d, to.offset)] = to_bf16(k[d]);
    return is_finite_head(k, a.pages.head_dim);
  }
  bool store_key(const float* k) const {
    char* tile = to.keys(head);
    uint16_t* scales = numbers_at(tile, Int8KeyTiles::scales_at(a.pages.head_dim));
    return quantize_head(k, a.pages.head_dim, scales + to.offset,
                         [&](int64_t d, const int8_t* codes, int64_t count) {
                           for (int64_t i = 0; i < count; i += 4)
                             std::memcpy(tile + Int8KeyTiles::code_at(d + i, to.offset), codes + i, 4);
                         });
  }
  bool store_value(const float* v) const {
    char* tile = to.values(head);
    int64_t size = a.pages.head_dim;
    uint16_t* scales = numbers_at(tile, Int8ValueTiles::scales_at(size));
    return quantize_head(v, size, scales + to.offset, [&](int64_t d, const int8_t* codes, int64_t count) {
      char* words = tile + Int8ValueTiles::code_at(to.offset, d, size);
      for (int64_t i = 0; i < count; ++i) words[4 * i] = static_cast<char>(codes[i]);
    });
  }
};

static inline bool quantize_keys(const KVPages& pages, const char* own, char* tile) {
  int64_t size = pages.head_dim;
  const uint32_t* pairs = reinterpret_cast<const uint32_t*>(own);
  if (pages.keys == KVElement::kInt4) return quantize_int4_keys(pairs, size, tile);
  if (pages.keys == KVElement::kInt8) return quantize_int8_keys(pairs, size, tile);
  std::memcpy(tile, own, static_cast<size_t>(BFloat16Tiles::bytes(size)));
  return true;
}

// A unit is the own tile of a row that ends its tile, in one kv head.
static void fill_tiles(const FillTiles& a, int64_t unit_begin, int64_t unit_end) {
  for (int64_t unit = unit_begin; unit < unit_end; ++unit) {
    int64_t row = a.rows[unit / a.pages.num_kv_heads], head = unit % a.pages.num_kv_heads;
    SlotTiles to(a.pages, a.slots[row]);
    const char* values = a.own.value_tile(row, head);
    bool is_finite = quantize_keys(a.pages, a.own.key_tile(row, head), to.keys(head));
    is_finite &= quantize_int4_values(reinterpret_cast<const uint32_t*>(values), a.pages.head_dim,
                                      a.pages.value_group, to.values(head));
    if (!is_finite) report_not_finite(a.not_finite);
  }
}

}  // namespace quire::QUIRE_ISA
