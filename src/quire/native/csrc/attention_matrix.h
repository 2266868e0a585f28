// Attention over bfloat16 pages on matrix tiles: the rows of an item against one split of keys.
//
//   scores  [rows, 512] = queries [rows, D] * K     a K tile is D/32 by 2 matrix tiles, as it lies
//   weights [rows, 512] = exp(scores - maximum)     one maximum for a row and split
//   values  [rows, D]   = weights * V               a V tile is D/16 matrix tiles, as it lies
//
// Rows work in blocks of 32 that meet every tile of keys which one of them sees. What a row does not see has weight zero there, and
// zero times a finite value adds nothing. Where such a value is not finite, every row of the block works alone, over tiles in which
// all that it does not see is cleared: the same arithmetic, so the same bits. Of the last tile up to 16 rows load no more than is seen.
//
// Tiles wait for their operands, so everything else is done beside them, a little after each product: what comes next is fetched into
// the first-level cache, keys and values further ahead into the second, and rows of a block that has its scores are weighed.
#pragma once

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
      : item_(item), state_(item.state), size_(item.size), start_(split * kSplitKeys), is_flat_(item.rows <= kTileRows) {
    KeyRange any = state_.seen_by_any(item.rows);
    end_ = std::min(any.end - start_, kSplitKeys);
    for (int64_t t = std::max<int64_t>(any.begin - start_, 0) / kTile; t <= last_tile(); ++t)
      keys_[t] = item.tile_base(split * kSplitTiles + t);
    for (int64_t block = 0; block < num_blocks(); ++block) find_tiles(block);
  }

  void walk() {
    configure();
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
  // The last tile of up to 16 rows has a shape of its own: their positions follow one another, so every item of them sees a key of it.
  void configure() const {
    if (is_flat_) configure_tiles(static_cast<int>(item_.rows), static_cast<int>(num_pairs(last_tile())));
    else configure_tiles(kBlockRows);
  }

  int64_t num_blocks() const { return (item_.rows + kBlockRows - 1) / kBlockRows; }
  int64_t first_row(int64_t block) const { return block * kBlockRows; }
  int64_t end_row(int64_t block) const { return std::min(item_.rows, (block + 1) * kBlockRows); }
  const char* values_of(int64_t tile) const { return keys_[tile] + item_.a.pages.tile_bytes(); }
  float* scores(int64_t row) const { return state_.scores + row * kScoreStride; }
  const char* query(int64_t row) const { return reinterpret_cast<const char*>(item_.queries + row * size_); }

  // What a row sees of the split, as offsets.
  KeyRange seen(int64_t row) const {
    return {std::max<int64_t>(state_.first_key[row] - start_, 0), std::min<int64_t>(state_.end_key[row] - start_, kSplitKeys)};
  }

  // The tiles that some row of a block sees, and the keys that all of its rows see.
  void find_tiles(int64_t block) {
    KeyRange any{kSplitKeys, 0}, all{0, kSplitKeys};
    for (int64_t r = first_row(block); r < end_row(block); ++r) {
      KeyRange keys = seen(r);
      all = {std::max(all.begin, keys.begin), std::min(all.end, keys.end)};
      if (keys.begin < keys.end) any = {std::min(any.begin, keys.begin), std::max(any.end, keys.end)};
    }
    state_.begin[2 * block] = static_cast<int32_t>(any.begin / kTile);
    state_.end[2 * block] = static_cast<int32_t>((std::max(any.begin, any.end) + kTile - 1) / kTile);
    state_.begin[2 * block + 1] = static_cast<int32_t>(all.begin);
    state_.end[2 * block + 1] = static_cast<int32_t>(std::max(all.begin, all.end));
  }
  KeyRange tiles_of(int64_t block) const { return {state_.begin[2 * block], state_.end[2 * block]}; }
  KeyRange keys_of_all(int64_t block) const { return {state_.begin[2 * block + 1], state_.end[2 * block + 1]}; }

  void score(int64_t block) {
    KeyRange tiles = tiles_of(block);
    for (int64_t tile = tiles.begin; tile < tiles.end; ++tile) {
      if (!is_flat_) score_tile<kTile, false>(block, tile);
      else if (num_seen(tile) > kTileColumns) score_tile<kTile, true>(block, tile);
      else score_tile<kTileColumns, true>(block, tile);
    }
  }

  // Bytes from one line to be fetched of a tile's keys to the next: half of its columns may be all that is seen.
  int64_t stride_of_keys(int64_t tile) const { return num_seen(tile) > kTileColumns ? kLineBytes : 2 * kLineBytes; }

  // How many keys of a tile there are up to the last one that some row sees, and how many pairs of values.
  int64_t num_seen(int64_t tile) const { return std::min<int64_t>(end_ - tile * kTile, kTile); }
  int64_t num_pairs(int64_t tile) const { return (num_seen(tile) + 1) / 2; }
  int64_t last_tile() const { return (end_ - 1) / kTile; }

  // The first kColumns keys of a tile. Beside them the tile after it is fetched, and its own values, which are read when all keys have
  // their scores.
  template <int kColumns, bool kIsFlat>
  void score_tile(int64_t block, int64_t tile) {
    constexpr int64_t kRowBytes = kTile * 4, kRows = kGroup / 2;
    constexpr int kParts = kIsFlat ? kColumns / kTileColumns : 4;
    constexpr int64_t kPartBytes = kRows * kRowBytes / kParts, kStride = kColumns == kTile ? kLineBytes : kRowBytes;
    const int64_t steps = size_ / kGroup, row = first_row(block);
    const bool has_next = tile + 1 < tiles_of(block).end, fetches_next = block == 0 && has_next;
    const char* keys = keys_[tile];
    const char* next = has_next ? keys_[tile + 1] : keys;
    const char* values = values_of(tile);
    const int64_t next_stride = kIsFlat && has_next ? stride_of_keys(tile + 1) : kLineBytes;
    const int64_t value_bytes = block == 1 || num_blocks() == 1 ? num_pairs(tile) * size_ * 4 : 0;
    const TileWork work{query(row), size_ * 2, kRowBytes, 0, steps, scores(row) + tile * kTile, kScoreStride * 4};
    auto words = [=](int64_t step) { return keys + step * kRows * kRowBytes; };
    auto beside = [=](int64_t step, int part) __attribute__((always_inline)) {
      const int64_t begin = (step * kParts + part) * kPartBytes;
      for (int64_t line = 0; fetches_next && line < kPartBytes; line += next_stride) fetch_far(next + begin + line);
      for (int64_t line = 0; begin < value_bytes && line < kPartBytes; line += kLineBytes) fetch_far(values + begin + line);
      const char* near = step + 1 < steps ? words(step + 1) : next;
      fetch_lines(near + part * kPartBytes, kStride, kPartBytes / kStride);
      if (!kIsFlat) weigh_some();
    };
    if constexpr (kIsFlat) multiply_flat<kColumns>(work, words, beside);
    else multiply_square(work, words, beside);
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
    int64_t first = first_row(block), end = end_row(block);
    if (adds_only_finite(block)) return multiply_values(first, end, tiles_of(block), is_flat_, [&](int64_t tile) { return values_of(tile); });
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
  void multiply_values(int64_t first, int64_t end, KeyRange tiles, bool is_flat, const Values& values) {
    TileWork work{reinterpret_cast<const char*>(scores(first)), kScoreStride * 4, size_ * 4, tiles.begin, tiles.end, nullptr, state_.width * 4};
    for (int64_t c = 0; c < size_; c += kTile) {
      work.sums = state_.split + first * state_.width + c;
      is_flat ? multiply_strip<true>(work, c, values) : multiply_strip<false>(work, c, values);
    }
    for (int64_t r = first; r < end; ++r) drop_sign_of_zero(r);
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
      if (!kIsFlat) weigh_some();
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
    multiply_values(row, row + 1, tiles, true, [&](int64_t tile) {
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

  // Tiles that a row sees nothing of add zero, which would tell -0 from 0.
  void drop_sign_of_zero(int64_t row) const {
    float* values = state_.split + row * state_.width;
    for (int64_t c = 0; c < size_; c += kLanes) store(values + c, add(load(values + c), set1(0.0f)));
  }

  const Item& item_;
  const RowStates& state_;
  int64_t size_;  // head_dim
  int64_t start_;  // the split's first key
  int64_t end_;    // of the keys that some row sees, counted from there
  bool is_flat_;
  int64_t scored_rows_ = 0;  // that may be weighed
  int64_t weighed_rows_ = 0;
  RowWeigher weigher_;
  const char* keys_[kSplitTiles] = {};
};

}  // namespace quire::QUIRE_ISA
