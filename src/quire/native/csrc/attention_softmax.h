// From scores to softmax weights, a tile at a time: the online softmax of an item's rows.
#pragma once

#include "attention_state.h"

namespace quire::QUIRE_ISA {

constexpr int kTileVectors = kTile / kLanes;

// What lies outside [begin, end) of the tile counts as `instead`, whatever its bits.
static inline vf keep_seen(vf x, int v, int begin, int end, float instead) {
  vf index = add(lane_index(), set1(static_cast<float>(v * kLanes)));
  vf kept = if_less(index, set1(static_cast<float>(begin)), set1(instead), x);
  return if_less(index, set1(static_cast<float>(end)), kept, set1(instead));
}

// Scales, caps and masks the scores of a row; returns its new maximum.
static inline float scale_row(const RowStates& state, int64_t r, float scale, float cap) {
  float* scores = state.scores + r * kTile;
  vf highest = set1(state.m[r]);
#pragma GCC unroll 8
  for (int v = 0; v < kTileVectors; ++v) {
    vf s = mul(load(scores + v * kLanes), set1(scale));
    if (cap > 0.0f) s = softcap(s, cap);
    if (!state.is_whole(r)) s = keep_seen(s, v, state.begin[r], state.end[r], kLowest);
    store(scores + v * kLanes, s);
    highest = max(highest, s);
  }
  return max_of(highest);
}

static inline void store_weights(float* weights, int v, vf w, std::false_type) { store(weights + v * kLanes, w); }

// Weights of pages in bfloat16 are rounded to it and held as float32, or as bfloat16 where products read pairs.
static inline void store_weights(float* weights, int v, vf w, std::true_type) {
#if defined(QUIRE_BF16_DOT)
  store_bf16_n(reinterpret_cast<uint16_t*>(weights) + v * kLanes, w, kLanes);
#else
  store(weights + v * kLanes, round_to_bf16(w));
#endif
}

// Scores of a row become weights exp(s - m), in their place; returns the sum of what they were before rounding.
template <class S>
static inline float exponentiate_row(const RowStates& state, int64_t r) {
  float* scores = state.scores + r * kTile;
  vf sum = set1(0.0f), m = set1(state.m[r]);
#pragma GCC unroll 8
  for (int v = 0; v < kTileVectors; ++v) {
    vf w = exp(sub(load(scores + v * kLanes), m));
    if (!state.is_whole(r)) w = keep_seen(w, v, state.begin[r], state.end[r], 0.0f);
    sum = add(sum, w);
    store_weights(scores, v, w, std::bool_constant<kIsPaired<S>>{});
  }
  return sum_of(sum);
}

// correction = exp(old maximum - new maximum), and the sum is corrected. On entry `correction` holds the new maxima.
static inline void correct(const RowStates& state, RowRange rows) {
  for (int64_t r = rows.begin; r < rows.end; r += kLanes) {
    int n = lanes_left(r, rows.end);
    vf highest = load_n(state.correction + r, n);
    vf factor = exp(sub(load_n(state.m + r, n), highest));
    store_as(state.m + r, highest, n);
    store_as(state.correction + r, factor, n);
    store_as(state.l + r, mul(load_n(state.l + r, n), factor), n);
  }
}

// The same row by row: a few rows would wait for vectors of what was just stored one by one.
static inline void correct_few(const RowStates& state, RowRange rows) {
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    float highest = state.correction[r];
    state.correction[r] = exp(state.m[r] - highest);
    state.l[r] *= state.correction[r];
    state.m[r] = highest;
  }
}

template <class S>
static inline void weigh(const RowStates& state, RowRange rows, float scale, float cap) {
  for (int64_t r = rows.begin; r < rows.end; ++r) state.correction[r] = scale_row(state, r, scale, cap);
  rows.end - rows.begin < kLanes ? correct_few(state, rows) : correct(state, rows);
  for (int64_t r = rows.begin; r < rows.end; ++r) state.l[r] += exponentiate_row<S>(state, r);
}

}  // namespace quire::QUIRE_ISA
