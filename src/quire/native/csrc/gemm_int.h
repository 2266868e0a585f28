// Micro-kernels over group formats: 32 elements of K of a panel times a few rows. Sums within a block of 32,
// or a group of 16, are exact integers, in whatever order they are added; between blocks they are floats,
// added in order. So each instruction set may compute a block in its own way (dot_int.h).
//
// Codes are unsigned, and w = scale * (code - center) or scale * code + minimum. A block's sum of code * q is
// compensated by -center * sum(q), the center being a power of two; a minimum multiplies the scaled sum.
#pragma once

#include <algorithm>

#include "dot_int.h"
#include "gemm_epilogue.h"
#include "group_header.h"
#include "prefetch.h"
#include "row_dispatch.h"

namespace quire::QUIRE_ISA {

// Vectors of columns per R rows of accumulators, and the most rows of a row panel.
template <int kBits, int R>
constexpr int kIntVectors = kLanes == 16 ? (R > 3 ? 2 : 4)
                            : R == 1     ? 8
                                         : 2;

constexpr int kMaxIntRows = kLanes == 16 ? 8 : 4;

// What a kernel is compiled for besides bits: groups of 16 are centered.
enum class Grouping { kCentered, kWithMinimums, kHalves };

constexpr int kChunkBlocks = kSuperGroup / kGroup;

// Up to 256 elements of K of a panel, which all row panels multiply before the next ones: whole sections. The
// first row panel decodes their headers.
struct WeightChunk {
  const GroupFormat& format;
  const char* sections;
  int num_blocks, blocks_per_section;
  int64_t header_bytes;
  // [groups, 64]
  alignas(64) float scales[kSuperGroup / 16 * kPanel];
  alignas(64) float minimums[kChunkBlocks * kPanel];

  explicit WeightChunk(const PanelFormat& panel)
      : format(panel.groups),
        blocks_per_section(panel.groups.section_elements() / kGroup),
        header_bytes(panel.header_bytes()) {}
};

// How a row panel passes over a chunk.
struct ChunkPass {
  bool decodes;
  Prefetch prefetch;
};

// One block of a row panel's activations. Strides instead of a pointer per row: GCC would keep pointers that
// do not fit in registers in vectors.
struct IntActivations {
  const char* values;
  const char* scales;
  const char* scaled_sums;
  const char* negative_sums;
  const char* negative_half_sums;
  int64_t stride;

  QUIRE_INLINE IntActivations(const ActivationRows& a, int64_t row, int64_t block)
      : values(a.row(row) + block * kGroup),
        scales(reinterpret_cast<const char*>(a.scales(row) + block)),
        scaled_sums(reinterpret_cast<const char*>(a.scaled_sums(row) + block)),
        negative_sums(reinterpret_cast<const char*>(a.negative_sums(row) + block)),
        negative_half_sums(reinterpret_cast<const char*>(a.negative_half_sums(row) + 2 * block)),
        stride(a.stride) {}

  QUIRE_INLINE void advance() {
    values += kGroup;
    scales += sizeof(float);
    scaled_sums += sizeof(float);
    negative_sums += sizeof(uint32_t);
    negative_half_sums += 2 * sizeof(uint32_t);
  }
  QUIRE_INLINE const uint32_t* words(int64_t r) const {
    return reinterpret_cast<const uint32_t*>(values + r * stride);
  }
  QUIRE_INLINE float scale(int64_t r) const { return *reinterpret_cast<const float*>(scales + r * stride); }
  QUIRE_INLINE float scaled_sum(int64_t r) const {
    return *reinterpret_cast<const float*>(scaled_sums + r * stride);
  }
  // kHalf 2: of the whole block.
  template <int kHalf>
  QUIRE_INLINE vi negative_sum(int64_t r) const {
    if constexpr (kHalf == 2)
      return set1_word(*reinterpret_cast<const uint32_t*>(negative_sums + r * stride));
    else return set1_word(reinterpret_cast<const uint32_t*>(negative_half_sums + r * stride)[kHalf]);
  }
};

// The words that a block's columns are multiplied with: the activations themselves, or a widened copy.
template <bool kWidens, int R>
struct ActivationWords {
  const uint32_t* rows[R];
  alignas(32) uint32_t widened[kWidens ? R : 1][16];

  QUIRE_INLINE explicit ActivationWords(const IntActivations& a) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      if constexpr (kWidens) widen_activations(a.words(r), widened[r]);
      rows[r] = kWidens ? widened[r] : a.words(r);
    }
  }
};

