// One split of an item's keys as matrix tiles see it: where its tiles lie, and what blocks of 32 rows see of them.
#pragma once

#include "attention_state.h"
#include "amx.h"

namespace quire::QUIRE_ISA {

static_assert(kTileRows == kTile / 2 && kBlockRows == kTile, "where attention.h leaves queries as they are, and where it adds rows of zeros");

template <class Item>
struct SplitView {
  const Item& item;
  const RowStates& state;
  int64_t size;   // head_dim
  int64_t start;  // the split's first key
  int64_t end;    // of the keys that some row sees, counted from there
  bool is_flat;   // up to 16 rows, which matrix tiles hold as they are
  const char* keys[kSplitTiles] = {};

  SplitView(const Item& owner, int64_t split)
      : item(owner), state(owner.state), size(owner.size), start(split * kSplitKeys), is_flat(owner.rows <= kTileRows) {
    KeyRange any = state.seen_by_any(item.rows);
    end = std::min(any.end - start, kSplitKeys);
    for (int64_t t = std::max<int64_t>(any.begin - start, 0) / kTile; t <= last_tile(); ++t) keys[t] = item.tile_base(split * kSplitTiles + t);
    for (int64_t block = 0; block < num_blocks(); ++block) find_tiles(block);
  }

  // The last tile of up to 16 rows has a shape of its own: their positions follow one another, so every item of them sees a key of it.
  void configure() const {
    if (is_flat) configure_tiles(static_cast<int>(item.rows), static_cast<int>(num_pairs(last_tile())));
    else configure_tiles(kBlockRows);
  }

  int64_t num_blocks() const { return (item.rows + kBlockRows - 1) / kBlockRows; }
  int64_t first_row(int64_t block) const { return block * kBlockRows; }
  int64_t end_row(int64_t block) const { return std::min(item.rows, (block + 1) * kBlockRows); }
  const char* query(int64_t row) const { return reinterpret_cast<const char*>(item.queries + row * size); }
  const char* values(int64_t tile) const { return keys[tile] + item.a.pages.tile_bytes(); }

  // What a row sees of the split, as offsets.
  KeyRange seen(int64_t row) const {
    return {std::max<int64_t>(state.first_key[row] - start, 0), std::min<int64_t>(state.end_key[row] - start, kSplitKeys)};
  }

  static KeyRange tiles_over(KeyRange seen_keys) { return {seen_keys.begin / kTile, (seen_keys.end + kTile - 1) / kTile}; }

  // The tiles that some row of a block sees, and the keys that all of its rows see.
  void find_tiles(int64_t block) {
    int32_t first = INT32_MAX, last_first = 0, first_end = INT32_MAX, end = 0;
    for (int64_t r = first_row(block); r < end_row(block); ++r) {
      first = std::min(first, state.first_key[r]);
      last_first = std::max(last_first, state.first_key[r]);
      first_end = std::min(first_end, state.end_key[r]);
      end = std::max(end, state.end_key[r]);
    }
    auto in_split = [&](int32_t key) { return static_cast<int32_t>(std::clamp<int64_t>(key - start, 0, kSplitKeys)); };
    state.begin[2 * block] = in_split(first) / kTile;
    state.end[2 * block] = (in_split(end) + kTile - 1) / kTile;
    state.begin[2 * block + 1] = in_split(last_first);
    state.end[2 * block + 1] = std::max(in_split(last_first), in_split(first_end));
  }
  KeyRange tiles_of(int64_t block) const { return {state.begin[2 * block], state.end[2 * block]}; }
  KeyRange keys_of_all(int64_t block) const { return {state.begin[2 * block + 1], state.end[2 * block + 1]}; }

  // How many keys of a tile there are up to the last one that some row sees, and how many pairs of values.
  int64_t num_seen(int64_t tile) const { return std::min<int64_t>(end - tile * kTile, kTile); }
  int64_t num_pairs(int64_t tile) const { return (num_seen(tile) + 1) / 2; }
  int64_t last_tile() const { return (end - 1) / kTile; }
};

}  // namespace quire::QUIRE_ISA
