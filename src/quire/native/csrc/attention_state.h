// What attention keeps for each row of an item: which keys it sees, its online softmax, its values.
#pragma once

#include <algorithm>

#include "attention_tile.h"
#include "vecmath.h"

namespace quire::QUIRE_ISA {

constexpr float kLowest = -3.4028234663852886e38f;

// Half-open ranges of an item's rows, and of absolute positions.
struct RowRange {
  int64_t begin;
  int64_t end;
};
struct KeyRange {
  int64_t begin;
  int64_t end;
};

// Values of splits merged so far, with their maximum and sum.
struct Total {
  float* values;
  float& m;
  float& l;
};

// total = total * of_total + split * of_split. A sum of products with zero may be -0 or 0: it counts as 0.
static QUIRE_INLINE void add_scaled(float* total, float of_total, const float* split, float of_split, int64_t size) {
  for (int64_t c = 0; c < size; c += kLanes)
    store(total + c, fma(add(load(split + c), set1(0.0f)), set1(of_split), mul(load(total + c), set1(of_total))));
}

// Adds a split to those before it. One that saw no key has no sum and counts for nothing.
static inline void fold(Total total, const float* split, float split_m, float split_l, int64_t size) {
  if (split_l == 0.0f) return;
  float m = total.m > split_m ? total.m : split_m;
  float of_total = exp(total.m - m), of_split = exp(split_m - m);
  add_scaled(total.values, of_total, split, of_split, size);
  total.l = total.l * of_total + split_l * of_split;
  total.m = m;
}

template <class Out>
static inline void write_divided(const float* values, float l, int64_t size, Out* out) {
  vf inverse = set1(1.0f / l);
  for (int64_t c = 0; c < size; c += kLanes) store_as(out + c, mul(load(values + c), inverse), lanes_left(c, size));
}

static inline void write_attended(const Attention& a, int64_t row, int64_t head, const float* values, float l) {
  int64_t size = a.pages.head_dim, start = row * a.ldo + head * size;
  if (a.out_element == Element::kF32)
    write_divided(values, l, size, static_cast<float*>(a.out) + start);
  else
    write_divided(values, l, size, static_cast<uint16_t*>(a.out) + start);
}

// The running state of an item's rows, in scratch memory.
struct RowStates {
  int64_t width;   // floats of one row of values, padded to whole strips
  float* queries;  // [rows][width] widened
  float* scores;   // [rows][32], then the softmax weights as products read them; see attention_amx.h for those of a split
  float* split;    // [rows][width] values of the current split
  float* total;    // [rows][width] values of the merged splits
  float* wide;     // one widened tile, of K [D][32] or of V [32][width]; on matrix tiles what one row needs alone
  float* m;        // per row: maximum, or another score that weights are relative to, sum and correction of the split, then of the total
  float* l;
  float* correction;
  float* total_m;
  float* total_l;
  int32_t* first_key;  // per row: keys it sees, as absolute positions, then as offsets in the current tile
  int32_t* end_key;
  int32_t* begin;
  int32_t* end;

  RowStates(float* scratch, int64_t max_rows, int64_t head_dim) : width(round_up(head_dim, kPanel)) {
    int64_t rows = round_up(max_rows, kTile);
    queries = scratch;
    split = queries + rows * width;
    total = split + rows * width;
    wide = total + rows * width;
    scores = wide + kTile * width;
    m = scores + rows * kScoreStride;
    l = m + rows;
    correction = l + rows;
    total_m = correction + rows;
    total_l = total_m + rows;
    first_key = reinterpret_cast<int32_t*>(total_l + rows);
    end_key = first_key + rows;
    begin = end_key + rows;
    end = begin + rows;
  }

  void sees(int64_t r, int64_t key_begin, int64_t key_end) {
    first_key[r] = static_cast<int32_t>(key_begin);
    end_key[r] = static_cast<int32_t>(key_end);
  }

  KeyRange seen_by_any(int64_t rows) const {
    return {*std::min_element(first_key, first_key + rows), *std::max_element(end_key, end_key + rows)};
  }

  // Sets what each row sees of the tile; returns the rows that see some of it, which lie side by side.
  RowRange enter_tile(int64_t tile, int64_t rows) const {
    int32_t start = static_cast<int32_t>(tile * kTile);
    RowRange active{rows, rows};
    for (int64_t r = 0; r < rows; ++r) {
      begin[r] = std::max(first_key[r] - start, 0);
      end[r] = std::min(end_key[r] - start, kTile);
      if (begin[r] >= end[r]) continue;
      if (active.begin == rows) active.begin = r;
      active.end = r + 1;
    }
    return active;
  }

  bool is_whole(int64_t r) const { return begin[r] == 0 && end[r] == kTile; }

  void begin_split(int64_t r) {
    m[r] = kLowest;
    l[r] = 0.0f;
  }

  // Where values are added up tile by tile; matrix tiles write them once.
  void clear_values(int64_t r) { std::memset(split + r * width, 0, static_cast<size_t>(width) * sizeof(float)); }

  void begin_total(int64_t r) {
    total_m[r] = kLowest;
    total_l[r] = 0.0f;
    std::memset(total + r * width, 0, static_cast<size_t>(width) * sizeof(float));
  }

  // `fold` for all rows.
  void merge_split(int64_t rows, int64_t head_dim) const {
    float highest[kLanes], of_total[kLanes], of_split[kLanes];
    for (int64_t r = 0; r < rows; ++r) {
      int64_t lane = r % kLanes;
      if (lane == 0) {
        int n = lanes_left(r, rows);
        vf before = load_n(total_m + r, n), added = load_n(m + r, n), both = max(before, added);
        store(highest, both);
        store(of_total, exp(sub(before, both)));
        store(of_split, exp(sub(added, both)));
      }
      if (l[r] == 0.0f) continue;
      add_scaled(total + r * width, of_total[lane], split + r * width, of_split[lane], head_dim);
      total_l[r] = total_l[r] * of_total[lane] + l[r] * of_split[lane];
      total_m[r] = highest[lane];
    }
  }

  // The state of one split, for `fold`: values, maximum, sum.
  void leave_split(int64_t r, float* partial) const {
    std::memcpy(partial, split + r * width, static_cast<size_t>(width) * sizeof(float));
    partial[width] = m[r];
    partial[width + 1] = l[r];
  }
};

}  // namespace quire::QUIRE_ISA
