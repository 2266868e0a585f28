// Sums of values with 8 or 4 bits: probabilities times the values' scales are rounded to 15 bits, and
// multiplied as integers.
//
// Values with 8 bits have a scale per token, those with 4 bits a scale and a minimum per token and group of
// elements. Of a row, a tile and a group:
//   p * scale_v = scale_p * c_p;  sum(p * v) = sum(c_p * c_v) * scale_p + sum(p * minimum_v)
// over the keys that the row sees; what others hold is never read as a number.
#pragma once

#include "attention_int_keys.h"
#include "attention_softmax.h"

namespace quire::QUIRE_ISA {

// R rows: their probabilities for one group of a tile, and where their sums are added.
template <int R>
struct ProbCodes {
  float* out[R];  // the row's values in the split
  float rescale[R];
  uint32_t words[R][kProbWords];
  float scale[R];
  float offset[R];  // sum(p * minimum)
};

template <int kBits>
struct IntValues {
  static constexpr bool kPairsProbs = false;

  const ItemRows& item;

  void add(RowRange rows, const char* tile, int64_t ahead) const {
    const int64_t at =
        kBits == 8 ? Int8ValueTiles::scales_at(item.size) : Int4ValueTiles::scales_at(item.size);
    const int64_t end = item.tile_bytes - item.key_bytes;
    prefetch_range(tile + at + ahead, end - at);
    const char* minimums = tile + (at + end) / 2;  // of 4 bits, as many bytes as scales
    Product product{*this,
                    reinterpret_cast<const uint32_t*>(tile),
                    reinterpret_cast<const uint16_t*>(tile + at),
                    reinterpret_cast<const uint16_t*>(minimums),
                    rows.begin,
                    ahead};
    for_rows<4>(rows.begin, rows.end, product);
  }

 private:
  struct Product {
    const IntValues& self;
    const uint32_t* codes;
    const uint16_t* scales;
    const uint16_t* minimums;
    int64_t prefetching_row;
    int64_t ahead;

    template <int R>
    void run(int64_t first) const {
      const int64_t size = self.item.size, group = kBits == 8 ? size : self.item.a.pages.value_group;
      const RowStates& state = self.item.state;
      ProbCodes<R> probs;
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        probs.out[r] = state.split + (first + r) * state.width;
        probs.rescale[r] = state.rescale[first + r];
      }
      for (int64_t begin = 0, index = 0; begin < size; begin += group, ++index) {
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) quantize_probs<R>(first + r, r, index, probs);
        if constexpr (kBits == 8) add_bytes<R>(first, probs);
        else add_nibbles<R>(first, begin, std::min(begin + group, size), probs);
      }
    }

    template <int R>
    QUIRE_INLINE void quantize_probs(int64_t row, int r, int64_t group, ProbCodes<R>& to) const {
      const RowStates& state = self.item.state;
      const float* p = state.scores + row * kTile;
      const bool is_whole = state.is_whole(row);
      const int begin = state.begin[row], end = state.end[row];
      vf x[kTileVectors], offset = set1(0.0f);
#pragma GCC unroll 8
      for (int v = 0; v < kTileVectors; ++v) {
        vf prob = load(p + v * kLanes);
        x[v] = mul(prob, load_bf16(scales + group * kTile + v * kLanes));
        if (!is_whole) x[v] = mask_outside(x[v], v, begin, end, 0.0f);
        if constexpr (kBits == 4) {
          vf minimum = load_bf16(minimums + group * kTile + v * kLanes);
          if (!is_whole) minimum = mask_outside(minimum, v, begin, end, 0.0f);
          offset = fma(prob, minimum, offset);
        }
      }
      to.scale[r] = store_prob_words(to.words[r], x);
      to.offset[r] = kBits == 4 ? reduce_add(offset) : 0.0f;
    }

    template <int R>
    QUIRE_INLINE void add_bytes(int64_t first, const ProbCodes<R>& probs) const {
      constexpr int V = R <= 2 ? 4 : 2;
      const int64_t num_vectors = (self.item.size + kLanes - 1) / kLanes;
      int64_t v = 0;
      for (; v + V <= num_vectors; v += V) add_byte_vectors<R, V>(first, v * kLanes, probs);
      for (; v < num_vectors; ++v) add_byte_vectors<R, 1>(first, v * kLanes, probs);
    }

