// values [rows, D] = weights * V on matrix tiles, a V tile being D/16 of them as it lies.
//
// What a row does not see has weight zero, and zero times a finite value adds nothing. Where such a value is not finite, every row of the
// block works alone, over tiles in which all that it does not see is cleared: the same arithmetic, so the same bits.
#pragma once

#include "attention_amx_view.h"
#include "attention_amx_softmax.h"

namespace quire::QUIRE_ISA {

template <class Item>
class ValuesInTiles {
 public:
  ValuesInTiles(const SplitView<Item>& view, const BlockSoftmax& softmax)
      : view_(view), state_(view.state), softmax_(softmax), size_(view.size) {}

  void add(int64_t block) const {
    if (adds_only_finite(block)) {
      multiply(view_.first_row(block), view_.tiles_of(block), view_.is_flat, [&](int64_t tile) { return view_.values(tile); });
    } else {
      configure_tiles(1);
      for (int64_t r = view_.first_row(block); r < view_.end_row(block); ++r) add_alone(r);
      view_.configure();
    }
  }

 private:
  // Whether all values are finite that are read and that some row of the block does not see.
  bool adds_only_finite(int64_t block) const {
    KeyRange tiles = view_.tiles_of(block), all = view_.keys_of_all(block);
    for (int64_t tile = tiles.begin; tile < tiles.end; ++tile) {
      int64_t begin = all.begin - tile * kTile, end = all.end - tile * kTile, num_read = view_.is_flat ? view_.num_pairs(tile) : kTile / 2;
      if (begin > 0 && !are_finite(tile, 0, std::min((begin + 1) / 2, num_read))) return false;
      if (end < kTile && !are_finite(tile, std::max<int64_t>(end / 2, 0), num_read)) return false;
    }
    return true;
  }

  // Values of these pairs of keys.
  bool are_finite(int64_t tile, int64_t pair_begin, int64_t pair_end) const {
    const __m512i exponent = _mm512_set1_epi16(0x7f80);
    const char* values = view_.values(tile);
    uint32_t any = 0;
    for (int64_t i = pair_begin * size_ * 4; i < pair_end * size_ * 4; i += kLineBytes)
      any |= _mm512_cmpeq_epi16_mask(_mm512_and_si512(_mm512_loadu_si512(values + i), exponent), exponent);
    return any == 0;
  }

  // split[rows] = weights * V over these tiles, for the rows from `first` on: a strip of columns after the other.
  template <class Values>
  void multiply(int64_t first, KeyRange tiles, bool is_flat, const Values& values) const {
    const char* weights = reinterpret_cast<const char*>(softmax_.weights(first % kBlockRows, 0));
    TileWork work{weights, softmax_.stride() * 2, size_ * 4, tiles.begin, tiles.end, nullptr, state_.width * 4};
    for (int64_t c = 0; c < size_; c += kTile) {
      work.sums = state_.split + first * state_.width + c;
      is_flat ? multiply_strip<true>(work, c, values) : multiply_strip<false>(work, c, values);
    }
  }

  // Columns [c, c + 32).
  template <bool kIsFlat, class Values>
  void multiply_strip(const TileWork& work, int64_t c, const Values& values) const {
    constexpr int kParts = kIsFlat ? kTile / kTileColumns : 4, kRows = kTile / 2 / kParts;
    auto words = [&](int64_t tile) { return values(tile) + c * 4; };
    auto beside = [&](int64_t tile, int part) __attribute__((always_inline)) {
      const char* l1_next = tile + 1 < work.end ? words(tile + 1) : values(work.begin) + (c + kTile) % size_ * 4;
      l1_next += part * kRows * work.word_stride;
      for (int64_t column = 0; column < kTile * 4; column += kLineBytes) prefetch_lines(l1_next + column, work.word_stride, kRows);
    };
    if constexpr (kIsFlat) multiply_flat<kTile, TileElement::kBF16, true>(work, words, beside);
    else multiply_square(work, words, beside);
  }

  void add_alone(int64_t row) const {
    KeyRange keys = view_.seen(row);
    if (keys.begin >= keys.end) return;
    KeyRange tiles = view_.tiles_over(keys);
    char* cleared = reinterpret_cast<char*>(state_.wide);
    const char* first = clear_unseen(tiles.begin, keys, cleared);
    const char* last = clear_unseen(tiles.end - 1, keys, cleared + view_.item.a.pages.tile_bytes());
    multiply(row, tiles, true, [&](int64_t tile) {
      return tile == tiles.begin ? first : tile == tiles.end - 1 ? last : view_.values(tile);
    });
  }

  // A copy of the tile's values without those of keys that are not seen.
  const char* clear_unseen(int64_t tile, KeyRange keys, char* copy) const {
    const uint32_t* from = reinterpret_cast<const uint32_t*>(view_.values(tile));
    uint32_t* to = reinterpret_cast<uint32_t*>(copy);
    for (int64_t pair = 0; pair < kTile / 2; ++pair) {
      int64_t key = tile * kTile + 2 * pair;
      uint32_t even = keys.begin <= key && key < keys.end ? 0x0000ffffu : 0, odd = keys.begin <= key + 1 && key + 1 < keys.end ? 0xffff0000u : 0;
      for (int64_t c = 0; c < size_; ++c) to[pair * size_ + c] = from[pair * size_ + c] & (even | odd);
    }
    return copy;
  }

  const SplitView<Item>& view_;
  const RowStates& state_;
  const BlockSoftmax& softmax_;
  int64_t size_;
};

}  // namespace quire::QUIRE_ISA
