// Attention over bfloat16 pages on matrix tiles: the rows of an item against one split of keys.
//
//   scores  [rows, 512] = queries [rows, D] * K     a K tile is D/32 by 2 matrix tiles, as it lies
//   weights [rows, 512] = exp(scores - maximum)     one maximum for a row and split
//   values  [rows, D]   = weights * V               a V tile is D/16 matrix tiles, as it lies
//
// Rows work in blocks of 32 that meet every tile of keys which one of them sees. What a row does not see has weight zero there, and
// zero times a finite value adds nothing. Where such a value is not finite, every row of the block works alone, over tiles in which
// all that it does not see is cleared: the same arithmetic, so the same bits.
//
// Tiles wait for their operands, so everything else is done beside them, a little after each product: what comes next is fetched into
// the first-level cache, keys and values further ahead into the second, and rows of a block that has its scores are weighed.
#pragma once

#include "attention_weigh.h"
#include "matrix_tiles.h"

namespace quire::QUIRE_ISA {

// Head dimensions that fill matrix tiles.
static inline bool fills_tiles(int64_t head_dim) { return head_dim % kGroup == 0; }

template <class Item>
class SplitInTiles {
 public:
  SplitInTiles(const Item& item, int64_t split)
      : item_(item), state_(item.state), size_(item.size), start_(split * kSplitKeys), is_flat_(item.rows <= kTileRows) {
    KeyRange any = state_.seen_by_any(item.rows);
    for (int64_t t = any.begin > start_ ? (any.begin - start_) / kTile : 0; t < kSplitTiles && start_ + t * kTile < any.end; ++t)
      keys_[t] = item.tile_base(split * kSplitTiles + t);
    for (int64_t block = 0; block < num_blocks(); ++block) find_tiles(block);
  }

  void walk() {
    configure_tiles(is_flat_ ? static_cast<int>(item_.rows) : kBlockRows);
    score(0);
    for (int64_t block = 0; block < num_blocks(); ++block) {
      bool is_last = block + 1 == num_blocks();
      scored_rows_ = end_row(block);
      if (!is_last) score(block + 1);
      while (weighed_rows_ < scored_rows_) weigh_some();
      if (!is_last) scored_rows_ = end_row(block + 1);
      add_values(block);
    }
    _tile_release();
  }

 private:
  int64_t num_blocks() const { return (item_.rows + kBlockRows - 1) / kBlockRows; }
  int64_t first_row(int64_t block) const { return block * kBlockRows; }
  int64_t end_row(int64_t block) const { return std::min(item_.rows, (block + 1) * kBlockRows); }
  const char* values_of(int64_t tile) const { return keys_[tile] + item_.a.pages.tile_bytes(); }
  float* scores(int64_t row) const { return state_.scores + row * kScoreStride; }
  const char* query(int64_t row) const { return reinterpret_cast<const char*>(state_.queries) + row * size_ * 2; }

  // What a row sees of the split, as offsets.
  KeyRange seen(int64_t row) const {
    return {std::max<int64_t>(state_.first_key[row] - start_, 0), std::min<int64_t>(state_.end_key[row] - start_, kSplitKeys)};
  }

  // The tiles that some row of a block sees, and those that all of its rows see whole.
  void find_tiles(int64_t block) {
    KeyRange any{kSplitKeys, 0}, all{0, kSplitKeys};
    for (int64_t r = first_row(block); r < end_row(block); ++r) {
      KeyRange keys = seen(r);
      all = {std::max(all.begin, keys.begin), std::min(all.end, keys.end)};
      if (keys.begin < keys.end) any = {std::min(any.begin, keys.begin), std::max(any.end, keys.end)};
    }
    state_.begin[2 * block] = static_cast<int32_t>(any.begin / kTile);
    state_.end[2 * block] = static_cast<int32_t>((std::max(any.begin, any.end) + kTile - 1) / kTile);
    state_.begin[2 * block + 1] = static_cast<int32_t>((all.begin + kTile - 1) / kTile);
    state_.end[2 * block + 1] = static_cast<int32_t>(all.end / kTile);
  }
  KeyRange tiles_of(int64_t block) const { return {state_.begin[2 * block], state_.end[2 * block]}; }
  KeyRange whole_tiles_of(int64_t block) const { return {state_.begin[2 * block + 1], state_.end[2 * block + 1]}; }

