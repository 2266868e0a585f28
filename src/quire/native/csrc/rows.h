// Row-wise kernels: embedding, normalisation, rotation and the append of K/V. Each row is worked on alone.
#pragma once

#include "fetch.h"
#include "kernels.h"
#include "rows_format.h"
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

// The n normalised values from column i on, or the values themselves where there is no weight; zero beyond.
static inline void normed_values(const Norm& a, const float* x, int64_t i, vf mean, vf factor, float* y) {
  for (int64_t c = 0; c < kGroup; c += kLanes) {
    int n = i + c < a.size ? lanes_left(i + c, a.size) : 0;
    vf value = load_n(x + i + c, n);
    if (a.weight) {
      value = mul(mul(sub(value, mean), factor), load_n(a.weight + i + c, n));
      if (a.bias) value = add(value, load_n(a.bias + i + c, n));
      value = if_less(lane_index(), set1(static_cast<float>(n)), value, set1(0.0f));
    }
    store(y + c, value);
  }
}

static inline void add_values(float* residual, const float* y, int n) {
  for (int c = 0; c < n; c += kLanes) {
    int lanes = lanes_left(c, n);
    store_as(residual + c, add(load_n(residual + c, lanes), load(y + c)), lanes);
  }
}

#if defined(QUIRE_AMX)
static inline void norm_row_in_wide_groups(const Norm& a, const float* x, int64_t row, vf mean, vf factor) {
  float y[kWideGroup];
  for (int64_t begin = 0, end = round_up(a.size, kTileBytes); begin < end; begin += kWideGroup) {
    int64_t count = std::min<int64_t>(kWideGroup, end - begin);
    for (int64_t i = 0; i < count; i += kGroup) normed_values(a, x, begin + i, mean, factor, y + i);
    quantise_wide_group(a.out, row, begin, y, count);
  }
}
#endif

static inline void norm_row(const Norm& a, const float* x, int64_t row) {
  float mean = a.weight && a.kind == NormKind::kLayer ? mean_of(x, a.size) : 0.0f;
  vf factor = a.weight ? inverse_sqrt(mean_square(x, a.size, mean) + a.eps) : set1(1.0f);
#if defined(QUIRE_AMX)
  bool is_wide = a.out.format == RowFormat::kHalves || a.out.format == RowFormat::kWide;
  if (!a.adds && is_wide) return norm_row_in_wide_groups(a, x, row, set1(mean), factor);
#endif
  for (int64_t i = 0; i < a.size; i += kGroup) {
    float y[kGroup];
    int n = a.size - i < kGroup ? static_cast<int>(a.size - i) : kGroup;
    normed_values(a, x, i, set1(mean), factor, y);
    if (a.adds)
      add_values(reinterpret_cast<float*>(a.out.row(row)) + i, y, n);
    else
      write_group(a.out, row, i, y, n);
  }
}

static void norm(const Norm& a, int64_t row_begin, int64_t row_end) {
  for (int64_t row = row_begin; row < row_end; ++row) norm_row(a, a.x + (a.rows ? a.rows[row] : row) * a.ldx, row);
}

// Weights of one column as they lie in a group: words a panel's width apart.
struct ColumnOfGroup {
  const uint32_t* words;
  const uint8_t* multipliers;  // of int4 on tiles, for 32 elements each
  float scale;                 // of integers

  ColumnOfGroup(const Panels& w, int64_t column, int64_t group)
      : words(w.word(column / kPanel, group, column % kPanel, 0)), multipliers(w.multipliers(column / kPanel, group, 0) + column % kPanel),
        scale(w.header_bytes() ? from_bf16(w.scales(column / kPanel, group)[column % kPanel]) : 0.0f) {}

