// Micro-kernels over int8 and int4 panels. Inside a group of 32 elements of K sums are exact integers, however they are
// added; between groups they are floats, added in group order. So every instruction set may take its own way through a group.
//
// Weights are unsigned: w = scale * (u - offset). A group's sum of u * a is corrected by -offset * sum(a).
#pragma once

#include "prefetch.h"
#include "gemm_epilogue.h"
#include "row_dispatch.h"
#include "simd.h"

namespace quire::QUIRE_ISA {

// A format reads a column's group as kWords words, splits each into kParts factors, and multiplies factor p of word i with word
// i * kParts + p of the activations.
#if QUIRE_LANES > 4 && !defined(QUIRE_VNNI)

constexpr RowFormat kInt8Rows = RowFormat::kInt16;

#if QUIRE_LANES == 16
static inline vi shift_right(vi x, int n) { return _mm512_srli_epi16(x, static_cast<unsigned>(n)); }
static inline vi add_pairs(vi sum, vi a, vi b) { return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b)); }
static inline vi add_bytes(vi sum, vi u, vi s) { return _mm512_add_epi16(sum, _mm512_maddubs_epi16(u, s)); }
#else
static inline vi shift_right(vi x, int n) { return _mm256_srli_epi16(x, n); }
// In the register of `sum`, as add_product is: GCC 12 would move sums about and spill them.
static inline vi add_pairs(vi sum, vi a, vi b) {
  vi product;
  asm("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(sum), "=&x"(product) : "x"(a), "x"(b));
  return sum;
}
static inline vi add_bytes(vi sum, vi u, vi s) {
  vi product;
  asm("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+x"(sum), "=&x"(product) : "x"(u), "x"(s));
  return sum;
}
#endif

// Bytes are widened to 16 bits, elements 0 and 2 of a quad, then 1 and 3: a product of bytes would not fit 16 bits exactly.
struct ByteSums {
  static constexpr int kParts = 2;
  static void split(vi raw, vi (&parts)[kParts]) {
    parts[0] = keep_bits(raw, 0x00ff00ffu);
    parts[1] = shift_right(raw, 8);
  }
  static vi start(int32_t correction) { return set1_pair(static_cast<uint32_t>(correction)); }
  static vi add(vi sum, vi part, vi word) { return add_pairs(sum, part, word); }
  static vf total(vi sum, int32_t) { return to_float(sum); }
};

// 15 * 127 * 2 * 8 fits 16 bits, so a group of nibbles is added up there.
struct NibbleSums {
  static vi start(int32_t) { return set1_pair(0); }
  static vi add(vi sum, vi part, vi word) { return add_bytes(sum, part, word); }
  static vf total(vi sum, int32_t correction) {
    return to_float(add_pairs(set1_pair(static_cast<uint32_t>(correction)), sum, set1_pair(0x00010001u)));
  }
};

#else

constexpr RowFormat kInt8Rows = RowFormat::kInt8;

#if defined(QUIRE_VNNI)
static inline vi shift_right(vi x, int n) { return _mm512_srli_epi16(x, n); }
#else
static inline vi shift_right(vi x, int n) { return x >> n; }
static inline vi dot_quads(vi sum, vi u, vi s) {
  for (int i = 0; i < 4; ++i) sum += ((u >> (8 * i)) & 0xff) * ((s << (24 - 8 * i)) >> 24);
  return sum;
}
#endif

struct ByteSums {
  static constexpr int kParts = 1;
  static void split(vi raw, vi (&parts)[kParts]) { parts[0] = raw; }
  static vi start(int32_t correction) { return set1_pair(static_cast<uint32_t>(correction)); }
  static vi add(vi sum, vi part, vi word) { return dot_quads(sum, part, word); }
  static vf total(vi sum, int32_t) { return to_float(sum); }
};
using NibbleSums = ByteSums;

#endif

struct Int8 : ByteSums {
  static constexpr int kWords = kGroup / 4;
};

struct Int4 : NibbleSums {
  static constexpr int kWords = kGroup / 8;
  static constexpr int kParts = 2;
  static void split(vi raw, vi (&parts)[kParts]) {
    parts[0] = keep_bits(raw, 0x0f0f0f0fu);
    parts[1] = keep_bits(shift_right(raw, 4), 0x0f0f0f0fu);
  }
};

// Vectors of columns beside R rows of sums, and the most rows of a tile.
template <int R>
constexpr int kIntVectors = kLanes == 16 ? (R > 6 ? 2 : 4) : R == 1 ? 8 : 2;

constexpr int kMaxIntRows = kLanes == 16 ? 8 : 4;

// A group of the rows of a tile. Strides instead of a pointer for every row: GCC would keep those that no register is left for in
// vectors.
struct IntRows {
  const char* values;
  const char* scales;
  const char* corrections;
  int64_t stride;

  QUIRE_INLINE IntRows(const Rows& a, int64_t row, int64_t group)
      : values(a.row(row) + group * kGroup * (a.format == RowFormat::kInt8 ? 1 : 2)),
        scales(reinterpret_cast<const char*>(a.scales(row) + group)),
        corrections(reinterpret_cast<const char*>(a.corrections(row) + group)),
        stride(a.stride) {}

  const uint32_t* words(int64_t r) const { return reinterpret_cast<const uint32_t*>(values + r * stride); }
  float scale(int64_t r) const { return *reinterpret_cast<const float*>(scales + r * stride); }
  int32_t correction(int64_t r) const { return *reinterpret_cast<const int32_t*>(corrections + r * stride); }
};

// sums [R, V] += a group of R rows times V vectors of columns, `w` being its first row of words from the columns on.
template <class Format, bool kPrefetch, int R, int V>
static QUIRE_INLINE void add_group(const uint32_t* w, const IntRows& a, vi (&sums)[R][V]) {
  const uint32_t* rows[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) rows[r] = a.words(r);
#pragma GCC unroll 8
  for (int i = 0; i < Format::kWords; ++i) {
    vi parts[V][Format::kParts];
    if constexpr (kPrefetch) prefetch_stream(reinterpret_cast<const char*>(w + i * kPanel), V * kLanes * sizeof(uint32_t));
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) Format::split(load_pairs(w + i * kPanel + v * kLanes), parts[v]);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
      for (int p = 0; p < Format::kParts; ++p) {
        vi word = set1_pair(rows[r][i * Format::kParts + p]);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sums[r][v] = Format::add(sums[r][v], parts[v][p], word);
      }
  }
}

