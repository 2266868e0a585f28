// The rows of an item as the parts of attention see them: which they are, their queries, their state.
#pragma once

#include "attention_state.h"

namespace quire::QUIRE_ISA {

struct ItemRows {
  const Attention& a;
  const AttentionItem& item;
  RowStates state;
  int64_t gqa;  // query heads per kv head
  int64_t rows;
  int64_t size;       // head_dim
  int64_t key_bytes;  // of a tile; its values follow
  int64_t tile_bytes;

  ItemRows(const Attention& attention, const AttentionItem& work, float* scratch)
      : a(attention),
        item(work),
        state(scratch, attention_rows(attention.num_heads / attention.pages.num_kv_heads),
              attention.pages.head_dim),
        gqa(attention.num_heads / attention.pages.num_kv_heads),
        rows((work.row_end - work.row_begin) * gqa),
        size(attention.pages.head_dim),
        key_bytes(attention.pages.key_tile_bytes()),
        tile_bytes(attention.pages.tile_bytes()) {
    for (int64_t r = 0; r < rows; ++r)
      state.set_visible(r, first_key(a.positions[token(r)], a.window), a.positions[token(r)] + 1);
  }

  int64_t token(int64_t row) const { return a.rows[item.row_begin + row / gqa]; }
  int64_t head(int64_t row) const { return item.kv_head * gqa + row % gqa; }

  template <class T>
  const T* query(int64_t row) const {
    return static_cast<const T*>(a.q) + (token(row) * a.num_heads + head(row)) * size;
  }

  // Queries of bfloat16 as floats, with zeros up to whole vectors.
  float* widened_query(int64_t row) const { return state.queries + row * state.width; }
  void widen_queries() const {
    for (int64_t r = 0; r < rows; ++r) {
      float* to = widened_query(r);
      const uint16_t* from = query<uint16_t>(r);
      for (int64_t d = 0; d < size; ++d) to[d] = from_bf16(from[d]);
      std::fill(to + size, to + round_up(size, kGroup), 0.0f);
    }
  }

  const char* tile_base(int64_t tile) const {
    const int64_t index = tile / a.pages.tiles_per_block;
    const int64_t block = a.block_tables[item.request * a.blocks_per_request + index];
    return a.pages.base +
           ((block * a.pages.num_kv_heads + item.kv_head - index) * a.pages.tiles_per_block + tile) *
               tile_bytes;
  }

  // The rows from `begin` on, up to `end`, that read the same keys of the tile: the pages, or an own tile.
  // `own` is that own tile, or null.
  RowRange next_run(int64_t tile, RowRange rest, const char** own) const {
    *own = own_tile(tile, rest.begin);
    int64_t end = rest.begin + 1;
    while (end < rest.end && own_tile(tile, end) == *own) ++end;
    return {rest.begin, end};
  }

 private:
  const char* own_tile(int64_t tile, int64_t row) const {
    if (state.end_key[row] > (tile + 1) * kTile) return nullptr;
    return a.own.key_tile(token(row), item.kv_head);
  }
};

}  // namespace quire::QUIRE_ISA