  template <WeightFormat kFormat>
  float weight(int64_t element) const {
    constexpr int64_t kPerWord = 32 / bits_of(kFormat);
    uint32_t word = words[element / kPerWord * kPanel];
    if constexpr (kFormat == WeightFormat::kF32) return float_of(word);
    if constexpr (kFormat == WeightFormat::kBF16) return from_bf16(static_cast<uint16_t>(word >> (element % 2 * 16)));
    uint32_t byte = word >> (element % 4 * 8) & 0xff, nibble = word >> (element % 4 * 8 + element / 4 % 2 * 4) & 0xf;
    if constexpr (kFormat == WeightFormat::kInt8) return scale * static_cast<float>(static_cast<int32_t>(byte) - weight_offset(kFormat));
    if constexpr (kFormat == WeightFormat::kInt4) return scale * static_cast<float>(static_cast<int32_t>(nibble) - weight_offset(kFormat));
    if constexpr (kFormat == WeightFormat::kInt8Tiles) return scale * static_cast<float>(static_cast<int8_t>(byte));
    Multiplier multiplier(multipliers[element / kGroup * kPanel]);
    return scale * static_cast<float>((static_cast<int32_t>(nibble) - multiplier.offset) * multiplier.t);
  }
};

// x [K] = the weights of an output column, times `factor`.
template <WeightFormat kFormat>
static inline void read_column(const Panels& w, int64_t column, float factor, float* x) {
  for (int64_t group = 0, begin = 0; begin < w.k; ++group, begin += w.group_size()) {
    ColumnOfGroup weights(w, column, group);
    for (int64_t i = 0, end = std::min(w.group_size(), w.k - begin); i < end; ++i) x[begin + i] = weights.weight<kFormat>(i) * factor;
  }
}

static inline void read_column(const Panels& w, int64_t column, float factor, float* x) {
  switch (w.format) {
    case WeightFormat::kF32: return read_column<WeightFormat::kF32>(w, column, factor, x);
    case WeightFormat::kBF16: return read_column<WeightFormat::kBF16>(w, column, factor, x);
    case WeightFormat::kInt8: return read_column<WeightFormat::kInt8>(w, column, factor, x);
    case WeightFormat::kInt4: return read_column<WeightFormat::kInt4>(w, column, factor, x);
    case WeightFormat::kInt8Tiles: return read_column<WeightFormat::kInt8Tiles>(w, column, factor, x);
    default: return read_column<WeightFormat::kInt4Tiles>(w, column, factor, x);
  }
}

static void embed(const Embed& a, int64_t row_begin, int64_t row_end) {
  for (int64_t row = row_begin; row < row_end; ++row) {
    float* x = a.x + row * a.ldx;
    read_column(a.table, a.token_ids[row], a.scale, x);
    if (!a.position_table) continue;
    const float* position = a.position_table + a.positions[row] * a.table.k;
    for (int64_t k = 0; k < a.table.k; ++k) x[k] += position[k];
  }
}

