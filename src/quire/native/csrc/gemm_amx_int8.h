// int8 products with AMX, over panels in the encoding kInt8Amx.
//
// TMULs multiply bytes. Activations are 16-bit, and a row counts as two rows of A, its high and its low
// bytes. Sums over a group of 256 elements are exact, also 256 * high + low, which fits 32 bits; groups are
// added in float32, in order. So rows may be panelled in any way.
//
// Vector work is interleaved with the TMULs: scaling and accumulating the previous group's int32 sums into y.
#pragma once

#include <algorithm>

#include "gemm_amx_bf16.h"

namespace quire::QUIRE_ISA {

constexpr int64_t kIntMcRows = 128;                 // rows that multiply a group before the next group
constexpr int64_t kPairColumns = 2 * kTmmColumns;   // columns of a 2x2 product
constexpr int64_t kQuarterBytes = kSliceBytes / 4;  // per TMUL, four of them per k-slice

// The int32 sums of a row panel for one group, to be accumulated into y.
struct PendingSums {
  const int32_t* sums;
  const uint16_t* scales;
  const char* row_scales;
  int64_t row_stride;
  float* y;
  int64_t begin, end;  // rows
  bool is_first;       // the first group overwrites y
};

// Accumulates the previous group's int32 sums into y, interleaved with the TMULs: kRows rows per four
// k-slices. What is the same for all rows stays in registers, because every instruction next to a TMUL
// counts.
template <int kRows, int64_t kColumns>
class SumAccumulator {
 public:
  explicit SumAccumulator(const PendingSums& from)
      : from_(from), keeps_(static_cast<__mmask16>(from.is_first ? 0 : 0xffff)) {
    if (from_.begin == from_.end) return;
    for (int v = 0; v < kVectors; ++v) scales_[v] = load_bf16(from_.scales + v * kLanes);
  }

  // The rows due after TMUL `i` of a k-slice.
  QUIRE_INLINE void add_after(int64_t k_slice, int i) const {
#pragma GCC unroll 2
    for (int row = i * kRowsPerSlice / 4; row < (i + 1) * kRowsPerSlice / 4; ++row) {
      int64_t r = k_slice * kRowsPerSlice + row;
      if (from_.begin <= r && r < from_.end) add_row(r);
    }
  }

  // The rows left after that many k-slices.
  void add_rest(int64_t num_slices) const {
    for (int64_t row = std::max(from_.begin, num_slices * kRowsPerSlice); row < from_.end; ++row)
      add_row(row);
  }

 private:
  static constexpr int kRowsPerSlice = kRows * kTmmBytes / kSuperGroup;
  static constexpr int kVectors = kColumns / kLanes;

  QUIRE_INLINE void add_row(int64_t row) const {
    const int32_t* sums = from_.sums + 2 * row * kColumns;
    float* to = from_.y + row * kLdy;
    vf row_scale = set1(*reinterpret_cast<const float*>(from_.row_scales + row * from_.row_stride));
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v, sums += kLanes, to += kLanes) {
      vi total = _mm512_slli_epi32(_mm512_load_si512(sums), 8);
      total = _mm512_add_epi32(total, _mm512_load_si512(sums + kColumns));
      store(to, fma(to_float(total), mul(scales_[v], row_scale), _mm512_maskz_loadu_ps(keeps_, to)));
    }
  }

  const PendingSums from_;
  const __mmask16 keeps_;
  vf scales_[kVectors];
};

// Multiplies one unit after another; epilogues run interleaved with the next unit's TMULs.
class AmxInt8Gemm {
 public:
  static constexpr int kValueBytes = 2;                        // of an activation
  static constexpr int64_t kRows = kRowPanel / kValueBytes;    // of a 2x2 product
  static constexpr int64_t k1xNRows = kTmmRows / kValueBytes;  // that fit one tmm
  static constexpr int64_t kEpilogueRows = kRows / 8;          // per row panel
  using Accumulator1xN = SumAccumulator<k1xNRows, kPanel>;
  using Accumulator2x2 = SumAccumulator<kRows, kPairColumns>;

  explicit AmxInt8Gemm(const Gemm& g)
      : g_(g), epilogues_(g), from_memory_(g.rows <= kTmmRows), is_1xn_(g.rows <= k1xNRows) {
    configure_tmm(static_cast<int>(panel_rows()));
  }
  ~AmxInt8Gemm() { _tile_release(); }

