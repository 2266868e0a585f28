// bfloat16 products on matrix tiles: two by two for blocks of 32 rows, so that what is loaded is used twice.
#pragma once

#include <algorithm>

#include "gemm_finish.h"
#include "matrix_tiles.h"

namespace quire::QUIRE_ISA {

constexpr int64_t kRowsBytes = 1 << 20;  // of activations that meet all panels before the next: they stay in the second-level cache

// Fetches the panels of the next unit evenly, while blocks of rows meet those of this one.
class PanelFetcher {
 public:
  PanelFetcher(const char* next, int64_t blocks) : next_(next), bytes_(round_up(kHalfBytes / blocks, 64)) {}

  // Called once for a step of a block and half a panel.
  void step() {
    for (int64_t line = 0; line < bytes_; line += 64) __builtin_prefetch(next_ + line, 0, 2);
    next_ += bytes_;
  }

 private:
  static constexpr int64_t kHalfBytes = kGroup * kPanel;  // of a step
  const char* next_;
  int64_t bytes_;
};

// y [rows, 64] of a block of rows and one panel. Few rows wait for memory, which fetches ahead without being asked.
static inline void multiply_panel_tiles(const Gemm& g, int64_t first_row, int64_t rows, const char* panel, PanelFetcher& fetcher, float* y) {
  constexpr int64_t kRowBytes = 4 * kPanel;
  TileWork work{g.a.row(first_row), g.a.stride, kRowBytes, 0, g.weight.num_groups(), y, kLdy * 4};
  auto words = [&](int64_t group) { return panel + group * (kGroup / 2) * kRowBytes; };
  if (rows <= kTileRows) return multiply_flat<kPanel>(work, words);
  for (int64_t column = 0; column < kPanel; column += 2 * kTileColumns) {
    work.sums = y + column;
    multiply_square(work, [&](int64_t group) {
      fetcher.step();
      return words(group) + 4 * column;
    });
  }
}

static inline void multiply_unit_tiles(const Gemm& g, int64_t first_row, int64_t rows, int64_t unit) {
  alignas(64) float y[kBlockRows][kLdy];
  int64_t panels = panels_of(g);
  PanelFetcher fetcher(g.weight.panel((unit + 1) * panels), (rows + kBlockRows - 1) / kBlockRows);
  for (int64_t row = 0; row < rows; row += kBlockRows) {
    int64_t block = std::min<int64_t>(kBlockRows, rows - row);
    if (row == 0 || block < kBlockRows) configure_tiles(static_cast<int>(block));
    for (int64_t p = 0; p < panels; ++p)
      multiply_panel_tiles(g, first_row + row, block, g.weight.panel(unit * panels + p), fetcher, y[0] + p * kPanel);
    for (int64_t r = 0; r < block; ++r) finish(g, first_row + row + r, unit, y[r]);
  }
}

static inline void gemm_tiles(const Gemm& g, int64_t unit_begin, int64_t unit_end) {
  int64_t most = std::max<int64_t>(1, kRowsBytes / (g.a.values_bytes() * kBlockRows)) * kBlockRows;
  for (int64_t row = 0; row < g.rows; row += most)
    for (int64_t unit = unit_begin; unit < unit_end; ++unit) multiply_unit_tiles(g, row, std::min(most, g.rows - row), unit);
  _tile_release();
}

}  // namespace quire::QUIRE_ISA