static inline void norm_in_place(float* x, const float* weight, int64_t size, float eps) {
  Rows out{reinterpret_cast<char*>(x), 0, RowFormat::kF32, size, 0};
  norm_row(Norm{NormKind::kRms, eps, weight, nullptr, x, size, nullptr, size, out, false}, x, 0);
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
static inline void write_query(const float* q, int64_t size, T* out) {
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
  uint16_t bits[kLanes];
  for (int64_t d = 0; d < size; d += kLanes) {
    int n = lanes_left(d, size);
    store_as(bits, load_n(k + d, n), n);
    for (int i = 0; i < n; i += 2) std::memcpy(keys + ((d + i) / 2 * kTile + offset) * 2, bits + i, 2 * sizeof *bits);
    store_as(bits, load_n(v + d, n), n);
    for (int i = 0; i < n; ++i) values[(offset / 2 * size + d + i) * 2 + offset % 2] = bits[i];
  }
}

template <class T>
struct SlotTiles {
  const KVPages& pages;
  int64_t block, tile, offset;

  SlotTiles(const KVPages& all, int64_t slot)
      : pages(all), block(slot / (all.tiles_per_block * kTile)), tile(slot / kTile % all.tiles_per_block), offset(slot % kTile) {}
  T* keys(int64_t head) const { return reinterpret_cast<T*>(pages.key_tile(block, head, tile)); }
  T* values(int64_t head) const { return reinterpret_cast<T*>(pages.value_tile(block, head, tile)); }
};

// Every word of a key lies in a cache line of its own, which is far away unless the token before, whose word lies in the same line, was
// just written.
template <class T>
static inline void fetch_slot(const RotateAppend& a, const SlotTiles<T>& to, int64_t head) {
  constexpr int64_t kPerWord = 4 / sizeof(T);
  const T* keys = to.keys(head) + to.offset * kPerWord;
  const char* values = reinterpret_cast<const char*>(to.values(head) + to.offset / kPerWord * kPerWord * a.pages.head_dim);
  for (int64_t d = 0; d < a.pages.head_dim; d += kPerWord) fetch_near(reinterpret_cast<const char*>(keys + d * kTile));
  for (int64_t byte = 0; byte < 4 * a.pages.head_dim; byte += kLineBytes) fetch_near(values + byte);
}

// Heads of K from `head` on, `count` of them, with V and with the heads of Q that meet them.
template <class T>
static inline void rotate_append_heads(const RotateAppend& a, int64_t row, int64_t head, int64_t count) {
  int64_t size = a.pages.head_dim, group = a.num_heads / a.pages.num_kv_heads;
  float* q = a.q + row * a.ldqkv + head * group * size;
  float* k = a.k + row * a.ldqkv + head * size;
  const float* v = a.v + row * a.ldqkv + head * size;
  norm_heads(a, q, a.q_norm, count * group);
  norm_heads(a, k, a.k_norm, count);
  for (int64_t h = 0; a.cos && h < count * group; ++h) rotate(a, q + h * size, row);
  for (int64_t h = 0; a.cos && h < count; ++h) rotate(a, k + h * size, row);
  write_query(q, count * group * size, static_cast<T*>(a.q_out) + (row * a.num_heads + head * group) * size);
  SlotTiles<T> to(a.pages, a.slots[row]);
  for (int64_t h = 0; h < count; ++h) append_head(to.keys(head + h), to.values(head + h), to.offset, k + h * size, v + h * size, size);
}

// A unit is a row's head of K, or all of them: see `heads_per_unit`. What is written is fetched some units before.
template <class T>
static inline void rotate_append_units(const RotateAppend& a, int64_t unit_begin, int64_t unit_end) {
  constexpr int64_t kAhead = 8;
  constexpr int32_t kLineSlots = kLineBytes / 4;
  int64_t heads = a.heads_per_unit(), per_row = a.pages.num_kv_heads / heads;
  auto fetch = [&](int64_t unit) {
    int64_t row = unit / per_row;
    bool is_near = unit - per_row >= unit_begin && a.slots[row] == a.slots[row - 1] + 1 && a.slots[row] % kLineSlots != 0;
    for (int64_t h = 0; h < heads && !is_near; ++h) fetch_slot(a, SlotTiles<T>(a.pages, a.slots[row]), unit % per_row * heads + h);
  };
  for (int64_t unit = unit_begin; unit < std::min(unit_begin + kAhead, unit_end); ++unit) fetch(unit);
  for (int64_t unit = unit_begin; unit < unit_end; ++unit) {
    if (unit + kAhead < unit_end) fetch(unit + kAhead);
    rotate_append_heads<T>(a, unit / per_row, unit % per_row * heads, heads);
  }
}

static void rotate_append(const RotateAppend& a, int64_t unit_begin, int64_t unit_end) {
  if (a.pages.element == Element::kF32) rotate_append_units<float>(a, unit_begin, unit_end);
  else rotate_append_units<uint16_t>(a, unit_begin, unit_end);
}

}  // namespace quire::QUIRE_ISA
