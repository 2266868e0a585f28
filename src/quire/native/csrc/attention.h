// One varlen paged attention for every query length: prefill, chunk and decode differ only in the number of rows.
//
// Rows are the query heads of a group times the tokens of an item; they meet one K/V tile of 32 keys at a time, at
// absolute positions. A row keeps an online softmax (maximum m, sum l, weighted values) inside a split of 512 keys, and
// splits are merged in order. What a row computes depends on its position and window alone: not on its neighbours, the
// chunk it came in, or what lies in slots it may not see.
//
// Softmax in one pass: Milakov and Gimelshein 2018; tiles: Dao 2022; fixed splits: Flash-Decoding 2023.
#pragma once

#include "tile.h"
#include "vecmath.h"

namespace quire::QUIRE_ISA {

// How a page of stored elements S is read: float32 one by one, bfloat16 as pairs along K.
template <class S> struct PageElement;
template <> struct PageElement<float> {
  using Read = float;
  static constexpr int kPerRead = 1;
};
template <> struct PageElement<uint16_t> {
  using Read = uint32_t;
  static constexpr int kPerRead = 2;
};

constexpr float kLowest = -3.4028234663852886e38f;

// Half-open range of a tile's keys that a row sees.
struct Visible {
  int begin;
  int end;
  bool is_empty() const { return end <= begin; }
  bool is_whole() const { return begin == 0 && end == kTile; }
};

// The running state of an item's rows, in scratch memory.
struct RowStates {
  int64_t width;  // floats of one row of values, padded to whole strips
  float* scores;  // [rows][32]
  float* weights; // [rows][32] in the pages' element
  float* split;   // [rows][width] values of the current split
  float* total;   // [rows][width] values of the merged splits
  float* m;       // per row: maximum, sum and correction of the split, then maximum and sum of the total
  float* l;
  float* correction;
  float* total_m;
  float* total_l;

  RowStates(float* scratch, int64_t rows, int64_t head_dim) : width(round_up(head_dim, kPanel)) {
    scores = scratch;
    weights = scores + rows * kTile;
    split = weights + rows * kTile;
    total = split + rows * width;
    m = total + rows * width;
    l = m + rows;
    correction = l + rows;
    total_m = correction + rows;
    total_l = total_m + rows;
  }
};

template <class S>
struct Attend {
  using T = typename PageElement<S>::Read;
  static constexpr int kPer = PageElement<S>::kPerRead;

  const Attention& a;
  const AttentionItem& item;
  RowStates state;
  int64_t group;
  int64_t rows;
  int64_t size;  // head_dim

  Attend(const Attention& attention, const AttentionItem& work, float* scratch)
      : a(attention),
        item(work),
        state(scratch, attention_rows(attention.num_heads / attention.pages.num_kv_heads), attention.pages.head_dim),
        group(attention.num_heads / attention.pages.num_kv_heads),
        rows((work.row_end - work.row_begin) * group),
        size(attention.pages.head_dim) {}

  int64_t position(int64_t row) const { return a.positions[item.row_begin + row / group]; }
  int64_t first_key(int64_t row) const { return position(row) + 1 > a.window ? position(row) + 1 - a.window : 0; }

  const S* query(int64_t row) const {
    int64_t head = item.kv_head * group + row % group;
    return static_cast<const S*>(a.q) + ((item.row_begin + row / group) * a.num_heads + head) * size;
  }

  Visible visible(int64_t row, int64_t tile) const {
    int64_t begin = first_key(row) - tile * kTile, end = position(row) + 1 - tile * kTile;
    return {static_cast<int>(begin > 0 ? begin : 0), static_cast<int>(end < kTile ? end : kTile)};
  }

  const char* tile_base(int64_t tile) const {
    int64_t block = tile / a.pages.tiles_per_block;
    return a.pages.key_tile(a.block_tables[item.request * a.blocks_per_request + block], item.kv_head, tile % a.pages.tiles_per_block);
  }

