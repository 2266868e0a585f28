// The softmax of AMX attention: scores to bfloat16 probabilities, up to 32 rows over one split of keys.
//
// While AMX is active, FP operations issue on one port only, and TILELOADDs stall behind earlier stores.
// exp() therefore uses mostly integer operations (Schraudolph 1999), each row uses the maximum of its first
// visible tile as a fixed shift instead of a running maximum, and row sums come from a TMUL with a matrix of
// ones.
#pragma once

#include <algorithm>
#include <array>

#include "amx.h"
#include "attention_state.h"

namespace quire::QUIRE_ISA {

static_assert(kTile == 2 * kLanes, "the scores of two vectors are the probabilities of one");

// A set of keys of one tile, one bit each.
using KeyMask = uint32_t;
constexpr KeyMask kAllKeys = ~KeyMask{0};

static inline KeyMask key_mask(KeyRange keys, int64_t tile) {
  int64_t begin = std::max<int64_t>(keys.begin - tile * kTile, 0),
          end = std::min<int64_t>(keys.end - tile * kTile, kTile);
  return begin < end ? kAllKeys >> (kTile - (end - begin)) << begin : 0;
}

static inline float masked_max(const float* scores, KeyMask keys) {
  vf low = _mm512_mask_blend_ps(static_cast<__mmask16>(keys), set1(kLowest), load(scores));
  vf high =
      _mm512_mask_blend_ps(static_cast<__mmask16>(keys >> kLanes), set1(kLowest), load(scores + kLanes));
  return reduce_max(max(low, high));
}

// A correction of SchraudolphExp: what to subtract from fractions i to i + 3 (in 512ths) for the least
// squared error of all four.
constexpr int correction_at(int i) {
  constexpr double kRatio = 1.0013547198921082;  // 2^(1 / 512)
  double power = 1.0 / kRatio / kRatio, powers[4] = {}, least = 1.0;
  for (int j = 0; j < i; ++j) power *= kRatio;
  for (double& each : powers) each = power, power *= kRatio;
  int best = 0;
  for (int correction = 0; correction < 64; ++correction) {
    double squares = 0.0;
    for (int j = 0; j < 4; ++j) {
      int bits = (512 + i + j - correction) / 4;
      double found = bits < 128 ? 0.5 + bits / 256.0 : bits / 128.0;
      squares += (found / powers[j] - 1.0) * (found / powers[j] - 1.0);
    }
    if (squares < least) least = squares, best = correction;
  }
  return best;
}

constexpr std::array<uint8_t, 128> make_corrections() {
  std::array<uint8_t, 128> found{};
  for (int i = 0; i < 128; ++i) found[i] = static_cast<uint8_t>(correction_at(4 * i));
  return found;
}

// 2^x in bfloat16, mostly in integers. The bits of a float are nearly the logarithm of its value (Schraudolph
// 1999): 512 * x, minus a correction looked up by the fraction of x, is the bfloat16 pattern of 2^x with two
// extra bits. The relative error is 0.17 % (root mean square) and at most 0.44 %; the exact power, rounded to
// bfloat16, has 0.17 % and 0.39 %.
class SchraudolphExp {
 public:
  // From 2^23 on floats are integers, so adding kZero leaves 512 * x in the low bits. In these units kZero is
  // a probability of 0, kOne of 1 (the 2 is for rounding), and kShift of 2^-63: as many octaves are left
  // above a row's shift as below it.
  static constexpr float kUnit = 512.0f, kZero = 8388608.0f, kOne = kZero + 127 * kUnit + 2.0f,
                         kShift = kOne - 63 * kUnit;

  // `unit`: 512ths of an octave per unit of score.
  explicit SchraudolphExp(float unit)
      : unit_(set1(unit)), low_corrections_(load_bytes(0)), high_corrections_(load_bytes(64)) {
#if !defined(QUIRE_EMULATED)
    // GCC would rematerialize these instead of keeping them in registers.
    asm(""
        : "+v"(unit_), "+v"(zero_), "+v"(magnitude_), "+v"(order_), "+v"(low_corrections_),
          "+v"(high_corrections_), "+k"(low_bytes_));
#endif
  }

  // The probabilities of a tile's 32 keys. `bias` is where a score of zero lies. Results >= 2, and NaN
  // inputs, saturate just below 2.
  QUIRE_INLINE vi operator()(const float* scores, vf bias) const {
    vi powers = _mm512_packus_epi32(biased(load(scores), bias), biased(load(scores + kLanes), bias));
    powers = _mm512_permutexvar_epi64(order_, powers);
    vi corrections = _mm512_maskz_permutex2var_epi8(low_bytes_, low_corrections_,
                                                    _mm512_srli_epi16(powers, 2), high_corrections_);
    return _mm512_srli_epi16(_mm512_subs_epu16(powers, corrections), 2);
  }

 private:
  static constexpr std::array<uint8_t, 128> kCorrections = make_corrections();
  static vi load_bytes(int first) { return _mm512_loadu_si512(kCorrections.data() + first); }

