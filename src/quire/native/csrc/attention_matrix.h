// Attention over bfloat16 pages on matrix tiles: the rows of an item against one split of keys.
//
//   scores  [rows, 512] = queries [rows, D] * K     a K tile is D/32 by 2 matrix tiles, as it lies
//   weights [rows, 512] = exp(scores - reference)   one reference for a row and split
//   values  [rows, D]   = weights * V               a V tile is D/16 matrix tiles, as it lies
//
// Rows work in blocks of 32 that meet every tile of keys which one of them sees. What a row does not see has weight zero there, and
// zero times a finite value adds nothing. Where such a value is not finite, every row of the block works alone, over tiles in which
// all that it does not see is cleared: the same arithmetic, so the same bits. Of the last tile up to 16 rows load no more than is seen.
//
// Tiles wait for their operands, so everything else is done beside them, a little after each product: what comes next is fetched into
// the first-level cache, keys and values further ahead into the second, and scores of the tile before become weights, which keeps scores
// in the first-level cache.
#pragma once

#include <limits>

#include "attention_weigh.h"
#include "matrix_tiles.h"

namespace quire::QUIRE_ISA {

static_assert(kTileRows == kTile / 2 && kBlockRows == kTile, "where attention.h leaves queries as they are, and where it adds rows of zeros");

// Head dimensions that fill matrix tiles.
static inline bool fills_tiles(int64_t head_dim) { return head_dim % kGroup == 0; }

template <class Item>
class SplitInTiles {
 public:
  SplitInTiles(const Item& item, int64_t split)
      : item_(item),
        state_(item.state),
        size_(item.size),
        start_(split * kSplitKeys),
        is_flat_(item.rows <= kTileRows),
        softmax_(reinterpret_cast<uint16_t*>(state_.scores), is_flat_ ? 2 * kScoreStride : kWeightStride, item.a.scale, item.a.softcap) {
    KeyRange any = state_.seen_by_any(item.rows);
    end_ = std::min(any.end - start_, kSplitKeys);
    for (int64_t t = std::max<int64_t>(any.begin - start_, 0) / kTile; t <= last_tile(); ++t)
      keys_[t] = item.tile_base(split * kSplitTiles + t);
    for (int64_t block = 0; block < num_blocks(); ++block) find_tiles(block);
  }

  void walk() {
    configure();
    for (int64_t block = 0; block < num_blocks(); ++block) {
      softmax_.begin();
      is_flat_ ? weigh_flat() : weigh_block(block);
      for (int64_t r = first_row(block); r < end_row(block); ++r) end_weighing(r);
      add_values(block);
    }
    _tile_release();
  }

 private:
  static constexpr int64_t kKeyRowBytes = kTile * 4;                    // a pair of K of a tile's keys
  static constexpr int64_t kStepBytes = kGroup / 2 * kKeyRowBytes;      // what a product reads of them
  static constexpr int64_t kWeightStride = kSplitKeys + kTile;          // of a block: rows 1 KB apart would share their cache sets

  // The last tile of up to 16 rows has a shape of its own: their positions follow one another, so every item of them sees a key of it.
  void configure() const {
    if (is_flat_) configure_tiles(static_cast<int>(item_.rows), static_cast<int>(num_pairs(last_tile())));
    else configure_tiles(kBlockRows);
  }

  int64_t steps() const { return size_ / kGroup; }
  int64_t num_blocks() const { return (item_.rows + kBlockRows - 1) / kBlockRows; }
  int64_t first_row(int64_t block) const { return block * kBlockRows; }
  int64_t end_row(int64_t block) const { return std::min(item_.rows, (block + 1) * kBlockRows); }
  const char* values_of(int64_t tile) const { return keys_[tile] + item_.a.pages.tile_bytes(); }
  float* flat_scores(int64_t row, int64_t tile) const { return state_.scores + row * kScoreStride + tile * kTile; }
  const char* query(int64_t row) const { return reinterpret_cast<const char*>(item_.queries + row * size_); }

