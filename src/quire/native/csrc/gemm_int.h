// Micro-kernels over int8 and int4 panels in the VNNI layout. Sums within a group of 32 elements of K are
// exact integers, in whatever order they are added; between groups they are floats, added in group order. So
// each instruction set may compute a group in its own way.
//
// Weights are unsigned: w = scale * (u - zero_point). A group's sum of u * a is compensated by -zero_point *
// sum(a), which the activation row holds.
#pragma once

#include "gemm_epilogue.h"
#include "prefetch.h"
#include "row_dispatch.h"
#include "simd.h"

namespace quire::QUIRE_ISA {

// A format reads one column of a group as kWords words, splits each into kFactors vectors, and multiplies
// factor f of word i with activation word i * kFactors + f:
//   init(compensation)         the sum before the group's first word
//   add(sum, factor, word)     the dot product of a factor and an activation word
//   finish(sum, compensation)  the group's sum as float
#if QUIRE_LANES > 4 && !defined(QUIRE_VNNI)

// AVX2, and AVX-512 without VNNI.
constexpr ActivationFormat kInt8Activations = ActivationFormat::kInt16;

#if QUIRE_LANES == 16
static inline vi shift_right(vi x, int n) { return _mm512_srli_epi16(x, static_cast<unsigned>(n)); }
static inline vi madd_int16(vi sum, vi a, vi b) { return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b)); }
static inline vi madd_bytes(vi sum, vi u, vi s) { return _mm512_add_epi16(sum, _mm512_maddubs_epi16(u, s)); }
#else
static inline vi shift_right(vi x, int n) { return _mm256_srli_epi16(x, n); }
// Keeps `sum` in its register, like fma_into: GCC 12 would move and spill sums.
static inline vi madd_int16(vi sum, vi a, vi b) {
  vi product;
  asm("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(sum), "=&x"(product) : "x"(a), "x"(b));
  return sum;
}
static inline vi madd_bytes(vi sum, vi u, vi s) {
  vi product;
  asm("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+x"(sum), "=&x"(product) : "x"(u), "x"(s));
  return sum;
}
#endif

// Bytes are widened to 16 bits, elements 0 and 2 of each four, then 1 and 3: a sum of two byte products does
// not always fit 16 bits.
struct ByteDot {
  static constexpr int kFactors = 2;
  static void split(vi raw, vi (&factors)[kFactors]) {
    factors[0] = and_bits(raw, 0x00ff00ffu);
    factors[1] = shift_right(raw, 8);
  }
  static vi init(int32_t compensation) { return set1_word(static_cast<uint32_t>(compensation)); }
  static vi add(vi sum, vi factor, vi word) { return madd_int16(sum, factor, word); }
  static vf finish(vi sum, int32_t) { return to_float(sum); }
};

// A group of nibbles is added in 16 bits: 15 * 127 * 2 * 8 fits.
struct NibbleDot {
  static vi init(int32_t) { return set1_word(0); }
  static vi add(vi sum, vi factor, vi word) { return madd_bytes(sum, factor, word); }
  static vf finish(vi sum, int32_t compensation) {
    return to_float(madd_int16(set1_word(static_cast<uint32_t>(compensation)), sum, set1_word(0x00010001u)));
  }
};

#else

// AVX-512 with VNNI, and the generic kernels: vpdpbusd multiplies unpacked nibbles as it does bytes.
constexpr ActivationFormat kInt8Activations = ActivationFormat::kInt8;

#if defined(QUIRE_VNNI)
static inline vi shift_right(vi x, int n) { return _mm512_srli_epi16(x, static_cast<unsigned>(n)); }
#else
static inline vi shift_right(vi x, int n) { return x >> n; }
static inline vi dpbusd(vi sum, vi u, vi s) {
  for (int i = 0; i < 4; ++i) sum += ((u >> (8 * i)) & 0xff) * ((s << (24 - 8 * i)) >> 24);
  return sum;
}
#endif

struct ByteDot {
  static constexpr int kFactors = 1;
  static void split(vi raw, vi (&factors)[kFactors]) { factors[0] = raw; }
  static vi init(int32_t compensation) { return set1_word(static_cast<uint32_t>(compensation)); }
  static vi add(vi sum, vi factor, vi word) { return dpbusd(sum, factor, word); }
  static vf finish(vi sum, int32_t) { return to_float(sum); }
};
using NibbleDot = ByteDot;

#endif

struct Int8 : ByteDot {
  static constexpr int kWords = kGroup / 4;
};

// Unpacks nibbles to bytes: one `and`, one shift, one `and` per 64 or 128 of them.
struct Int4 : NibbleDot {
  static constexpr int kWords = kGroup / 8;
  static constexpr int kFactors = 2;
  static void split(vi raw, vi (&factors)[kFactors]) {
    factors[0] = and_bits(raw, 0x0f0f0f0fu);
    factors[1] = and_bits(shift_right(raw, 4), 0x0f0f0f0fu);
  }
};

// Vectors of columns per R rows of accumulators, and the most rows of a row panel.
template <int R>
constexpr int kIntVectors = kLanes == 16 ? (R > 6 ? 2 : 4)
                            : R == 1     ? 8
                                         : 2;

constexpr int kMaxIntRows = kLanes == 16 ? 8 : 4;

// One group of a row panel's activations. Strides instead of a pointer per row: GCC would keep pointers that
// do not fit in registers in vectors.
struct IntActivations {
  const char* values;
  const char* scales;
  const char* compensations;
  int64_t stride;

  QUIRE_INLINE IntActivations(const ActivationRows& a, int64_t row, int64_t group)
      : values(a.row(row) + group * kGroup * (a.format == ActivationFormat::kInt8 ? 1 : 2)),
        scales(reinterpret_cast<const char*>(a.scales(row) + group)),
        compensations(reinterpret_cast<const char*>(a.compensations(row) + group)),
        stride(a.stride) {}

  const uint32_t* words(int64_t r) const { return reinterpret_cast<const uint32_t*>(values + r * stride); }
  float scale(int64_t r) const { return *reinterpret_cast<const float*>(scales + r * stride); }
  int32_t compensation(int64_t r) const {
    return *reinterpret_cast<const int32_t*>(compensations + r * stride);
  }
};

// sums [R, V] += one group of R rows times V vectors of columns; `w` is the group's first row of words at
// those columns.
template <class Format, bool kPrefetch, int R, int V>
static QUIRE_INLINE void add_group(const uint32_t* w, const IntActivations& a, Prefetch prefetch,
                                   vi (&sums)[R][V]) {
  const uint32_t* rows[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) rows[r] = a.words(r);
#pragma GCC unroll 8
  for (int i = 0; i < Format::kWords; ++i) {
    vi factors[V][Format::kFactors];
    if constexpr (kPrefetch)
      prefetch_stream(reinterpret_cast<const char*>(w + i * kPanel), V * kLanes * sizeof(uint32_t), prefetch);
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) Format::split(load_words(w + i * kPanel + v * kLanes), factors[v]);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
      for (int f = 0; f < Format::kFactors; ++f) {
        vi word = set1_word(rows[r][i * Format::kFactors + f]);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sums[r][v] = Format::add(sums[r][v], factors[v][f], word);
      }
  }
}

