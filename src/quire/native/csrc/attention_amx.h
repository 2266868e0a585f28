// Attention over bfloat16 pages on matrix tiles: the rows of an item against one split of keys.
//
//   scores  [rows, 512] = queries [rows, D] * K     a K tile is D/32 by 2 matrix tiles, as it lies
//   weights [rows, 512] = exp(scores - reference)   one reference for a row and split
//   values  [rows, D]   = weights * V               a V tile is D/16 matrix tiles, as it lies
//
// Rows work in blocks of 32 that meet every tile of keys which one of them sees. Of the last tile up to 16 rows load no more than is seen.
//
// Tiles wait for their operands, so other work is done beside them, a little after each product: what comes next is fetched into the
// first-level cache, and the scores of one tile become weights while the next tile has its products, so that scores stay in that cache.
#pragma once

#include <limits>

#include "attention_amx_pv.h"

namespace quire::QUIRE_ISA {

// Head dimensions that fill matrix tiles.
static inline bool fills_tiles(int64_t head_dim) { return head_dim % kGroup == 0; }

template <class Item>
class SplitInTiles {
 public:
  SplitInTiles(const Item& item, int64_t split)
      : view_(item, split),
        state_(item.state),
        softmax_(reinterpret_cast<uint16_t*>(state_.scores), view_.is_flat ? 2 * kScoreStride : kWeightStride, item.a.scale, item.a.softcap) {}

  void walk() {
    view_.configure();
    for (int64_t block = 0; block < view_.num_blocks(); ++block) {
      softmax_.begin();
      view_.is_flat ? weigh_flat() : weigh_block(block);
      for (int64_t r = view_.first_row(block); r < view_.end_row(block); ++r) end_weighing(r);
      ValuesInTiles<Item>(view_, softmax_).add(block);
    }
    _tile_release();
  }

 private:
  static constexpr int64_t kKeyRowBytes = kTile * 4;                // a pair of K of a tile's keys
  static constexpr int64_t kStepBytes = kGroup / 2 * kKeyRowBytes;  // what a product reads of them
  static constexpr int64_t kWeightStride = kSplitKeys + kTile;      // of a block: rows 1 KB apart would share their cache sets

  int64_t steps() const { return view_.size / kGroup; }
  float* flat_scores(int64_t row, int64_t tile) const { return state_.scores + row * kScoreStride + tile * kTile; }

  // Up to 16 rows: scores of all keys, which become weights in their place.
  void weigh_flat() {
    const KeyRange tiles = view_.tiles_of(0);
    for (int64_t tile = tiles.begin; tile < tiles.end; ++tile) {
      if (view_.num_seen(tile) > kTileColumns) score_flat<kTile>(tile);
      else score_flat<kTileColumns>(tile);
    }
    const WeightOf weight_of = softmax_.weight_of();
    for (int64_t r = 0; r < view_.item.rows; ++r)
      for (int64_t tile = tiles.begin; tile < tiles.end; ++tile) weigh_row(r, tile, view_.seen(r), flat_scores(r, tile), weight_of);
    softmax_.add_up(0, tiles);
  }

  // The first kColumns keys of a tile. Beside them the tile after it is fetched, and its own values, which are read when all keys have
  // their scores.
  template <int kColumns>
  void score_flat(int64_t tile) {
    constexpr int kParts = kColumns / kTileColumns;
    constexpr int64_t kPartBytes = kStepBytes / kParts, kStride = kColumns == kTile ? kLineBytes : kKeyRowBytes;
    const bool has_next = tile + 1 < view_.tiles_of(0).end;
    const int64_t next_stride = has_next ? stride_of_keys(tile + 1) : kLineBytes, value_bytes = view_.num_pairs(tile) * view_.size * 4;
    const char* values = view_.values(tile);
    const char* next = has_next ? view_.keys[tile + 1] : view_.keys[tile];
    const TileWork work{view_.query(0), view_.size * 2, kKeyRowBytes, 0, steps(), flat_scores(0, tile), kScoreStride * 4};
    auto words = [=, keys = view_.keys[tile]](int64_t step) { return keys + step * kStepBytes; };
    multiply_flat<kColumns>(work, words, [=](int64_t step, int part) __attribute__((always_inline)) {
      const int64_t begin = (step * kParts + part) * kPartBytes;
      for (int64_t line = 0; has_next && line < kPartBytes; line += next_stride) prefetch_l2(next + begin + line);
      for (int64_t line = 0; begin < value_bytes && line < kPartBytes; line += kLineBytes) prefetch_l2(values + begin + line);
      const char* l1_next = step + 1 < work.end ? words(step + 1) : next;
      prefetch_lines(l1_next + part * kPartBytes, kStride, kPartBytes / kStride);
    });
  }