// y [R, 64] += a group of R rows times one of a panel. All of it is unrolled, so that sums stay in registers.
template <class Format, bool kPrefetch, int R>
static inline void multiply_group(const Rows& rows, int64_t row, int64_t group, const char* panel, float* y) {
  constexpr int V = kIntVectors<R>;
  const IntRows a(rows, row, group);
  const uint16_t* scales = reinterpret_cast<const uint16_t*>(panel + group * kPanel * (2 + 4 * Format::kWords));
  const uint32_t* words = reinterpret_cast<const uint32_t*>(scales + kPanel);
  if constexpr (kPrefetch) prefetch_stream(reinterpret_cast<const char*>(scales), kPanel * sizeof(uint16_t));
  for (int column = 0; column < kPanel; column += V * kLanes) {
    vi sums[R][V];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sums[r][v] = Format::start(a.correction(r));
    add_group<Format, kPrefetch>(words + column, a, sums);
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      vf scale = load_bf16(scales + column + v * kLanes);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        float* to = y + r * kLdy + column + v * kLanes;
        vf total = Format::total(sums[r][v], a.correction(r));
        store(to, fma(total, mul(scale, set1(a.scale(r))), load(to)));
      }
    }
  }
}

// A group of a panel for all rows of a chunk. One tile of rows prefetches what the others read after it.
template <class Format>
struct IntTiles {
  const Gemm& g;
  const char* panel;
  int64_t first_row;
  int64_t group;
  int64_t prefetching_panel;
  float* y;

  template <int R>
  void run(int64_t row, int64_t tile) const {
    if (tile == prefetching_panel) multiply_group<Format, true, R>(g.a, first_row + row, group, panel, y + row * kLdy);
    else multiply_group<Format, false, R>(g.a, first_row + row, group, panel, y + row * kLdy);
  }
};

// y [rows, 64] += a panel's products, group by group. The first chunk of rows reads the panel from memory.
template <class Format>
static inline void multiply_int_panel(const Gemm& g, const char* panel, int64_t first_row, int64_t rows, float* y) {
  int64_t tiles = (rows + kMaxIntRows - 1) / kMaxIntRows, groups = g.weight.num_groups();
  for (int64_t group = 0; group < groups; ++group) {
    int64_t prefetching_panel = first_row == 0 ? group % tiles : tiles;
    for_even_tiles<kMaxIntRows>(rows, tiles, IntTiles<Format>{g, panel, first_row, group, prefetching_panel, y});
  }
}

}  // namespace quire::QUIRE_ISA
