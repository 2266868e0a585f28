// Micro-kernels over int8 and int4 panels. Inside a group of 32 elements of K sums are exact integers, however they are
// added; between groups they are floats, added in group order. So every instruction set may take its own way through a group.
//
// Weights are unsigned: w = scale * (u - offset). A group's sum of u * a is corrected by -offset * sum(a).
#pragma once

#include "gemm_float.h"

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
static inline vi add_quads(vi sum, vi u, vi s) { return _mm512_dpbusd_epi32(sum, u, s); }
#else
static inline vi shift_right(vi x, int n) { return x >> n; }
static inline vi add_quads(vi sum, vi u, vi s) {
  for (int i = 0; i < 4; ++i) sum += ((u >> (8 * i)) & 0xff) * ((s << (24 - 8 * i)) >> 24);
  return sum;
}
#endif

struct ByteSums {
  static constexpr int kParts = 1;
  static void split(vi raw, vi (&parts)[kParts]) { parts[0] = raw; }
  static vi start(int32_t correction) { return set1_pair(static_cast<uint32_t>(correction)); }
  static vi add(vi sum, vi part, vi word) { return add_quads(sum, part, word); }
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
constexpr int kIntVectors = kLanes == 16 ? 4 : R == 1 ? 8 : 2;

constexpr int kMaxIntRows = kLanes == 16 ? 6 : 4;

// The rows of a product in an integer format: values, and for each group a scale and a correction.
template <int R>
struct IntRows {
  const char* values[R];
  const float* scales[R];
  const int32_t* corrections[R];
  int64_t group_words;

  IntRows(const Rows& a, int64_t first_row) : group_words(kGroup * (a.format == RowFormat::kInt8 ? 1 : 2) / 4) {
    for (int r = 0; r < R; ++r) {
      values[r] = a.row(first_row + r);
      scales[r] = a.scales(first_row + r);
      corrections[r] = a.corrections(first_row + r);
    }
  }
};

// One group for V vectors of columns: `w` is its first row of words from the columns on, `a` are those of the activations.
template <class Format, int R, int V>
static inline void add_group(const uint32_t* w, const uint32_t* const (&a)[R], Fetcher& fetcher, vi (&sums)[R][V]) {
#pragma GCC unroll 2
  for (int i = 0; i < Format::kWords; ++i) {
    vi parts[V][Format::kParts];
    fetcher.step<V>();
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) Format::split(load_pairs(w + i * kPanel + v * kLanes), parts[v]);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
      for (int p = 0; p < Format::kParts; ++p) {
        vi word = set1_pair(a[r][i * Format::kParts + p]);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sums[r][v] = Format::add(sums[r][v], parts[v][p], word);
      }
  }
}

// y [R, 64] += the products of some groups of K of one panel.
template <class Format, int R>
static inline void multiply_ints(const IntRows<R>& rows, const char* panel, const GroupRange& groups, float* y, int64_t ldy) {
  constexpr int V = kIntVectors<R>;
  constexpr int64_t kGroupBytes = kPanel * (2 + 4 * Format::kWords);
  Fetcher fetcher(groups);
  for (int64_t group = groups.begin; group < groups.end; ++group) {
    fetcher.step<kPanel / kLanes / 2>();  // the scales
    const uint16_t* scales = reinterpret_cast<const uint16_t*>(panel + group * kGroupBytes);
    const uint32_t* words = reinterpret_cast<const uint32_t*>(scales + kPanel);
    const uint32_t* a[R];
    for (int r = 0; r < R; ++r) a[r] = reinterpret_cast<const uint32_t*>(rows.values[r]) + group * rows.group_words;
    for (int column = 0; column < kPanel; column += V * kLanes) {
      vi sums[R][V];
      for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) sums[r][v] = Format::start(rows.corrections[r][group]);
      add_group<Format, R, V>(words + column, a, fetcher, sums);
      for (int v = 0; v < V; ++v) {
        vf scale = load_bf16(scales + column + v * kLanes);
        for (int r = 0; r < R; ++r) {
          float* to = y + r * ldy + column + v * kLanes;
          vf total = Format::total(sums[r][v], rows.corrections[r][group]);
          store(to, fma(total, mul(scale, set1(rows.scales[r][group])), load(to)));
        }
      }
    }
  }
}

}  // namespace quire::QUIRE_ISA
