// Attention over bfloat16 pages with AMX: an item's rows against one split of keys.
//
//   scores [rows, 512] = Q [rows, D] * K       a K tile is the B operand of D / 32 by 2 TMULs
//   probs  [rows, 512] = exp(scores - shift)   one fixed shift per row and split
//   values [rows, D]   = probs * V             a V tile is the B operand of D / 16 TMULs
//
// Tiles are read as they lie in the pages.
//
// Rows work in row panels of 32, each over every K/V tile that any of its rows sees. With <= 16 query rows
// (1xN) the last K/V tile is truncated to the visible keys.
//
// TMULs wait for their operands, so other work is interleaved with them: the next operands are prefetched
// into L1, and the scores of one tile become probabilities during the TMULs of the next one, while they are
// still in L1.
#pragma once

#include <limits>

#include "attention_amx_pv.h"

namespace quire::QUIRE_ISA {

// Whether heads of this size fill whole tmm registers.
static inline bool fits_tmm(int64_t head_dim) { return head_dim % kGroup == 0; }

template <class Item>
class AmxSplit {
 public:
  AmxSplit(const Item& item, int64_t split)
      : view_(item, split),
        state_(item.state),
        softmax_(reinterpret_cast<uint16_t*>(state_.scores), view_.is_1xn ? 2 * kScoreStride : kProbStride,
                 item.a.scale, item.a.softcap) {}

  void run() {
    view_.configure();
    for (int64_t row_panel = 0; row_panel < view_.num_row_panels(); ++row_panel) {
      softmax_.reset();
      view_.is_1xn ? qk_softmax_1xn() : qk_softmax_2x2(row_panel);
      for (int64_t r = view_.first_row(row_panel); r < view_.end_row(row_panel); ++r) finish_softmax(r);
      AmxPV<Item>(view_, softmax_).run(row_panel);
    }
    _tile_release();
  }

 private:
  static constexpr int64_t kKeyRowBytes = kTile * 4;                 // one pair of K for all keys of a tile
  static constexpr int64_t kSliceBytes = kGroup / 2 * kKeyRowBytes;  // what one k-slice reads of a tile
  static constexpr int64_t kProbStride = kSplitKeys + kTile;         // 2x2: 1 KB would share L1 sets

  int64_t num_slices() const { return view_.size / kGroup; }
  float* scores_1xn(int64_t row, int64_t tile) const {
    return state_.scores + row * kScoreStride + tile * kTile;
  }

  // Up to 16 rows: all scores of the split first, then their probabilities in the same place.
  void qk_softmax_1xn() {
    const KeyRange tiles = view_.visible_tiles(0);
    for (int64_t tile = tiles.begin; tile < tiles.end; ++tile) {
      if (view_.num_visible(tile) > kTmmColumns) qk_1xn<kTile>(tile);
      else qk_1xn<kTmmColumns>(tile);
    }
    const SchraudolphExp exp2 = softmax_.make_exp();
    for (int64_t r = 0; r < view_.item.rows; ++r)
      for (int64_t tile = tiles.begin; tile < tiles.end; ++tile)
        softmax_row(r, tile, view_.visible(r), scores_1xn(r, tile), exp2);
    softmax_.sum_probs(0, tiles);
  }

  // Scores of a tile's first kColumns keys. Prefetches the next tile's keys, and this tile's values, which
  // are read after all scores.
  template <int kColumns>
  void qk_1xn(int64_t tile) {
    constexpr int kTmuls = kColumns / kTmmColumns;
    constexpr int64_t kTmulBytes = kSliceBytes / kTmuls,
                      kStride = kColumns == kTile ? kLineBytes : kKeyRowBytes;
    const bool has_next = tile + 1 < view_.visible_tiles(0).end;
    const int64_t next_stride = has_next ? visible_stride(tile + 1) : kLineBytes,
                  value_bytes = view_.num_pairs(tile) * view_.size * 4;
    const char* values = view_.values(tile);
    const char* next = has_next ? view_.keys[tile + 1] : view_.keys[tile];
    const TmulTask task{view_.query(0), view_.size * 2,      kKeyRowBytes,    0,
                        num_slices(),   scores_1xn(0, tile), kScoreStride * 4};
    auto b_at = [=, keys = view_.keys[tile]](int64_t k_slice) { return keys + k_slice * kSliceBytes; };
    tmul_1xn<kColumns>(task, b_at, [=](int64_t k_slice, int i) __attribute__((always_inline)) {
      const int64_t begin = (k_slice * kTmuls + i) * kTmulBytes;
      for (int64_t line = 0; has_next && line < kTmulBytes; line += next_stride)
        prefetch_l2(next + begin + line);
      for (int64_t line = 0; begin < value_bytes && line < kTmulBytes; line += kLineBytes)
        prefetch_l2(values + begin + line);
      const char* l1_next = k_slice + 1 < task.end ? b_at(k_slice + 1) : next;
      prefetch_lines(l1_next + i * kTmulBytes, kStride, kTmulBytes / kStride);
    });
  }

