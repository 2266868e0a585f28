// Attention over bfloat16 pages on matrix tiles: the rows of an item against one split of keys.
//
//   scores  [rows, 512] = queries [rows, D] * K     a K tile is D/32 by 2 matrix tiles, as it lies
//   weights [rows, 512] = exp(scores - maximum)     one maximum for a row and split
//   values  [rows, D]   = weights * V               a V tile is D/16 matrix tiles, as it lies
//
// Rows work in blocks of 32 that meet every tile of keys which one of them sees. What a row does not see has weight zero there, and
// zero times a finite value adds nothing. Where such a value is not finite, every row of the block works alone, over tiles in which
// all that it does not see is cleared: the same arithmetic, so the same bits.
#pragma once

#include "attention_softmax.h"
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
    for (int64_t tile = 0; tile < kSplitTiles; ++tile)
      if (keys_[tile]) score(tile);
    for (int64_t r = 0; r < item_.rows; ++r) weigh(r);
    for (int64_t block = 0; block < num_blocks(); ++block) add_values(block);
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

  void score(int64_t tile) const {
    constexpr int64_t kRowBytes = kTile * 4;
    fetch(tile + 1);
    auto words = [&](int64_t step) { return keys_[tile] + step * (kGroup / 2) * kRowBytes; };
    for (int64_t block = 0; block < num_blocks(); ++block) {
      KeyRange tiles = tiles_of(block);
      if (tile < tiles.begin || tile >= tiles.end) continue;
      int64_t row = first_row(block);
      TileWork work{query(row), size_ * 2, kRowBytes, 0, size_ / kGroup, scores(row) + tile * kTile, kScoreStride * 4};
      is_flat_ ? multiply_flat<kTile>(work, words) : multiply_square(work, words);
    }
  }

  // K is next, and V not much later.
  void fetch(int64_t tile) const {
    if (tile >= kSplitTiles || !keys_[tile]) return;
    for (int64_t line = 0; line < 2 * item_.a.pages.tile_bytes(); line += kLineBytes) __builtin_prefetch(keys_[tile] + line, 0, 2);
  }

  // The scores of a row become its weights, in bfloat16 and in their place.
  void weigh(int64_t row) const {
    KeyRange keys = seen(row), tiles = tiles_of(row / kBlockRows);
    uint16_t* weights = reinterpret_cast<uint16_t*>(scores(row));
    int64_t begin = keys.begin / kLanes * kLanes, end = round_up(keys.end, kLanes);
    if (keys.begin >= keys.end) {
      begin = end = tiles.begin * kTile;
    } else {
      state_.m[row] = scale(row, keys, begin, end);
      state_.l[row] = exponentiate(row, keys, begin, end);
    }
    std::fill(weights + tiles.begin * kTile, weights + begin, uint16_t{0});
    std::fill(weights + end, weights + tiles.end * kTile, uint16_t{0});
  }

  static vf keep(vf x, int64_t at, KeyRange keys, float instead) {
    if (keys.begin <= at && at + kLanes <= keys.end) return x;
    return keep_seen(x, 0, static_cast<int>(keys.begin - at), static_cast<int>(keys.end - at), instead);
  }

  float scale(int64_t row, KeyRange keys, int64_t begin, int64_t end) const {
    float* s = scores(row);
    vf factor = set1(item_.a.scale), highest = set1(kLowest);
    for (int64_t i = begin; i < end; i += kLanes) {
      vf x = mul(load(s + i), factor);
      if (item_.a.softcap > 0.0f) x = softcap(x, item_.a.softcap);
      x = keep(x, i, keys, kLowest);
      store(s + i, x);
      highest = max(highest, x);
    }
    return max_of(highest);
  }

  float exponentiate(int64_t row, KeyRange keys, int64_t begin, int64_t end) const {
    const float* s = scores(row);
    uint16_t* weights = reinterpret_cast<uint16_t*>(scores(row));
    vf m = set1(state_.m[row]), sum = set1(0.0f);
    for (int64_t i = begin; i < end; i += kLanes) {
      vf w = keep(exp(sub(load(s + i), m)), i, keys, 0.0f);
      sum = add(sum, w);
      store_as(weights + i, w, kLanes);
    }
    return sum_of(sum);
  }

  void add_values(int64_t block) const {
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
  void multiply_values(int64_t row, KeyRange tiles, bool is_flat, const Values& values) const {
    TileWork work{reinterpret_cast<const char*>(scores(row)), kScoreStride * 4, size_ * 4, tiles.begin, tiles.end, nullptr, state_.width * 4};
    for (int64_t c = 0, step; c < size_; c += step) {
      auto words = [&](int64_t tile) { return values(tile) + c * 4; };
      work.sums = state_.split + row * state_.width + c;
      step = is_flat && size_ - c >= kPanel ? kPanel : kTile;
      if (step == kPanel) multiply_flat<kPanel>(work, words);
      else if (is_flat) multiply_flat<kTile>(work, words);
      else multiply_square(work, words);
    }
  }

  void add_values_alone(int64_t row) const {
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
  const char* keys_[kSplitTiles] = {};
};

}  // namespace quire::QUIRE_ISA
