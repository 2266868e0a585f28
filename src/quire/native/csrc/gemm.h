// C = A W^T over packed panels, with the epilogue fused on while C is in cache.
//
//   for each panel                   64 columns, streamed from memory once per kMcRows rows
//     for each K-slice of the panel  as much as stays in L1
//       for each row panel           as many rows as have their accumulators in registers
//
// None of these boundaries shows in the result: see gemm_float.h and gemm_int.h.
#pragma once

#include <algorithm>

#include "gemm_epilogue.h"
#include "gemm_float.h"
#include "gemm_int.h"
#include "row_dispatch.h"
#if defined(QUIRE_AMX)
#include "gemm_amx_bf16.h"
#include "gemm_amx_int8.h"
#endif

namespace quire::QUIRE_ISA {

constexpr int64_t kMcRows = 24;             // rows whose accumulators y stay in L1
constexpr int64_t kKSliceBytes = 16 << 10;  // of a panel
constexpr int64_t kFewRows = 12;
static_assert(kL2Ahead == kKSliceBytes, "many rows prefetch the next K-slice");

// A K-slice of one panel times up to kMcRows rows.
template <class Format>
struct FloatKSlice {
  const Gemm& g;
  const Panel& panel;
  int64_t first_row;
  GroupRange groups;  // of the first row panel
  float* y;

  // Each row panel prefetches its part of what the K-slice prefetches.
  GroupRange groups_for(int64_t row_panel) const {
    int64_t rows = (groups.end - groups.begin) * panel.format.block_bytes() / (4 * kPanel);
    return {
        groups.begin,          groups.end,          groups.read + row_panel * rows * groups.prefetch_bytes,
        groups.prefetch_bytes, groups.has_few_rows, groups.prefetch};
  }

  template <int R>
  void run(int64_t row, int64_t row_panel) const {
    const char* a[R];
    for (int r = 0; r < R; ++r) a[r] = g.a.row(first_row + row + r);
    multiply_floats<Format, R>(a, panel.base, groups_for(row_panel), y + row * kLdy, kLdy);
  }
};

// y [rows, 64] += A times a panel, one K-slice at a time. Few rows are memory-bound: their slices are one
// group, prefetched far ahead.
template <class Format>
static inline void multiply_float_panel(const Gemm& g, const Panel& panel, int64_t first_row, int64_t rows,
                                        float* y) {
  int64_t row_panels = (rows + kMaxFloatRows - 1) / kMaxFloatRows, groups = panel.num_sections();
  int64_t groups_per_slice = rows <= kFewRows ? 1 : kKSliceBytes / panel.format.block_bytes();
  int64_t prefetch_bytes = first_row == 0 ? 4 * kPanel / row_panels : 0;
  for (int64_t begin = 0; begin < groups; begin += groups_per_slice) {
    const char* read = panel.section(begin);
    GroupRange range{
        begin,     std::min(begin + groups_per_slice, groups), read, prefetch_bytes, rows <= kFewRows,
        g.prefetch};
    for_row_panels<kMaxFloatRows>(rows, row_panels, FloatKSlice<Format>{g, panel, first_row, range, y});
  }
}

static inline void multiply_panel(const Gemm& g, const Panel& panel, int64_t first_row, int64_t rows,
                                  float* y) {
  switch (panel.format.encoding) {
    case Encoding::kF32: return multiply_float_panel<Float32>(g, panel, first_row, rows, y);
    case Encoding::kBF16: return multiply_float_panel<BFloat16>(g, panel, first_row, rows, y);
    default: return multiply_int_panel(g, panel, first_row, rows, y);
  }
}

static inline void multiply_unit(const Gemm& g, int64_t unit) {
  alignas(64) float y[kMcRows][kLdy];
  int panels = panels_per_unit(g);
  for (int64_t row = 0; row < g.rows; row += kMcRows) {
    int64_t rows = g.rows - row < kMcRows ? g.rows - row : kMcRows;
    std::memset(y, 0, static_cast<size_t>(rows) * sizeof y[0]);
    for (int p = 0; p < panels; ++p)
      multiply_panel(g, g.weight[unit * panels + p], row, rows, y[0] + p * kPanel);
    for (int64_t r = 0; r < rows; ++r) run_epilogue(g, row + r, unit, y[r]);
  }
}

static void gemm(const Gemm& g, int64_t unit_begin, int64_t unit_end) {
#if defined(QUIRE_AMX)
  if (g.weight.encoding() == Encoding::kBF16) return gemm_amx_bf16(g, unit_begin, unit_end);
  if (g.weight.encoding() == Encoding::kInt8Amx) return gemm_amx_int8(g, unit_begin, unit_end);
#endif
  for (int64_t unit = unit_begin; unit < unit_end; ++unit) multiply_unit(g, unit);
}

}  // namespace quire::QUIRE_ISA