  // What a row sees of the split, as offsets.
  KeyRange seen(int64_t row) const {
    return {std::max<int64_t>(state_.first_key[row] - start_, 0), std::min<int64_t>(state_.end_key[row] - start_, kSplitKeys)};
  }

  // The tiles that some row of a block sees, and the keys that all of its rows see.
  void find_tiles(int64_t block) {
    int32_t first = INT32_MAX, last_first = 0, first_end = INT32_MAX, end = 0;
    for (int64_t r = first_row(block); r < end_row(block); ++r) {
      first = std::min(first, state_.first_key[r]);
      last_first = std::max(last_first, state_.first_key[r]);
      first_end = std::min(first_end, state_.end_key[r]);
      end = std::max(end, state_.end_key[r]);
    }
    auto in_split = [&](int32_t key) { return static_cast<int32_t>(std::clamp<int64_t>(key - start_, 0, kSplitKeys)); };
    state_.begin[2 * block] = in_split(first) / kTile;
    state_.end[2 * block] = (in_split(end) + kTile - 1) / kTile;
    state_.begin[2 * block + 1] = in_split(last_first);
    state_.end[2 * block + 1] = std::max(in_split(last_first), in_split(first_end));
  }
  KeyRange tiles_of(int64_t block) const { return {state_.begin[2 * block], state_.end[2 * block]}; }
  KeyRange keys_of_all(int64_t block) const { return {state_.begin[2 * block + 1], state_.end[2 * block + 1]}; }

  // Up to 16 rows: scores of all keys, which become weights in their place.
  void weigh_flat() {
    const KeyRange tiles = tiles_of(0);
    for (int64_t tile = tiles.begin; tile < tiles.end; ++tile) num_seen(tile) > kTileColumns ? score_flat<kTile>(tile) : score_flat<kTileColumns>(tile);
    const WeightOf weight_of = softmax_.weight_of();
    for (int64_t r = 0; r < item_.rows; ++r)
      for (int64_t tile = tiles.begin; tile < tiles.end; ++tile) weigh_row(r, tile, seen(r), flat_scores(r, tile), weight_of);
    softmax_.template add_up<false>(0, tiles);
  }

  // The first kColumns keys of a tile. Beside them the tile after it is fetched, and its own values, which are read when all keys have
  // their scores.
  template <int kColumns>
  void score_flat(int64_t tile) {
    constexpr int kParts = kColumns / kTileColumns;
    constexpr int64_t kPartBytes = kStepBytes / kParts, kStride = kColumns == kTile ? kLineBytes : kKeyRowBytes;
    const bool has_next = tile + 1 < tiles_of(0).end;
    const int64_t next_stride = has_next ? stride_of_keys(tile + 1) : kLineBytes, value_bytes = num_pairs(tile) * size_ * 4;
    const char* values = values_of(tile);
    const char* next = has_next ? keys_[tile + 1] : keys_[tile];
    const TileWork work{query(0), size_ * 2, kKeyRowBytes, 0, steps(), flat_scores(0, tile), kScoreStride * 4};
    auto words = [=, keys = keys_[tile]](int64_t step) { return keys + step * kStepBytes; };
    multiply_flat<kColumns>(work, words, [=](int64_t step, int part) __attribute__((always_inline)) {
      const int64_t begin = (step * kParts + part) * kPartBytes;
      for (int64_t line = 0; has_next && line < kPartBytes; line += next_stride) fetch_far(next + begin + line);
      for (int64_t line = 0; begin < value_bytes && line < kPartBytes; line += kLineBytes) fetch_far(values + begin + line);
      const char* near = step + 1 < work.end ? words(step + 1) : next;
      fetch_lines(near + part * kPartBytes, kStride, kPartBytes / kStride);
    });
  }

