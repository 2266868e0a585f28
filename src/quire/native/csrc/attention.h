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

#include "attention_softmax.h"
#include "attention_tile.h"
#if defined(QUIRE_AMX)
#include "attention_amx.h"
#endif

namespace quire::QUIRE_ISA {

// Pages: a policy of kv_policy.h.
template <class Pages>
struct Attend {
  using Stored = typename Pages::Stored;
  using Row = typename Pages::Row;
  using Columns = PageColumns<typename Pages::Word>;

  const Attention& a;
  const AttentionItem& item;
  RowStates state;
  int64_t gqa;  // query heads per kv head
  int64_t rows;
  int64_t size;                     // head_dim
  const Stored* queries = nullptr;  // AMX only: rows side by side

  Attend(const Attention& attention, const AttentionItem& work, float* scratch)
      : a(attention),
        item(work),
        state(scratch, attention_rows(attention.num_heads / attention.pages.num_kv_heads),
              attention.pages.head_dim),
        gqa(attention.num_heads / attention.pages.num_kv_heads),
        rows((work.row_end - work.row_begin) * gqa),
        size(attention.pages.head_dim) {
    for (int64_t r = 0; r < rows; ++r)
      state.set_visible(r, first_key(a.positions[token(r)], a.window), a.positions[token(r)] + 1);
    if constexpr (Pages::kWidens) widen_queries();
    if (uses_amx()) queries = gather_queries();
  }

  bool uses_amx() const {
#if defined(QUIRE_AMX)
    return Pages::kIsPaired && fits_tmm(size);
#else
    return false;
#endif
  }

  int64_t token(int64_t row) const { return a.rows[item.row_begin + row / gqa]; }
  int64_t head(int64_t row) const { return item.kv_head * gqa + row % gqa; }

  const Stored* query(int64_t row) const {
    return static_cast<const Stored*>(a.q) + (token(row) * a.num_heads + head(row)) * size;
  }

  void widen_queries() {
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t d = 0; d < size; ++d) state.queries[r * state.width + d] = from_bf16(query(r)[d]);
  }

  // Queries side by side. One token's already are; more than 16 rows are padded with zeros to a row panel.
  const Stored* gather_queries() {
    if (rows <= kTile / 2 && item.row_end - item.row_begin == 1) return query(0);
    Stored* to = reinterpret_cast<Stored*>(state.queries);
    for (int64_t r = 0; r < rows; ++r)
      std::memcpy(to + r * size, query(r), static_cast<size_t>(size) * sizeof(Stored));
    if (rows > kTile / 2)
      std::memset(to + rows * size, 0,
                  static_cast<size_t>((round_up(rows, kTile) - rows) * size) * sizeof(Stored));
    return to;
  }

  // The row as products read it: widened in scratch, or in place.
  const Row* read_query(int64_t row) const {
    if constexpr (Pages::kWidens) return state.queries + row * state.width;
    else return reinterpret_cast<const Row*>(query(row));
  }

