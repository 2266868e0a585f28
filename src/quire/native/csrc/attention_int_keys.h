// Scores of keys with 8 or 4 bits: queries are rounded to signed bytes, and multiplied as integers.
//
// Keys with 8 bits have a scale per token, those with 4 bits a scale and a minimum per element of the head:
//   8 bits  q = scale_q * c_q;            score = sum(c_q * c_k) * scale_q * scale_k
//   4 bits  q * scale_k = scale_q * c_q;  score = sum(c_q * c_k) * scale_q + sum(q * minimum_k)
// so queries are rounded once per item for keys with 8 bits, and once per tile for keys with 4.
#pragma once

#include "attention_codes.h"
#include "attention_rows.h"

namespace quire::QUIRE_ISA {

constexpr float kMaxQueryCode = 127.0f;
// Prefetches V vectors of words that lie `ahead` bytes further.
template <int V>
static QUIRE_INLINE void prefetch_words(const uint32_t* words, int64_t ahead) {
  const char* at = reinterpret_cast<const char*>(words) + ahead;
  for (int byte = 0; byte < V * kLanes * 4; byte += kLineBytes) prefetch_l1(at + byte);
}

static QUIRE_INLINE void prefetch_range(const char* at, int64_t bytes) {
  for (int64_t byte = 0; byte < bytes; byte += kLineBytes) prefetch_l1(at + byte);
}

struct Int8Keys {
  static constexpr bool kWidensQueries = true;

  const ItemRows& item;

  void prepare() const {
    for (int64_t r = 0; r < item.rows; ++r) quantize_query(r);
  }

  // The next tile lies `ahead` bytes further, and is prefetched.
  void score(RowRange rows, const char* tile, int64_t ahead) const {
    const char* scales = tile + Int8KeyTiles::scales_at(item.size);
    prefetch_l1(scales + ahead);
    Product product{*this, reinterpret_cast<const uint32_t*>(tile), reinterpret_cast<const uint16_t*>(scales),
                    rows.begin, ahead};
    for_rows<4>(rows.begin, rows.end, product);
  }

 private:
  uint32_t* words_of(int64_t row) const { return item.state.query_words + row * item.state.width / 2; }

  void quantize_query(int64_t row) const {
    const float* q = item.widened_query(row);
    vf highest = set1(0.0f);
    for (int64_t d = 0; d < item.size; d += kLanes) highest = max_or_nan(highest, magnitude(load(q + d)));
    IntScale by = int_scale(reduce_max_or_nan(highest), kMaxQueryCode);
    uint32_t sum = 0;
    for (int64_t d = 0; d < item.size; d += kGroup) {
      int8_t codes[kGroup];
      HalfSums sums = store_quantized(codes, q + d, set1(by.inverse));
      sum += sums.first + sums.second;
      for (int half = 0; half < kGroup; half += 16)
        store_key_words(words_of(row) + (d + half) / 4 * kKeyWords, codes + half);
    }
    item.state.query_scales[row] = by.scale;
    item.state.query_sums[row] = static_cast<int32_t>(sum);
  }

  struct Product {
    const Int8Keys& self;
    const uint32_t* codes;
    const uint16_t* scales;
    int64_t prefetching_row;
    int64_t ahead;

    template <int R>
    void run(int64_t first) const {
      constexpr int V = R <= 2 && kTileVectors <= 4 ? kTileVectors : 2;
      for (int c = 0; c < kTile; c += V * kLanes) block<R, V>(first, c);
    }

    template <int R, int V>
    QUIRE_INLINE void block(int64_t first, int c) const {
      const RowStates& state = self.item.state;
      const uint32_t* q[R];
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) q[r] = opaque_pointer(self.words_of(first + r));
      KeySums sums[R][V];
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sums[r][v].begin(state.query_sums[first + r]);
      const int64_t num_quads = self.item.size / 4;
      const bool prefetches = first == prefetching_row;
      for (int64_t quad = 0; quad < num_quads; ++quad) {
        const uint32_t* words = codes + quad * kTile + c;
        if (prefetches) prefetch_words<V>(words, ahead);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) {
          const vi bytes = load_words(words + v * kLanes);
#pragma GCC unroll 2
          for (int part = 0; part < kParts; ++part) {
            const vi k = key_codes(bytes, part);
#pragma GCC unroll 4
            for (int r = 0; r < R; ++r) sums[r][v].add(k, word_of_rows<R>(q[r] + quad * kKeyWords + part));
          }
        }
      }
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) {
        vf scale = load_bf16(scales + c + v * kLanes);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r)
          store(state.scores + (first + r) * kTile + c + v * kLanes,
                mul(mul(to_float(sums[r][v].total()), set1(state.query_scales[first + r])), scale));
      }
    }
  };
};

struct Int4Keys {
  static constexpr bool kWidensQueries = true;
  static constexpr int kMostRows = 4;

  const ItemRows& item;

  void prepare() const {}