  // Bytes between the lines of a K tile that are read: possibly only half of its columns are visible.
  int64_t visible_stride(int64_t tile) const {
    return view_.num_visible(tile) > kTmmColumns ? kLineBytes : 2 * kLineBytes;
  }

  // More than 16 rows: the scores of a tile become probabilities during the TMULs of the next tile, kRows
  // rows after each TMUL.
  void qk_softmax_2x2(int64_t row_panel) {
    if (num_slices() >= 8) qk_softmax_2x2<1>(row_panel);
    else if (num_slices() >= 4) qk_softmax_2x2<2>(row_panel);
    else if (num_slices() >= 2) qk_softmax_2x2<4>(row_panel);
    else qk_softmax_2x2<8>(row_panel);
    softmax_.sum_probs(0, view_.visible_tiles(row_panel));
    softmax_.sum_probs(kTmmRows, view_.visible_tiles(row_panel));
  }

  template <int kRows>
  void qk_softmax_2x2(int64_t row_panel) {
    const KeyRange tiles = view_.visible_tiles(row_panel);
    const SchraudolphExp exp2 = softmax_.make_exp();
    for (int64_t tile = tiles.begin; tile < tiles.end; ++tile) {
      const bool has_previous = tile > tiles.begin,
                 interleaves = has_previous && needs_only_exp(row_panel, tile - 1);
      qk_2x2<kRows>(row_panel, tile, interleaves, exp2);
      if (has_previous && !interleaves) softmax_tile(row_panel, tile - 1, exp2);
      if (!has_previous && needs_only_exp(row_panel, tile)) set_shift_all(tile);
    }
    if (tiles.begin < tiles.end) softmax_tile(row_panel, tiles.end - 1, exp2);
  }

  // Scores of a tile, interleaved with the probabilities of the previous tile if `interleaves`. Only row
  // panel 0 of at most two prefetches K and V into L2: of more panels the others find them there, and L1
  // prefetches matter more.
  template <int kRows>
  QUIRE_INLINE void qk_2x2(int64_t row_panel, int64_t tile, bool interleaves, const SchraudolphExp& exp2) {
    constexpr int64_t kQuarterBytes = kSliceBytes / 4;
    const bool prefetches = row_panel == 0 && view_.num_row_panels() <= 2;
    const char* values = view_.values(tile);
    const char* next = view_.keys[tile + 1 < view_.visible_tiles(row_panel).end ? tile + 1 : tile];
    const float* previous_scores = scores_[(tile + 1) % 2];
    const float* biases = softmax_.biases();
    uint16_t* probs = softmax_.probs(0, std::max<int64_t>(tile - 1, 0));
    int64_t row = interleaves ? 0 : kRowPanel;
    const TmulTask task{view_.query(view_.first_row(row_panel)),
                        view_.size * 2,
                        kKeyRowBytes,
                        0,
                        num_slices(),
                        scores_[tile % 2],
                        kTile * 4};
    auto b_at = [=, keys = view_.keys[tile]](int64_t k_slice) { return keys + k_slice * kSliceBytes; };
    tmul_2x2(task, b_at, [&](int64_t k_slice, int i) __attribute__((always_inline)) {
      const int64_t begin = k_slice * kSliceBytes + i * kQuarterBytes;
      for (int64_t line = 0; prefetches && line < kQuarterBytes; line += kLineBytes) {
        prefetch_l2(next + begin + line);
        prefetch_l2(values + begin + line);
      }
      const char* l1_next = k_slice + 1 < task.end ? b_at(k_slice + 1) : next;
      prefetch_lines(l1_next + i * kQuarterBytes, kLineBytes, kQuarterBytes / kLineBytes);
      if (row == kRowPanel) return;
      for (int r = 0; r < kRows; ++r, ++row)
        _mm512_storeu_si512(probs + row * kProbStride,
                            exp2(previous_scores + row * kTile, set1(biases[row])));
    });
  }

