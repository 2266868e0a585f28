// int8 and int4 products of many rows on matrix tiles. Sums inside a group of 32 are exact integers, scaled and added in group order
// as in gemm_int.h: the bits are those of its kernels, which take the few rows.
//
// A group is half of what a tile multiplies at once, and its sums must leave the tile before the next. While tiles multiply a
// group, the sums of the one before it are scaled.
#pragma once

#include <algorithm>

#include "gemm_int.h"
#include "gemm_tiles.h"

namespace quire::QUIRE_ISA {

constexpr int64_t kFewIntRows = 16;  // more are faster on tiles
constexpr int64_t kSignedWords = kGroup / 4 * kPanel;  // of a group of a panel
constexpr int kHalf = kPanel / 2;  // columns whose sums leave tiles together
using HalfSums = int32_t[2][kTileRows][kHalf];

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

static inline void write_signed_panel(const Panels& weight, int64_t panel, char* to) {
  for (int64_t g = 0; g < weight.num_groups(); ++g)
    write_signed(weight, weight.word(panel, g, 0, 0), reinterpret_cast<uint32_t*>(to) + g * kSignedWords);
}

// Up to 16 rows of a product, and one of its panels as signed bytes. What one half of the panel stores lies in other parts of a page
// than what is read of the other half meanwhile: the processor would take addresses 4 KB apart for the same.
struct GroupTiles {
  const Gemm& g;
  int64_t first_row;
  int64_t rows;
  int64_t panel;
  const char* words;
  float* y;  // [rows, kLdy]
  HalfSums& sums;

  // sums[half] = rows * weights
  template <int half>
  void multiply(int64_t group) const {
    constexpr int64_t kRowBytes = 4 * kPanel, kSumBytes = 4 * kHalf;
    const char* w = words + group * kSignedWords * 4 + half * kRowBytes / 2;
    finish_writes();
    if (half == 0) _tile_loadd(4, g.a.row(first_row) + group * kGroup, g.a.stride);
    _tile_loadd(5, w, kRowBytes);
    _tile_loadd(6, w + 64, kRowBytes);
    if constexpr (half == 0) {
      _tile_zero(0);
      _tile_dpbssd(0, 4, 5);
      _tile_zero(1);
      _tile_dpbssd(1, 4, 6);
      _tile_stored(0, sums[0][0], kSumBytes);
      _tile_stored(1, sums[0][0] + 16, kSumBytes);
    } else {
      _tile_zero(2);
      _tile_dpbssd(2, 4, 5);
      _tile_zero(3);
      _tile_dpbssd(3, 4, 6);
      _tile_stored(2, sums[1][0], kSumBytes);
      _tile_stored(3, sums[1][0] + 16, kSumBytes);
    }
    finish_writes();
  }

  // y += sums[half] in steps of the scales of weights and rows
  template <int half>
  void scale(int64_t group) const {
    constexpr int kVectors = kHalf / kLanes;
    const uint16_t* scales = g.weight.scales(panel, group) + half * kHalf;
    vf of_weights[kVectors];
    for (int v = 0; v < kVectors; ++v) of_weights[v] = load_bf16(scales + v * kLanes);
    const char* row_scales = reinterpret_cast<const char*>(g.a.scales(first_row) + group);
    for (int64_t r = 0; r < rows; ++r) {
      vf of_row = set1(*reinterpret_cast<const float*>(row_scales + r * g.a.stride));
      const uint32_t* from = reinterpret_cast<const uint32_t*>(sums[half][r]);
      float* to = y + r * kLdy + half * kHalf;
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v)
        store(to + v * kLanes, fma(to_float(load_pairs(from + v * kLanes)), mul(of_weights[v], of_row), load(to + v * kLanes)));
    }
  }

  void run() const {
    multiply<0>(0);
    for (int64_t group = 0, groups = g.weight.num_groups(); group < groups; ++group) {
      multiply<1>(group);
      scale<0>(group);
      if (group + 1 < groups) multiply<0>(group + 1);
      scale<1>(group);
    }
  }
};

static inline void multiply_unit_group_tiles(const Gemm& g, int64_t first_row, int64_t end_row, int64_t unit) {
  alignas(64) float y[kTileRows][kLdy];
  alignas(4096) HalfSums sums;
  int64_t panel_bytes = g.weight.num_groups() * kSignedWords * 4;
  for (int p = 0; p < panels_of(g); ++p) write_signed_panel(g.weight, unit * panels_of(g) + p, g.scratch + p * panel_bytes);
  for (int64_t row = first_row; row < end_row; row += kTileRows) {
    int64_t rows = std::min<int64_t>(kTileRows, end_row - row);
    if (row == first_row || rows < kTileRows) configure_group_tiles(static_cast<int>(rows));
    for (int64_t i = 0; i < rows * kLdy; i += kLanes) store(y[0] + i, set1(0.0f));
    for (int p = 0; p < panels_of(g); ++p)
      GroupTiles{g, row, rows, unit * panels_of(g) + p, g.scratch + p * panel_bytes, y[0] + p * kPanel, sums}.run();
    for (int64_t r = 0; r < rows; ++r) finish(g, row + r, unit, y[r]);
  }
}

static inline void gemm_group_tiles(const Gemm& g, int64_t unit_begin, int64_t unit_end) {
  int64_t most = std::max<int64_t>(1, kRowsBytes / (g.a.values_bytes() * kTileRows)) * kTileRows;
  for (int64_t row = 0; row < g.rows; row += most)
    for (int64_t unit = unit_begin; unit < unit_end; ++unit) multiply_unit_group_tiles(g, row, std::min(row + most, g.rows), unit);
  _tile_release();
}

}  // namespace quire::QUIRE_ISA
