// QK-norm, RoPE, and the append of K/V to their slots. Rows are independent.
#pragma once

#include "kv_policy.h"
#include "norm_embed.h"
#include "prefetch.h"

namespace quire::QUIRE_ISA {

// The bits of `norm_row` for RMS norm, in place and in float32.
static inline void norm_in_place(float* x, const float* weight, int64_t size, float eps) {
  vf factor = inverse_sqrt(mean_square(x, size, 0.0f) + eps);
  for (int64_t i = 0; i < size; i += kLanes) {
    int n = lanes_left(i, size);
    store_n(x + i, mul(mul(load_n(x + i, n), factor), load_n(weight + i, n)), n);
  }
}

static inline void norm_heads(const RopeAppendKV& a, float* x, const float* weight, int64_t heads) {
  int64_t size = a.pages.head_dim;
  if (!weight) return;
  if (a.norm_spans_heads) return norm_in_place(x, weight, heads * size, a.norm_eps);
  for (int64_t h = 0; h < heads; ++h) norm_in_place(x + h * size, weight, size, a.norm_eps);
}

// Rotates the pairs (i, i + rotary_dim / 2) of one head.
static inline void rotate(const RopeAppendKV& a, float* x, int64_t row) {
  int64_t half = a.rotary_dim / 2;
  const float* cos = a.cos + row * half;
  const float* sin = a.sin + row * half;
  for (int64_t i = 0; i < half; i += kLanes) {
    int n = lanes_left(i, half);
    vf low = load_n(x + i, n), high = load_n(x + half + i, n);
    vf c = load_n(cos + i, n), s = load_n(sin + i, n);
    store_n(x + i, sub(mul(low, c), mul(high, s)), n);
    store_n(x + half + i, add(mul(high, c), mul(low, s)), n);
  }
}

template <class T>
static inline void write_query(const float* q, int64_t size, T* out) {
  for (int64_t i = 0; i < size; i += kLanes) {
    int n = lanes_left(i, size);
    store_as(out + i, load_n(q + i, n), n);
  }
}

template <class Pages>
struct SlotTiles {
  using Stored = typename Pages::Stored;

  const KVPages& pages;
  int64_t block, tile, offset;

  SlotTiles(const KVPages& all, int64_t slot)
      : pages(all),
        block(slot / (all.tiles_per_block * kTile)),
        tile(slot / kTile % all.tiles_per_block),
        offset(slot % kTile) {}
  Stored* keys(int64_t head) const { return reinterpret_cast<Stored*>(pages.key_tile(block, head, tile)); }
  Stored* values(int64_t head) const {
    return reinterpret_cast<Stored*>(pages.value_tile(block, head, tile));
  }
};

// A key scatters over D (bfloat16: D / 2) cache lines. They miss the cache unless the previous token, which
// shares them, was just written.
template <class Pages>
static inline void prefetch_slot(const RopeAppendKV& a, const SlotTiles<Pages>& to, int64_t head) {
  constexpr int64_t kPerWord = Pages::kPerWord;
  const typename Pages::Stored* keys = to.keys(head) + Pages::key_at(0, to.offset);
  const char* values =
      reinterpret_cast<const char*>(to.values(head) + to.offset / kPerWord * kPerWord * a.pages.head_dim);
  for (int64_t d = 0; d < a.pages.head_dim; d += kPerWord)
    prefetch_l1(reinterpret_cast<const char*>(keys + d * kTile));
  for (int64_t byte = 0; byte < 4 * a.pages.head_dim; byte += kLineBytes) prefetch_l1(values + byte);
}

// `count` kv heads from `head` on, with the query heads that share them (GQA).
template <class Pages>
static inline void rope_append_heads(const RopeAppendKV& a, int64_t row, int64_t head, int64_t count) {
  int64_t size = a.pages.head_dim, gqa = a.num_heads / a.pages.num_kv_heads;
  float* q = a.q + row * a.ldqkv + head * gqa * size;
  float* k = a.k + row * a.ldqkv + head * size;
  const float* v = a.v + row * a.ldqkv + head * size;
  norm_heads(a, q, a.q_norm, count * gqa);
  norm_heads(a, k, a.k_norm, count);
  for (int64_t h = 0; a.cos && h < count * gqa; ++h) rotate(a, q + h * size, row);
  for (int64_t h = 0; a.cos && h < count; ++h) rotate(a, k + h * size, row);
  write_query(q, count * gqa * size,
              static_cast<typename Pages::Stored*>(a.q_out) + (row * a.num_heads + head * gqa) * size);
  SlotTiles<Pages> to(a.pages, a.slots[row]);
  for (int64_t h = 0; h < count; ++h)
    Pages::store_head(to.keys(head + h), to.values(head + h), to.offset, k + h * size, v + h * size, size);
}

// A unit is one kv head of a row, or all of them: `heads_per_unit`. Destinations are prefetched units ahead.
template <class Pages>
static inline void rope_append_units(const RopeAppendKV& a, int64_t unit_begin, int64_t unit_end) {
  constexpr int64_t kAhead = 8;
  constexpr int32_t kLineSlots = kLineBytes / 4;
  int64_t heads = a.heads_per_unit(), per_row = a.pages.num_kv_heads / heads;
  auto prefetch = [&](int64_t unit) {
    int64_t row = unit / per_row;
    bool is_cached = unit - per_row >= unit_begin && a.slots[row] == a.slots[row - 1] + 1 &&
                     a.slots[row] % kLineSlots != 0;
    for (int64_t h = 0; h < heads && !is_cached; ++h)
      prefetch_slot(a, SlotTiles<Pages>(a.pages, a.slots[row]), unit % per_row * heads + h);
  };
  for (int64_t unit = unit_begin; unit < std::min(unit_begin + kAhead, unit_end); ++unit) prefetch(unit);
  for (int64_t unit = unit_begin; unit < unit_end; ++unit) {
    if (unit + kAhead < unit_end) prefetch(unit + kAhead);
    rope_append_heads<Pages>(a, unit / per_row, unit % per_row * heads, heads);
  }
}

static void rope_append_kv(const RopeAppendKV& a, int64_t unit_begin, int64_t unit_end) {
  with_pages(a.pages.keys,
             [&](auto pages) { rope_append_units<decltype(pages)>(a, unit_begin, unit_end); });
}

}  // namespace quire::QUIRE_ISA