  // Whether nothing but exp() is left to do for a tile: every row sees all of it, has its shift, and there is
  // no softcap.
  bool needs_only_exp(int64_t row_panel, int64_t tile) const {
    KeyRange common = view_.common_keys(row_panel);
    bool is_first = tile == view_.visible_tiles(row_panel).begin;
    bool has_begun = is_first ? common.begin <= tile * kTile : common.begin < tile * kTile;
    return has_begun && (tile + 1) * kTile <= common.end && !softmax_.has_cap();
  }

  void set_shift_all(int64_t tile) {
    for (int64_t at = 0; at < kRowPanel; ++at)
      softmax_.set_shift(at, masked_max(scores_[tile % 2] + at * kTile, kAllKeys));
  }

  void softmax_tile(int64_t row_panel, int64_t tile, const SchraudolphExp& exp2) {
    float* scores = scores_[tile % 2];
    if (needs_only_exp(row_panel, tile)) {
      for (int64_t at = 0; at < kRowPanel; ++at)
        softmax_.store_probs(at, tile, scores + at * kTile, kAllKeys, exp2);
    } else {
      for (int64_t r = view_.first_row(row_panel); r < view_.end_row(row_panel); ++r, scores += kTile)
        softmax_row(r, tile, view_.visible(r), scores, exp2);
    }
  }

  QUIRE_INLINE void softmax_row(int64_t row, int64_t tile, KeyRange keys, float* scores,
                                const SchraudolphExp& exp2) {
    KeyMask visible = key_mask(keys, tile);
    if (softmax_.has_cap()) softmax_.cap(scores);
    if (visible != 0 && tile == keys.begin / kTile)
      softmax_.set_shift(row % kRowPanel, masked_max(scores, visible));
    softmax_.store_probs(row % kRowPanel, tile, scores, visible, exp2);
  }

  // Stores the row's shift and sum.
  void finish_softmax(int64_t row) {
    int64_t at = row % kRowPanel;
    KeyRange keys = view_.visible(row);
    bool sees_any = keys.begin < keys.end;
    if (sees_any && !softmax_.is_in_range(at)) softmax_with_true_max(row, keys);
    state_.m[row] = softmax_.shift(at);
    state_.l[row] = !sees_any                  ? 0.0f
                    : softmax_.is_in_range(at) ? softmax_.sum(at)
                                               : std::numeric_limits<float>::quiet_NaN();
  }

  // Slow path: recomputes the scores and shifts by the true row maximum. Only NaN rows remain out of range.
  void softmax_with_true_max(int64_t row, KeyRange keys) {
    const int64_t at = row % kRowPanel;
    const KeyRange tiles = view_.tiles_over(keys);
    const SchraudolphExp exp2 = softmax_.make_exp();
    float *scores = state_.widened, highest = kLowest;
    configure_tmm(1);
    for (int64_t tile = tiles.begin; tile < tiles.end; ++tile, scores += kTile) {
      const TmulTask task{view_.query(row), view_.size * 2, kKeyRowBytes, 0, num_slices(), scores, kTile * 4};
      tmul_1xn<kTile>(
          task, [&](int64_t k_slice) { return view_.keys[tile] + k_slice * kSliceBytes; },
          [](int64_t, int) {});
      if (softmax_.has_cap()) softmax_.cap(scores);
      highest = std::max(highest, masked_max(scores, key_mask(keys, tile)));
    }
    softmax_.set_shift_zero(at, highest);
    scores = state_.widened;
    for (int64_t tile = tiles.begin; tile < tiles.end; ++tile, scores += kTile) {
      for (int v = 0; v < kTile; v += kLanes) store(scores + v, sub(load(scores + v), set1(highest)));
      softmax_.store_probs(at, tile, scores, key_mask(keys, tile), exp2);
    }
    softmax_.sum_probs(at, tiles);
    view_.configure();
  }

  AmxSplitView<Item> view_;
  const RowStates& state_;
  AmxSoftmax softmax_;
  alignas(64) float scores_[2][kRowPanel * kTile];  // 2x2: of the current and the previous tile
};

}  // namespace quire::QUIRE_ISA
