// int8 and int4 products of many rows on matrix tiles. Sums inside a group of 32 are exact integers, scaled and added in group order
// as in gemm_int.h: the bits are those of its kernels, which take the few rows.
//
// A group is half of what a tile multiplies at once, and its sums must leave the tile for their scale. While a tile multiplies a
// group, the sums of the one before it are scaled and added up in registers, which hold 16 rows by 16 columns for the whole of K.
#pragma once

#include <algorithm>

#include "gemm_int.h"
#include "gemm_tiles.h"

namespace quire::QUIRE_ISA {

constexpr int64_t kFewIntRows = kTileRows - 1;  // more are faster on tiles
constexpr int64_t kSignedWords = kGroup / 4 * kPanel;  // of a group of a panel
using TileSums = int32_t[2][kTileRows][kTileColumns];

// The weights of a group without their offset, in the order of int8 panels.
static inline void write_signed(const Panels& weight, const uint32_t* words, uint32_t* to) {
  if (weight.format == WeightFormat::kInt8) {
    for (int64_t i = 0; i < kSignedWords; i += kLanes) _mm512_store_si512(to + i, xor_bits(load_pairs(words + i), set1_pair(0x80808080u)));
    return;
  }
  for (int64_t i = 0; i < weight.words(); ++i)
    for (int64_t c = 0; c < kPanel; c += kLanes) {
      vi parts[Int4::kParts];
      Int4::split(load_pairs(words + i * kPanel + c), parts);
      for (int64_t p = 0; p < Int4::kParts; ++p)
        _mm512_store_si512(to + (i * Int4::kParts + p) * kPanel + c, _mm512_sub_epi8(parts[p], set1_pair(0x08080808u)));
    }
}

static inline void write_signed_panel(const Panels& weight, int64_t panel, uint32_t* to) {
  for (int64_t g = 0; g < weight.num_groups(); ++g) write_signed(weight, weight.word(panel, g, 0, 0), to + g * kSignedWords);
}

// 16 rows of a product by 16 columns of a panel, which lies in `words` as signed bytes. Strides in bytes.
struct GroupTile {
  const char* rows;
  const char* row_scales;
  int64_t row_stride;
  const uint32_t* words;
  const char* word_scales;
  int64_t word_scale_stride;
  int64_t groups;
  TileSums& sums;
  PanelFetcher& fetcher;

  GroupTile(const Gemm& g, int64_t first_row, int64_t panel, int64_t column, const uint32_t* panel_words, TileSums& room, PanelFetcher& next)
      : rows(g.a.row(first_row)), row_scales(reinterpret_cast<const char*>(g.a.scales(first_row))), row_stride(g.a.stride),
        words(panel_words + column), word_scales(reinterpret_cast<const char*>(g.weight.scales(panel, 0) + column)),
        word_scale_stride(g.weight.bytes_per_group()), groups(g.weight.num_groups()), sums(room), fetcher(next) {}

  void load_rows(int64_t group) const {
    finish_writes();
    _tile_loadd(4, rows + group * kGroup, row_stride);
  }

  // Tile n = rows * words.
  template <int n>
  void multiply(int64_t group) const {
    _tile_loadd(5, words + group * kSignedWords, 4 * kPanel);
    if constexpr (n == 0) {
      _tile_zero(0);
      _tile_dpbssd(0, 4, 5);
    } else {
      _tile_zero(1);
      _tile_dpbssd(1, 4, 5);
    }
  }

  template <int n>
  void take_sums() const {
    if constexpr (n == 0) _tile_stored(0, sums[0], 4 * kTileColumns);
    else _tile_stored(1, sums[1], 4 * kTileColumns);
    finish_writes();
  }

  // y += sums[n] in steps of the scales of words and rows, for rows [kFirst, kEnd).
  template <int n, int kFirst, int kEnd>
  QUIRE_INLINE void scale(int64_t group, vf (&y)[kTileRows]) const {
    vf of_words = load_bf16(reinterpret_cast<const uint16_t*>(word_scales + group * word_scale_stride));
    const char* of_rows = row_scales + group * static_cast<int64_t>(sizeof(float));
#pragma GCC unroll 16
    for (int r = kFirst; r < kEnd; ++r) {
      vf of_row = set1(*reinterpret_cast<const float*>(of_rows + r * row_stride));
      y[r] = fma(to_float(load_pairs(reinterpret_cast<const uint32_t*>(sums[n][r]))), mul(of_words, of_row), y[r]);
    }
  }

  // Groups take turns on two tiles: what is asked of a tile is there when it is needed, a group later. Vectors work between the tile
  // instructions, since they would idle behind a row of them.
  template <int n>
  void step(int64_t group, vf (&y)[kTileRows]) const {
    bool goes_on = group + 2 < groups;
    fetcher.step();
    if (goes_on) load_rows(group + 2);
    scale<n, 0, 5>(group, y);
    if (goes_on) multiply<n>(group + 2);
    scale<n, 5, 10>(group, y);
    if (group + 1 < groups) take_sums<1 - n>();
    scale<n, 10, kTileRows>(group, y);
  }

  // Writes [16, 16], kLdy apart.
  void run(float* to) const {
    vf y[kTileRows];
    for (vf& of_row : y) of_row = set1(0.0f);
    load_rows(0);
    multiply<0>(0);
    if (groups > 1) load_rows(1), multiply<1>(1);
    take_sums<0>();
    for (int64_t group = 0; group < groups; group += 2) {
      step<0>(group, y);
      if (group + 1 < groups) step<1>(group + 1, y);
    }
    for (int r = 0; r < kTileRows; ++r) store(to + r * kLdy, y[r]);
  }
};

// The last 16 rows may begin among those before them, which are multiplied again and finished once.
static inline void multiply_unit_group_tiles(const Gemm& g, int64_t begin_row, int64_t end_row, int64_t unit) {
  alignas(64) float y[kTileRows][kLdy];
  alignas(64) TileSums sums;
  int64_t panels = panels_of(g), panel_words = g.weight.num_groups() * kSignedWords;
  uint32_t* words = reinterpret_cast<uint32_t*>(g.scratch);
  for (int64_t p = 0; p < panels; ++p) write_signed_panel(g.weight, unit * panels + p, words + p * panel_words);
  int64_t blocks = (end_row - begin_row + kTileRows - 1) / kTileRows;
  PanelFetcher fetcher(g, unit, blocks * panels * kPanel / kTileColumns * g.weight.num_groups());
  for (int64_t row = begin_row; row < end_row; row += kTileRows) {
    int64_t first = std::min(row, end_row - kTileRows);
    for (int64_t c = 0; c < panels * kPanel; c += kTileColumns)
      GroupTile(g, first, unit * panels + c / kPanel, c % kPanel, words + c / kPanel * panel_words, sums, fetcher).run(y[0] + c);
    for (int64_t r = row - first; r < kTileRows; ++r) finish(g, first + r, unit, y[r]);
  }
}

static inline void gemm_group_tiles(const Gemm& g, int64_t unit_begin, int64_t unit_end) {
  int64_t most = std::max<int64_t>(1, kRowsBytes / (g.a.values_bytes() * kTileRows)) * kTileRows;
  configure_group_tiles();
  for (int64_t row = 0; row < g.rows; row += most)
    for (int64_t unit = unit_begin; unit < unit_end; ++unit) multiply_unit_group_tiles(g, row, std::min(row + most, g.rows), unit);
  _tile_release();
}

}  // namespace quire::QUIRE_ISA
