// Row-wise kernels: embedding, normalisation, rotation and the append of K/V. Each row is worked on alone.
#pragma once

#include "kernels.h"
#include "vecmath.h"

namespace quire::QUIRE_ISA {

static inline vf inverse_sqrt(float x) { return set1(1.0f / __builtin_sqrtf(x)); }

static inline float mean_square(const float* x, int64_t size, float mean) {
  vf sum = set1(0.0f);
  for (int64_t i = 0; i < size; i += kLanes) {
    int n = lanes_left(i, size);
    vf d = sub(load_n(x + i, n), set1(mean));
    d = if_less(lane_index(), set1(static_cast<float>(n)), d, set1(0.0f));
    sum = fma(d, d, sum);
  }
  return sum_of(sum) / static_cast<float>(size);
}

static inline float mean_of(const float* x, int64_t size) {
  vf sum = set1(0.0f);
  for (int64_t i = 0; i < size; i += kLanes) sum = add(sum, load_n(x + i, lanes_left(i, size)));
  return sum_of(sum) / static_cast<float>(size);
}

template <class T>
static inline void write_copied(const Norm& a, const float* x, T* out) {
  for (int64_t i = 0; i < a.size; i += kLanes) {
    int n = lanes_left(i, a.size);
    store_as(out + i, load_n(x + i, n), n);
  }
}

template <class T>
static inline void write_normed(const Norm& a, const float* x, T* out) {
  if (!a.weight) return write_copied(a, x, out);
  float mean = a.kind == NormKind::kLayer ? mean_of(x, a.size) : 0.0f;
  vf factor = inverse_sqrt(mean_square(x, a.size, mean) + a.eps);
  for (int64_t i = 0; i < a.size; i += kLanes) {
    int n = lanes_left(i, a.size);
    vf y = mul(mul(sub(load_n(x + i, n), set1(mean)), factor), load_n(a.weight + i, n));
    if (a.bias) y = add(y, load_n(a.bias + i, n));
    if constexpr (sizeof(T) == sizeof(float)) {
      if (a.adds) y = add(load_n(out + i, n), y);
    }
    store_as(out + i, y, n);
  }
}

static void norm(const Norm& a, int64_t row_begin, int64_t row_end) {
  for (int64_t row = row_begin; row < row_end; ++row) {
    const float* x = a.x + (a.rows ? a.rows[row] : row) * a.ldx;
    if (a.out_element == Element::kF32)
      write_normed(a, x, static_cast<float*>(a.out) + row * a.ldo);
    else
      write_normed(a, x, static_cast<uint16_t*>(a.out) + row * a.ldo);
  }
}

// Element k of output column `n`, out of the packed panels.
static inline float weight_at(const Panels& w, int64_t n, int64_t k) {
  const char* panel = static_cast<const char*>(w.base) + n / kPanel * w.bytes_per_panel();
  int64_t lane = n % kPanel;
  if (w.element == Element::kF32) return reinterpret_cast<const float*>(panel)[k * kPanel + lane];
  return from_bf16(reinterpret_cast<const uint16_t*>(panel)[(k / 2 * kPanel + lane) * 2 + k % 2]);
}

static void embed(const Embed& a, int64_t row_begin, int64_t row_end) {
  for (int64_t row = row_begin; row < row_end; ++row) {
    float* x = a.x + row * a.ldx;
    for (int64_t k = 0; k < a.table.k; ++k) x[k] = weight_at(a.table, a.token_ids[row], k) * a.scale;
    if (!a.position_table) continue;
    const float* position = a.position_table + a.positions[row] * a.table.k;
    for (int64_t k = 0; k < a.table.k; ++k) x[k] += position[k];
  }
}

static inline void norm_in_place(float* x, const float* weight, int64_t size, float eps) {
  Norm n{NormKind::kRms, eps, weight, nullptr, x, size, nullptr, size, x, size, Element::kF32, false};
  write_normed(n, x, x);
}

static inline void norm_heads(const RotateAppend& a, float* x, const float* weight, int64_t heads) {
  int64_t size = a.pages.head_dim;
  if (!weight) return;
  if (a.norms_whole) return norm_in_place(x, weight, heads * size, a.norm_eps);
  for (int64_t h = 0; h < heads; ++h) norm_in_place(x + h * size, weight, size, a.norm_eps);
}

// Rotates the pairs (i, i + rotary_dim / 2) of one head.
static inline void rotate(const RotateAppend& a, float* x, int64_t row) {
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
static inline void write_query(const RotateAppend& a, const float* q, int64_t row) {
  int64_t size = a.num_heads * a.pages.head_dim;
  T* out = static_cast<T*>(a.q_out) + row * size;
  for (int64_t i = 0; i < size; i += kLanes) {
    int n = lanes_left(i, size);
    store_as(out + i, load_n(q + i, n), n);
  }
}

static inline void append_head(float* keys, float* values, int64_t offset, const float* k, const float* v, int64_t size) {
  for (int64_t d = 0; d < size; ++d) keys[d * kTile + offset] = k[d];
  for (int64_t d = 0; d < size; ++d) values[offset * size + d] = v[d];
}

static inline void append_head(uint16_t* keys, uint16_t* values, int64_t offset, const float* k, const float* v, int64_t size) {
  for (int64_t d = 0; d < size; ++d) keys[(d / 2 * kTile + offset) * 2 + d % 2] = to_bf16(k[d]);
  for (int64_t d = 0; d < size; ++d) values[(offset / 2 * size + d) * 2 + offset % 2] = to_bf16(v[d]);
}

template <class T>
static inline void append(const RotateAppend& a, const float* k, const float* v, int64_t slot) {
  const KVPages& pages = a.pages;
  int64_t block = slot / (pages.tiles_per_block * kTile);
  int64_t tile = slot / kTile % pages.tiles_per_block;
  for (int64_t h = 0; h < pages.num_kv_heads; ++h) {
    T* keys = reinterpret_cast<T*>(pages.key_tile(block, h, tile));
    T* values = reinterpret_cast<T*>(pages.value_tile(block, h, tile));
    append_head(keys, values, slot % kTile, k + h * pages.head_dim, v + h * pages.head_dim, pages.head_dim);
  }
}

static void rotate_append(const RotateAppend& a, int64_t row_begin, int64_t row_end) {
  int64_t size = a.pages.head_dim;
  for (int64_t row = row_begin; row < row_end; ++row) {
    float* q = a.q + row * a.ldqkv;
    float* k = a.k + row * a.ldqkv;
    const float* v = a.v + row * a.ldqkv;
    norm_heads(a, q, a.q_norm, a.num_heads);
    norm_heads(a, k, a.k_norm, a.pages.num_kv_heads);
    if (a.cos) {
      for (int64_t h = 0; h < a.num_heads; ++h) rotate(a, q + h * size, row);
      for (int64_t h = 0; h < a.pages.num_kv_heads; ++h) rotate(a, k + h * size, row);
    }
    if (a.pages.element == Element::kF32) {
      write_query<float>(a, q, row);
      append<float>(a, k, v, a.slots[row]);
    } else {
      write_query<uint16_t>(a, q, row);
      append<uint16_t>(a, k, v, a.slots[row]);
    }
  }
}

}  // namespace quire::QUIRE_ISA
