// One split of an item's keys as AMX kernels see it: where its K/V tiles are, and what row panels of 32 rows
// see of them.
#pragma once

#include "amx.h"
#include "attention_state.h"

namespace quire::QUIRE_ISA {

static_assert(kTmmRows == kTile / 2 && kRowPanel == kTile,
              "Attend::gather_queries pads with these numbers of rows");

template <class Item>
struct AmxSplitView {
  const Item& item;
  const RowStates& state;
  int64_t size;   // head_dim
  int64_t start;  // the split's first key
  int64_t end;    // of the keys that any row sees, relative to `start`
  bool is_1xn;    // up to 16 rows, which one tmm holds
  const char* keys[kSplitTiles] = {};

  AmxSplitView(const Item& owner, int64_t split)
      : item(owner),
        state(owner.state),
        size(owner.size),
        start(split * kSplitKeys),
        is_1xn(owner.rows <= kTmmRows) {
    KeyRange any = state.visible_to_any(item.rows);
    end = std::min(any.end - start, kSplitKeys);
    for (int64_t t = std::max<int64_t>(any.begin - start, 0) / kTile; t <= last_tile(); ++t)
      keys[t] = item.tile_base(split * kSplitTiles + t);
    for (int64_t row_panel = 0; row_panel < num_row_panels(); ++row_panel) find_ranges(row_panel);
  }

  // Up to 16 rows may truncate the last tile: positions are consecutive, so every row sees a key of it.
  void configure() const {
    if (is_1xn) configure_tmm(static_cast<int>(item.rows), static_cast<int>(num_pairs(last_tile())));
    else configure_tmm(kRowPanel);
  }

  int64_t num_row_panels() const { return (item.rows + kRowPanel - 1) / kRowPanel; }
  int64_t first_row(int64_t row_panel) const { return row_panel * kRowPanel; }
  int64_t end_row(int64_t row_panel) const { return std::min(item.rows, (row_panel + 1) * kRowPanel); }
  const char* query(int64_t row) const { return reinterpret_cast<const char*>(item.queries + row * size); }
  const char* values(int64_t tile) const { return keys[tile] + item.a.pages.key_tile_bytes(); }

  // The keys of the split that a row sees, relative to `start`.
  KeyRange visible(int64_t row) const {
    return {std::max<int64_t>(state.first_key[row] - start, 0),
            std::min<int64_t>(state.end_key[row] - start, kSplitKeys)};
  }

  static KeyRange tiles_over(KeyRange keys) { return {keys.begin / kTile, (keys.end + kTile - 1) / kTile}; }

  // Stores two ranges per row panel in state.begin and state.end: the tiles that any of its rows sees (entry
  // 2 * row_panel), and the keys that all of its rows see (entry 2 * row_panel + 1).
  void find_ranges(int64_t row_panel) {
    int32_t first = INT32_MAX, last_first = 0, first_end = INT32_MAX, end = 0;
    for (int64_t r = first_row(row_panel); r < end_row(row_panel); ++r) {
      first = std::min(first, state.first_key[r]);
      last_first = std::max(last_first, state.first_key[r]);
      first_end = std::min(first_end, state.end_key[r]);
      end = std::max(end, state.end_key[r]);
    }
    auto in_split = [&](int32_t key) {
      return static_cast<int32_t>(std::clamp<int64_t>(key - start, 0, kSplitKeys));
    };
    state.begin[2 * row_panel] = in_split(first) / kTile;
    state.end[2 * row_panel] = (in_split(end) + kTile - 1) / kTile;
    state.begin[2 * row_panel + 1] = in_split(last_first);
    state.end[2 * row_panel + 1] = std::max(in_split(last_first), in_split(first_end));
  }
  KeyRange visible_tiles(int64_t row_panel) const {
    return {state.begin[2 * row_panel], state.end[2 * row_panel]};
  }
  KeyRange common_keys(int64_t row_panel) const {
    return {state.begin[2 * row_panel + 1], state.end[2 * row_panel + 1]};
  }

  // Keys of a tile up to the last one that any row sees, and pairs of values.
  int64_t num_visible(int64_t tile) const { return std::min<int64_t>(end - tile * kTile, kTile); }
  int64_t num_pairs(int64_t tile) const { return (num_visible(tile) + 1) / 2; }
  int64_t last_tile() const { return (end - 1) / kTile; }
};

}  // namespace quire::QUIRE_ISA
