// PV with AMX: values [rows, D] = probs * V. V tiles are B operands of TMULs as they lie in the pages.
//
// A key that a row does not see has probability zero, and zero times a finite value adds nothing. If such a
// value is not finite, each row of the row panel works alone, over copies of the tiles in which all that it
// does not see is cleared: same arithmetic, same bits.
#pragma once

#include "attention_amx_softmax.h"
#include "attention_amx_view.h"

namespace quire::QUIRE_ISA {

template <class Item>
class AmxPV {
 public:
  AmxPV(const AmxSplitView<Item>& view, const AmxSoftmax& softmax)
      : view_(view), state_(view.state), softmax_(softmax), size_(view.size) {}

  void run(int64_t row_panel) const {
    if (masked_values_are_finite(row_panel)) {
      multiply(view_.first_row(row_panel), view_.visible_tiles(row_panel), view_.is_1xn,
               [&](int64_t tile) { return view_.values(tile); });
    } else {
      configure_tmm(1);
      for (int64_t r = view_.first_row(row_panel); r < view_.end_row(row_panel); ++r) run_row_alone(r);
      view_.configure();
    }
  }

 private:
  // Whether all values are finite that TMULs read although some row of the panel does not see them.
  bool masked_values_are_finite(int64_t row_panel) const {
    KeyRange tiles = view_.visible_tiles(row_panel), common = view_.common_keys(row_panel);
    for (int64_t tile = tiles.begin; tile < tiles.end; ++tile) {
      int64_t begin = common.begin - tile * kTile, end = common.end - tile * kTile;
      int64_t num_read = view_.is_1xn ? view_.num_pairs(tile) : kTile / 2;
      if (begin > 0 && !are_finite(tile, 0, std::min((begin + 1) / 2, num_read))) return false;
      if (end < kTile && !are_finite(tile, std::max<int64_t>(end / 2, 0), num_read)) return false;
    }
    return true;
  }

  // Values of pairs [pair_begin, pair_end) of keys.
  bool are_finite(int64_t tile, int64_t pair_begin, int64_t pair_end) const {
    const __m512i exponent = _mm512_set1_epi16(0x7f80);
    const char* values = view_.values(tile);
    uint32_t any = 0;
    for (int64_t i = pair_begin * size_ * 4; i < pair_end * size_ * 4; i += kLineBytes)
      any |= _mm512_cmpeq_epi16_mask(_mm512_and_si512(_mm512_loadu_si512(values + i), exponent), exponent);
    return any == 0;
  }

  // split[rows] = probs * V over these tiles, for the rows from `first` on, 32 columns at a time.
  template <class Values>
  void multiply(int64_t first, KeyRange tiles, bool is_1xn, const Values& values) const {
    const char* probs = reinterpret_cast<const char*>(softmax_.probs(first % kRowPanel, 0));
    TmulTask task{probs, softmax_.stride() * 2, size_ * 4, tiles.begin, tiles.end, nullptr, state_.width * 4};
    for (int64_t c = 0; c < size_; c += kTile) {
      task.c = state_.split + first * state_.width + c;
      is_1xn ? multiply_columns<true>(task, c, values) : multiply_columns<false>(task, c, values);
    }
  }

  // Columns [c, c + 32).
  template <bool kIs1xN, class Values>
  void multiply_columns(const TmulTask& task, int64_t c, const Values& values) const {
    constexpr int kTmuls = kIs1xN ? kTile / kTmmColumns : 4, kRows = kTile / 2 / kTmuls;
    auto b_at = [&](int64_t tile) { return values(tile) + c * 4; };
    auto interleave = [&](int64_t tile, int i) __attribute__((always_inline)) {
      const char* next = tile + 1 < task.end ? b_at(tile + 1) : values(task.begin) + (c + kTile) % size_ * 4;
      next += i * kRows * task.b_stride;
      for (int64_t column = 0; column < kTile * 4; column += kLineBytes)
        prefetch_lines(next + column, task.b_stride, kRows);
    };
    if constexpr (kIs1xN) tmul_1xn<kTile, TmmElement::kBF16, true>(task, b_at, interleave);
    else tmul_2x2(task, b_at, interleave);
  }

  void run_row_alone(int64_t row) const {
    KeyRange keys = view_.visible(row);
    if (keys.begin >= keys.end) return;
    KeyRange tiles = view_.tiles_over(keys);
    char* cleared = reinterpret_cast<char*>(state_.widened);
    const char* first = copy_visible(tiles.begin, keys, cleared);
    const char* last = copy_visible(tiles.end - 1, keys, cleared + view_.item.a.pages.value_tile_bytes());
    multiply(row, tiles, true, [&](int64_t tile) {
      return tile == tiles.begin ? first : tile == tiles.end - 1 ? last : view_.values(tile);
    });
  }

  // Copies the tile's values, with those of keys outside the range cleared.
  const char* copy_visible(int64_t tile, KeyRange keys, char* copy) const {
    const uint32_t* from = reinterpret_cast<const uint32_t*>(view_.values(tile));
    uint32_t* to = reinterpret_cast<uint32_t*>(copy);
    for (int64_t pair = 0; pair < kTile / 2; ++pair) {
      int64_t key = tile * kTile + 2 * pair;
      uint32_t even = keys.begin <= key && key < keys.end ? 0x0000ffffu : 0;
      uint32_t odd = keys.begin <= key + 1 && key + 1 < keys.end ? 0xffff0000u : 0;
      for (int64_t c = 0; c < size_; ++c) to[pair * size_ + c] = from[pair * size_ + c] & (even | odd);
    }
    return copy;
  }

  const AmxSplitView<Item>& view_;
  const RowStates& state_;
  const AmxSoftmax& softmax_;
  int64_t size_;
};

}  // namespace quire::QUIRE_ISA