// y [R, 64] += one group of R rows times one group of a panel. Unrolled, so that sums stay in registers.
template <class Format, bool kPrefetch, int R>
static inline void multiply_group(const ActivationRows& rows, int64_t row, int64_t group, const char* panel,
                                  Prefetch prefetch, float* y) {
  constexpr int V = kIntVectors<R>;
  const IntActivations a(rows, row, group);
  const uint16_t* scales =
      reinterpret_cast<const uint16_t*>(panel + group * kPanel * (2 + 4 * Format::kWords));
  const uint32_t* words = reinterpret_cast<const uint32_t*>(scales + kPanel);
  if constexpr (kPrefetch)
    prefetch_stream(reinterpret_cast<const char*>(scales), kPanel * sizeof(uint16_t), prefetch);
  for (int column = 0; column < kPanel; column += V * kLanes) {
    vi sums[R][V];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sums[r][v] = Format::init(a.compensation(r));
    add_group<Format, kPrefetch>(words + column, a, prefetch, sums);
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      vf scale = load_bf16(scales + column + v * kLanes);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        float* to = y + r * kLdy + column + v * kLanes;
        vf total = Format::finish(sums[r][v], a.compensation(r));
        store(to, fma(total, mul(scale, set1(a.scale(r))), load(to)));
      }
    }
  }
}

// One group of a panel for up to kMcRows rows. One row panel prefetches what all of them read next.
template <class Format>
struct IntRowPanels {
  const Gemm& g;
  const char* panel;
  int64_t first_row;
  int64_t group;
  int64_t prefetching_panel;
  float* y;

  template <int R>
  void run(int64_t row, int64_t row_panel) const {
    if (row_panel == prefetching_panel)
      multiply_group<Format, true, R>(g.a, first_row + row, group, panel, g.prefetch, y + row * kLdy);
    else multiply_group<Format, false, R>(g.a, first_row + row, group, panel, g.prefetch, y + row * kLdy);
  }
};

// y [rows, 64] += A times a panel, group by group. Only rows from 0 on read it from memory, and prefetch.
template <class Format>
static inline void multiply_int_panel(const Gemm& g, const char* panel, int64_t first_row, int64_t rows,
                                      float* y) {
  int64_t row_panels = (rows + kMaxIntRows - 1) / kMaxIntRows, groups = g.weight.num_groups();
  for (int64_t group = 0; group < groups; ++group) {
    int64_t prefetching_panel = first_row == 0 ? group % row_panels : row_panels;
    for_row_panels<kMaxIntRows>(rows, row_panels,
                                IntRowPanels<Format>{g, panel, first_row, group, prefetching_panel, y});
  }
}

}  // namespace quire::QUIRE_ISA
