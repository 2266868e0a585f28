// int8 and int4 products on matrix tiles.
//
// Tiles multiply bytes. In int4 activations are bytes; in int8 they have 16 bits, and a row counts as two: its upper and its lower halves.
// Sums over a wide group of K are exact, also 256 * upper + lower, which fits 32 bits; groups are added up as floats, in order. So rows may
// be grouped in any way, and vectors may find the same sums (gemv_int4_vnni.h).
//
// Vectors work between the tile products: they add up the sums of what was multiplied before, and make bytes of the nibbles that come next.
#pragma once

#include <algorithm>

#include "amx_int4_unpack.h"
#include "gemm_amx_bf16.h"

namespace quire::QUIRE_ISA {

constexpr int64_t kChunkOfRows = 128;                // rows that meet a group before the next one
constexpr int64_t kStripColumns = 2 * kTileColumns;  // columns of a block
constexpr int64_t kStepBytes = 4 * kStepWords;       // of a panel
constexpr int64_t kPartBytes = kStepBytes / 4;       // beside one of four products

// Sums of a block for one group, which wait to be added to y.
struct GroupSums {
  const int32_t* sums;
  const uint16_t* scales;
  const char* row_scales;
  int64_t row_stride;
  float* y;
  int64_t begin, end;  // rows
  bool is_first;       // group, whose sums meet none in y
};

// Adds them, some rows beside each of four products a step, kRows in four steps. What lies at the same place for all rows stays in
// registers: beside a tile product every instruction counts.
template <int kHalves, int kRows, int64_t kColumns>
class SumAdder {
 public:
  explicit SumAdder(const GroupSums& from) : from_(from), keeps_(static_cast<__mmask16>(from.is_first ? 0 : 0xffff)) {
    if (from_.begin == from_.end) return;
    for (int v = 0; v < kVectors; ++v) scales_[v] = load_bf16(from_.scales + v * kLanes);
  }

  QUIRE_INLINE void add_part(int64_t step, int part) const {
#pragma GCC unroll 2
    for (int row = part * kRowsPerStep / 4; row < (part + 1) * kRowsPerStep / 4; ++row) {
      int64_t r = step * kRowsPerStep + row;
      if (from_.begin <= r && r < from_.end) add_row(r);
    }
  }

  // The rows that so many steps have left.
  void add_rest(int64_t steps) const {
    for (int64_t row = std::max(from_.begin, steps * kRowsPerStep); row < from_.end; ++row) add_row(row);
  }

 private:
  static constexpr int kRowsPerStep = kRows * kTileBytes / kWideGroup;
  static constexpr int kVectors = kColumns / kLanes;

  QUIRE_INLINE void add_row(int64_t row) const {
    const int32_t* sums = from_.sums + kHalves * row * kColumns;
    float* to = from_.y + row * kLdy;
    vf of_row = set1(*reinterpret_cast<const float*>(from_.row_scales + row * from_.row_stride));
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v, sums += kLanes, to += kLanes) {
      vi total = _mm512_load_si512(sums);
      if constexpr (kHalves == 2) total = _mm512_add_epi32(_mm512_slli_epi32(total, 8), _mm512_load_si512(sums + kColumns));
      store(to, fma(to_float(total), mul(scales_[v], of_row), _mm512_maskz_loadu_ps(keeps_, to)));
    }
  }

  const GroupSums from_;
  const __mmask16 keeps_;
  vf scales_[kVectors];
};

// Units, one after the other, whose rows are finished beside the next one's products. kHalves: 2 for int8, 1 for int4.
template <int kHalves>
class IntProduct {
 public:
  static constexpr bool kIsInt4 = kHalves == 1;
  static constexpr int64_t kRows = kBlockRows / kHalves;     // of a block
  static constexpr int64_t kFlatRows = kTileRows / kHalves;  // that fit one tile
  static constexpr int64_t kFinishedRows = kRows / 8;       // after each block
  using FlatAdder = SumAdder<kHalves, kFlatRows, kPanel>;
  using SquareAdder = SumAdder<kHalves, kRows, kStripColumns>;

  IntProduct(const Gemm& g, int64_t unit_begin, int64_t unit_end)
      : g_(g), finisher_(g), is_alone_(g.rows <= kTileRows), is_flat_(g.rows <= kFlatRows), scratch_(reinterpret_cast<uint32_t*>(g.scratch)) {
    configure_tiles(static_cast<int>(block_rows()));
    if (kIsInt4 && is_alone_) ring_ = StepRing(g.weight, unit_begin * panels_of(g), unit_end * panels_of(g), scratch_);
  }
  ~IntProduct() { _tile_release(); }