  void score(int64_t block) { is_flat_ ? score_block<true>(block) : score_block<false>(block); }

  template <bool kIsFlat>
  void score_block(int64_t block) {
    constexpr int64_t kRowBytes = kTile * 4, kStepBytes = kGroup / 2 * kRowBytes;
    constexpr int kParts = kIsFlat ? 2 : 4;
    KeyRange tiles = tiles_of(block);
    int64_t row = first_row(block), steps = size_ / kGroup;
    for (int64_t tile = tiles.begin; tile < tiles.end; ++tile) {
      const char* keys = keys_[tile];
      const char* next = tile + 1 < tiles.end ? keys_[tile + 1] : keys;
      TileWork work{query(row), size_ * 2, kRowBytes, 0, steps, scores(row) + tile * kTile, kScoreStride * 4};
      auto words = [&](int64_t step) { return keys + step * kStepBytes; };
      auto beside = [&](int64_t step, int part) {
        const char* near = step + 1 < steps ? words(step + 1) : next;
        if (block == 0) fetch_far<kParts>(tile + 1, 0, step, part);
        if (block == 1 || num_blocks() == 1) fetch_far<kParts>(tile, item_.a.pages.tile_bytes(), step, part);
        fetch_lines(near + part * (kStepBytes / kParts), kLineBytes, kStepBytes / kParts / kLineBytes);
        if (!kIsFlat) weigh_some();
      };
      if constexpr (kIsFlat) multiply_flat<kTile>(work, words, beside);
      else multiply_square(work, words, beside);
    }
  }

  // A part of the K or the V of a tile, which lies at `offset`: K is read next, V when all keys have their scores.
  template <int kParts>
  QUIRE_INLINE void fetch_far(int64_t tile, int64_t offset, int64_t step, int part) const {
    constexpr int64_t kBytes = 2 * kTile * kGroup / kParts;  // a step is a group of their dimensions
    if (tile >= kSplitTiles || !keys_[tile]) return;
    const char* first = keys_[tile] + offset + (step * kParts + part) * kBytes;
    for (int64_t line = 0; line < kBytes; line += kLineBytes) __builtin_prefetch(first + line, 0, 2);
  }

  QUIRE_INLINE void weigh_some() {
    if (weighed_rows_ == scored_rows_) return;
    if (weigher_.is_done()) begin_weighing(weighed_rows_);
    if (!weigher_.is_done()) weigher_.step();
    if (weigher_.is_done()) end_weighing(weighed_rows_++);
  }

  void begin_weighing(int64_t row) {
    weigher_.begin(scores(row), tiles_of(row / kBlockRows), seen(row), item_.a.scale, item_.a.softcap);
  }

  void end_weighing(int64_t row) {
    state_.m[row] = weigher_.maximum();
    state_.l[row] = weigher_.sum();
  }

  void add_values(int64_t block) {
    if (!adds_only_finite(block)) {
      for (int64_t r = first_row(block); r < end_row(block); ++r) add_values_alone(r);
      return configure_tiles(is_flat_ ? static_cast<int>(item_.rows) : kBlockRows);
    }
    multiply_values(first_row(block), tiles_of(block), is_flat_, [&](int64_t tile) { return values_of(tile); });
    for (int64_t r = first_row(block); r < end_row(block); ++r) drop_sign_of_zero(r);
  }

