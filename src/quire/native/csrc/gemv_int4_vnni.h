// int4 products of few rows in the form for matrix tiles, but on vectors: the sums of a wide group are the same integers.
//
// A part of 32 elements multiplies nibbles u as they are, beginning with -offset * sum(a); its sum fits 16 bits, and is multiplied by t as
// it is added to the sum of the group.
#pragma once

#include "prefetch.h"
#include "gemm_epilogue.h"
#include "gemm_int.h"
#include "row_dispatch.h"

namespace quire::QUIRE_ISA {

constexpr int kFewNibbleRows = 6;

template <class T>
static inline const char* bytes_of(const T* values) {
  return reinterpret_cast<const char*>(values);
}

// What R rows need of a group or a part, `stride` bytes from row to row.
struct FewRows {
  const char* values;
  const char* corrections[2];  // for offsets 8 and 7
  const char* scales;
  int64_t stride;

  explicit FewRows(const Rows& a)
      : values(a.row(0)), corrections{bytes_of(a.wide_corrections(0, 8)), bytes_of(a.wide_corrections(0, 7))}, scales(bytes_of(a.wide_scales(0))),
        stride(a.stride) {}

  const uint32_t* quad(int64_t row, int64_t i) const { return reinterpret_cast<const uint32_t*>(values + row * stride) + i; }
  uint32_t correction(int which, int64_t row, int64_t part) const {
    return reinterpret_cast<const uint32_t*>(corrections[which] + row * stride)[part];
  }
  float scale(int64_t row, int64_t group) const { return reinterpret_cast<const float*>(scales + row * stride)[group]; }
};

// sums [R] += t * a part of R rows times kLanes columns, `part` counted from the row's beginning.
template <int R>
static QUIRE_INLINE void add_part(const uint32_t* words, const uint8_t* multipliers, const FewRows& a, int64_t part, vi (&sums)[R]) {
  constexpr int kWords = kGroup / 8;
  vi t = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(multipliers)));
  __mmask16 is_turned = _mm512_test_epi32_mask(t, set1_pair(16));
  vi of_part[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
    of_part[r] = _mm512_mask_blend_epi32(is_turned, set1_pair(a.correction(0, r, part)), set1_pair(a.correction(1, r, part)));
#pragma GCC unroll 4
  for (int i = 0; i < kWords; ++i) {
    prefetch_stream(reinterpret_cast<const char*>(words + i * kPanel), kLineBytes);
    vi nibbles = load_pairs(words + i * kPanel);
    vi low = keep_bits(nibbles, 0x0f0f0f0fu), high = keep_bits(_mm512_srli_epi16(nibbles, 4), 0x0f0f0f0fu);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      of_part[r] = dot_quads_with(of_part[r], low, a.quad(r, part * (kGroup / 4) + 2 * i));
      of_part[r] = dot_quads_with(of_part[r], high, a.quad(r, part * (kGroup / 4) + 2 * i + 1));
    }
  }
  vi size = keep_bits(t, 15);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) sums[r] = dot_pairs_of_ints(sums[r], of_part[r], size);
}

template <int R>
static inline void multiply_few_nibbles(const Panels& weight, int64_t panel, const FewRows& a, float* y) {
  for (int64_t group = 0; group < weight.num_groups(); ++group) {
    alignas(64) vi sums[kPanel / kLanes][R] = {};
    const uint16_t* scales = weight.scales(panel, group);
    const uint32_t* words = weight.word(panel, group, 0, 0);
    const uint8_t* multipliers = weight.multipliers(panel, group, 0);
    int64_t part = group * (kWideGroup / kGroup), end = part + weight.elements_of(group) / kGroup;
    prefetch_stream(reinterpret_cast<const char*>(scales), weight.header_bytes());
    for (; part < end; ++part, words += kGroup / 8 * kPanel, multipliers += kPanel) {
#pragma GCC unroll 4
      for (int v = 0; v < kPanel / kLanes; ++v) add_part<R>(words + v * kLanes, multipliers + v * kLanes, a, part, sums[v]);
    }
    for (int v = 0; v < kPanel / kLanes; ++v) {
      vf scale = load_bf16(scales + v * kLanes);
      for (int r = 0; r < R; ++r) {
        float* to = y + r * kLdy + v * kLanes;
        store(to, fma(to_float(sums[v][r]), mul(scale, set1(a.scale(r, group))), load(to)));
      }
    }
  }
}

struct FewNibbles {
  const Gemm& g;
  int64_t panel;
  float* y;

  template <int R>
  void run(int64_t, int64_t) const { multiply_few_nibbles<R>(g.weight, panel, FewRows(g.a), y); }
};

static inline void gemm_few_nibbles(const Gemm& g, int64_t unit_begin, int64_t unit_end) {
  int64_t panels = panels_of(g);
  for (int64_t unit = unit_begin; unit < unit_end; ++unit) {
    alignas(64) float y[kFewNibbleRows][kLdy] = {};
    for (int64_t p = 0; p < panels; ++p) run_tile<kFewNibbleRows>(g.rows, 0, 0, FewNibbles{g, unit * panels + p, y[0] + p * kPanel});
    for (int64_t r = 0; r < g.rows; ++r) finish(g, r, unit, y[r]);
  }
}

}  // namespace quire::QUIRE_ISA
