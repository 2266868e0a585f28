// AVX-512 on floats: arithmetic, comparison, rounding, conversion.
#pragma once

#include <cmath>

#include "lanes.h"

namespace quire::QUIRE_ISA {

QUIRE_TWICE_2(__m512, add_ps, _mm256_add_ps)
QUIRE_TWICE_2(__m512, sub_ps, _mm256_sub_ps)
QUIRE_TWICE_2(__m512, mul_ps, _mm256_mul_ps)
QUIRE_TWICE_2(__m512, div_ps, _mm256_div_ps)
QUIRE_TWICE_2(__m512, max_ps, _mm256_max_ps)
QUIRE_TWICE_2(__m512, min_ps, _mm256_min_ps)
QUIRE_TWICE_1(__m512, sqrt_ps, _mm256_sqrt_ps)
QUIRE_TWICE_3(__m512, fmadd_ps, _mm256_fmadd_ps)
QUIRE_TWICE_3(__m512, fmsub_ps, _mm256_fmsub_ps)
QUIRE_TWICE_3(__m512, fnmadd_ps, _mm256_fnmadd_ps)
QUIRE_TWICE_3(__m512, fnmsub_ps, _mm256_fnmsub_ps)
QUIRE_TWICE_2(__m512, and_ps, _mm256_and_ps)
QUIRE_TWICE_2(__m512, andnot_ps, _mm256_andnot_ps)
QUIRE_TWICE_2(__m512, or_ps, _mm256_or_ps)
QUIRE_TWICE_2(__m512, xor_ps, _mm256_xor_ps)

static inline __m512 _mm512_abs_ps(const __m512& a) {
  __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, a.low), _mm256_andnot_ps(sign, a.high)};
}

// `control` as in the SDM: bits 0 to 2 select the rounding, the upper four how many fraction bits to keep.
static inline __m512 _mm512_roundscale_ps(const __m512& a, int control) {
  require(control >> 4 == 0, "roundscale keeps no fraction bits here");
  auto round = [control](__m256 x) {
    switch (control & 7) {
      case _MM_FROUND_TO_NEAREST_INT:
        return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
      case _MM_FROUND_TO_NEG_INF: return _mm256_round_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
      case _MM_FROUND_TO_POS_INF: return _mm256_round_ps(x, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC);
      case _MM_FROUND_TO_ZERO: return _mm256_round_ps(x, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);
      default: return _mm256_round_ps(x, _MM_FROUND_CUR_DIRECTION);
    }
  };
  return {round(a.low), round(a.high)};
}

QUIRE_MASKED(_mm512, __m512, float, add_ps)
QUIRE_MASKED(_mm512, __m512, float, sub_ps)
QUIRE_MASKED(_mm512, __m512, float, mul_ps)
QUIRE_MASKED(_mm512, __m512, float, div_ps)
QUIRE_MASKED(_mm512, __m512, float, max_ps)
QUIRE_MASKED(_mm512, __m512, float, min_ps)

// Predicate p of the 32 of VCMPPS (SDM, table "Comparison Predicate"; bit 4 only selects which NaNs signal).
// Bit p of a table is whether p holds for lanes that are less, equal, greater or unordered.
static inline unsigned compare(__m256 a, __m256 b, int p) {
  constexpr unsigned kLess = 0x96, kEqual = 0xa5, kGreater = 0xf0, kUnordered = 0x8778;
  unsigned less = static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_LT_OQ)));
  unsigned equal = static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_EQ_OQ)));
  unsigned greater = static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)));
  unsigned unordered = 0xffu & ~(less | equal | greater);
  return less * (kLess >> (p & 7) & 1) | equal * (kEqual >> (p & 7) & 1) |
         greater * (kGreater >> (p & 7) & 1) | unordered * (kUnordered >> (p & 15) & 1);
}