  // Rows [begin, end) times a unit.
  void multiply(int64_t begin, int64_t end, int64_t unit) {
    const int64_t panels = panels_per_unit(g_),
                  row_panels = (kValueBytes * (end - begin) + kRowPanel - 1) / kRowPanel;
    prefetcher_ = PanelPrefetcher(
        g_, unit, row_panels * panels * kPanel / kPairColumns * round_up(g_.a.k, kTmmBytes) / kTmmBytes);
    for (int64_t row = begin; row < end; row += kIntMcRows) {
      unit_y_ = unit_y_ == y_buffers_[0] ? y_buffers_[1] : y_buffers_[0];
      first_row_ = row, rows_ = std::min(kIntMcRows, end - row);
      for (int64_t p = 0; p < panels; ++p) multiply_panel(g_.weight[unit * panels + p], unit_y_ + p * kPanel);
      epilogues_.push(row, rows_, unit, unit_y_);
    }
  }

  void finish() { epilogues_.flush(); }

 private:
  // y [rows, kLdy] = up to kIntMcRows rows times a panel.
  void multiply_panel(const Panel& panel, float* y) {
    panel_ = panel, y_ = y;
    for (int64_t group = 0; group < panel.num_sections(); ++group) {
      if (is_1xn_) multiply_group_1xn(group);
      else multiply_group_2x2(group, panel.words(group, 0));
    }
    if (is_1xn_) Accumulator1xN(pending_).add_rest(0);
    else Accumulator2x2(pending_).add_rest(0);
    pending_ = {};
  }

  TmulTask task_of(int64_t group, int64_t row, int64_t columns) {
    sums_ = sums_ == sum_buffers_[0] ? sum_buffers_[1] : sum_buffers_[0];
    int64_t slices = panel_.elements_of(group) / kTmmBytes;
    return {a_at(row, group), g_.a.stride / kValueBytes,       kWordStride, 0,
            slices,           reinterpret_cast<float*>(sums_), columns * 4, panel_rows() / 2};
  }
  int64_t panel_rows() const { return std::min(kValueBytes * g_.rows, int64_t{kRowPanel}); }
  const char* a_at(int64_t row, int64_t group) const {
    return g_.a.row(first_row_ + row) + group * kSuperGroup;
  }

  // Queues the sums just stored; they are accumulated during the next TMULs.
  void queue_sums(int64_t group, int64_t row, int64_t column, int64_t begin, int64_t end) {
    const char* row_scales = reinterpret_cast<const char*>(g_.a.split_scales(first_row_ + row) + group);
    const uint16_t* scales = panel_.scales(group) + column;
    pending_ = {sums_, scales, row_scales, g_.a.stride, y_ + row * kLdy + column, begin, end, group == 0};
  }

  void prefetch_scales(int64_t group) const {
    prefetch_stream(panel_.section(group), panel_.format.header_bytes(), g_.prefetch);
  }

  void multiply_group_1xn(int64_t group) {
    const Accumulator1xN accumulator(pending_);
    const TmulTask task = task_of(group, 0, kPanel);
    const char* words = panel_.block(group, 0);
    auto b_at = [=](int64_t k_slice) { return words + k_slice * kSliceBytes; };
    prefetch_scales(group);
    tmul_1xn<kPanel, TmmElement::kInt8>(
        task, b_at, [&](int64_t k_slice, int i) __attribute__((always_inline)) {
          prefetch_stream(b_at(k_slice) + i * kQuarterBytes, kQuarterBytes, g_.prefetch);
          accumulator.add_after(k_slice, i);
        });
    accumulator.add_rest(task.end);
    queue_sums(group, 0, 0, 0, rows_);
    epilogues_.run_some(kEpilogueRows);
  }

  // Row panels of 16 rows. The last panel may start before its first new row, even among rows
  // that were multiplied earlier; only its new rows are accumulated.
  void multiply_group_2x2(int64_t group, const uint32_t* words) {
    for (int64_t column = 0; column < kPanel; column += kPairColumns)
      for (int64_t row = 0; row < rows_; row += kRows) {
        int64_t first = g_.rows <= kRows ? 0 : std::min(row, rows_ - kRows);
        if (from_memory_) multiply_rows_from_memory(group, words, column);
        else multiply_rows(group, words + column, first);
        queue_sums(group, first, column, row - first, std::min(kRows, rows_ - first));
        epilogues_.run_some(kEpilogueRows);
      }
  }