  void run() {
    for (int64_t r = 0; r < rows; ++r) {
      state.total_m[r] = kLowest;
      state.total_l[r] = 0.0f;
      clear(state.total + r * state.width);
      begin_split(r);
    }
    int64_t last = position(rows - 1) / kTile;
    for (int64_t tile = first_key(0) / kTile; tile <= last; ++tile) {
      const char* keys = tile_base(tile);
      score_tile(reinterpret_cast<const T*>(keys));
      weigh_tile(tile);
      add_values(tile, reinterpret_cast<const T*>(keys + a.pages.tile_bytes()));
      if ((tile + 1) % kSplitTiles == 0 || tile == last) merge_split();
    }
    write_rows();
  }

  void clear(float* values) const { std::memset(values, 0, static_cast<size_t>(state.width) * sizeof(float)); }

  void begin_split(int64_t r) {
    state.m[r] = kLowest;
    state.l[r] = 0.0f;
    clear(state.split + r * state.width);
  }

  struct ScoreTiles {
    const Attend& self;
    const T* keys;
    template <int R>
    void run(int64_t first) const {
      const T* q[R];
      for (int r = 0; r < R; ++r) q[r] = reinterpret_cast<const T*>(self.query(first + r));
      multiply<R, kTile>(q, keys, self.size / kPer, self.state.scores + first * kTile, kTile);
    }
  };

  void score_tile(const T* keys) { for_row_tiles(rows, ScoreTiles{*this, keys}); }

  // Scores of the tile become weights exp(s - m); the row's maximum, sum and correction follow.
  void weigh_tile(int64_t tile) {
    for (int64_t r = 0; r < rows; ++r) {
      Visible seen = visible(r, tile);
      if (!seen.is_empty()) weigh_row(r, seen);
    }
  }

  void weigh_row(int64_t r, Visible seen) {
    constexpr int kVectors = kTile / kLanes;
    vf s[kVectors];
    vf highest = set1(state.m[r]);
    vf begin = set1(static_cast<float>(seen.begin)), end = set1(static_cast<float>(seen.end));
    for (int v = 0; v < kVectors; ++v) {
      vf index = add(lane_index(), set1(static_cast<float>(v * kLanes)));
      s[v] = mul(load(state.scores + r * kTile + v * kLanes), set1(a.scale));
      if (a.softcap > 0.0f) s[v] = softcap(s[v], a.softcap);
      s[v] = if_less(index, end, if_less(index, begin, set1(kLowest), s[v]), set1(kLowest));
      highest = max(highest, s[v]);
    }
    float m = max_of(highest);
    vf sum = set1(0.0f);
    S* weights = reinterpret_cast<S*>(state.weights) + r * kTile;
    for (int v = 0; v < kVectors; ++v) {
      vf index = add(lane_index(), set1(static_cast<float>(v * kLanes)));
      vf w = exp(sub(s[v], set1(m)));
      w = if_less(index, end, if_less(index, begin, set1(0.0f), w), set1(0.0f));
      sum = add(sum, w);
      store_as(weights + v * kLanes, w, kLanes);
    }
    state.correction[r] = exp(state.m[r] - m);
    state.l[r] = state.l[r] * state.correction[r] + sum_of(sum);
    state.m[r] = m;
  }

  // split[r] = split[r] * correction + weights * V, whole rows together and partly visible rows one by one.
  void add_values(int64_t tile, const T* values) {
    int64_t r = 0;
    while (r < rows) {
      Visible seen = visible(r, tile);
      if (!seen.is_whole()) {
        if (!seen.is_empty()) add_visible_values(r, seen, values);
        ++r;
        continue;
      }
      int64_t end = r + 1;
      while (end < rows && visible(end, tile).is_whole()) ++end;
      for_row_tiles(end - r, ValueTiles{*this, values, r});
      r = end;
    }
  }

