// y = a W^T over packed panels, with what follows the product fused onto it while it is still in cache.
//
//   for each panel             64 columns, streamed from memory once for up to kChunkRows rows
//     for each piece of K      as much of the panel as stays in the first-level cache
//       for each tile of rows  as many as have their sums in registers
//
// None of these borders is seen in the result: see gemm_float.h and gemm_int.h.
#pragma once

#include <algorithm>

#include "gemm_epilogue.h"
#include "gemm_float.h"
#include "gemm_int.h"
#include "row_dispatch.h"
#if defined(QUIRE_AMX)
#include "gemm_amx_bf16.h"
#include "gemv_int4_vnni.h"
#include "gemm_amx_int.h"
#endif

namespace quire::QUIRE_ISA {

constexpr int64_t kChunkRows = 24;
constexpr int64_t kPieceBytes = 16 << 10;
constexpr int64_t kFewRows = 12;
static_assert(kL2Ahead == kPieceBytes, "many rows fetch the next piece");

// A piece of K of one panel for the rows of a chunk.
template <class Format>
struct FloatPiece {
  const Gemm& g;
  const char* panel;
  int64_t first_row;
  GroupRange groups;  // of the first tile
  float* y;

  // Every tile prefetches its part of what the piece prefetches.
  GroupRange groups_for(int64_t tile) const {
    int64_t rows = (groups.end - groups.begin) * g.weight.bytes_per_group() / (4 * kPanel);
    return {groups.begin, groups.end, groups.read + tile * rows * groups.prefetch_bytes, groups.prefetch_bytes, groups.has_few_rows};
  }

  template <int R>
  void run(int64_t row, int64_t tile) const {
    const char* a[R];
    for (int r = 0; r < R; ++r) a[r] = g.a.row(first_row + row + r);
    multiply_floats<Format, R>(a, panel, groups_for(tile), y + row * kLdy, kLdy);
  }
};

// y [rows, 64] += a panel's products, piece by piece: few rows wait for memory, and read small pieces that are fetched far ahead.
template <class Format>
static inline void multiply_float_panel(const Gemm& g, const char* panel, int64_t first_row, int64_t rows, float* y) {
  int64_t tiles = (rows + kMaxFloatRows - 1) / kMaxFloatRows, groups = g.weight.num_groups();
  int64_t step = rows <= kFewRows ? 1 : kPieceBytes / g.weight.bytes_per_group();
  int64_t prefetch_bytes = first_row == 0 ? 4 * kPanel / tiles : 0;
  for (int64_t begin = 0; begin < groups; begin += step) {
    const char* read = panel + begin * g.weight.bytes_per_group();
    GroupRange range{begin, std::min(begin + step, groups), read, prefetch_bytes, rows <= kFewRows};
    for_even_tiles<kMaxFloatRows>(rows, tiles, FloatPiece<Format>{g, panel, first_row, range, y});
  }
}

static inline void multiply_panel(const Gemm& g, const char* panel, int64_t first_row, int64_t rows, float* y) {
  switch (g.weight.format) {
    case WeightFormat::kF32: return multiply_float_panel<Float32>(g, panel, first_row, rows, y);
    case WeightFormat::kBF16: return multiply_float_panel<BFloat16>(g, panel, first_row, rows, y);
    case WeightFormat::kInt8: return multiply_int_panel<Int8>(g, panel, first_row, rows, y);
    default: return multiply_int_panel<Int4>(g, panel, first_row, rows, y);
  }
}

static inline void multiply_unit(const Gemm& g, int64_t unit) {
  alignas(64) float y[kChunkRows][kLdy];
  int panels = panels_of(g);
  for (int64_t row = 0; row < g.rows; row += kChunkRows) {
    int64_t rows = g.rows - row < kChunkRows ? g.rows - row : kChunkRows;
    std::memset(y, 0, static_cast<size_t>(rows) * sizeof y[0]);
    for (int p = 0; p < panels; ++p) multiply_panel(g, g.weight.panel(unit * panels + p), row, rows, y[0] + p * kPanel);
    for (int64_t r = 0; r < rows; ++r) finish(g, row + r, unit, y[r]);
  }
}

static void gemm(const Gemm& g, int64_t unit_begin, int64_t unit_end) {
#if defined(QUIRE_AMX)
  if (g.weight.format == WeightFormat::kBF16) return gemm_tiles(g, unit_begin, unit_end);
  if (g.weight.format == WeightFormat::kInt8Tiles) return gemm_int_tiles<2>(g, unit_begin, unit_end);
  if (g.weight.format == WeightFormat::kInt4Tiles && g.rows <= kFewNibbleRows) return gemm_few_nibbles(g, unit_begin, unit_end);
  if (g.weight.format == WeightFormat::kInt4Tiles) return gemm_int_tiles<1>(g, unit_begin, unit_end);
#endif
  for (int64_t unit = unit_begin; unit < unit_end; ++unit) multiply_unit(g, unit);
}

}  // namespace quire::QUIRE_ISA
