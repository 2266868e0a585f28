// bfloat16 products on matrix tiles: two by two for blocks of 32 rows, so that what is loaded is used twice.
#pragma once

#include <algorithm>

#include "fetch.h"
#include "gemm_finish.h"
#include "matrix_tiles.h"

namespace quire::QUIRE_ISA {

constexpr int64_t kRowsBytes = 1 << 20;  // of activations that meet all panels before the next: they stay in the second-level cache

// Fetches the panels of the next unit evenly, while blocks of rows meet those of this one in so many steps.
class PanelFetcher {
 public:
  PanelFetcher(const Gemm& g, int64_t unit, int64_t steps) : next_(g.weight.panel((unit + 1) * panels_of(g))) {
    int64_t bytes = panels_of(g) * g.weight.bytes_per_panel();
    end_ = next_ + bytes;
    step_bytes_ = round_up((bytes + steps - 1) / steps, kLineBytes);
  }

  void step() {
    for (const char* end = std::min(next_ + step_bytes_, end_); next_ < end; next_ += kLineBytes) __builtin_prefetch(next_, 0, 2);
  }

 private:
  const char* next_;
  const char* end_;
  int64_t step_bytes_;
};

// y [rows, 64] of a block of rows and one panel, which waits for memory if there is no other block.
static inline void multiply_panel_tiles(const Gemm& g, int64_t first_row, int64_t rows, const char* panel, PanelFetcher& fetcher, float* y) {
  constexpr int64_t kRowBytes = 4 * kPanel;
  TileWork work{g.a.row(first_row), g.a.stride, kRowBytes, 0, g.weight.num_groups(), y, kLdy * 4};
  auto words = [&](int64_t group) { return panel + group * (kGroup / 2) * kRowBytes; };
  if (g.rows <= kTileRows)
    return multiply_flat<kPanel>(work, [&](int64_t group) {
      fetch_stream(words(group), g.weight.bytes_per_group());
      return words(group);
    });
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
  PanelFetcher fetcher(g, unit, (rows + kBlockRows - 1) / kBlockRows * panels * 2 * g.weight.num_groups());
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