  // Bytes from one line to be fetched of a tile's keys to the next: half of its columns may be all that is seen.
  int64_t stride_of_keys(int64_t tile) const { return num_seen(tile) > kTileColumns ? kLineBytes : 2 * kLineBytes; }

  // How many keys of a tile there are up to the last one that some row sees, and how many pairs of values.
  int64_t num_seen(int64_t tile) const { return std::min<int64_t>(end_ - tile * kTile, kTile); }
  int64_t num_pairs(int64_t tile) const { return (num_seen(tile) + 1) / 2; }
  int64_t last_tile() const { return (end_ - 1) / kTile; }

  // A block of more rows: scores of a tile wait beside the products of the next one for their rows to be weighed.
  void weigh_block(int64_t block) {
    if (steps() >= 8) weigh_block<1>(block);
    else if (steps() >= 4) weigh_block<2>(block);
    else if (steps() >= 2) weigh_block<4>(block);
    else weigh_block<8>(block);
    softmax_.template add_up<true>(0, tiles_of(block));
  }

  // kRows of them beside each product are enough.
  template <int kRows>
  void weigh_block(int64_t block) {
    const KeyRange tiles = tiles_of(block);
    const WeightOf weight_of = softmax_.weight_of();
    for (int64_t tile = tiles.begin; tile < tiles.end; ++tile) {
      const bool was_begun = tile > tiles.begin, weighs = was_begun && is_plain(block, tile - 1);
      score_tile<kRows>(block, tile, weighs ? kBlockRows : 0, weight_of);
      if (was_begun && !weighs) weigh_tile(block, tile - 1, weight_of);
      if (!was_begun && is_plain(block, tile)) refer_all(tile);
    }
    if (tiles.begin < tiles.end) weigh_tile(block, tiles.end - 1, weight_of);
  }

  // Scores of a tile, and weights of these rows of the tile before it. The first block fetches the next tile's keys from afar, and values.
  template <int kRows>
  QUIRE_INLINE void score_tile(int64_t block, int64_t tile, int64_t rows_before, const WeightOf& weight_of) {
    constexpr int64_t kPartBytes = kStepBytes / 4;
    const bool has_next = tile + 1 < tiles_of(block).end, fetches = block == 0 && has_next;
    const char* values = values_of(tile);
    const char* next = has_next ? keys_[tile + 1] : keys_[tile];
    const float* scores_before = scores_[(tile + 1) % 2];
    const float* ones = softmax_.ones();
    uint16_t* weights = softmax_.weights(0, tile - 1);
    int64_t row = 0;
    const TileWork work{query(first_row(block)), size_ * 2, kKeyRowBytes, 0, steps(), scores_[tile % 2], kTile * 4};
    auto words = [=, keys = keys_[tile]](int64_t step) { return keys + step * kStepBytes; };
    multiply_square(work, words, [&](int64_t step, int part) __attribute__((always_inline)) {
      const int64_t begin = step * kStepBytes + part * kPartBytes;
      for (int64_t line = 0; fetches && line < kPartBytes; line += kLineBytes) {
        fetch_far(next + begin + line);
        fetch_far(values + begin + line);
      }
      const char* near = step + 1 < work.end ? words(step + 1) : next;
      fetch_lines(near + part * kPartBytes, kLineBytes, kPartBytes / kLineBytes);
      if (row == rows_before) return;
      for (int r = 0; r < kRows; ++r, ++row)
        _mm512_storeu_si512(weights + row * kWeightStride, weight_of(scores_before + row * kTile, set1(ones[row])));
    });
  }

  // Whether nothing but the weights is left to be found: every row sees the whole tile, and has its reference.
  bool is_plain(int64_t block, int64_t tile) const {
    KeyRange all = keys_of_all(block);
    bool is_first = tile == tiles_of(block).begin, is_begun = is_first ? all.begin <= tile * kTile : all.begin < tile * kTile;
    return is_begun && (tile + 1) * kTile <= all.end && !softmax_.caps();
  }