static inline __mmask16 _mm512_cmp_ps_mask(const __m512& a, const __m512& b, int predicate) {
  return static_cast<__mmask16>(compare(a.low, b.low, predicate) | compare(a.high, b.high, predicate) << 8);
}
static inline __mmask16 _mm512_mask_cmp_ps_mask(__mmask16 mask, const __m512& a, const __m512& b,
                                                int predicate) {
  return static_cast<__mmask16>(mask & _mm512_cmp_ps_mask(a, b, predicate));
}
static inline __mmask16 _mm512_cmpeq_ps_mask(const __m512& a, const __m512& b) {
  return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ);
}
static inline __mmask16 _mm512_cmplt_ps_mask(const __m512& a, const __m512& b) {
  return _mm512_cmp_ps_mask(a, b, _CMP_LT_OS);
}
static inline __mmask16 _mm512_cmple_ps_mask(const __m512& a, const __m512& b) {
  return _mm512_cmp_ps_mask(a, b, _CMP_LE_OS);
}
static inline __mmask16 _mm512_cmpneq_ps_mask(const __m512& a, const __m512& b) {
  return _mm512_cmp_ps_mask(a, b, _CMP_NEQ_UQ);
}
static inline __mmask16 _mm512_cmpunord_ps_mask(const __m512& a, const __m512& b) {
  return _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q);
}

// Doubles use the compiler's own vectors.
static inline __mmask8 _mm512_cmp_pd_mask(const __m512d& a, const __m512d& b, int predicate) {
  require(predicate == _CMP_GE_OQ, "doubles are only compared for >= here");
  return where<double>(a, b, [](double x, double y) { return x >= y; });
}

static inline __m512 _mm512_mask_blend_ps(__mmask16 mask, const __m512& a, const __m512& b) {
  return select<float>(mask, b, a);
}
static inline __m512 _mm512_mask_mov_ps(const __m512& a, __mmask16 mask, const __m512& b) {
  return select<float>(mask, b, a);
}
static inline __m512 _mm512_maskz_mov_ps(__mmask16 mask, const __m512& a) {
  return select<float>(mask, a, __m512{});
}

static inline __m512i _mm512_cvtps_epi32(const __m512& a) {
  return {_mm256_cvtps_epi32(a.low), _mm256_cvtps_epi32(a.high)};
}
static inline __m512i _mm512_cvttps_epi32(const __m512& a) {
  return {_mm256_cvttps_epi32(a.low), _mm256_cvttps_epi32(a.high)};
}
static inline __m512 _mm512_cvtepi32_ps(const __m512i& a) {
  return {_mm256_cvtepi32_ps(a.low), _mm256_cvtepi32_ps(a.high)};
}
static inline __m512 _mm512_cvtepu32_ps(const __m512i& a) {
  return convert<float, __m512, uint32_t>(a, [](uint32_t x) { return static_cast<float>(x); });
}
static inline __m512 _mm512_cvtph_ps(__m256i a) {
  return {_mm256_cvtph_ps(_mm256_castsi256_si128(a)), _mm256_cvtph_ps(_mm256_extracti128_si256(a, 1))};
}
static inline __m256i _mm512_cvtps_ph(const __m512& a, int control) {
  int rounding = control & 7;
  require(rounding == _MM_FROUND_TO_NEAREST_INT || rounding == _MM_FROUND_CUR_DIRECTION,
          "float16 rounds to nearest even here");
  return _mm256_set_m128i(_mm256_cvtps_ph(a.high, _MM_FROUND_TO_NEAREST_INT),
                          _mm256_cvtps_ph(a.low, _MM_FROUND_TO_NEAREST_INT));
}

// Adds in the compilers' order: halves, then halves of those, and so on.
template <class T, class V, class Op>
static inline T reduce(const V& a, Op op) {
  Lanes<T, V> x(a);
  for (int width = x.kCount / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) x.at[i] = op(x.at[i], x.at[i + width]);
  return x.at[0];
}
static inline float _mm512_reduce_add_ps(const __m512& a) {
  return reduce<float>(a, [](float x, float y) { return x + y; });
}
static inline float _mm512_reduce_max_ps(const __m512& a) {
  return reduce<float>(a, [](float x, float y) { return x > y ? x : y; });
}
static inline float _mm512_reduce_min_ps(const __m512& a) {
  return reduce<float>(a, [](float x, float y) { return x < y ? x : y; });
}

}  // namespace quire::QUIRE_ISA