  void score(RowRange rows, const char* tile, int64_t ahead) const {
    const char* scales = tile + Int4KeyTiles::scales_at(item.size);
    prefetch_range(scales + ahead, Int4KeyTiles::bytes(item.size) - Int4KeyTiles::scales_at(item.size));
    widen_factors(tile);
    Product product{*this, reinterpret_cast<const uint32_t*>(tile), rows.begin, ahead};
    for_rows<kMostRows>(rows.begin, rows.end, product);
  }

 private:
  // In scratch: a tile's scales and minimums; of a row panel the scaled queries, then their codes.
  float* scales() const { return item.state.widened; }
  float* minimums() const { return scales() + item.state.width; }
  float* scaled(int64_t index) const { return scales() + (2 + index) * item.state.width; }
  int8_t* codes(int64_t index) const {
    return reinterpret_cast<int8_t*>(scaled(kMostRows)) + index * item.state.width;
  }

  void widen_factors(const char* tile) const {
    auto from_scales = reinterpret_cast<const uint16_t*>(tile + Int4KeyTiles::scales_at(item.size));
    auto from_minimums = reinterpret_cast<const uint16_t*>(tile + Int4KeyTiles::minimums_at(item.size));
    for (int64_t d = 0; d < round_up(item.size, 2 * kLanes); d += kLanes) {
      const int n = std::max(lanes_left(d, item.size), 0);
      store(scales() + d, first_of(load_bf16(from_scales + d), n));
      store(minimums() + d, first_of(load_bf16(from_minimums + d), n));
    }
  }

  static vf first_of(vf x, int n) {
    return n == kLanes ? x : select_less(lane_index(), set1(static_cast<float>(n)), x, set1(0.0f));
  }

  struct Folded {
    float scale;
    float offset;  // sum(q * minimum)
  };

  // Writes the codes of R queries times the tile's scales.
  template <int R>
  QUIRE_INLINE void fold_queries(int64_t first, Folded (&folded)[R]) const {
    const float *q = item.widened_query(first), *scale = scales(), *minimum = minimums();
    float* x = scaled(0);
    const int64_t size = item.size, width = item.state.width;
    vf highest[R], offset[R][2];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) highest[r] = offset[r][0] = offset[r][1] = set1(0.0f);
    for (int64_t d = 0; d < size; d += 2 * kLanes) {
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        const int64_t at = d + half * kLanes;
        const vf s = load(scale + at), m = load(minimum + at);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
          const vf query = load(q + r * width + at), product = mul(query, s);
          store(x + r * width + at, product);
          highest[r] = max_or_nan(highest[r], magnitude(product));
          offset[r][half] = fma(query, m, offset[r][half]);
        }
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const IntScale by = int_scale(reduce_max_or_nan(highest[r]), kMaxQueryCode);
      int8_t* to = codes(r);
      for (int64_t d = 0; d < size; d += kGroup) store_quantized(to + d, x + r * width + d, set1(by.inverse));
      folded[r] = {by.scale, reduce_add(add(offset[r][0], offset[r][1]))};
    }
  }

  struct Product {
    const Int4Keys& self;
    const uint32_t* words;
    int64_t prefetching_row;
    int64_t ahead;

    template <int R>
    void run(int64_t first) const {
      constexpr int V = kTileVectors <= 2 ? kTileVectors : kTileVectors > 4 ? 2 : 4 / R;
      Folded folded[R];
      self.fold_queries<R>(first, folded);
      for (int c = 0; c < kTile; c += V * kLanes) block<R, V>(first, c, folded);
    }

    template <int R, int V>
    QUIRE_INLINE void block(int64_t first, int c, const Folded (&folded)[R]) const {
      const uint32_t* q[R];
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) q[r] = opaque_pointer(reinterpret_cast<const uint32_t*>(self.codes(r)));
      NibbleSums sums[R][V];
      const int64_t num_words = self.item.size / 8;
      const bool prefetches = first == prefetching_row;
      for (int64_t begin = 0; begin < num_words; begin += NibbleSums::kWordsPerPart) {
        const int64_t end = std::min(begin + NibbleSums::kWordsPerPart, num_words);
        for (int64_t i = begin; i < end; ++i) {
          const uint32_t* at = words + i * kTile + c;
          if (prefetches) prefetch_words<V>(at, ahead);
#pragma GCC unroll 4
          for (int v = 0; v < V; ++v) {
            const vi bytes = load_words(at + v * kLanes), low = low_nibbles(bytes);
#pragma GCC unroll 4
            for (int r = 0; r < R; ++r) sums[r][v].add(low, word_of_rows<R>(q[r] + 2 * i));
            const vi high = high_nibbles(bytes);
#pragma GCC unroll 4
            for (int r = 0; r < R; ++r) sums[r][v].add(high, word_of_rows<R>(q[r] + 2 * i + 1));
          }
        }
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
          for (int v = 0; v < V; ++v) sums[r][v].end_part();
      }
      float* scores = self.item.state.scores + first * kTile + c;
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        vf scale = set1(folded[r].scale), offset = set1(folded[r].offset);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v)
          store(scores + r * kTile + v * kLanes, fma(to_float(sums[r][v].sum), scale, offset));
      }
    }
  };
};

}  // namespace quire::QUIRE_ISA
