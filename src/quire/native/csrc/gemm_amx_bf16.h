// bfloat16 products on matrix tiles: two by two for blocks of 32 rows, so that what is loaded is used twice.
#pragma once

#include <algorithm>

#include "prefetch.h"
#include "gemm_epilogue.h"
#include "amx.h"

namespace quire::QUIRE_ISA {

constexpr int64_t kRowsBytes = 8 << 20;  // of activations that meet all panels before the next: they stay in the third-level cache

// Fetches the panels of the next unit evenly, while blocks of rows meet those of this one in so many steps.
class PanelPrefetcher {
 public:
  PanelPrefetcher() = default;
  PanelPrefetcher(const Gemm& g, int64_t unit, int64_t steps) : next_(g.weight.panel((unit + 1) * panels_of(g))) {
    int64_t bytes = panels_of(g) * g.weight.bytes_per_panel();
    end_ = next_ + bytes;
    step_bytes_ = round_up((bytes + steps - 1) / steps, kLineBytes);
  }

  void step() {
    for (const char* end = std::min(next_ + step_bytes_, end_); next_ < end; next_ += kLineBytes) prefetch_l2(next_);
  }

 private:
  const char* next_ = nullptr;
  const char* end_ = nullptr;
  int64_t step_bytes_ = 0;
};

constexpr int64_t kWordStride = 4 * kPanel;  // bytes from one row of words to the next

// Units, one after the other. The sums of a block of rows are finished beside the products of the next one, so there is room for two.
class FloatProduct {
 public:
  explicit FloatProduct(const Gemm& g) : g_(g), finisher_(g) {}
  ~FloatProduct() { _tile_release(); }

  void multiply(int64_t first_row, int64_t rows, int64_t unit) {
    const int64_t panels = panels_of(g_), num_blocks = (rows + kBlockRows - 1) / kBlockRows;
    PanelPrefetcher prefetcher(g_, unit, num_blocks * panels * 2 * g_.weight.num_groups());
    for (int64_t row = 0; row < rows; row += kBlockRows) {
      int64_t block = std::min<int64_t>(kBlockRows, rows - row);
      if (row == 0 || block < kBlockRows) configure_tiles(static_cast<int>(block));
      y_ = y_ == rooms_[0] ? rooms_[1] : rooms_[0];
      for (int64_t p = 0; p < panels; ++p) multiply_block(first_row + row, block, unit * panels + p, y_ + p * kPanel, prefetcher);
      finisher_.start(first_row + row, block, unit, y_);
    }
  }

  void finish() { finisher_.finish_all(); }

 private:
  void multiply_block(int64_t row, int64_t block, int64_t panel, float* y, PanelPrefetcher& prefetcher) {
    const TileWork work{g_.a.row(row), g_.a.stride, kWordStride, 0, g_.weight.num_groups(), y, kLdy * 4, block / 2};
    if (block <= kTileRows) multiply_few(work, g_.weight.panel(panel));
    else multiply_many(work, g_.weight.panel(panel), prefetcher);
  }

  // Up to 16 rows. If there are no others they wait for memory; else the panel is in the second-level cache.
  void multiply_few(const TileWork& work, const char* panel) {
    constexpr int64_t kPartBytes = kGroup / 2 / 4 * kWordStride;
    const bool from_memory = g_.rows <= kTileRows;
    auto words = [=, bytes = g_.weight.bytes_per_group()](int64_t step) { return panel + step * bytes; };
    multiply_flat<kPanel>(work, words, [&](int64_t step, int part) __attribute__((always_inline)) {
      if (from_memory) prefetch_stream(words(step) + part * kPartBytes, kPartBytes);
      if (part == 3) finisher_.finish_some(1);
    });
  }

  // 17 to 32 rows, a strip of 32 columns after the other. What the next step reads is fetched from the second-level cache, and the
  // next panels into it.
  void multiply_many(TileWork work, const char* panel, PanelPrefetcher& prefetcher) {
    constexpr int64_t kPartRows = kBlockRows / 4, kPartWords = kGroup / 2 / 4;
    for (const char* strip = panel; strip < panel + kWordStride; strip += 2 * kLineBytes, work.sums += 2 * kTileColumns) {
      auto words = [=, bytes = g_.weight.bytes_per_group()](int64_t step) { return strip + step * bytes; };
      multiply_square(work, words, [&](int64_t step, int part) __attribute__((always_inline)) {
        const char* next = words(step + 1) + part * kPartWords * kWordStride;
        prefetch_lines(work.rows + kLineBytes * (step + 1) + part * kPartRows * work.row_stride, work.row_stride, kPartRows);
        prefetch_lines(next, kWordStride, kPartWords);
        prefetch_lines(next + kLineBytes, kWordStride, kPartWords);
        if (part == 0) prefetcher.step();
        if (part == 2) finisher_.finish_some(1);
      });
    }
  }

  const Gemm& g_;
  Finisher finisher_;
  alignas(64) float rooms_[2][kBlockRows * kLdy];
  float* y_ = rooms_[0];
};

static inline void gemm_tiles(const Gemm& g, int64_t unit_begin, int64_t unit_end) {
  int64_t most = std::max<int64_t>(1, kRowsBytes / (g.a.values_bytes() * kBlockRows)) * kBlockRows;
  FloatProduct product(g);
  for (int64_t row = 0; row < g.rows; row += most)
    for (int64_t unit = unit_begin; unit < unit_end; ++unit) product.multiply(row, std::min(most, g.rows - row), unit);
  product.finish();
}

}  // namespace quire::QUIRE_ISA
