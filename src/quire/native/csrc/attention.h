// Varlen paged attention for any number of query rows: prefill, chunks and decode differ only in that number.
//
// Rows are (token, query head) pairs: the tokens of an item times the query heads that share its kv head (GQA
// packing). They meet one K/V tile of 32 keys at a time, at absolute positions. A row keeps an online softmax
// (maximum m, sum l, weighted values) within a split of 512 keys, and the partials of splits are merged in
// order. A row's arithmetic depends only on its position and its window: not on other rows, not on the chunk
// it came in, not on the contents of slots that it may not see.
//
// Online softmax: Milakov and Gimelshein 2018. Tiles: FlashAttention, Dao 2022. Fixed splits: Flash-Decoding
// 2023.
#pragma once

#include "attention_float.h"
#include "attention_int_keys.h"
#include "attention_int_values.h"
#if defined(QUIRE_AMX)
#include "attention_amx.h"
#endif

namespace quire::QUIRE_ISA {

// Keys, Values: what a layer's pages hold, FloatKeys and FloatValues or their integer counterparts. Rows of
// own tiles read these as bfloat16.
template <class Keys, class Values>
struct Attend : ItemRows {
  using OwnKeys = FloatKeys<BFloat16Pages>;
  using OwnValues = FloatValues<BFloat16Pages>;
  // Both in bfloat16: what AMX multiplies.
  static constexpr bool kIsPaired = std::is_same_v<Keys, OwnKeys> && std::is_same_v<Values, OwnValues>;

  const uint16_t* queries = nullptr;  // AMX only: rows side by side

  Attend(const Attention& attention, const AttentionItem& work, float* scratch)
      : ItemRows(attention, work, scratch) {
    if (uses_amx()) queries = gather_queries();
    else if (Keys::kWidensQueries || (a.own.tile_of_row && OwnKeys::kWidensQueries)) widen_queries();
    Keys{*this}.prepare();
  }

  bool uses_amx() const {
#if defined(QUIRE_AMX)
    return kIsPaired && fits_tmm(size);
#else
    return false;
#endif
  }

  // Queries side by side. One token's already are; more than 16 rows are padded with zeros to a row panel.
  const uint16_t* gather_queries() {
    if (rows <= kTile / 2 && item.row_end - item.row_begin == 1) return query<uint16_t>(0);
    uint16_t* to = reinterpret_cast<uint16_t*>(state.queries);
    for (int64_t r = 0; r < rows; ++r)
      std::memcpy(to + r * size, query<uint16_t>(r), static_cast<size_t>(size) * sizeof *to);
    if (rows > kTile / 2)
      std::memset(to + rows * size, 0,
                  static_cast<size_t>((round_up(rows, kTile) - rows) * size) * sizeof *to);
    return to;
  }

  void run() {
    for (int64_t r = 0; r < rows; ++r) state.reset_total(r);
    for (int64_t split = a.first_split(token(0)); split <= a.last_split(token(rows - 1)); ++split) {
      walk_split(split);
      state.merge_split(rows, size);
    }
    for (int64_t r = 0; r < rows; ++r)
      write_output(a, token(r), head(r), state.total + r * state.width, state.total_l[r]);
  }

  void run_split() {
    walk_split(item.split);
    for (int64_t r = 0; r < rows; ++r) state.store_partial(r, a.partial(token(r), head(r), item.split));
  }

  void walk_split(int64_t split) {
    for (int64_t r = 0; r < rows; ++r) state.reset_split(r);
#if defined(QUIRE_AMX)
    if constexpr (kIsPaired)
      if (uses_amx()) return AmxSplit<Attend>(*this, split).run();
#endif
    for (int64_t r = 0; r < rows; ++r) state.clear_values(r);
    KeyRange any = state.visible_to_any(rows);
    int64_t tile = std::max(split * kSplitTiles, any.begin / kTile);
    int64_t end = std::min((split + 1) * kSplitTiles, (any.end + kTile - 1) / kTile);
    const char* keys = tile < end ? tile_base(tile) : nullptr;
    for (; tile < end; ++tile) {
      const char* next = tile + 1 < end ? tile_base(tile + 1) : keys;
      walk_tile(tile, keys, next - keys);
      keys = next;
    }
  }

  // One K/V tile. The next one lies `ahead` bytes further, and is prefetched.
  void walk_tile(int64_t tile, const char* keys, int64_t ahead) {
    RowRange active = state.enter_tile(tile, rows);
    if (active.begin == active.end) return;
    const char* values = keys + key_bytes;
    if (!a.own.tile_of_row) return attend_rows<Keys, Values>(active, keys, values, ahead);
    for (RowRange run{active.begin, active.begin}; run.end < active.end;) {
      const char* own;
      run = next_run(tile, {run.end, active.end}, &own);
      if (own) attend_rows<OwnKeys, OwnValues>(run, own, own + BFloat16Tiles::bytes(size), 0);
      else attend_rows<Keys, Values>(run, keys, values, ahead);
    }
  }

  // QK^T, softmax, PV.
  template <class K, class V>
  void attend_rows(RowRange run, const char* keys, const char* values, int64_t ahead) {
    K{*this}.score(run, keys, ahead);
    online_softmax<V::kPairsProbs>(state, run, a.scale, a.softcap);
    V{*this}.add(run, values, ahead);
  }
};

// Calls run(Attend) with the parts for what the pages hold.
template <class Run>
static inline void with_parts(const Attention& a, const AttentionItem& item, float* scratch, const Run& run) {
  using BFloat16Keys = FloatKeys<BFloat16Pages>;
  const bool has_int8_values = a.pages.values == KVElement::kInt8;
  switch (a.pages.keys) {
    case KVElement::kF32:
      return run(Attend<FloatKeys<Float32Pages>, FloatValues<Float32Pages>>(a, item, scratch));
    case KVElement::kInt4: return run(Attend<Int4Keys, Int4Values>(a, item, scratch));
    case KVElement::kInt8:
      if (has_int8_values) return run(Attend<Int8Keys, Int8Values>(a, item, scratch));
      return run(Attend<Int8Keys, Int4Values>(a, item, scratch));
    case KVElement::kBF16:
      if (has_int8_values) return run(Attend<BFloat16Keys, Int8Values>(a, item, scratch));
      if (a.pages.values == KVElement::kInt4) return run(Attend<BFloat16Keys, Int4Values>(a, item, scratch));
      return run(Attend<BFloat16Keys, FloatValues<BFloat16Pages>>(a, item, scratch));
  }
}

static void attend(const Attention& a, const AttentionItem& item, float* scratch) {
  with_parts(a, item, scratch, [](auto&& rows) { rows.run(); });
}

static void attend_split(const Attention& a, const AttentionItem& item, float* scratch) {
  with_parts(a, item, scratch, [](auto&& rows) { rows.run_split(); });
}

// Merges a row's partials in split order, as one thread that walks all splits would.
static void merge_splits(const Attention& a, int64_t row, int64_t head, float* scratch) {
  float m = kLowest, l = 0.0f;
  int64_t size = a.pages.head_dim, width = round_up(size, kPanel);
  std::memset(scratch, 0, static_cast<size_t>(width) * sizeof(float));
  for (int64_t split = a.first_split(row); split <= a.last_split(row); ++split) {
    const float* partial = a.partial(row, head, split);
    merge_partial({scratch, m, l}, partial, partial[width], partial[width + 1], size);
  }
  write_output(a, row, head, scratch, l);
}

}  // namespace quire::QUIRE_ISA
