// int4 products of few rows in the AMX layout, on vectors with VNNI: the integer sums of an AMX group are the
// same as with TMULs.
//
// A subgroup of 32 elements multiplies the nibbles u unsigned (vpdpbusd), starting from the compensation
// -zero_point * sum(a). Its sum fits 16 bits, so vpdpwssd multiplies it by the sub-scale while adding it to
// the group's sum.
#pragma once

#include "gemm_epilogue.h"
#include "gemm_int.h"
#include "prefetch.h"
#include "row_dispatch.h"

namespace quire::QUIRE_ISA {

constexpr int kMaxGemvRows = 6;

template <class T>
static inline const char* as_bytes(const T* values) {
  return reinterpret_cast<const char*>(values);
}

// Activations of R rows, `stride` bytes apart.
struct GemvRows {
  const char* values;
  const char* compensations[2];  // for zero points 8 and 7
  const char* scales;
  int64_t stride;

  explicit GemvRows(const ActivationRows& a)
      : values(a.row(0)),
        compensations{as_bytes(a.amx_compensations(0, 8)), as_bytes(a.amx_compensations(0, 7))},
        scales(as_bytes(a.amx_scales(0))),
        stride(a.stride) {}

  const uint32_t* quad(int64_t row, int64_t i) const {
    return reinterpret_cast<const uint32_t*>(values + row * stride) + i;
  }
  uint32_t compensation(int which, int64_t row, int64_t subgroup) const {
    return reinterpret_cast<const uint32_t*>(compensations[which] + row * stride)[subgroup];
  }
  float scale(int64_t row, int64_t group) const {
    return reinterpret_cast<const float*>(scales + row * stride)[group];
  }
};

// sums [R] += sub_scale * (one subgroup of R rows times kLanes columns). `subgroup` counts along the row.
template <int R>
static QUIRE_INLINE void add_subgroup(const uint32_t* words, const uint8_t* sub_scales, const GemvRows& a,
                                      int64_t subgroup, Prefetch prefetch, vi (&sums)[R]) {
  constexpr int kWords = kGroup / 8;
  vi bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(sub_scales)));
  __mmask16 has_zero_point_7 = _mm512_test_epi32_mask(bytes, set1_word(16));
  vi partial[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
    partial[r] = _mm512_mask_blend_epi32(has_zero_point_7, set1_word(a.compensation(0, r, subgroup)),
                                         set1_word(a.compensation(1, r, subgroup)));
#pragma GCC unroll 4
  for (int i = 0; i < kWords; ++i) {
    prefetch_stream(reinterpret_cast<const char*>(words + i * kPanel), kLineBytes, prefetch);
    vi nibbles = load_words(words + i * kPanel);
    vi low = and_bits(nibbles, 0x0f0f0f0fu), high = and_bits(_mm512_srli_epi16(nibbles, 4), 0x0f0f0f0fu);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      partial[r] = dpbusd_broadcast(partial[r], low, a.quad(r, subgroup * (kGroup / 4) + 2 * i));
      partial[r] = dpbusd_broadcast(partial[r], high, a.quad(r, subgroup * (kGroup / 4) + 2 * i + 1));
    }
  }
  vi scale = and_bits(bytes, 15);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) sums[r] = dpwssd(sums[r], partial[r], scale);
}

// y [R, 64] += R rows times one panel.
template <int R>
static inline void gemv_int4_panel(const Panels& weight, int64_t panel, const GemvRows& a, Prefetch prefetch,
                                   float* y) {
  for (int64_t group = 0; group < weight.num_groups(); ++group) {
    alignas(64) vi sums[kPanel / kLanes][R] = {};
    const uint16_t* scales = weight.scales(panel, group);
    const uint32_t* words = weight.word(panel, group, 0, 0);
    const uint8_t* sub_scales = weight.sub_scales(panel, group, 0);
    int64_t subgroup = group * (kAmxGroup / kGroup), end = subgroup + weight.group_elements(group) / kGroup;
    prefetch_stream(reinterpret_cast<const char*>(scales), weight.header_bytes(), prefetch);
    for (; subgroup < end; ++subgroup, words += kGroup / 8 * kPanel, sub_scales += kPanel) {
#pragma GCC unroll 4
      for (int v = 0; v < kPanel / kLanes; ++v)
        add_subgroup<R>(words + v * kLanes, sub_scales + v * kLanes, a, subgroup, prefetch, sums[v]);
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

struct GemvInt4 {
  const Gemm& g;
  int64_t panel;
  float* y;

  template <int R>
  void run(int64_t, int64_t) const {
    gemv_int4_panel<R>(g.weight, panel, GemvRows(g.a), g.prefetch, y);
  }
};

static inline void gemv_int4_vnni(const Gemm& g, int64_t unit_begin, int64_t unit_end) {
  int64_t panels = panels_per_unit(g);
  for (int64_t unit = unit_begin; unit < unit_end; ++unit) {
    alignas(64) float y[kMaxGemvRows][kLdy] = {};
    for (int64_t p = 0; p < panels; ++p)
      dispatch_rows<kMaxGemvRows>(g.rows, 0, 0, GemvInt4{g, unit * panels + p, y[0] + p * kPanel});
    for (int64_t r = 0; r < g.rows; ++r) run_epilogue(g, r, unit, y[r]);
  }
}

}  // namespace quire::QUIRE_ISA