    // Elements [d, d + V * kLanes).
    template <int R, int V>
    QUIRE_INLINE void add_byte_vectors(int64_t first, int64_t d, const ProbCodes<R>& probs) const {
      const bool prefetches = first == prefetching_row;
      ProbSums sums[R][V];
      for (int quad = 0; quad < kQuads; ++quad) {
        const uint32_t* at = codes + quad * self.item.size + d;
        if (prefetches) prefetch_words<V>(at, ahead);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
          const vi bytes = load_words(at + v * kLanes);
#pragma GCC unroll 2
          for (int part = 0; part < kParts; ++part) {
            const vi c = signed_codes(bytes, part);
#pragma GCC unroll 4
            for (int r = 0; r < R; ++r) sums[r][v].add(c, prob_words<R>(probs.words[r], quad, part));
          }
        }
      }
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) add_sums<R>(r, d + v * kLanes, sums[r][v].total(), probs);
    }

    // Elements [begin, end) of the head. A vector of bytes holds elements in both halves: 4 and 4 of eight, 8
    // and 8, or 8 and 8 of sixteen twice.
    template <int R>
    QUIRE_INLINE void add_nibbles(int64_t first, int64_t begin, int64_t end,
                                  const ProbCodes<R>& probs) const {
      const int64_t num_vectors = (round_up(end - begin, 16) / 2 + kLanes - 1) / kLanes;
      for (int64_t v = 0; v < num_vectors; ++v) add_nibble_vector<R>(first, begin, v, end, probs);
    }

    template <int R>
    QUIRE_INLINE void add_nibble_vector(int64_t first, int64_t begin, int64_t vector, int64_t end,
                                        const ProbCodes<R>& probs) const {
      const bool prefetches = first == prefetching_row;
      const int64_t quad_words = Int4ValueTiles::quad_bytes(self.item.size) / 4;
      const uint32_t* at = codes + begin / 2 + vector * kLanes;
      ProbSums low[R], high[R];
      for (int quad = 0; quad < kQuads; ++quad, at += quad_words) {
        if (prefetches) prefetch_words<1>(at, ahead);
        const vi bytes = load_words(at);
#pragma GCC unroll 2
        for (int part = 0; part < kParts; ++part) {
          const vi low_half = low_codes(bytes, part), high_half = high_codes(bytes, part);
#pragma GCC unroll 4
          for (int r = 0; r < R; ++r) {
            const ProbWords words = prob_words<R>(probs.words[r], quad, part);
            low[r].add(low_half, words);
            high[r].add(high_half, words);
          }
        }
      }
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r)
        add_halves<R>(r, begin, vector, end, low[r].total(), high[r].total(), probs);
    }

    // Stores the sums of one vector of bytes, whose elements are not in order.
    template <int R>
    QUIRE_INLINE void add_halves(int r, int64_t begin, int64_t vector, int64_t end, vi low, vi high,
                                 const ProbCodes<R>& probs) const {
#if QUIRE_LANES == 16
      const int64_t d = begin + vector * 2 * kLanes;
      add_sums<R>(r, d, _mm512_shuffle_i64x2(low, high, 0x44), probs);
      if (d + kLanes < end) add_sums<R>(r, d + kLanes, _mm512_shuffle_i64x2(low, high, 0xee), probs);
#else
      (void)end;
      const int64_t word = vector * kLanes, d = begin + word / 8 * 16 + word % 8;
      add_sums<R>(r, d, low, probs);
      add_sums<R>(r, d + 8, high, probs);
#endif
    }

    // split = split * rescale + offset + sums * scale
    template <int R>
    QUIRE_INLINE void add_sums(int r, int64_t d, vi sums, const ProbCodes<R>& probs) const {
      float* out = probs.out[r] + d;
      vf kept = fma(load(out), set1(probs.rescale[r]), set1(probs.offset[r]));
      store(out, fma(to_float(sums), set1(probs.scale[r]), kept));
    }
  };
};

using Int8Values = IntValues<8>;
using Int4Values = IntValues<4>;

}  // namespace quire::QUIRE_ISA