  QUIRE_INLINE vi biased(vf scores, vf bias) const {
    constexpr int kAndXor = 0x6a;                                 // (a & b) ^ c
    vf counted = _mm512_max_ps(zero_, fma(scores, unit_, bias));  // this order of operands keeps a NaN
    return _mm512_ternarylogic_epi32(_mm512_castps_si512(counted), magnitude_, _mm512_castps_si512(zero_),
                                     kAndXor);
  }

  vf unit_;
  vf zero_ = set1(kZero);
  vi magnitude_ = _mm512_set1_epi32(0x7fffffff);
  // packus interleaves the 128-bit lanes of its operands.
  vi order_ = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
  vi low_corrections_;
  vi high_corrections_;
  __mmask64 low_bytes_ = 0x5555555555555555;
};

constexpr std::array<uint16_t, kTmmRows * kGroup> make_ones() {
  std::array<uint16_t, kTmmRows * kGroup> found{};
  for (uint16_t& one : found) one = 0x3f80;
  return found;
}

// The softmax of a row panel with a fixed shift per row: the maximum of the row's first visible tile. Floats
// are as precise far above the shift as far below it, and 63 octaves of headroom are left; only a row that
// exceeds them needs its true maximum as the shift.
class AmxSoftmax {
 public:
  // Probabilities of adjacent rows are `stride` elements apart, and start with the split's first key.
  AmxSoftmax(uint16_t* probs, int64_t stride, float scale, float cap)
      : probs_(probs), stride_(stride), scale_(scale), cap_(cap) {}

  // All rows to the state of rows that see no key.
  void reset() {
    std::fill(biases_, biases_ + kRowPanel, SchraudolphExp::kZero);
    std::fill(shifts_, shifts_ + kRowPanel, kLowest);
  }

  int64_t stride() const { return stride_; }
  uint16_t* probs(int64_t row, int64_t tile) const { return probs_ + row * stride_ + tile * kTile; }
  const float* biases() const { return biases_; }
  SchraudolphExp make_exp() const { return SchraudolphExp(unit()); }

  bool has_cap() const { return cap_ > 0.0f; }
  void cap(float* scores) const {
    for (int v = 0; v < kTile; v += kLanes)
      store(scores + v, softcap(mul(load(scores + v), set1(scale_)), cap_));
  }

  // Shifts by this score, rounded as scores are.
  void set_shift(int64_t row, float highest) {
    biases_[row] = __builtin_fmaf(-highest, unit(), SchraudolphExp::kShift);
    shifts_[row] = (SchraudolphExp::kOne - biases_[row]) * kNatsPerUnit;
  }

  // For scores from which `subtracted` has been subtracted already.
  void set_shift_zero(int64_t row, float subtracted) {
    biases_[row] = SchraudolphExp::kShift;
    shifts_[row] = subtracted * scale() + (SchraudolphExp::kOne - SchraudolphExp::kShift) * kNatsPerUnit;
  }

  QUIRE_INLINE void store_probs(int64_t row, int64_t tile, const float* scores, KeyMask visible,
                                const SchraudolphExp& exp2) const {
    _mm512_storeu_si512(probs(row, tile), _mm512_maskz_mov_epi16(visible, exp2(scores, set1(biases_[row]))));
  }

  // Sums the probabilities of up to 16 rows from `row` on, for the current tmm configuration. Even and odd
  // tiles have an accumulator each, so that a TMUL need not wait for the previous one.
  void sum_probs(int64_t row, KeyRange tiles) {
    compiler_barrier();
    _tile_zero(0);
    _tile_zero(1);
    _tile_loadd(5, kOnes.data(), kTmmBytes);
    for (int64_t tile = tiles.begin; tile < tiles.end; ++tile) {
      _tile_loadd(4, probs(row, tile), stride_ * 2);
      if (tile % 2 == 0) _tile_dpbf16ps(0, 4, 5);
      else _tile_dpbf16ps(1, 4, 5);
    }
    _tile_stored(0, even_sums_ + row * kTmmColumns, kTmmBytes);
    _tile_stored(1, odd_sums_ + row * kTmmColumns, kTmmBytes);
    compiler_barrier();
  }

  // The score whose probability is 1: the split's values and sum are relative to it.
  float shift(int64_t row) const { return shifts_[row]; }
  float sum(int64_t row) const { return even_sums_[row * kTmmColumns] + odd_sums_[row * kTmmColumns]; }
  // Whether some probability is nonzero, and none exceeded the headroom.
  bool is_in_range(int64_t row) const { return 0.0f < sum(row) && sum(row) < 1.0f; }

 private:
  alignas(64) static constexpr std::array<uint16_t, kTmmRows * kGroup> kOnes = make_ones();

  static constexpr float kNatsPerUnit = 0.69314718f / SchraudolphExp::kUnit;

  float scale() const { return has_cap() ? 1.0f : scale_; }
  float unit() const { return scale() * (SchraudolphExp::kUnit * 1.44269504f); }

  uint16_t* probs_;
  int64_t stride_;
  float scale_;
  float cap_;
  float biases_[kRowPanel];
  float shifts_[kRowPanel];
  alignas(64) float even_sums_[kRowPanel * kTmmColumns];  // all columns of a tmm are equal
  alignas(64) float odd_sums_[kRowPanel * kTmmColumns];
};

}  // namespace quire::QUIRE_ISA