  void refer_all(int64_t tile) {
    for (int64_t at = 0; at < kBlockRows; ++at) softmax_.refer(at, highest_of(scores_[tile % 2] + at * kTile, kAllKeys));
  }

  void weigh_tile(int64_t block, int64_t tile, const WeightOf& weight_of) {
    float* scores = scores_[tile % 2];
    for (int64_t r = first_row(block); r < end_row(block); ++r, scores += kTile) weigh_row(r, tile, seen(r), scores, weight_of);
  }

  QUIRE_INLINE void weigh_row(int64_t row, int64_t tile, KeyRange keys, float* scores, const WeightOf& weight_of) {
    TileKeys some = keys_in_tile(keys, tile);
    if (softmax_.caps()) softmax_.cap(scores);
    if (some != 0 && tile == keys.begin / kTile) softmax_.refer(row % kBlockRows, highest_of(scores, some));
    softmax_.weigh(row % kBlockRows, tile, scores, some, weight_of);
  }

  void end_weighing(int64_t row) {
    int64_t at = row % kBlockRows;
    if (!softmax_.is_in_range(at)) weigh_again(row);
    state_.m[row] = softmax_.reference(at);
    state_.l[row] = softmax_.is_in_range(at) ? softmax_.sum(at) : std::numeric_limits<float>::quiet_NaN();
  }

  // With the highest of all scores for a reference, which are computed once more. Only what is no number stays out of range.
  void weigh_again(int64_t row) {
    const KeyRange keys = seen(row), tiles{keys.begin / kTile, (keys.end + kTile - 1) / kTile};
    const WeightOf weight_of = softmax_.weight_of();
    float *scores = state_.wide, highest = kLowest;
    configure_tiles(1);
    for (int64_t tile = tiles.begin; tile < tiles.end; ++tile, scores += kTile) {
      const TileWork work{query(row), size_ * 2, kKeyRowBytes, 0, steps(), scores, kTile * 4};
      multiply_flat<kTile>(work, [&](int64_t step) { return keys_[tile] + step * kStepBytes; }, [](int64_t, int) {});
      if (softmax_.caps()) softmax_.cap(scores);
      highest = std::max(highest, highest_of(scores, keys_in_tile(keys, tile)));
    }
    softmax_.refer(row % kBlockRows, highest);
    scores = state_.wide;
    for (int64_t tile = tiles.begin; tile < tiles.end; ++tile, scores += kTile)
      softmax_.weigh(row % kBlockRows, tile, scores, keys_in_tile(keys, tile), weight_of);
    softmax_.template add_up<false>(row % kBlockRows, tiles);
    configure();
  }

  void add_values(int64_t block) {
    int64_t first = first_row(block), end = end_row(block);
    if (adds_only_finite(block)) return multiply_values(first, tiles_of(block), is_flat_, [&](int64_t tile) { return values_of(tile); });
    configure_tiles(1);
    for (int64_t r = first; r < end; ++r) add_values_alone(r);
    configure();
  }

  // Whether all values are finite that are read and that some row of the block does not see.
  bool adds_only_finite(int64_t block) const {
    KeyRange tiles = tiles_of(block), all = keys_of_all(block);
    for (int64_t tile = tiles.begin; tile < tiles.end; ++tile) {
      int64_t begin = all.begin - tile * kTile, end = all.end - tile * kTile, num_read = is_flat_ ? num_pairs(tile) : kTile / 2;
      if (begin > 0 && !are_finite(tile, 0, std::min((begin + 1) / 2, num_read))) return false;
      if (end < kTile && !are_finite(tile, std::max<int64_t>(end / 2, 0), num_read)) return false;
    }
    return true;
  }