  // Rows [begin, end) times a unit.
  void multiply(int64_t begin, int64_t end, int64_t unit) {
    const int64_t panels = panels_of(g_), blocks = (kHalves * (end - begin) + kBlockRows - 1) / kBlockRows;
    prefetcher_ = PanelPrefetcher(g_, unit, blocks * panels * kPanel / kStripColumns * g_.weight.padded_k() / kTileBytes);
    for (int64_t row = begin; row < end; row += kChunkOfRows) {
      sums_of_chunk_ = sums_of_chunk_ == chunks_[0] ? chunks_[1] : chunks_[0];
      first_row_ = row, rows_ = std::min(kChunkOfRows, end - row), is_first_ = row == begin;
      for (int64_t p = 0; p < panels; ++p) multiply_panel(unit * panels + p, p, sums_of_chunk_ + p * kPanel);
      finisher_.start(row, rows_, unit, sums_of_chunk_);
    }
  }

  void finish() { finisher_.finish_all(); }

 private:
  // y [rows, kLdy] = the products of the chunk with a panel, whose bytes are `place` panels into the scratch; the first chunk that
  // meets it leaves them there.
  void multiply_panel(int64_t panel, int64_t place, float* y) {
    panel_ = panel, y_ = y;
    for (int64_t group = 0; group < g_.weight.num_groups(); ++group) {
      if (is_flat_) multiply_flat_group(group);
      else multiply_square_group(group, kIsInt4 ? widened(group, place) : g_.weight.word(panel, group, 0, 0));
    }
    if (is_flat_) FlatAdder(pending_).add_rest(0);
    else SquareAdder(pending_).add_rest(0);
    pending_ = {};
  }

  // The bytes of a group, and the next one begun.
  const uint32_t* widened(int64_t group, int64_t place) {
    uint32_t* words = scratch_ + place * g_.weight.padded_k() / 4 * kPanel + group * kWideGroupWords;
    if (!is_first_) return words;
    if (group == 0) widener_ = GroupWidener(g_.weight, panel_, 0, words);
    widener_.widen_all();
    if (group + 1 < g_.weight.num_groups()) widener_ = GroupWidener(g_.weight, panel_, group + 1, words + kWideGroupWords);
    return words;
  }

  TileWork work_of(int64_t group, int64_t row, int64_t columns) {
    sums_ = sums_ == rooms_[0] ? rooms_[1] : rooms_[0];
    int64_t steps = g_.weight.elements_of(group) / kTileBytes;
    return {rows_at(row, group), g_.a.stride / kHalves, kWordStride, 0, steps, reinterpret_cast<float*>(sums_), columns * 4, block_rows() / 2};
  }
  int64_t block_rows() const { return std::min(kHalves * g_.rows, int64_t{kBlockRows}); }
  const char* rows_at(int64_t row, int64_t group) const { return g_.a.row(first_row_ + row) + group * kWideGroup; }

  // What is added up beside the next products.
  void leave_sums(int64_t group, int64_t row, int64_t column, int64_t begin, int64_t end) {
    const char* row_scales = reinterpret_cast<const char*>(g_.a.wide_scales(first_row_ + row) + group);
    const uint16_t* scales = g_.weight.scales(panel_, group) + column;
    pending_ = {sums_, scales, row_scales, g_.a.stride, y_ + row * kLdy + column, begin, end, group == 0};
  }

  void prefetch_scales(int64_t group) const {
    prefetch_stream(reinterpret_cast<const char*>(g_.weight.scales(panel_, group)), g_.weight.header_bytes());
  }

  void multiply_flat_group(int64_t group) {
    const FlatAdder adder(pending_);
    const TileWork work = work_of(group, 0, kPanel);
    if constexpr (kIsInt4) {
      StepRing ring = ring_;
      auto words_at = [&](int64_t step) { return reinterpret_cast<const char*>(ring.words(first_step_ + step)); };
      multiply_flat<kPanel, TileElement::kByte>(work, words_at, [&](int64_t step, int part) __attribute__((always_inline)) {
        adder.add_part(step, part);
        ring.widen_part(part);
      });
      ring_ = ring;
      first_step_ += work.end;
    } else {
      const char* words = reinterpret_cast<const char*>(g_.weight.word(panel_, group, 0, 0));
      auto words_at = [=](int64_t step) { return words + step * kStepBytes; };
      prefetch_scales(group);
      multiply_flat<kPanel, TileElement::kByte>(work, words_at, [&](int64_t step, int part) __attribute__((always_inline)) {
        prefetch_stream(words_at(step) + part * kPartBytes, kPartBytes);
        adder.add_part(step, part);
      });
    }
    adder.add_rest(work.end);
    leave_sums(group, 0, 0, 0, rows_);
    finisher_.finish_some(kFinishedRows);
  }

