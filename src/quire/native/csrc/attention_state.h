// What attention keeps per row of an item: the keys it sees, its online softmax, its values.
#pragma once

#include <algorithm>

#include "attention_tile.h"
#include "vecmath.h"

namespace quire::QUIRE_ISA {

constexpr float kLowest = -3.4028234663852886e38f;
constexpr int kTileVectors = kTile / kLanes;

// Half-open ranges of an item's rows, and of absolute key positions.
struct RowRange {
  int64_t begin;
  int64_t end;
};
struct KeyRange {
  int64_t begin;
  int64_t end;
};

// Values of the splits merged so far, with their maximum and sum.
struct Total {
  float* values;
  float& m;
  float& l;
};

// total = total * total_scale + split * split_scale. Sums of products with zero may be -0, which counts as 0.
static QUIRE_INLINE void add_scaled(float* total, float total_scale, const float* split, float split_scale,
                                    int64_t size) {
  for (int64_t c = 0; c < size; c += kLanes)
    store(total + c,
          fma(add(load(split + c), set1(0.0f)), set1(split_scale), mul(load(total + c), set1(total_scale))));
}

// Merges a split's partial into the total (log-sum-exp). A split that saw no key has sum 0 and is skipped.
static inline void merge_partial(Total total, const float* split, float split_m, float split_l,
                                 int64_t size) {
  if (split_l == 0.0f) return;
  float m = total.m > split_m ? total.m : split_m;
  float total_scale = exp(total.m - m), split_scale = exp(split_m - m);
  add_scaled(total.values, total_scale, split, split_scale, size);
  total.l = total.l * total_scale + split_l * split_scale;
  total.m = m;
}

template <class Out>
static inline void write_divided(const float* values, float l, int64_t size, Out* out) {
  vf inverse = set1(1.0f / l);
  for (int64_t c = 0; c < size; c += kLanes)
    store_as(out + c, mul(load(values + c), inverse), lanes_left(c, size));
}

static inline void write_output(const Attention& a, int64_t row, int64_t head, const float* values, float l) {
  int64_t size = a.pages.head_dim, start = row * a.ldo + head * size;
  if (a.out_element == Element::kF32) write_divided(values, l, size, static_cast<float*>(a.out) + start);
  else write_divided(values, l, size, static_cast<uint16_t*>(a.out) + start);
}

// The running state of an item's rows, in scratch memory.
struct RowStates {
  int64_t width;   // floats per row of values, padded to whole panels
  float* queries;  // [rows][width] widened to float32; with AMX, bfloat16 rows side by side
  float* scores;   // [rows][32], then probabilities as products read them; with AMX those of a whole split
  float* split;    // [rows][width] values of the current split
  float* total;    // [rows][width] values of the merged splits
  float* widened;  // one widened tile, K [D][32] or V [32][width]; with AMX scratch of a row that works alone
  uint32_t* query_words;  // [rows][width / 2] queries as bytes, as products with keys of 8 bits read them
  float* query_scales;    // [rows] of these bytes,
  int32_t* query_sums;    // and their sums
  // Per row: of the split, the maximum (with AMX the shift that probabilities are relative to), the sum, and
  // the factor by which the tile's new maximum rescales earlier tiles; then maximum and sum of the merged
  // splits.
  float* m;
  float* l;
  float* rescale;
  float* total_m;
  float* total_l;
  // Per row: the keys it sees, as absolute positions.
  int32_t* first_key;
  int32_t* end_key;
  // Per row: the keys it sees in the current tile, as offsets. With AMX per row panel: see AmxSplitView.
  int32_t* begin;
  int32_t* end;

  RowStates(float* scratch, int64_t max_rows, int64_t head_dim) : width(round_up(head_dim, kPanel)) {
    int64_t rows = round_up(max_rows, kTile);
    queries = scratch;
    split = queries + rows * width;
    total = split + rows * width;
    widened = total + rows * width;
    scores = widened + kTile * width;
    m = scores + rows * kScoreStride;
    l = m + rows;
    rescale = l + rows;
    total_m = rescale + rows;
    total_l = total_m + rows;
    first_key = reinterpret_cast<int32_t*>(total_l + rows);
    end_key = first_key + rows;
    begin = end_key + rows;
    end = begin + rows;
    query_sums = end + rows;
    query_scales = reinterpret_cast<float*>(query_sums + rows);
    query_words = reinterpret_cast<uint32_t*>(query_scales + rows);
  }

  void set_visible(int64_t r, int64_t key_begin, int64_t key_end) {
    first_key[r] = static_cast<int32_t>(key_begin);
    end_key[r] = static_cast<int32_t>(key_end);
  }

  KeyRange visible_to_any(int64_t rows) const {
    return {*std::min_element(first_key, first_key + rows), *std::max_element(end_key, end_key + rows)};
  }

  // Sets what each row sees of the tile; returns the rows that see any of it, which are adjacent.
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

  void reset_split(int64_t r) {
    m[r] = kLowest;
    l[r] = 0.0f;
  }

  // For values that are accumulated tile by tile; AMX writes them once.
  void clear_values(int64_t r) {
    std::memset(split + r * width, 0, static_cast<size_t>(width) * sizeof(float));
  }

  void reset_total(int64_t r) {
    total_m[r] = kLowest;
    total_l[r] = 0.0f;
    std::memset(total + r * width, 0, static_cast<size_t>(width) * sizeof(float));
  }

  // merge_partial for all rows, with the exponentials in vectors.
  void merge_split(int64_t rows, int64_t head_dim) const {
    float highest[kLanes], total_scale[kLanes], split_scale[kLanes];
    for (int64_t r = 0; r < rows; ++r) {
      int64_t lane = r % kLanes;
      if (lane == 0) {
        int n = lanes_left(r, rows);
        vf before = load_n(total_m + r, n), added = load_n(m + r, n), both = max(before, added);
        store(highest, both);
        store(total_scale, exp(sub(before, both)));
        store(split_scale, exp(sub(added, both)));
      }
      if (l[r] == 0.0f) continue;
      add_scaled(total + r * width, total_scale[lane], split + r * width, split_scale[lane], head_dim);
      total_l[r] = total_l[r] * total_scale[lane] + l[r] * split_scale[lane];
      total_m[r] = highest[lane];
    }
  }

  // Writes the partial of one split, for merge_partial: values, maximum or shift, sum.
  void store_partial(int64_t r, float* partial) const {
    std::memcpy(partial, split + r * width, static_cast<size_t>(width) * sizeof(float));
    partial[width] = m[r];
    partial[width + 1] = l[r];
  }
};

}  // namespace quire::QUIRE_ISA