  // Whether all values are finite in tiles that some row of the block does not see whole.
  bool adds_only_finite(int64_t block) const {
    KeyRange tiles = tiles_of(block), whole = whole_tiles_of(block);
    for (int64_t tile = tiles.begin; tile < tiles.end; ++tile)
      if ((tile < whole.begin || tile >= whole.end) && !is_finite_tile(values_of(tile))) return false;
    return true;
  }

  bool is_finite_tile(const char* values) const {
    const __m512i exponent = _mm512_set1_epi16(0x7f80);
    uint32_t any = 0;
    for (int64_t i = 0; i < item_.a.pages.tile_bytes(); i += 64)
      any |= _mm512_cmpeq_epi16_mask(_mm512_and_si512(_mm512_loadu_si512(values + i), exponent), exponent);
    return any == 0;
  }

  // split[row ..] = weights * V over these tiles, a strip of columns after the other.
  template <class Values>
  void multiply_values(int64_t row, KeyRange tiles, bool is_flat, const Values& values) {
    TileWork work{reinterpret_cast<const char*>(scores(row)), kScoreStride * 4, size_ * 4, tiles.begin, tiles.end, nullptr, state_.width * 4};
    for (int64_t c = 0, width; c < size_; c += width) {
      width = is_flat && size_ - c >= kPanel ? kPanel : kTile;
      work.sums = state_.split + row * state_.width + c;
      if (!is_flat) multiply_strip<kTile, false>(work, c, values);
      else if (width == kTile) multiply_strip<kTile, true>(work, c, values);
      else multiply_strip<kPanel, true>(work, c, values);
    }
  }

  // Columns [c, c + kWidth).
  template <int kWidth, bool kIsFlat, class Values>
  void multiply_strip(const TileWork& work, int64_t c, const Values& values) {
    constexpr int kParts = kIsFlat ? kWidth / kTileColumns : 4, kRows = kTile / 2 / kParts;
    auto words = [&](int64_t tile) { return values(tile) + c * 4; };
    auto beside = [&](int64_t tile, int part) {
      const char* near = tile + 1 < work.end ? words(tile + 1) : values(work.begin) + (c + kWidth) % size_ * 4;
      near += part * kRows * work.word_stride;
      for (int64_t column = 0; column < kWidth * 4; column += kLineBytes) fetch_lines(near + column, work.word_stride, kRows);
      if (!kIsFlat) weigh_some();
    };
    if constexpr (kIsFlat) multiply_flat<kWidth>(work, words, beside);
    else multiply_square(work, words, beside);
  }

  void add_values_alone(int64_t row) {
    KeyRange keys = seen(row);
    if (keys.begin >= keys.end) return;
    KeyRange tiles{keys.begin / kTile, (keys.end + kTile - 1) / kTile};
    char* cleared = reinterpret_cast<char*>(state_.wide);
    const char* first = clear_unseen(tiles.begin, keys, cleared);
    const char* last = clear_unseen(tiles.end - 1, keys, cleared + item_.a.pages.tile_bytes());
    configure_tiles(1);
    multiply_values(row, tiles, true, [&](int64_t tile) {
      return tile == tiles.begin ? first : tile == tiles.end - 1 ? last : values_of(tile);
    });
    drop_sign_of_zero(row);
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

  // Tiles that a row sees nothing of add zero, which would tell -0 from 0.
  void drop_sign_of_zero(int64_t row) const {
    float* values = state_.split + row * state_.width;
    for (int64_t c = 0; c < size_; c += kLanes) store(values + c, add(load(values + c), set1(0.0f)));
  }

  const Item& item_;
  const RowStates& state_;
  int64_t size_;  // head_dim
  int64_t start_;  // the split's first key
  bool is_flat_;
  int64_t scored_rows_ = 0;  // that may be weighed
  int64_t weighed_rows_ = 0;
  RowWeigher weigher_;
  const char* keys_[kSplitTiles] = {};
};

}  // namespace quire::QUIRE_ISA
