// Attention over K/V tiles of floats: scores, and sums of values.
#pragma once

#include "attention_rows.h"

namespace quire::QUIRE_ISA {

template <class Pages>
static QUIRE_INLINE PageColumns<typename Pages::Word> page_columns(const char* tile, int64_t stride,
                                                                   int64_t ahead) {
  return {reinterpret_cast<const typename Pages::Word*>(tile), stride, ahead};
}

// Whether a tile is widened in scratch, which many rows pay for.
template <class Pages>
static inline bool widens_tile(RowRange rows) {
  return Pages::kWidens && rows.end - rows.begin >= kMinRowsToWiden;
}

// scores[r] = q[r] * K. Pages: a policy of kv_policy.h.
template <class Pages>
struct FloatKeys {
  using Row = typename Pages::Row;
  static constexpr bool kWidensQueries = Pages::kWidens;

  const ItemRows& item;

  void prepare() const {}

  // The next tile lies `ahead` bytes further, and is prefetched.
  void score(RowRange rows, const char* tile, int64_t ahead) const {
    auto k = page_columns<Pages>(tile, kTile, ahead);
    if constexpr (Pages::kWidens)
      if (widens_tile<Pages>(rows)) {
        widen(k, item.size / Pages::kPerWord, kTile, item.state.widened, kTile);
        WidenedColumns widened{item.state.widened, kTile};
        return for_rows<6>(rows.begin, rows.end, Product<WidenedColumns>{*this, widened});
      }
    for_rows<6>(rows.begin, rows.end, Product<decltype(k)>{*this, k});
  }

 private:
  // The row as products read it: widened in scratch, or in place.
  const Row* read_query(int64_t row) const {
    if constexpr (Pages::kWidens) return item.widened_query(row);
    else return reinterpret_cast<const Row*>(item.query<typename Pages::Stored>(row));
  }

  template <class Tile>
  struct Product {
    const FloatKeys& self;
    Tile keys;

    template <int R>
    void run(int64_t first) const {
      constexpr int V = R <= 2 && kTileVectors <= 4 ? kTileVectors : 2;
      float* scores = self.item.state.scores + first * kTile;
      const int64_t size = self.item.size;
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
};

// split[r] = split[r] * rescale + probs[r] * V over exactly the keys that the row sees, in order: first keys
// that not all R rows see, row by row; then the common keys of all R together; then the rest. Pairs of keys
// stay together.
template <class Pages>
struct FloatValues {
  using Row = typename Pages::Row;
  static constexpr bool kPairsProbs = Pages::kIsPaired;

  const ItemRows& item;

  void add(RowRange rows, const char* tile, int64_t ahead) const {
    auto v = page_columns<Pages>(tile, item.size, ahead);
    if constexpr (Pages::kWidens)
      if (widens_tile<Pages>(rows)) {
        const RowStates& state = item.state;
        widen(v, kTile / Pages::kPerWord, item.size, state.widened, state.width);
        WidenedColumns widened{state.widened, state.width};
        return for_rows<6>(rows.begin, rows.end, Product<WidenedColumns>{*this, widened});
      }
    for_rows<6>(rows.begin, rows.end, Product<decltype(v)>{*this, v});
  }

 private:
  template <class Tile>
  struct Product {
    const FloatValues& self;
    Tile values;

    template <int R>
    void run(int64_t first) const {
      const RowStates& state = self.item.state;
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
      const RowStates& state = self.item.state;
      const float* rescale = state.rescale + first;
      const int64_t size = self.item.size, width = state.width;
      float* out = state.split + first * width;
      const Row* p[R];
      for (int r = 0; r < R; ++r)
        p[r] = opaque_pointer(reinterpret_cast<const Row*>(state.scores + (first + r) * kTile));
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

}  // namespace quire::QUIRE_ISA