  // Values of these pairs of keys.
  bool are_finite(int64_t tile, int64_t pair_begin, int64_t pair_end) const {
    const __m512i exponent = _mm512_set1_epi16(0x7f80);
    const char* values = values_of(tile);
    uint32_t any = 0;
    for (int64_t i = pair_begin * size_ * 4; i < pair_end * size_ * 4; i += kLineBytes)
      any |= _mm512_cmpeq_epi16_mask(_mm512_and_si512(_mm512_loadu_si512(values + i), exponent), exponent);
    return any == 0;
  }

  // split[rows] = weights * V over these tiles, a strip of columns after the other.
  template <class Values>
  void multiply_values(int64_t first, KeyRange tiles, bool is_flat, const Values& values) {
    const char* weights = reinterpret_cast<const char*>(softmax_.weights(first % kBlockRows, 0));
    TileWork work{weights, softmax_.stride() * 2, size_ * 4, tiles.begin, tiles.end, nullptr, state_.width * 4};
    for (int64_t c = 0; c < size_; c += kTile) {
      work.sums = state_.split + first * state_.width + c;
      is_flat ? multiply_strip<true>(work, c, values) : multiply_strip<false>(work, c, values);
    }
  }

  // Columns [c, c + 32).
  template <bool kIsFlat, class Values>
  void multiply_strip(const TileWork& work, int64_t c, const Values& values) {
    constexpr int kParts = kIsFlat ? kTile / kTileColumns : 4, kRows = kTile / 2 / kParts;
    auto words = [&](int64_t tile) { return values(tile) + c * 4; };
    auto beside = [&](int64_t tile, int part) __attribute__((always_inline)) {
      const char* near = tile + 1 < work.end ? words(tile + 1) : values(work.begin) + (c + kTile) % size_ * 4;
      near += part * kRows * work.word_stride;
      for (int64_t column = 0; column < kTile * 4; column += kLineBytes) fetch_lines(near + column, work.word_stride, kRows);
    };
    if constexpr (kIsFlat) multiply_flat<kTile, TileElement::kBF16, true>(work, words, beside);
    else multiply_square(work, words, beside);
  }

  void add_values_alone(int64_t row) {
    KeyRange keys = seen(row);
    if (keys.begin >= keys.end) return;
    KeyRange tiles{keys.begin / kTile, (keys.end + kTile - 1) / kTile};
    char* cleared = reinterpret_cast<char*>(state_.wide);
    const char* first = clear_unseen(tiles.begin, keys, cleared);
    const char* last = clear_unseen(tiles.end - 1, keys, cleared + item_.a.pages.tile_bytes());
    multiply_values(row, tiles, true, [&](int64_t tile) {
      return tile == tiles.begin ? first : tile == tiles.end - 1 ? last : values_of(tile);
    });
  }

  // A copy of the tile's values without those of keys that are not seen.
  const char* clear_unseen(int64_t tile, KeyRange keys, char* copy) const {
    const uint32_t* from = reinterpret_cast<const uint32_t*>(values_of(tile));
    uint32_t* to = reinterpret_cast<uint32_t*>(copy);
    for (int64_t pair = 0; pair < kTile / 2; ++pair) {
      int64_t key = tile * kTile + 2 * pair;
      uint32_t even = keys.begin <= key && key < keys.end ? 0x0000ffffu : 0, odd = keys.begin <= key + 1 && key + 1 < keys.end ? 0xffff0000u : 0;
      for (int64_t c = 0; c < size_; ++c) to[pair * size_ + c] = from[pair * size_ + c] & (even | odd);
    }
    return copy;
  }

  const Item& item_;
  const RowStates& state_;
  int64_t size_;  // head_dim
  int64_t start_;  // the split's first key
  int64_t end_;    // of the keys that some row sees, counted from there
  bool is_flat_;
  BlockSoftmax softmax_;
  const char* keys_[kSplitTiles] = {};
  alignas(64) float scores_[2][kBlockRows * kTile];  // of a block, of every second tile
};

}  // namespace quire::QUIRE_ISA
