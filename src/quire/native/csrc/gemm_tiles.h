// bfloat16 products on matrix tiles: two by two for blocks of 32 rows, so that what is loaded is used twice.
#pragma once

#include <algorithm>

#include "fetch.h"
#include "gemm_finish.h"
#include "matrix_tiles.h"

namespace quire::QUIRE_ISA {

constexpr int64_t kRowsBytes = 8 << 20;  // of activations that meet all panels before the next: they stay in the third-level cache

// Fetches the panels of the next unit evenly, while blocks of rows meet those of this one in so many steps.
class PanelFetcher {
 public:
  PanelFetcher(const Gemm& g, int64_t unit, int64_t steps) : next_(g.weight.panel((unit + 1) * panels_of(g))) {
    int64_t bytes = panels_of(g) * g.weight.bytes_per_panel();
    end_ = next_ + bytes;
    step_bytes_ = round_up((bytes + steps - 1) / steps, kLineBytes);
  }

  void step() {
    for (const char* end = std::min(next_ + step_bytes_, end_); next_ < end; next_ += kLineBytes) fetch_far(next_);
  }

 private:
  const char* next_;
  const char* end_;
  int64_t step_bytes_;
};

constexpr int64_t kWordStride = 4 * kPanel;  // bytes from one row of words to the next

// y [rows, 64] of up to 16 rows and one panel. If there are no other rows they wait for memory; else the panel is in the
// second-level cache.
static inline void multiply_few(const TileWork& work, const char* panel, int64_t step_bytes, bool from_memory) {
  constexpr int64_t kPartBytes = kGroup / 2 / 4 * kWordStride;
  auto words = [=](int64_t step) { return panel + step * step_bytes; };
  multiply_flat<kPanel>(work, words, [=](int64_t step, int part) {
    if (from_memory) fetch_stream(words(step) + part * kPartBytes, kPartBytes);
  });
}

// The same of 17 to 32 rows. What the next step reads is fetched from the second-level cache, and the next panels into it.
static inline void multiply_many(TileWork work, const char* panel, int64_t step_bytes, PanelFetcher& fetcher) {
  constexpr int64_t kPartRows = kBlockRows / 4, kPartWords = kGroup / 2 / 4;
  const char* rows = work.rows;
  const int64_t row_stride = work.row_stride;
  for (const char* strip = panel; strip < panel + kWordStride; strip += 2 * kLineBytes, work.sums += 2 * kTileColumns) {
    auto words = [=](int64_t step) { return strip + step * step_bytes; };
    multiply_square(work, words, [=, &fetcher](int64_t step, int part) {
      const char* next = words(step + 1) + part * kPartWords * kWordStride;
      fetch_lines(rows + kLineBytes * (step + 1) + part * kPartRows * row_stride, row_stride, kPartRows);
      fetch_lines(next, kWordStride, kPartWords);
      fetch_lines(next + kLineBytes, kWordStride, kPartWords);
      if (part == 0) fetcher.step();
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
    for (int64_t p = 0; p < panels; ++p) {
      TileWork work{g.a.row(first_row + row), g.a.stride, kWordStride, 0, g.weight.num_groups(), y[0] + p * kPanel, kLdy * 4, block / 2};
      const char* panel = g.weight.panel(unit * panels + p);
      if (block <= kTileRows) multiply_few(work, panel, g.weight.bytes_per_group(), g.rows <= kTileRows);
      else multiply_many(work, panel, g.weight.bytes_per_group(), fetcher);
    }
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