  const char* tile_base(int64_t tile) const {
    int64_t block = tile / a.pages.tiles_per_block;
    return a.pages.key_tile(a.block_tables[item.request * a.blocks_per_request + block], item.kv_head,
                            tile % a.pages.tiles_per_block);
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
    if constexpr (Pages::kIsPaired)
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

  // QK^T, softmax, PV over one K/V tile. The next tile lies `ahead` bytes further, and is prefetched.
  void walk_tile(int64_t tile, const char* keys, int64_t ahead) {
    RowRange active = state.enter_tile(tile, rows);
    if (active.begin == active.end) return;
    Columns k = columns(keys, kTile, ahead), v = columns(keys + Pages::bytes(size), size, ahead);
    bool widens = Pages::kWidens && active.end - active.begin >= kMinRowsToWiden;
    if (widens) return walk_widened(active, k, v);
    for_rows(active.begin, active.end, QKProduct<Columns>{*this, k});
    online_softmax<Pages>(state, active, a.scale, a.softcap);
    for_rows(active.begin, active.end, PVProduct<Columns>{*this, v});
  }

  static Columns columns(const char* tile, int64_t stride, int64_t ahead) {
    return {reinterpret_cast<const typename Pages::Word*>(tile), stride, ahead};
  }

  void walk_widened(RowRange active, const Columns& k, const Columns& v) {
    if constexpr (Pages::kWidens) {
      widen(k, size / Pages::kPerWord, kTile, state.widened, kTile);
      for_rows(active.begin, active.end, QKProduct<WidenedColumns>{*this, {state.widened, kTile}});
      online_softmax<Pages>(state, active, a.scale, a.softcap);
      widen(v, kTile / Pages::kPerWord, size, state.widened, state.width);
      for_rows(active.begin, active.end, PVProduct<WidenedColumns>{*this, {state.widened, state.width}});
    }
  }

  // scores[r] = q[r] * K
  template <class Tile>
  struct QKProduct {
    const Attend& self;
    Tile keys;

    template <int R>
    void run(int64_t first) const {
      constexpr int kAll = kTile / kLanes, V = R <= 2 && kAll <= 4 ? kAll : 2;
      float* scores = self.state.scores + first * kTile;
      const int64_t size = self.size;
      const Row* q[R];
      for (int r = 0; r < R; ++r) q[r] = opaque_pointer(self.read_query(first + r));
      for (int c = 0; c < kTile; c += V * kLanes) {
        vf acc[R][V];
        for (int r = 0; r < R; ++r)
          for (int v = 0; v < V; ++v) acc[r][v] = set1(0.0f);
        add_products<R, V>(q, keys.from(c), 0, size, acc);
        for (int r = 0; r < R; ++r)
          for (int v = 0; v < V; ++v) store(scores + r * kTile + c + v * kLanes, acc[r][v]);
      }
    }
  };

  // split[r] = split[r] * rescale + probs[r] * V over exactly the keys that the row sees, in order: first
  // keys that not all R rows see, row by row; then the common keys of all R together; then the rest. Pairs of
  // keys stay together.
  template <class Tile>
  struct PVProduct {
    const Attend& self;
    Tile values;

    template <int R>
    void run(int64_t first) const {
      const RowStates& state = self.state;
      int begin = 0, end = kTile;
      for (int r = 0; r < R; ++r) {
        begin = std::max(begin, state.begin[first + r]);
        end = std::min(end, state.end[first + r]);
      }
      if (begin == 0 && end == kTile) return add<R>(first, 0, kTile, true);
      begin = (begin + 1) / 2 * 2;
      end = end / 2 * 2;
      if (end <= begin) begin = end = kTile;
      for (int r = 0; r < R; ++r)
        add<1>(first + r, state.begin[first + r], std::min(begin, state.end[first + r]), true);
      add<R>(first, begin, end, false);
      for (int r = 0; r < R; ++r)
        add<1>(first + r, std::max(end, state.begin[first + r]), state.end[first + r], false);
    }

    template <int R>
    void add(int64_t first, int64_t begin, int64_t end, bool rescales) const {
      constexpr int V = R <= 2 ? 4 : kLanes == 16 ? 4 : 2;
      const float* rescale = self.state.rescale + first;
      const int64_t size = self.size, width = self.state.width;
      float* out = self.state.split + first * width;
      const Row* p[R];
      for (int r = 0; r < R; ++r)
        p[r] = opaque_pointer(reinterpret_cast<const Row*>(self.state.scores + (first + r) * kTile));
      for (int64_t c = 0; c < size; c += V * kLanes) {
        vf acc[R][V];
        for (int r = 0; r < R; ++r) {
          vf factor = set1(rescales ? rescale[r] : 1.0f);
          for (int v = 0; v < V; ++v) acc[r][v] = mul(load(out + r * width + c + v * kLanes), factor);
        }
        add_products<R, V>(p, values.from(c), begin, end, acc);
        for (int r = 0; r < R; ++r)
          for (int v = 0; v < V; ++v) store(out + r * width + c + v * kLanes, acc[r][v]);
      }
    }
  };
};

static void attend(const Attention& a, const AttentionItem& item, float* scratch) {
  with_pages(a.pages.keys, [&](auto pages) { Attend<decltype(pages)>(a, item, scratch).run(); });
}

static void attend_split(const Attention& a, const AttentionItem& item, float* scratch) {
  with_pages(a.pages.keys, [&](auto pages) { Attend<decltype(pages)>(a, item, scratch).run_split(); });
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
