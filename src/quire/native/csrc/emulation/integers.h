// AVX-512 on integers: arithmetic, shifts, comparison, conversion.
#pragma once

#include "floats.h"

namespace quire::QUIRE_ISA {

#define QUIRE_TWICE_INT(name, T)              \
  QUIRE_TWICE_2(__m512i, name, _mm256_##name) \
  QUIRE_MASKED(_mm512, __m512i, T, name)
QUIRE_TWICE_INT(add_epi8, int8_t)
QUIRE_TWICE_INT(add_epi16, int16_t)
QUIRE_TWICE_INT(add_epi32, int32_t)
QUIRE_TWICE_INT(add_epi64, int64_t)
QUIRE_TWICE_INT(adds_epi8, int8_t)
QUIRE_TWICE_INT(adds_epi16, int16_t)
QUIRE_TWICE_INT(adds_epu8, int8_t)
QUIRE_TWICE_INT(adds_epu16, int16_t)
QUIRE_TWICE_INT(sub_epi8, int8_t)
QUIRE_TWICE_INT(sub_epi16, int16_t)
QUIRE_TWICE_INT(sub_epi32, int32_t)
QUIRE_TWICE_INT(sub_epi64, int64_t)
QUIRE_TWICE_INT(subs_epi8, int8_t)
QUIRE_TWICE_INT(subs_epi16, int16_t)
QUIRE_TWICE_INT(subs_epu8, int8_t)
QUIRE_TWICE_INT(subs_epu16, int16_t)
QUIRE_TWICE_INT(mullo_epi16, int16_t)
QUIRE_TWICE_INT(mullo_epi32, int32_t)
QUIRE_TWICE_INT(mulhi_epi16, int16_t)
QUIRE_TWICE_INT(mulhi_epu16, int16_t)
QUIRE_TWICE_INT(mulhrs_epi16, int16_t)
QUIRE_TWICE_INT(madd_epi16, int32_t)
QUIRE_TWICE_INT(maddubs_epi16, int16_t)
QUIRE_TWICE_INT(max_epi8, int8_t)
QUIRE_TWICE_INT(max_epi16, int16_t)
QUIRE_TWICE_INT(max_epi32, int32_t)
QUIRE_TWICE_INT(max_epu8, int8_t)
QUIRE_TWICE_INT(max_epu16, int16_t)
QUIRE_TWICE_INT(max_epu32, int32_t)
QUIRE_TWICE_INT(min_epi8, int8_t)
QUIRE_TWICE_INT(min_epi16, int16_t)
QUIRE_TWICE_INT(min_epi32, int32_t)
QUIRE_TWICE_INT(min_epu8, int8_t)
QUIRE_TWICE_INT(min_epu16, int16_t)
QUIRE_TWICE_INT(min_epu32, int32_t)
QUIRE_TWICE_INT(avg_epu8, int8_t)
QUIRE_TWICE_INT(packs_epi16, int8_t)
QUIRE_TWICE_INT(packs_epi32, int16_t)
QUIRE_TWICE_INT(packus_epi16, int8_t)
QUIRE_TWICE_INT(packus_epi32, int16_t)
QUIRE_TWICE_INT(unpacklo_epi8, int8_t)
QUIRE_TWICE_INT(unpackhi_epi8, int8_t)
QUIRE_TWICE_INT(unpacklo_epi16, int16_t)
QUIRE_TWICE_INT(unpackhi_epi16, int16_t)
QUIRE_TWICE_INT(unpacklo_epi32, int32_t)
QUIRE_TWICE_INT(unpackhi_epi32, int32_t)
QUIRE_TWICE_INT(unpacklo_epi64, int64_t)
QUIRE_TWICE_INT(unpackhi_epi64, int64_t)
QUIRE_TWICE_INT(shuffle_epi8, int8_t)
QUIRE_TWICE_INT(sllv_epi32, int32_t)
QUIRE_TWICE_INT(srlv_epi32, int32_t)
QUIRE_TWICE_INT(srav_epi32, int32_t)
#undef QUIRE_TWICE_INT
QUIRE_TWICE_1(__m512i, abs_epi8, _mm256_abs_epi8)
QUIRE_TWICE_1(__m512i, abs_epi16, _mm256_abs_epi16)
QUIRE_TWICE_1(__m512i, abs_epi32, _mm256_abs_epi32)
QUIRE_TWICE_2(__m512i, mul_epi32, _mm256_mul_epi32)
QUIRE_TWICE_2(__m512i, mul_epu32, _mm256_mul_epu32)
QUIRE_TWICE_2(__m512i, sad_epu8, _mm256_sad_epu8)

// Bitwise operations depend on the lane size only through a mask.
#define QUIRE_BITWISE(name)                                   \
  QUIRE_TWICE_2(__m512i, name##_si512, _mm256_##name##_si256) \
  QUIRE_TWICE_2(__m512i, name##_epi32, _mm256_##name##_si256) \
  QUIRE_TWICE_2(__m512i, name##_epi64, _mm256_##name##_si256) \
  QUIRE_MASKED(_mm512, __m512i, int32_t, name##_epi32)
QUIRE_BITWISE(and)
QUIRE_BITWISE(andnot)
QUIRE_BITWISE(or)
QUIRE_BITWISE(xor)
#undef QUIRE_BITWISE

#define QUIRE_SHIFT(name, T)                                              \
  static inline __m512i _mm512_##name(const __m512i& a, unsigned count) { \
    int bits = count > 64 ? 64 : static_cast<int>(count);                 \
    return {_mm256_##name(a.low, bits), _mm256_##name(a.high, bits)};     \
  }                                                                       \
  QUIRE_MASKED(_mm512, __m512i, T, name)
QUIRE_SHIFT(slli_epi16, int16_t)
QUIRE_SHIFT(slli_epi32, int32_t)
QUIRE_SHIFT(slli_epi64, int64_t)
QUIRE_SHIFT(srli_epi16, int16_t)
QUIRE_SHIFT(srli_epi32, int32_t)
QUIRE_SHIFT(srli_epi64, int64_t)
QUIRE_SHIFT(srai_epi16, int16_t)
QUIRE_SHIFT(srai_epi32, int32_t)
#undef QUIRE_SHIFT

static inline __m512i _mm512_ternarylogic_epi32(const __m512i& a, const __m512i& b, const __m512i& c,
                                                int table) {
  return each<uint32_t>(
      [table](uint32_t x, uint32_t y, uint32_t z) {
        uint32_t out = 0;
        for (int row = 0; row < 8; ++row)
          if (table >> row & 1) out |= (row & 4 ? x : ~x) & (row & 2 ? y : ~y) & (row & 1 ? z : ~z);
        return out;
      },
      a, b, c);
}

#define QUIRE_COMPARE(name, suffix, T, op)                                                                  \
  static inline Mask<T, __m512i> _mm512_##name##_##suffix##_mask(const __m512i& a, const __m512i& b) {      \
    return where<T>(a, b, [](T x, T y) -> bool { return x op y; });                                         \
  }                                                                                                         \
  static inline Mask<T, __m512i> _mm512_mask_##name##_##suffix##_mask(Mask<T, __m512i> mask,                \
                                                                      const __m512i& a, const __m512i& b) { \
    return mask & _mm512_##name##_##suffix##_mask(a, b);                                                    \
  }
#define QUIRE_COMPARISONS(suffix, T)   \
  QUIRE_COMPARE(cmpeq, suffix, T, ==)  \
  QUIRE_COMPARE(cmpneq, suffix, T, !=) \
  QUIRE_COMPARE(cmplt, suffix, T, <)   \
  QUIRE_COMPARE(cmple, suffix, T, <=)  \
  QUIRE_COMPARE(cmpgt, suffix, T, >)   \
  QUIRE_COMPARE(cmpge, suffix, T, >=)
QUIRE_COMPARISONS(epi8, int8_t)
QUIRE_COMPARISONS(epi16, int16_t)
QUIRE_COMPARISONS(epi32, int32_t)
QUIRE_COMPARISONS(epu8, uint8_t)
QUIRE_COMPARISONS(epu16, uint16_t)
QUIRE_COMPARISONS(epu32, uint32_t)
QUIRE_COMPARE(test, epi8, uint8_t, &)
QUIRE_COMPARE(test, epi16, uint16_t, &)
QUIRE_COMPARE(test, epi32, uint32_t, &)
#undef QUIRE_COMPARISONS
#undef QUIRE_COMPARE

static inline __mmask64 _mm512_movepi8_mask(const __m512i& a) { return _mm512_cmplt_epi8_mask(a, __m512i{}); }
static inline __mmask32 _mm512_movepi16_mask(const __m512i& a) {
  return _mm512_cmplt_epi16_mask(a, __m512i{});
}
static inline __mmask16 _mm512_movepi32_mask(const __m512i& a) {
  return _mm512_cmplt_epi32_mask(a, __m512i{});
}
static inline __m512i _mm512_mask_blend_epi8(__mmask64 mask, const __m512i& a, const __m512i& b) {
  return select<int8_t>(mask, b, a);
}
static inline __m512i _mm512_mask_blend_epi16(__mmask32 mask, const __m512i& a, const __m512i& b) {
  return select<int16_t>(mask, b, a);
}
static inline __m512i _mm512_mask_blend_epi32(__mmask16 mask, const __m512i& a, const __m512i& b) {
  return select<int32_t>(mask, b, a);
}

#define QUIRE_WIDEN(name, From, FromV, To)                              \
  static inline __m512i _mm512_##name(const FromV& a) {                 \
    return convert<To, __m512i, From>(a, [](From x) { return To{x}; }); \
  }                                                                     \
  QUIRE_MASKED(_mm512, __m512i, To, name)
QUIRE_WIDEN(cvtepi8_epi16, int8_t, __m256i, int16_t)
QUIRE_WIDEN(cvtepu8_epi16, uint8_t, __m256i, uint16_t)
QUIRE_WIDEN(cvtepi8_epi32, int8_t, __m128i, int32_t)
QUIRE_WIDEN(cvtepu8_epi32, uint8_t, __m128i, uint32_t)
QUIRE_WIDEN(cvtepi16_epi32, int16_t, __m256i, int32_t)
QUIRE_WIDEN(cvtepu16_epi32, uint16_t, __m256i, uint32_t)
#undef QUIRE_WIDEN

// cvt keeps the low bits; cvts and cvtus saturate.
#define QUIRE_NARROW(prefix, name, V, From, ToV, To, value)                          \
  static inline ToV prefix##_##name(const V& a) {                                    \
    return convert<To, ToV, From>(a, [](From x) { return static_cast<To>(value); }); \
  }
#define QUIRE_CLAMPED(low, high) (x<(low) ? (low) : x>(high) ? (high) : x)
QUIRE_NARROW(_mm512, cvtepi32_epi16, __m512i, int32_t, __m256i, int16_t, x)
QUIRE_NARROW(_mm512, cvtepi32_epi8, __m512i, int32_t, __m128i, int8_t, x)
QUIRE_NARROW(_mm512, cvtepi16_epi8, __m512i, int16_t, __m256i, int8_t, x)
QUIRE_NARROW(_mm512, cvtsepi32_epi16, __m512i, int32_t, __m256i, int16_t, QUIRE_CLAMPED(-32768, 32767))
QUIRE_NARROW(_mm512, cvtsepi32_epi8, __m512i, int32_t, __m128i, int8_t, QUIRE_CLAMPED(-128, 127))
QUIRE_NARROW(_mm512, cvtsepi16_epi8, __m512i, int16_t, __m256i, int8_t, QUIRE_CLAMPED(-128, 127))
QUIRE_NARROW(_mm512, cvtusepi32_epi8, __m512i, uint32_t, __m128i, uint8_t, (x > 255 ? 255 : x))
QUIRE_NARROW(_mm256, cvtepi32_epi16, __m256i, int32_t, __m128i, int16_t, x)
QUIRE_NARROW(_mm256, cvtepi32_epi8, __m256i, int32_t, __m128i, int8_t, x)
QUIRE_NARROW(_mm256, cvtepi16_epi8, __m256i, int16_t, __m128i, int8_t, x)
QUIRE_NARROW(_mm256, cvtsepi32_epi8, __m256i, int32_t, __m128i, int8_t, QUIRE_CLAMPED(-128, 127))
#undef QUIRE_CLAMPED
#undef QUIRE_NARROW

static inline __m512i _mm512_maskz_compress_epi32(__mmask16 mask, const __m512i& a) {
  Lanes<int32_t, __m512i> in(a), out{};
  int count = 0;
  for (int i = 0; i < in.kCount; ++i)
    if (mask >> i & 1) out.at[count++] = in.at[i];
  return out.vector();
}

static inline int _mm512_reduce_max_epi32(const __m512i& a) {
  return reduce<int32_t>(a, [](int32_t x, int32_t y) { return x > y ? x : y; });
}
static inline int _mm512_reduce_min_epi32(const __m512i& a) {
  return reduce<int32_t>(a, [](int32_t x, int32_t y) { return x < y ? x : y; });
}

}  // namespace quire::QUIRE_ISA