  // Bytes from one line to be fetched of a tile's keys to the next: half of its columns may be all that is seen.
  int64_t stride_of_keys(int64_t tile) const { return view_.num_seen(tile) > kTileColumns ? kLineBytes : 2 * kLineBytes; }

  // A block of more rows: scores of a tile wait beside the products of the next one for their rows to be weighed.
  void weigh_block(int64_t block) {
    if (steps() >= 8) weigh_block<1>(block);
    else if (steps() >= 4) weigh_block<2>(block);
    else if (steps() >= 2) weigh_block<4>(block);
    else weigh_block<8>(block);
    softmax_.add_up(0, view_.tiles_of(block));
    softmax_.add_up(kTileRows, view_.tiles_of(block));
  }

  // kRows of them beside each product are enough.
  template <int kRows>
  void weigh_block(int64_t block) {
    const KeyRange tiles = view_.tiles_of(block);
    const WeightOf weight_of = softmax_.weight_of();
    for (int64_t tile = tiles.begin; tile < tiles.end; ++tile) {
      const bool was_begun = tile > tiles.begin, weighs = was_begun && is_plain(block, tile - 1);
      score_tile<kRows>(block, tile, weighs, weight_of);
      if (was_begun && !weighs) weigh_tile(block, tile - 1, weight_of);
      if (!was_begun && is_plain(block, tile)) refer_all(tile);
    }
    if (tiles.begin < tiles.end) weigh_tile(block, tiles.end - 1, weight_of);
  }

  // Scores of a tile, and perhaps weights of the tile before it. The first of at most two blocks prefetches keys and values from afar: of more
  // blocks the others have them l1_next, which is worth more.
  template <int kRows>
  QUIRE_INLINE void score_tile(int64_t block, int64_t tile, bool weighs, const WeightOf& weight_of) {
    constexpr int64_t kPartBytes = kStepBytes / 4;
    const bool prefetches = block == 0 && view_.num_blocks() <= 2;
    const char* values = view_.values(tile);
    const char* next = view_.keys[tile + 1 < view_.tiles_of(block).end ? tile + 1 : tile];
    const float* scores_before = scores_[(tile + 1) % 2];
    const float* origins = softmax_.origins();
    uint16_t* weights = softmax_.weights(0, std::max<int64_t>(tile - 1, 0));
    int64_t row = weighs ? 0 : kBlockRows;
    const TileWork work{view_.query(view_.first_row(block)), view_.size * 2, kKeyRowBytes, 0, steps(), scores_[tile % 2], kTile * 4};
    auto words = [=, keys = view_.keys[tile]](int64_t step) { return keys + step * kStepBytes; };
    multiply_square(work, words, [&](int64_t step, int part) __attribute__((always_inline)) {
      const int64_t begin = step * kStepBytes + part * kPartBytes;
      for (int64_t line = 0; prefetches && line < kPartBytes; line += kLineBytes) {
        prefetch_l2(next + begin + line);
        prefetch_l2(values + begin + line);
      }
      const char* l1_next = step + 1 < work.end ? words(step + 1) : next;
      prefetch_lines(l1_next + part * kPartBytes, kLineBytes, kPartBytes / kLineBytes);
      if (row == kBlockRows) return;
      for (int r = 0; r < kRows; ++r, ++row)
        _mm512_storeu_si512(weights + row * kWeightStride, weight_of(scores_before + row * kTile, set1(origins[row])));
    });
  }

