// From scores to softmax weights in bfloat16, for attention on matrix tiles: up to a block's rows over one split of keys.
//
// While matrix tiles are in use, one port alone multiplies, compares and converts floats, and tile loads wait behind stores. So a weight
// is mostly made of integers, no row waits for its highest score, and matrix tiles add the weights up.
#pragma once

#include <algorithm>
#include <array>

#include "attention_state.h"
#include "amx.h"

namespace quire::QUIRE_ISA {

static_assert(kTile == 2 * kLanes, "the scores of two vectors are the weights of one");

// Some keys of a tile, a bit each.
using TileKeys = uint32_t;
constexpr TileKeys kAllKeys = ~TileKeys{0};

static inline TileKeys keys_in_tile(KeyRange keys, int64_t tile) {
  int64_t begin = std::max<int64_t>(keys.begin - tile * kTile, 0), end = std::min<int64_t>(keys.end - tile * kTile, kTile);
  return begin < end ? kAllKeys >> (kTile - (end - begin)) << begin : 0;
}

static inline float highest_of(const float* scores, TileKeys keys) {
  vf low = _mm512_mask_blend_ps(static_cast<__mmask16>(keys), set1(kLowest), load(scores));
  vf high = _mm512_mask_blend_ps(static_cast<__mmask16>(keys >> kLanes), set1(kLowest), load(scores + kLanes));
  return max_of(max(low, high));
}

// Of WeightOf, where a fraction counts from 2 on: what to subtract from i, i + 1, i + 2 and i + 3 for the least squared error of all four.
constexpr int shortfall_at(int i) {
  constexpr double kStep = 1.0013547198921082;  // 2^(1 / 512)
  double power = 1.0 / kStep / kStep, powers[4] = {}, least = 1.0;
  for (int j = 0; j < i; ++j) power *= kStep;
  for (double& each : powers) each = power, power *= kStep;
  int best = 0;
  for (int shortfall = 0; shortfall < 64; ++shortfall) {
    double squares = 0.0;
    for (int j = 0; j < 4; ++j) {
      int bits = (512 + i + j - shortfall) / 4;
      double found = bits < 128 ? 0.5 + bits / 256.0 : bits / 128.0;
      squares += (found / powers[j] - 1.0) * (found / powers[j] - 1.0);
    }
    if (squares < least) least = squares, best = shortfall;
  }
  return best;
}

constexpr std::array<uint8_t, 128> make_shortfalls() {
  std::array<uint8_t, 128> found{};
  for (int i = 0; i < 128; ++i) found[i] = static_cast<uint8_t>(shortfall_at(4 * i));
  return found;
}

// Powers of two in bfloat16. The bits of a float are nearly the logarithm of its value (Schraudolph 1999): 512 times x, less a shortfall that
// the fraction of x tells, is what 2^x looks like with two bits more. The error is 0.17 % (root mean square) and at most 0.44 %, where
// the exact power, rounded, has 0.17 % and 0.39 %.
class WeightOf {
 public:
  // From 2^23 on the last place of a float counts ones, so its low bits hold 512 times x. They stand for a weight of zero at kZero, of one at
  // kOne, where 2 are for rounding, and of 2^-63 at kReference: as many powers of two are left above a reference as below it.
  static constexpr float kUnit = 512.0f, kZero = 8388608.0f, kOne = kZero + 127 * kUnit + 2.0f, kReference = kOne - 63 * kUnit;

  // A score of one is `unit` 512ths of a power of two.
  explicit WeightOf(float unit) : unit_(set1(unit)), low_shortfalls_(load_bytes(0)), high_shortfalls_(load_bytes(64)) {
#if !defined(QUIRE_EMULATED)
    // GCC would make these again and again instead of keeping them.
    asm("" : "+v"(unit_), "+v"(zero_), "+v"(magnitude_), "+v"(order_), "+v"(low_shortfalls_), "+v"(high_shortfalls_), "+k"(low_bytes_));
#endif
  }

  // Weights of a tile's keys, in pairs. `origin` is where a score of zero stands. Weights from two on, and those of what is no number,
  // become a little less than two.
  QUIRE_INLINE vi operator()(const float* scores, vf origin) const {
    vi powers = _mm512_packus_epi32(power_of(load(scores), origin), power_of(load(scores + kLanes), origin));
    powers = _mm512_permutexvar_epi64(order_, powers);
    vi shortfalls = _mm512_maskz_permutex2var_epi8(low_bytes_, low_shortfalls_, _mm512_srli_epi16(powers, 2), high_shortfalls_);
    return _mm512_srli_epi16(_mm512_subs_epu16(powers, shortfalls), 2);
  }

 private:
  static constexpr std::array<uint8_t, 128> kShortfalls = make_shortfalls();
  static vi load_bytes(int first) { return _mm512_loadu_si512(kShortfalls.data() + first); }

