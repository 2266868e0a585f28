// The online softmax of an item's rows, one K/V tile at a time.
#pragma once

#include "attention_state.h"

namespace quire::QUIRE_ISA {

// Replaces what lies outside [begin, end) of the tile by `instead`, whatever its bits.
static inline vf mask_outside(vf x, int v, int begin, int end, float instead) {
  vf index = add(lane_index(), set1(static_cast<float>(v * kLanes)));
  vf kept = select_less(index, set1(static_cast<float>(begin)), set1(instead), x);
  return select_less(index, set1(static_cast<float>(end)), kept, set1(instead));
}

// Scales, caps and masks a row's scores; returns its new maximum.
static inline float scale_and_mask_row(const RowStates& state, int64_t r, float scale, float cap) {
  float* scores = state.scores + r * kTile;
  vf highest = set1(state.m[r]);
#pragma GCC unroll 8
  for (int v = 0; v < kTileVectors; ++v) {
    vf s = mul(load(scores + v * kLanes), set1(scale));
    if (cap > 0.0f) s = softcap(s, cap);
    if (!state.is_whole(r)) s = mask_outside(s, v, state.begin[r], state.end[r], kLowest);
    store(scores + v * kLanes, s);
    highest = max(highest, s);
  }
  return reduce_max(highest);
}

static inline void store_probs(float* probs, int v, vf p, std::false_type) { store(probs + v * kLanes, p); }

// For values in bfloat16, probabilities are rounded to bfloat16; they are stored as pairs if products read
// pairs, else as float32.
static inline void store_probs(float* probs, int v, vf p, std::true_type) {
#if defined(QUIRE_BF16_DOT)
  store_bf16_n(reinterpret_cast<uint16_t*>(probs) + v * kLanes, p, kLanes);
#else
  store(probs + v * kLanes, round_to_bf16(p));
#endif
}

// Replaces a row's scores by exp(s - m); returns their sum before rounding.
template <bool kPairs>
static inline float exp_row(const RowStates& state, int64_t r) {
  float* scores = state.scores + r * kTile;
  vf sum = set1(0.0f), m = set1(state.m[r]);
#pragma GCC unroll 8
  for (int v = 0; v < kTileVectors; ++v) {
    vf p = exp(sub(load(scores + v * kLanes), m));
    if (!state.is_whole(r)) p = mask_outside(p, v, state.begin[r], state.end[r], 0.0f);
    sum = add(sum, p);
    store_probs(scores, v, p, std::bool_constant<kPairs>{});
  }
  return reduce_add(sum);
}

// rescale = exp(old maximum - new maximum), and rescales the sums. On entry `rescale` holds the new maxima.
static inline void rescale_rows(const RowStates& state, RowRange rows) {
  for (int64_t r = rows.begin; r < rows.end; r += kLanes) {
    int n = lanes_left(r, rows.end);
    vf highest = load_n(state.rescale + r, n);
    vf factor = exp(sub(load_n(state.m + r, n), highest));
    store_as(state.m + r, highest, n);
    store_as(state.rescale + r, factor, n);
    store_as(state.l + r, mul(load_n(state.l + r, n), factor), n);
  }
}

// The same row by row: vector loads of few rows would wait for the scalar stores just before them.
static inline void rescale_few_rows(const RowStates& state, RowRange rows) {
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    float highest = state.rescale[r];
    state.rescale[r] = exp(state.m[r] - highest);
    state.l[r] *= state.rescale[r];
    state.m[r] = highest;
  }
}

// kPairs: probabilities are for values in bfloat16.
template <bool kPairs>
static inline void online_softmax(const RowStates& state, RowRange rows, float scale, float cap) {
  for (int64_t r = rows.begin; r < rows.end; ++r) state.rescale[r] = scale_and_mask_row(state, r, scale, cap);
  rows.end - rows.begin < kLanes ? rescale_few_rows(state, rows) : rescale_rows(state, rows);
  for (int64_t r = rows.begin; r < rows.end; ++r) state.l[r] += exp_row<kPairs>(state, r);
}

}  // namespace quire::QUIRE_ISA