  const T* weights_of(int64_t row) const { return reinterpret_cast<const T*>(reinterpret_cast<const S*>(state.weights) + row * kTile); }

  vf corrected(int64_t row, int64_t column) const {
    return mul(load(state.split + row * state.width + column), set1(state.correction[row]));
  }

  struct ValueTiles {
    const Attend& self;
    const T* values;
    int64_t offset;
    template <int R>
    void run(int64_t first) const {
      const T* w[R];
      for (int r = 0; r < R; ++r) w[r] = self.weights_of(offset + first + r);
      for (int64_t c = 0; c < self.size; c += kStripVectors * kLanes) {
        vf acc[R][kStripVectors];
        for (int r = 0; r < R; ++r)
          for (int v = 0; v < kStripVectors; ++v) acc[r][v] = self.corrected(offset + first + r, c + v * kLanes);
        accumulate<R, kStripVectors>(w, values + c, self.size, 0, kTile / kPer, acc);
        for (int r = 0; r < R; ++r)
          for (int v = 0; v < kStripVectors; ++v)
            store(self.state.split + (offset + first + r) * self.state.width + c + v * kLanes, acc[r][v]);
      }
    }
  };

  void add_visible_values(int64_t r, Visible seen, const T* values) {
    const T* w = weights_of(r);
    for (int64_t c = 0; c < size; c += kLanes) {
      vf acc = corrected(r, c);
      for (int k = seen.begin / kPer; k * kPer < seen.end; ++k) acc = add_visible(acc, w[k], values + k * size + c, k, seen);
      store(state.split + r * state.width + c, acc);
    }
  }

  static vf add_visible(vf acc, float weight, const float* value, int, Visible) { return fma(set1(weight), load(value), acc); }

  // The half of a pair that the row may not see is cleared: its weight is zero, but what lies there could be infinite.
  static vf add_visible(vf acc, uint32_t weight, const uint32_t* value, int k, Visible seen) {
    uint32_t mask = (2 * k < seen.begin ? 0xffff0000u : 0xffffffffu) & (2 * k + 1 >= seen.end ? 0x0000ffffu : 0xffffffffu);
    return dot_pairs(acc, set1_pair(weight), keep_bits(load_pairs(value), mask));
  }

  void merge_split() {
    for (int64_t r = 0; r < rows; ++r) {
      if (state.l[r] == 0.0f) continue;
      float m = state.total_m[r] > state.m[r] ? state.total_m[r] : state.m[r];
      float of_total = exp(state.total_m[r] - m), of_split = exp(state.m[r] - m);
      float* total = state.total + r * state.width;
      const float* split = state.split + r * state.width;
      for (int64_t c = 0; c < size; c += kLanes) {
        store(total + c, fma(load(split + c), set1(of_split), mul(load(total + c), set1(of_total))));
      }
      state.total_l[r] = state.total_l[r] * of_total + state.l[r] * of_split;
      state.total_m[r] = m;
      begin_split(r);
    }
  }

  void write_rows() {
    for (int64_t r = 0; r < rows; ++r) {
      int64_t head = item.kv_head * group + r % group;
      int64_t start = (item.row_begin + r / group) * a.ldo + head * size;
      if (a.out_element == Element::kF32)
        write_row(r, static_cast<float*>(a.out) + start);
      else
        write_row(r, static_cast<uint16_t*>(a.out) + start);
    }
  }

  template <class Out>
  void write_row(int64_t r, Out* out) {
    vf inverse = set1(1.0f / state.total_l[r]);
    for (int64_t c = 0; c < size; c += kLanes) {
      int n = lanes_left(c, size);
      store_as(out + c, mul(load(state.total + r * state.width + c), inverse), n);
    }
  }
};

static void attend(const Attention& a, const AttentionItem& item, float* scratch) {
  if (a.pages.element == Element::kF32)
    Attend<float>(a, item, scratch).run();
  else
    Attend<uint16_t>(a, item, scratch).run();
}

}  // namespace quire::QUIRE_ISA