  QUIRE_INLINE vi power_of(vf scores, vf origin) const {
    constexpr int kMagnitudeLessZero = 0x6a;  // (a & b) ^ c
    vf counted = _mm512_max_ps(zero_, fma(scores, unit_, origin));  // in this order a NaN stays
    return _mm512_ternarylogic_epi32(_mm512_castps_si512(counted), magnitude_, _mm512_castps_si512(zero_), kMagnitudeLessZero);
  }

  vf unit_;
  vf zero_ = set1(kZero);
  vi magnitude_ = _mm512_set1_epi32(0x7fffffff);
  vi order_ = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);  // of four weights: packing leaves the two vectors' interleaved
  vi low_shortfalls_;
  vi high_shortfalls_;
  __mmask64 low_bytes_ = 0x5555555555555555;
};

constexpr std::array<uint16_t, kTileRows * kGroup> make_ones() {
  std::array<uint16_t, kTileRows * kGroup> found{};
  for (uint16_t& one : found) one = 0x3f80;
  return found;
}

// The softmax of up to a block's rows. A row refers to its highest score in the first tile that it sees: floats are as exact far above that
// as far below. Only where weights come to the end of their range a row has to refer to its highest score of all.
class BlockSoftmax {
 public:
  // Weights of a row lie `stride` apart from those of the next one, from the split's first key on.
  BlockSoftmax(uint16_t* weights, int64_t stride, float scale, float cap) : weights_(weights), stride_(stride), scale_(scale), cap_(cap) {}

  // Of rows that see nothing.
  void begin() {
    std::fill(origins_, origins_ + kBlockRows, WeightOf::kZero);
    std::fill(scores_of_one_, scores_of_one_ + kBlockRows, kLowest);
  }

  int64_t stride() const { return stride_; }
  uint16_t* weights(int64_t row, int64_t tile) const { return weights_ + row * stride_ + tile * kTile; }
  const float* origins() const { return origins_; }
  WeightOf weight_of() const { return WeightOf(unit()); }

  bool caps() const { return cap_ > 0.0f; }
  void cap(float* scores) const {
    for (int v = 0; v < kTile; v += kLanes) store(scores + v, softcap(mul(load(scores + v), set1(scale_)), cap_));
  }

  // To this score, rounded as weights are.
  void refer(int64_t row, float highest) {
    origins_[row] = __builtin_fmaf(-highest, unit(), WeightOf::kReference);
    scores_of_one_[row] = (WeightOf::kOne - origins_[row]) * kNatsOfUnit;
  }

  // To this score, which has been subtracted from all others.
  void refer_to_zero(int64_t row, float subtracted) {
    origins_[row] = WeightOf::kReference;
    scores_of_one_[row] = subtracted * scale() + (WeightOf::kOne - WeightOf::kReference) * kNatsOfUnit;
  }

  QUIRE_INLINE void weigh(int64_t row, int64_t tile, const float* scores, TileKeys seen, const WeightOf& weight_of) const {
    _mm512_storeu_si512(weights(row, tile), _mm512_maskz_mov_epi16(seen, weight_of(scores, set1(origins_[row]))));
  }

  // Adds up the weights of up to 16 rows from `row` on, as tiles are configured. Every second tile has a sum of its own: each product
  // would wait for the one before it.
  void add_up(int64_t row, KeyRange tiles) {
    finish_writes();
    _tile_zero(0);
    _tile_zero(1);
    _tile_loadd(5, kOnes.data(), kTileBytes);
    for (int64_t tile = tiles.begin; tile < tiles.end; ++tile) {
      _tile_loadd(4, weights(row, tile), stride_ * 2);
      if (tile % 2 == 0) _tile_dpbf16ps(0, 4, 5);
      else _tile_dpbf16ps(1, 4, 5);
    }
    _tile_stored(0, even_sums_ + row * kTileColumns, kTileBytes);
    _tile_stored(1, odd_sums_ + row * kTileColumns, kTileBytes);
    finish_writes();
  }

  // The score that would have a weight of one: what sum and values of the split are relative to.
  float score_of_one(int64_t row) const { return scores_of_one_[row]; }
  float sum(int64_t row) const { return even_sums_[row * kTileColumns] + odd_sums_[row * kTileColumns]; }
  // Whether some key has a weight, and none one that does not fit.
  bool is_in_range(int64_t row) const { return 0.0f < sum(row) && sum(row) < 1.0f; }

 private:
  alignas(64) static constexpr std::array<uint16_t, kTileRows * kGroup> kOnes = make_ones();

  static constexpr float kNatsOfUnit = 0.69314718f / WeightOf::kUnit;

  float scale() const { return caps() ? 1.0f : scale_; }
  float unit() const { return scale() * (WeightOf::kUnit * 1.44269504f); }

  uint16_t* weights_;
  int64_t stride_;
  float scale_;
  float cap_;
  float origins_[kBlockRows];
  float scores_of_one_[kBlockRows];
  alignas(64) float even_sums_[kBlockRows * kTileColumns];  // a tile's columns are all alike
  alignas(64) float odd_sums_[kBlockRows * kTileColumns];
};

}  // namespace quire::QUIRE_ISA