// sums [R, V] += steps [kStep, kEnd) of a block at the columns that `words` begins with.
template <int kBits, int kStep, int kEnd, int R, int V>
static QUIRE_INLINE void add_steps(const uint32_t* words, const uint32_t* const (&rows)[R], Prefetch prefetch,
                                   vi (&sums)[R][V]) {
  using D = Dot<kBits>;
  vi factors[V][2];
  if (prefetch != Prefetch::kNone)
    for (int row = kStep * kBits / D::kSteps; row < (kStep + 1) * kBits / D::kSteps; ++row)
      prefetch_stream(reinterpret_cast<const char*>(words + row * kPanel), V * kLanes * sizeof(uint32_t),
                      prefetch);
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) D::template unpack<kStep>(words + v * kLanes, factors[v]);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    if constexpr (D::kPairs) {
      vi first = set1_word(rows[r][D::word_at(kStep, 0)]), second = set1_word(rows[r][D::word_at(kStep, 1)]);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sums[r][v] = D::add_pair(sums[r][v], factors[v], first, second);
    } else {
#pragma GCC unroll 2
      for (int f = 0; f < 2; ++f) {
        vi word = set1_word(rows[r][D::word_at(kStep, f)]);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sums[r][v] = D::add(sums[r][v], factors[v][f], word);
      }
    }
  }
  if constexpr (kStep + 1 < kEnd) add_steps<kBits, kStep + 1, kEnd, R, V>(words, rows, prefetch, sums);
}

// A block of a panel from some column on, with its group's scales there.
struct WeightBlock {
  const uint32_t* words;
  const float* scales;    // of kHalves also those of the second half, a row further
  const float* minimums;  // of kWithMinimums
  Prefetch prefetch;
};

// The running products of R rows with V vectors of columns. Those of all columns of a few rows stay in
// registers over a chunk; others are in memory between blocks, in `y`.
template <int R, int V>
struct Totals {
  static constexpr bool kInRegisters = kLanes == 16 && V * kLanes == kPanel && R * V <= 8;
  float* y;
  vf at[kInRegisters ? R : 1][V];

  QUIRE_INLINE explicit Totals(float* from) : y(from) {
    if constexpr (kInRegisters)
      for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) at[r][v] = load(y + r * kLdy + v * kLanes);
  }
  QUIRE_INLINE void store_all() const {
    if constexpr (kInRegisters)
      for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) store(y + r * kLdy + v * kLanes, at[r][v]);
  }
  QUIRE_INLINE vf get(int r, int v) const {
    if constexpr (kInRegisters) return at[r][v];
    else return load(y + r * kLdy + v * kLanes);
  }
  QUIRE_INLINE void set(int r, int v, vf total) {
    if constexpr (kInRegisters) at[r][v] = total;
    else store(y + r * kLdy + v * kLanes, total);
  }
};

// What an integer sum has to begin with, or to be added to: -center * sum(q).
template <int kBits, Grouping kGrouping, int kHalf>
static QUIRE_INLINE vi compensation(const IntActivations& a, int r) {
  if constexpr (kGrouping == Grouping::kWithMinimums) return set1_word(0);
  else return shift_words_left(a.negative_sum<kHalf>(r), kBits - 1);
}

// totals += R rows times a block, or half `kHalf` of it (2: the whole block). Unrolled, so that sums stay in
// registers.
template <int kBits, Grouping kGrouping, int kHalf, int R, int V>
static QUIRE_INLINE void multiply_part(const WeightBlock& w, const IntActivations& a,
                                       const uint32_t* const (&rows)[R], Totals<R, V>& totals) {
  using D = Dot<kBits>;
  constexpr int kFirst = kHalf == 1 ? D::kSteps / 2 : 0, kEnd = kHalf == 0 ? D::kSteps / 2 : D::kSteps;
  vi sums[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    vi start = D::kStartsInWords ? compensation<kBits, kGrouping, kHalf>(a, r) : set1_word(0);
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) sums[r][v] = start;
  }
  add_steps<kBits, kFirst, kEnd, R, V>(w.words, rows, w.prefetch, sums);
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) {
    vf scale = load(w.scales + (kHalf == 1 ? kPanel : 0) + v * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      vf sum = to_float(D::finish(sums[r][v], compensation<kBits, kGrouping, kHalf>(a, r)));
      vf total = fma(sum, mul(scale, set1(a.scale(r))), totals.get(r, v));
      if constexpr (kGrouping == Grouping::kWithMinimums)
        total = fma(load(w.minimums + v * kLanes), set1(a.scaled_sum(r)), total);
      totals.set(r, v, total);
    }
  }
}

template <int kBits, Grouping kGrouping, int R, int V>
static QUIRE_INLINE void multiply_block(const WeightBlock& w, const IntActivations& a,
                                        const uint32_t* const (&rows)[R], Totals<R, V>& totals) {
  if constexpr (kGrouping == Grouping::kHalves) {
    multiply_part<kBits, kGrouping, 0>(w, a, rows, totals);
    multiply_part<kBits, kGrouping, 1>(w, a, rows, totals);
  } else {
    multiply_part<kBits, kGrouping, 2>(w, a, rows, totals);
  }
}

