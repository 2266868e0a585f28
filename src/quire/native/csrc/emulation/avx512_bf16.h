// AVX-512 with BF16 and VNNI.
//
// Source: Intel 64 and IA-32 Architectures SDM, volume 2: VDPBF16PS, VCVTNEPS2BF16, VPDPBUSD, VPDPWSSD.
#pragma once

#include "avx512.h"

#define QUIRE_EMULATED  // inline assembly becomes function calls

#undef _mm256_dpbusd_epi32
#undef _mm256_dpwssd_epi32
#undef _mm256_dpbusds_epi32
#undef _mm256_dpwssds_epi32

namespace quire::QUIRE_ISA {

// Replaces a denormal by a zero of its sign.
static inline __m256 flush(__m256 x) {
  __m256 sign = _mm256_set1_ps(-0.0f);
  __m256 is_denormal = _mm256_cmp_ps(_mm256_andnot_ps(sign, x), _mm256_set1_ps(1.17549435e-38f), _CMP_LT_OQ);
  return _mm256_blendv_ps(x, _mm256_and_ps(x, sign), is_denormal);
}
static inline __m512 flush(const __m512& x) { return {flush(x.low), flush(x.high)}; }

// a * b + c as one FMA that takes denormals as zero and flushes results that are tiny *after* rounding to 24
// bits. A sum just below the least normal number is tiny although it rounds up to it as a denormal: the same
// sum times 2^64 shows this.
static inline __m256 fma_flushed(__m256 a, __m256 b, __m256 c) {
  const __m256 scale = _mm256_set1_ps(18446744073709551616.0f), sign = _mm256_set1_ps(-0.0f);
  a = flush(a), b = flush(b), c = flush(c);
  __m256 sum = _mm256_fmadd_ps(a, b, c);
  __m256 scaled = _mm256_fmadd_ps(_mm256_mul_ps(a, scale), b, _mm256_mul_ps(c, scale));
  __m256 is_tiny =
      _mm256_cmp_ps(_mm256_andnot_ps(sign, scaled), _mm256_set1_ps(2.16840434e-19f), _CMP_LT_OQ);  // 2^-62
  return _mm256_blendv_ps(sum, _mm256_and_ps(sum, sign), is_tiny);
}
QUIRE_TWICE_3(__m512, fma_flushed_ps, fma_flushed)

static inline __m256 even_half(__m256i pairs) { return _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)); }
static inline __m256 odd_half(__m256i pairs) {
  return _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(-65536)));
}

// "FP32 FMA with daz in, ftz out and RNE rounding": the odd products first, then the even ones.
static inline __m256 dot_bf16(__m256 sum, __m256i a, __m256i b) {
  sum = fma_flushed(odd_half(a), odd_half(b), sum);
  return fma_flushed(even_half(a), even_half(b), sum);
}
static inline __m512 _mm512_dpbf16_ps(const __m512& sum, const __m512bh& a, const __m512bh& b) {
  return {dot_bf16(sum.low, a.low, b.low), dot_bf16(sum.high, a.high, b.high)};
}

static inline uint16_t nearest_bf16(uint32_t bits) {
  uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude < 0x00800000u) return static_cast<uint16_t>(bits >> 16 & 0x8000u);
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}
static inline __m256bh _mm512_cvtneps_pbh(const __m512& x) {
  return convert<uint16_t, __m256bh, uint32_t>(x, nearest_bf16);
}
static inline __m512 _mm512_cvtpbh_ps(__m256bh x) {
  return static_cast<__m512>(_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)x), 16));
}

// Each lane of the sum gains the products of its elements: four of unsigned and signed bytes, or two of
// signed 16-bit integers.
template <class A, class B, class V>
static inline V dot_wrapping(const V& sum, const V& a, const V& b) {
  Lanes<uint32_t, V> out(sum);
  Lanes<A, V> x(a);
  Lanes<B, V> y(b);
  constexpr int kPer = static_cast<int>(4 / sizeof(A));
  for (int i = 0; i < x.kCount; ++i) {
    int product = x.at[i] * y.at[i];
    out.at[i / kPer] += static_cast<uint32_t>(product);
  }
  return out.vector();
}

// The same, saturated once after the last addition.
template <class A, class B, class V>
static inline V dot_saturating(const V& sum, const V& a, const V& b) {
  Lanes<int32_t, V> out(sum);
  Lanes<A, V> x(a);
  Lanes<B, V> y(b);
  constexpr int kPer = static_cast<int>(4 / sizeof(A));
  for (int i = 0; i < out.kCount; ++i) {
    int64_t total = out.at[i];
    for (int j = i * kPer; j < (i + 1) * kPer; ++j) total += static_cast<int64_t>(x.at[j]) * y.at[j];
    out.at[i] = static_cast<int32_t>(total > INT32_MAX ? INT32_MAX : total < INT32_MIN ? INT32_MIN : total);
  }
  return out.vector();
}

#define QUIRE_DOT(prefix, V, name, product, A, B)                                 \
  static inline V prefix##_##name##_epi32(const V& sum, const V& a, const V& b) { \
    return product<A, B>(sum, a, b);                                              \
  }
#define QUIRE_DOTS(prefix, V)                                    \
  QUIRE_DOT(prefix, V, dpbusd, dot_wrapping, uint8_t, int8_t)    \
  QUIRE_DOT(prefix, V, dpwssd, dot_wrapping, int16_t, int16_t)   \
  QUIRE_DOT(prefix, V, dpbusds, dot_saturating, uint8_t, int8_t) \
  QUIRE_DOT(prefix, V, dpwssds, dot_saturating, int16_t, int16_t)
QUIRE_DOTS(_mm512, __m512i)
QUIRE_DOTS(_mm256, __m256i)
#undef QUIRE_DOTS
#undef QUIRE_DOT

}  // namespace quire::QUIRE_ISA
