// bfloat16 products with AMX: row panels of 32 by 32 columns (2x2 tmm), so that each load feeds two TMULs.
#pragma once

#include <algorithm>

#include "amx.h"
#include "gemm_epilogue.h"
#include "prefetch.h"

namespace quire::QUIRE_ISA {

// Activations that meet all weight panels before the next ones: they stay in L3.
constexpr int64_t kL3ActivationBytes = 8 << 20;

// Prefetches the weight panels of the next unit into L2, evenly over the k-slices of this unit's row panels.
class PanelPrefetcher {
 public:
  PanelPrefetcher() = default;
  PanelPrefetcher(const Gemm& g, int64_t unit, int64_t num_slices) {
    const int64_t first = (unit + 1) * panels_per_unit(g), end = first + panels_per_unit(g);
    if (end > g.weight.num_panels) return;
    next_ = g.weight[first].base;
    end_ = g.weight.base + g.weight.offsets[end];
    slice_bytes_ = round_up((end_ - next_ + num_slices - 1) / num_slices, kLineBytes);
  }

  void advance() {
    for (const char* end = std::min(next_ + slice_bytes_, end_); next_ < end; next_ += kLineBytes)
      prefetch_l2(next_);
  }

 private:
  const char* next_ = nullptr;
  const char* end_ = nullptr;
  int64_t slice_bytes_ = 0;
};

constexpr int64_t kWordStride = 4 * kPanel;              // bytes between rows of words
constexpr int64_t kSliceBytes = kTmmRows * kWordStride;  // of a panel per k-slice, one TMUL's

// Multiplies one unit after another. The epilogue of a row panel runs interleaved with the TMULs of the next
// one, so y has two buffers.
class AmxBf16Gemm {
 public:
  explicit AmxBf16Gemm(const Gemm& g) : g_(g), epilogues_(g) {}
  ~AmxBf16Gemm() { _tile_release(); }

  void multiply(int64_t first_row, int64_t rows, int64_t unit) {
    const int64_t panels = panels_per_unit(g_), row_panels = (rows + kRowPanel - 1) / kRowPanel;
    PanelPrefetcher prefetcher(g_, unit, row_panels * panels * 2 * num_slices());
    for (int64_t row = 0; row < rows; row += kRowPanel) {
      int64_t size = std::min<int64_t>(kRowPanel, rows - row);
      if (row == 0 || size < kRowPanel) configure_tmm(static_cast<int>(size));
      y_ = y_ == buffers_[0] ? buffers_[1] : buffers_[0];
      for (int64_t p = 0; p < panels; ++p)
        multiply_rows(first_row + row, size, unit * panels + p, y_ + p * kPanel, prefetcher);
      epilogues_.push(first_row + row, size, unit, y_);
    }
  }

  void finish() { epilogues_.flush(); }

 private:
  void multiply_rows(int64_t row, int64_t size, int64_t panel, float* y, PanelPrefetcher& prefetcher) {
    const TmulTask task{g_.a.row(row), g_.a.stride, kWordStride, 0, num_slices(), y, kLdy * 4, size / 2};
    if (size <= kTmmRows) multiply_1xn(task, g_.weight[panel].base);
    else multiply_2x2(task, g_.weight[panel].base, prefetcher);
  }

  int64_t num_slices() const { return (g_.a.k + kGroup - 1) / kGroup; }

  // Up to 16 rows. If the step has no others the panel streams from memory; else it is in L2.
  void multiply_1xn(const TmulTask& task, const char* panel) {
    constexpr int64_t kQuarterBytes = kGroup / 2 / 4 * kWordStride;
    const bool from_memory = g_.rows <= kTmmRows;
    auto b_at = [=](int64_t k_slice) { return panel + k_slice * kSliceBytes; };
    tmul_1xn<kPanel>(task, b_at, [&](int64_t k_slice, int i) __attribute__((always_inline)) {
      if (from_memory) prefetch_stream(b_at(k_slice) + i * kQuarterBytes, kQuarterBytes, g_.prefetch);
      if (i == 3) epilogues_.run_some(1);
    });
  }

  // 17 to 32 rows, 32 columns at a time. Prefetches what the next k-slice reads from L2 into L1, and the next
  // panels into L2.
  void multiply_2x2(TmulTask task, const char* panel, PanelPrefetcher& prefetcher) {
    constexpr int64_t kQuarterRows = kRowPanel / 4, kQuarterWords = kGroup / 2 / 4;
    for (const char* columns = panel; columns < panel + kWordStride;
         columns += 2 * kLineBytes, task.c += 2 * kTmmColumns) {
      auto b_at = [=](int64_t k_slice) { return columns + k_slice * kSliceBytes; };
      tmul_2x2(task, b_at, [&](int64_t k_slice, int i) __attribute__((always_inline)) {
        const char* next = b_at(k_slice + 1) + i * kQuarterWords * kWordStride;
        prefetch_lines(task.a + kLineBytes * (k_slice + 1) + i * kQuarterRows * task.a_stride, task.a_stride,
                       kQuarterRows);
        prefetch_lines(next, kWordStride, kQuarterWords);
        prefetch_lines(next + kLineBytes, kWordStride, kQuarterWords);
        if (i == 0) prefetcher.advance();
        if (i == 2) epilogues_.run_some(1);
      });
    }
  }

  const Gemm& g_;
  EpilogueQueue epilogues_;
  alignas(64) float buffers_[2][kRowPanel * kLdy];
  float* y_ = buffers_[0];
};

static inline void gemm_amx_bf16(const Gemm& g, int64_t unit_begin, int64_t unit_end) {
  int64_t most =
      std::max<int64_t>(1, kL3ActivationBytes / (2 * round_up(g.a.k, kGroup) * kRowPanel)) * kRowPanel;
  AmxBf16Gemm product(g);
  for (int64_t row = 0; row < g.rows; row += most)
    for (int64_t unit = unit_begin; unit < unit_end; ++unit)
      product.multiply(row, std::min(most, g.rows - row), unit);
  product.finish();
}

}  // namespace quire::QUIRE_ISA