  // Blocks of 16 rows, or 32 in int4; the last one may begin among the rows before it, also those of another chunk, whose sums are there already.
  void multiply_square_group(int64_t group, const uint32_t* words) {
    for (int64_t column = 0; column < kPanel; column += kStripColumns)
      for (int64_t row = 0; row < rows_; row += kRows) {
        int64_t first = g_.rows <= kRows ? 0 : std::min(row, rows_ - kRows);
        if (!kIsInt4 && is_alone_) multiply_lonely_block(group, words, column);
        else multiply_block(group, words + column, first);
        leave_sums(group, first, column, row - first, std::min(kRows, rows_ - first));
        finisher_.finish_some(kFinishedRows);
      }
  }

  // Up to 16 rows of int8 that are all there are. Words come from memory: those of the next group, half of them beside each strip, into
  // the second-level cache, and from there those of the strip's next step.
  void multiply_lonely_block(int64_t group, const uint32_t* words, int64_t column) {
    constexpr int64_t kPartWords = kTileBytes / 4 / 4;
    auto words_at = [=](int64_t step) { return reinterpret_cast<const char*>(words + column + step * kStepWords); };
    const int64_t bytes = g_.weight.elements_of(group) * kPanel;
    const char* l2_next = reinterpret_cast<const char*>(words) + bytes + g_.weight.header_bytes() + (column > 0 ? bytes / 2 : 0);
    if (column == 0) prefetch_l2(l2_next - 2 * kLineBytes), prefetch_l2(l2_next - kLineBytes);
    const SquareAdder adder(pending_);
    const TileWork work = work_of(group, 0, kStripColumns);
    multiply_square<TileElement::kByte>(work, words_at, [&](int64_t step, int part) __attribute__((always_inline)) {
      for (int64_t line = 0; line < kPartBytes / 2; line += kLineBytes) prefetch_l2(l2_next + line);
      l2_next += kPartBytes / 2;
      const char* next = words_at(step + 1) + part * kPartWords * kWordStride;
      prefetch_lines(next, kWordStride, kPartWords);
      prefetch_lines(next + kLineBytes, kWordStride, kPartWords);
      adder.add_part(step, part);
    });
    adder.add_rest(work.end);
  }

  // One block of many. Rows are fetched for the next step or the next block, words by the first block for all.
  void multiply_block(int64_t group, const uint32_t* words, int64_t row) {
    constexpr int64_t kPartRows = kBlockRows / 4, kPartWords = kTileBytes / 4 / 4;
    const TileWork work = work_of(group, row, kStripColumns);
    auto words_at = [=](int64_t step) { return reinterpret_cast<const char*>(words + step * kStepWords); };
    const char* next_rows = rows_at(row + 2 * kRows <= rows_ ? row + kRows : row, group);
    const bool is_first = row <= 0;
    const SquareAdder adder(pending_);
    GroupWidener widener = widener_;
    PanelPrefetcher prefetcher = prefetcher_;
    multiply_square<TileElement::kByte>(work, words_at, [&](int64_t step, int part) __attribute__((always_inline)) {
      const char* rows = step + 1 < work.end ? work.rows + kLineBytes * (step + 1) : next_rows;
      prefetch_lines(rows + part * kPartRows * work.row_stride, work.row_stride, kPartRows);
      if (is_first) {
        const char* next = words_at(step + 1) + part * kPartWords * kWordStride;
        prefetch_lines(next, kWordStride, kPartWords);
        prefetch_lines(next + kLineBytes, kWordStride, kPartWords);
      }
      if (part == 0) prefetcher.step();
      adder.add_part(step, part);
      if constexpr (kIsInt4) widener.widen_piece();
    });
    widener_ = widener;
    prefetcher_ = prefetcher;
    adder.add_rest(work.end);
  }

  const Gemm& g_;
  Finisher finisher_;
  const bool is_alone_;  // up to 16 rows: weights come from memory
  const bool is_flat_;   // rows that fit one tile
  uint32_t* const scratch_;
  int64_t first_row_ = 0, rows_ = 0, panel_ = 0;
  bool is_first_ = true;
  float* y_ = nullptr;
  PanelPrefetcher prefetcher_;
  GroupSums pending_{};
  GroupWidener widener_;
  StepRing ring_;
  int64_t first_step_ = 0;  // of the group, among those of the ring
  alignas(64) int32_t rooms_[2][kBlockRows * kStripColumns];
  int32_t* sums_ = rooms_[0];
  alignas(64) float chunks_[2][kChunkOfRows * kLdy];
  float* sums_of_chunk_ = chunks_[0];
};

template <int kHalves>
static inline void gemm_int_tiles(const Gemm& g, int64_t unit_begin, int64_t unit_end) {
  int64_t most = std::max<int64_t>(1, kRowsBytes / (g.a.stride * kChunkOfRows)) * kChunkOfRows;
  IntProduct<kHalves> product(g, unit_begin, unit_end);
  for (int64_t row = 0; row < g.rows; row += most)
    for (int64_t unit = unit_begin; unit < unit_end; ++unit) product.multiply(row, std::min(row + most, g.rows), unit);
  product.finish();
}

}  // namespace quire::QUIRE_ISA