// y [R, 64] += R rows, from the chunk's first element on, times a chunk.
template <int kBits, Grouping kGrouping, int R>
static inline void multiply_chunk(WeightChunk& chunk, IntActivations a, ChunkPass pass, float* y) {
  constexpr int V = kIntVectors<kBits, R>, kRowsPerBlock = kGrouping == Grouping::kHalves ? 2 : 1;
  const GroupFormat& f = chunk.format;
  const bool has_two_levels = f.has_two_levels();
  const char* at = chunk.sections;
  float *scales = chunk.scales, *minimums = chunk.minimums;
  Totals<R, V> totals(y);
  for (int i = 0, left = 0; i < chunk.num_blocks; ++i, a.advance()) {
    if (left == 0) {
      if (i > 0) scales += kPanel, minimums += kPanel;
      if (pass.decodes) decode_header(f, at, scales, minimums);
      prefetch_stream(at, chunk.header_bytes, pass.prefetch);
      at += chunk.header_bytes;
      left = chunk.blocks_per_section;
    }
    const ActivationWords<Dot<kBits>::kWidens, R> words(a);
    WeightBlock block{reinterpret_cast<const uint32_t*>(at), scales, minimums, pass.prefetch};
    if constexpr (V * kLanes == kPanel) {
      multiply_block<kBits, kGrouping>(block, a, words.rows, totals);
    } else {
      for (int column = 0; column < kPanel; column += V * kLanes) {
        Totals<R, V> strip(y + column);
        multiply_block<kBits, kGrouping>(block, a, words.rows, strip);
        block.words += V * kLanes, block.scales += V * kLanes, block.minimums += V * kLanes;
      }
    }
    at += kGroup * kPanel * kBits / 8;
    --left;
    if (has_two_levels) scales += kRowsPerBlock * kPanel, minimums += kPanel;
  }
  totals.store_all();
}

// The pattern was chosen for products of few rows; those of more compute between reads, and want lines ahead.
static inline Prefetch prefetch_of(const Gemm& g) {
  return g.rows <= kMaxIntRows ? g.prefetch : Prefetch::kBoth;
}

// One chunk for up to kMcRows rows. One row panel prefetches what all of them read next.
template <int kBits, Grouping kGrouping>
struct IntRowPanels {
  const Gemm& g;
  WeightChunk& chunk;
  int64_t first_row, first_block;
  int64_t prefetching_panel;
  float* y;

  template <int R>
  void run(int64_t row, int64_t row_panel) const {
    const ChunkPass pass{row_panel == 0, row_panel == prefetching_panel ? prefetch_of(g) : Prefetch::kNone};
    multiply_chunk<kBits, kGrouping, R>(chunk, IntActivations(g.a, first_row + row, first_block), pass,
                                        y + row * kLdy);
  }
};

// y [rows, 64] += A times a panel, chunk by chunk. Only rows from 0 on read it from memory, and prefetch.
template <int kBits, Grouping kGrouping>
static void multiply_groups(const Gemm& g, const Panel& w, int64_t first_row, int64_t rows, float* y) {
  const int64_t row_panels = (rows + kMaxIntRows - 1) / kMaxIntRows, blocks = w.padded_k() / kGroup;
  WeightChunk chunk(w.format);
  const int64_t sections = kChunkBlocks / chunk.blocks_per_section, section_bytes = w.format.section_bytes();
  for (int64_t index = 0, block = 0; block < blocks; ++index, block += kChunkBlocks) {
    chunk.sections = w.base + index * sections * section_bytes;
    chunk.num_blocks = static_cast<int>(std::min<int64_t>(kChunkBlocks, blocks - block));
    const int64_t prefetching_panel = first_row == 0 ? index % row_panels : row_panels;
    for_row_panels<kMaxIntRows>(
        rows, row_panels, IntRowPanels<kBits, kGrouping>{g, chunk, first_row, block, prefetching_panel, y});
  }
}

template <int kBits>
static inline void multiply_bits(const Gemm& g, const Panel& w, int64_t first_row, int64_t rows, float* y) {
  if (w.format.groups.offset != Offset::kCenter)
    return multiply_groups<kBits, Grouping::kWithMinimums>(g, w, first_row, rows, y);
  if constexpr (kBits == 4 || kBits == 6)
    if (w.format.groups.group == 16)
      return multiply_groups<kBits, Grouping::kHalves>(g, w, first_row, rows, y);
  multiply_groups<kBits, Grouping::kCentered>(g, w, first_row, rows, y);
}

static inline void multiply_int_panel(const Gemm& g, const Panel& w, int64_t first_row, int64_t rows,
                                      float* y) {
  switch (w.format.groups.bits) {
    case 4: return multiply_bits<4>(g, w, first_row, rows, y);
    case 5: return multiply_bits<5>(g, w, first_row, rows, y);
    case 6: return multiply_bits<6>(g, w, first_row, rows, y);
    default: return multiply_bits<8>(g, w, first_row, rows, y);
  }
}

}  // namespace quire::QUIRE_ISA