  // Whether nothing but the weights is left to be found: every row sees the whole tile, and has its reference.
  bool is_plain(int64_t block, int64_t tile) const {
    KeyRange all = view_.keys_of_all(block);
    bool is_first = tile == view_.tiles_of(block).begin, is_begun = is_first ? all.begin <= tile * kTile : all.begin < tile * kTile;
    return is_begun && (tile + 1) * kTile <= all.end && !softmax_.caps();
  }

  void refer_all(int64_t tile) {
    for (int64_t at = 0; at < kBlockRows; ++at) softmax_.refer(at, highest_of(scores_[tile % 2] + at * kTile, kAllKeys));
  }

  void weigh_tile(int64_t block, int64_t tile, const WeightOf& weight_of) {
    float* scores = scores_[tile % 2];
    if (is_plain(block, tile)) {
      for (int64_t at = 0; at < kBlockRows; ++at) softmax_.weigh(at, tile, scores + at * kTile, kAllKeys, weight_of);
    } else {
      for (int64_t r = view_.first_row(block); r < view_.end_row(block); ++r, scores += kTile)
        weigh_row(r, tile, view_.seen(r), scores, weight_of);
    }
  }

  QUIRE_INLINE void weigh_row(int64_t row, int64_t tile, KeyRange keys, float* scores, const WeightOf& weight_of) {
    TileKeys some = keys_in_tile(keys, tile);
    if (softmax_.caps()) softmax_.cap(scores);
    if (some != 0 && tile == keys.begin / kTile) softmax_.refer(row % kBlockRows, highest_of(scores, some));
    softmax_.weigh(row % kBlockRows, tile, scores, some, weight_of);
  }

  void end_weighing(int64_t row) {
    int64_t at = row % kBlockRows;
    KeyRange keys = view_.seen(row);
    bool sees_some = keys.begin < keys.end;
    if (sees_some && !softmax_.is_in_range(at)) weigh_again(row, keys);
    state_.m[row] = softmax_.score_of_one(at);
    state_.l[row] = !sees_some ? 0.0f : softmax_.is_in_range(at) ? softmax_.sum(at) : std::numeric_limits<float>::quiet_NaN();
  }

  // With the highest of all scores for a reference, which are computed once more. Only what is no number stays out of range.
  void weigh_again(int64_t row, KeyRange keys) {
    const int64_t at = row % kBlockRows;
    const KeyRange tiles = view_.tiles_over(keys);
    const WeightOf weight_of = softmax_.weight_of();
    float *scores = state_.wide, highest = kLowest;
    configure_tiles(1);
    for (int64_t tile = tiles.begin; tile < tiles.end; ++tile, scores += kTile) {
      const TileWork work{view_.query(row), view_.size * 2, kKeyRowBytes, 0, steps(), scores, kTile * 4};
      multiply_flat<kTile>(work, [&](int64_t step) { return view_.keys[tile] + step * kStepBytes; }, [](int64_t, int) {});
      if (softmax_.caps()) softmax_.cap(scores);
      highest = std::max(highest, highest_of(scores, keys_in_tile(keys, tile)));
    }
    softmax_.refer_to_zero(at, highest);
    scores = state_.wide;
    for (int64_t tile = tiles.begin; tile < tiles.end; ++tile, scores += kTile) {
      for (int v = 0; v < kTile; v += kLanes) store(scores + v, sub(load(scores + v), set1(highest)));
      softmax_.weigh(at, tile, scores, keys_in_tile(keys, tile), weight_of);
    }
    softmax_.add_up(at, tiles);
    view_.configure();
  }

  SplitView<Item> view_;
  const RowStates& state_;
  BlockSoftmax softmax_;
  alignas(64) float scores_[2][kBlockRows * kTile];  // of a block, of every second tile
};

}  // namespace quire::QUIRE_ISA
