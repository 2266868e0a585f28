// Softmax of one row over one split, for attention on matrix tiles: 64 scores at a time, so that vectors work beside the tiles.
#pragma once

#include <algorithm>

#include "attention_state.h"
#include "fetch.h"
#include "row_tiles.h"

namespace quire::QUIRE_ISA {

// 2^x for x up to 0, relative error below 4e-6: a weight is rounded to bfloat16, whose steps are a thousand times as wide.
static QUIRE_INLINE vf weight_of(vf x) {
  vf r = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  vf p = set1(0.01355708f);
  p = fma(p, r, set1(0.05203069f));
  p = fma(p, r, set1(0.24137978f));
  p = fma(p, r, set1(0.69303246f));
  p = fma(p, r, set1(1.0f));
  return _mm512_scalef_ps(p, x);
}

// Scores become weights, in bfloat16 and in their place. Each 64 keys, counted from the split's first, are added up in one order
// whatever else is asked for, and what the row does not see adds zero: neither borders nor neighbours can change its bits.
class RowWeigher {
 public:
  static constexpr int64_t kKeys = 64;

  bool is_done() const { return next_ == end_; }
  float maximum() const { return maximum_; }
  float sum() const { return sum_of(sum_); }

  // Weights are written for all of `tiles`; the row sees `keys` of them.
  void begin(float* scores, KeyRange tiles, KeyRange keys, float scale, float cap) {
    scores_ = scores;
    next_ = tiles.begin * kTile / kKeys * kKeys;
    end_ = round_up(tiles.end * kTile, kKeys);
    if (cap > 0.0f) cap_scores(scale, cap), scale = 1.0f;
    keys = {std::max(keys.begin, next_), std::min(keys.end, end_)};
    bool sees_some = keys.begin < keys.end;
    std::fill(scores + next_, scores + (sees_some ? keys.begin : end_), kLowest);
    if (sees_some) std::fill(scores + keys.end, scores + end_, kLowest);
    float highest = sees_some ? highest_score() : 0.0f;
    maximum_ = sees_some ? highest * scale : kLowest;
    unit_ = set1(scale * 1.44269504f);
    minus_highest_ = mul(unit_, set1(-highest));
    sum_ = set1(0.0f);
  }

  QUIRE_INLINE void step() {
    const float* s = scores_ + next_;
    fetch_lines(reinterpret_cast<const char*>(s + kScoreStride), kLineBytes, kKeys / kLanes);  // of the next row
    uint16_t* weights = reinterpret_cast<uint16_t*>(scores_) + next_;
    vf w[kKeys / kLanes];
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) w[v] = weight_of(fma(load(s + v * kLanes), unit_, minus_highest_));
    sum_ = add(sum_, add(add(w[0], w[1]), add(w[2], w[3])));
    store_pair(weights, w[0], w[1]);
    store_pair(weights + 2 * kLanes, w[2], w[3]);
    next_ += kKeys;
  }

 private:
  static QUIRE_INLINE void store_pair(uint16_t* to, vf low, vf high) { _mm512_storeu_si512(to, (vi)_mm512_cvtne2ps_pbh(high, low)); }

  void cap_scores(float scale, float cap) {
    for (int64_t i = next_; i < end_; i += kLanes) store(scores_ + i, softcap(mul(load(scores_ + i), set1(scale)), cap));
  }

  float highest_score() const {
    vf even = set1(kLowest), odd = set1(kLowest);
    for (int64_t i = next_; i < end_; i += 2 * kLanes) {
      even = max(even, load(scores_ + i));
      odd = max(odd, load(scores_ + i + kLanes));
    }
    return max_of(max(even, odd));
  }

  float* scores_ = nullptr;
  int64_t next_ = 0;
  int64_t end_ = 0;
  float maximum_ = kLowest;
  vf unit_;  // of scores, in powers of two
  vf minus_highest_;
  vf sum_;
};

}  // namespace quire::QUIRE_ISA
