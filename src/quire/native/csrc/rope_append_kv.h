// QK-norm, RoPE, and the append of K/V to their slots. Rows are independent.
#pragma once

#include "kv_store.h"
#include "norm_embed.h"
#include "rotate.h"

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

// `count` kv heads from `head` on, with the query heads that share them (GQA).
template <class Store>
static inline void rope_append_heads(const RopeAppendKV& a, int64_t row, int64_t head, int64_t count) {
  int64_t size = a.pages.head_dim, gqa = a.num_heads / a.pages.num_kv_heads;
  float* q = a.q + row * a.ldqkv + head * gqa * size;
  float* k = a.k + row * a.ldqkv + head * size;
  const float* v = a.v + row * a.ldqkv + head * size;
  norm_heads(a, q, a.q_norm, count * gqa);
  norm_heads(a, k, a.k_norm, count);
  for (int64_t h = 0; a.cos && h < count * gqa; ++h) rotate(a, q + h * size, row);
  for (int64_t h = 0; a.cos && h < count; ++h) rotate(a, k + h * size, row);
  if (a.pages.keys == KVElement::kInt4) {
    for (int64_t h = 0; h < count * gqa; ++h) rotate_head(q + h * size, size);
    for (int64_t h = 0; h < count; ++h) rotate_head(k + h * size, size);
  }
  write_query(q, count * gqa * size,
              static_cast<typename Store::Query*>(a.q_out) + (row * a.num_heads + head * gqa) * size);
  for (int64_t h = 0; h < count; ++h) Store(a, row, head + h).store(k + h * size, v + h * size);
}

// A unit is one kv head of a row, or all of them: `heads_per_unit`. Destinations are prefetched units ahead,
// unless the previous token, which shares their cache lines, was just written.
template <class Store>
static inline void rope_append_units(const RopeAppendKV& a, int64_t unit_begin, int64_t unit_end) {
  constexpr int64_t kAhead = 8;
  constexpr int32_t kLineSlots = kLineBytes / 4;
  int64_t heads = a.heads_per_unit(), per_row = a.pages.num_kv_heads / heads;
  auto prefetch = [&](int64_t unit) {
    int64_t row = unit / per_row;
    bool is_cached = unit - per_row >= unit_begin && a.slots[row] == a.slots[row - 1] + 1 &&
                     a.slots[row] % kLineSlots != 0;
    for (int64_t h = 0; h < heads && !is_cached; ++h) Store(a, row, unit % per_row * heads + h).prefetch();
  };
  for (int64_t unit = unit_begin; unit < std::min(unit_begin + kAhead, unit_end); ++unit) prefetch(unit);
  for (int64_t unit = unit_begin; unit < unit_end; ++unit) {
    if (unit + kAhead < unit_end) prefetch(unit + kAhead);
    rope_append_heads<Store>(a, unit / per_row, unit % per_row * heads, heads);
  }
}

static void rope_append_kv(const RopeAppendKV& a, int64_t unit_begin, int64_t unit_end) {
  if (a.own.tile_of_row) rope_append_units<OwnTileStore>(a, unit_begin, unit_end);
  else if (a.pages.values == KVElement::kInt8) rope_append_units<Int8Store>(a, unit_begin, unit_end);
  else if (a.pages.values == KVElement::kF32)
    rope_append_units<FloatStore<Float32Pages>>(a, unit_begin, unit_end);
  else rope_append_units<FloatStore<BFloat16Pages>>(a, unit_begin, unit_end);
}

}  // namespace quire::QUIRE_ISA