  // 9 to 16 rows in all: weights stream from memory. Prefetches the next group into L2, one half
  // per column pair, and this pair's next k-slice from there into L1.
  void multiply_rows_from_memory(int64_t group, const uint32_t* words, int64_t column) {
    constexpr int64_t kQuarterWords = kTmmBytes / 4 / 4;
    auto b_at = [=](int64_t k_slice) {
      return reinterpret_cast<const char*>(words + column) + k_slice * kSliceBytes;
    };
    const int64_t bytes = panel_.elements_of(group) * kPanel;
    const char* l2_next = reinterpret_cast<const char*>(words) + bytes + panel_.format.header_bytes() +
                          (column > 0 ? bytes / 2 : 0);
    if (column == 0) prefetch_l2(l2_next - 2 * kLineBytes), prefetch_l2(l2_next - kLineBytes);
    const Accumulator2x2 accumulator(pending_);
    const TmulTask task = task_of(group, 0, kPairColumns);
    tmul_2x2<TmmElement::kInt8>(task, b_at, [&](int64_t k_slice, int i) __attribute__((always_inline)) {
      for (int64_t line = 0; line < kQuarterBytes / 2; line += kLineBytes) prefetch_l2(l2_next + line);
      l2_next += kQuarterBytes / 2;
      const char* next = b_at(k_slice + 1) + i * kQuarterWords * kWordStride;
      prefetch_lines(next, kWordStride, kQuarterWords);
      prefetch_lines(next + kLineBytes, kWordStride, kQuarterWords);
      accumulator.add_after(k_slice, i);
    });
    accumulator.add_rest(task.end);
  }

  // One row panel of many. Prefetches the rows of the next k-slice or panel; the first panel prefetches the
  // words for all of them.
  void multiply_rows(int64_t group, const uint32_t* words, int64_t row) {
    constexpr int64_t kQuarterRows = kRowPanel / 4, kQuarterWords = kTmmBytes / 4 / 4;
    const TmulTask task = task_of(group, row, kPairColumns);
    auto b_at = [=](int64_t k_slice) { return reinterpret_cast<const char*>(words) + k_slice * kSliceBytes; };
    const char* next_a = a_at(row + 2 * kRows <= rows_ ? row + kRows : row, group);
    const bool is_first = row <= 0;
    const Accumulator2x2 accumulator(pending_);
    PanelPrefetcher prefetcher = prefetcher_;
    tmul_2x2<TmmElement::kInt8>(task, b_at, [&](int64_t k_slice, int i) __attribute__((always_inline)) {
      const char* a = k_slice + 1 < task.end ? task.a + kLineBytes * (k_slice + 1) : next_a;
      prefetch_lines(a + i * kQuarterRows * task.a_stride, task.a_stride, kQuarterRows);
      if (is_first) {
        const char* next = b_at(k_slice + 1) + i * kQuarterWords * kWordStride;
        prefetch_lines(next, kWordStride, kQuarterWords);
        prefetch_lines(next + kLineBytes, kWordStride, kQuarterWords);
      }
      if (i == 0) prefetcher.advance();
      accumulator.add_after(k_slice, i);
    });
    prefetcher_ = prefetcher;
    accumulator.add_rest(task.end);
  }

  const Gemm& g_;
  EpilogueQueue epilogues_;
  const bool from_memory_;  // up to 16 rows: weights stream from memory
  const bool is_1xn_;       // A fits one tmm
  int64_t first_row_ = 0, rows_ = 0;
  Panel panel_{};
  float* y_ = nullptr;
  PanelPrefetcher prefetcher_;
  PendingSums pending_{};
  alignas(64) int32_t sum_buffers_[2][kRowPanel * kPairColumns];
  int32_t* sums_ = sum_buffers_[0];
  alignas(64) float y_buffers_[2][kIntMcRows * kLdy];
  float* unit_y_ = y_buffers_[0];
};

static inline void gemm_amx_int8(const Gemm& g, int64_t unit_begin, int64_t unit_end) {
  int64_t most = std::max<int64_t>(1, kL3ActivationBytes / (g.a.stride * kIntMcRows)) * kIntMcRows;
  AmxInt8Gemm product(g);
  for (int64_t row = 0; row < g.rows; row += most)
    for (int64_t unit = unit_begin; unit < unit_end; ++unit)
      product.multiply(row, std::min(row + most, g.rows), unit);
  product.finish();
}

}  // namespace quire::QUIRE_ISA
