// AVX-512 instructions that only move bits: constants, memory, casts, parts of registers, permutations.
#pragma once

#include "integers.h"

namespace quire::QUIRE_ISA {

static inline __m512 _mm512_setzero_ps() { return __m512{}; }
static inline __m512i _mm512_setzero_si512() { return __m512i{}; }
static inline __m512i _mm512_setzero_epi32() { return __m512i{}; }
static inline __m512 _mm512_set1_ps(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
static inline __m512i _mm512_set1_epi8(char x) { return {_mm256_set1_epi8(x), _mm256_set1_epi8(x)}; }
static inline __m512i _mm512_set1_epi16(short x) { return {_mm256_set1_epi16(x), _mm256_set1_epi16(x)}; }
static inline __m512i _mm512_set1_epi32(int x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
static inline __m512i _mm512_set1_epi64(long long x) {
  return {_mm256_set1_epi64x(x), _mm256_set1_epi64x(x)};
}

// Last lane first. (The compilers' setr are macros that call these.)
template <class T, class V, class... In>
static inline V set_lanes(In... in) {
  static_assert(sizeof...(in) == Lanes<T, V>::kCount, "one value for each lane");
  T values[] = {static_cast<T>(in)...};
  Lanes<T, V> x;
  for (int i = 0; i < x.kCount; ++i) x.at[i] = values[x.kCount - 1 - i];
  return x.vector();
}
#define QUIRE_SET(name, V, T)                   \
  template <class... In>                        \
  static inline V _mm512_set_##name(In... in) { \
    return set_lanes<T, V>(in...);              \
  }
QUIRE_SET(ps, __m512, float)
QUIRE_SET(epi8, __m512i, int8_t)
QUIRE_SET(epi16, __m512i, int16_t)
QUIRE_SET(epi32, __m512i, int32_t)
QUIRE_SET(epi64, __m512i, int64_t)
#undef QUIRE_SET

static inline __m512 _mm512_loadu_ps(const void* p) { return load_whole<__m512>(p); }
static inline __m512 _mm512_load_ps(const void* p) { return load_aligned<__m512>(p); }
static inline __m512i _mm512_load_si512(const void* p) { return load_aligned<__m512i>(p); }
static inline __m512i _mm512_load_epi32(const void* p) { return load_aligned<__m512i>(p); }
static inline __m512i _mm512_stream_load_si512(const void* p) { return load_aligned<__m512i>(p); }
static inline void _mm512_storeu_ps(void* p, const __m512& x) { std::memcpy(p, &x, sizeof x); }
static inline void _mm512_store_ps(void* p, const __m512& x) { store_aligned(p, x); }
static inline void _mm512_stream_ps(void* p, const __m512& x) { store_aligned(p, x); }
static inline void _mm512_store_si512(void* p, const __m512i& x) { store_aligned(p, x); }
static inline void _mm512_store_epi32(void* p, const __m512i& x) { store_aligned(p, x); }
static inline void _mm512_stream_si512(void* p, const __m512i& x) { store_aligned(p, x); }

#define QUIRE_MASKED_MEMORY(prefix, name, V, T)                                            \
  static inline V prefix##_mask_loadu_##name(const V& x, Mask<T, V> mask, const void* p) { \
    return load_masked<T>(x, mask, p);                                                     \
  }                                                                                        \
  static inline V prefix##_maskz_loadu_##name(Mask<T, V> mask, const void* p) {            \
    return load_masked<T>(V{}, mask, p);                                                   \
  }                                                                                        \
  static inline void prefix##_mask_storeu_##name(void* p, Mask<T, V> mask, const V& x) {   \
    store_masked<T>(p, mask, x);                                                           \
  }
#define QUIRE_INTEGER_MEMORY(name, T)                                                                  \
  static inline __m512i _mm512_loadu_##name(const void* p) { return load_whole<__m512i>(p); }          \
  static inline void _mm512_storeu_##name(void* p, const __m512i& x) { std::memcpy(p, &x, sizeof x); } \
  QUIRE_MASKED_MEMORY(_mm512, name, __m512i, T)                                                        \
  QUIRE_MASKED_MEMORY(_mm256, name, __m256i, T)                                                        \
  QUIRE_MASKED_MEMORY(_mm, name, __m128i, T)
QUIRE_INTEGER_MEMORY(epi8, int8_t)
QUIRE_INTEGER_MEMORY(epi16, int16_t)
QUIRE_INTEGER_MEMORY(epi32, int32_t)
QUIRE_INTEGER_MEMORY(epi64, int64_t)
QUIRE_INTEGER_MEMORY(si512, int64_t)
QUIRE_MASKED_MEMORY(_mm512, ps, __m512, float)
QUIRE_MASKED_MEMORY(_mm256, ps, __m256, float)
#undef QUIRE_INTEGER_MEMORY
#undef QUIRE_MASKED_MEMORY

// Narrowing stores.
static inline void _mm512_mask_cvtepi32_storeu_epi16(void* p, __mmask16 mask, const __m512i& x) {
  store_masked<int16_t>(p, mask, _mm512_cvtepi32_epi16(x));
}
static inline void _mm512_mask_cvtepi32_storeu_epi8(void* p, __mmask16 mask, const __m512i& x) {
  store_masked<int8_t>(p, mask, _mm512_cvtepi32_epi8(x));
}

static inline __m512i _mm512_castps_si512(const __m512& a) { return static_cast<__m512i>(a); }
static inline __m512 _mm512_castsi512_ps(const __m512i& a) { return static_cast<__m512>(a); }
static inline __m256 _mm512_castps512_ps256(const __m512& a) { return a.low; }
static inline __m256i _mm512_castsi512_si256(const __m512i& a) { return a.low; }
static inline __m128 _mm512_castps512_ps128(const __m512& a) { return _mm256_castps256_ps128(a.low); }
static inline __m128i _mm512_castsi512_si128(const __m512i& a) { return _mm256_castsi256_si128(a.low); }
static inline __m512 _mm512_castps256_ps512(__m256 a) { return {a, __m256{}}; }
static inline __m512i _mm512_castsi256_si512(__m256i a) { return {a, __m256i{}}; }
static inline __m512 _mm512_zextps256_ps512(__m256 a) { return {a, __m256{}}; }
static inline __m512i _mm512_zextsi256_si512(__m256i a) { return {a, __m256i{}}; }
static inline float _mm512_cvtss_f32(const __m512& a) { return _mm256_cvtss_f32(a.low); }
static inline int _mm512_cvtsi512_si32(const __m512i& a) { return _mm256_cvtsi256_si32(a.low); }

static inline __m512 _mm512_broadcastss_ps(__m128 a) {
  return {_mm256_broadcastss_ps(a), _mm256_broadcastss_ps(a)};
}
static inline __m512i _mm512_broadcastb_epi8(__m128i a) {
  return {_mm256_broadcastb_epi8(a), _mm256_broadcastb_epi8(a)};
}
static inline __m512i _mm512_broadcastw_epi16(__m128i a) {
  return {_mm256_broadcastw_epi16(a), _mm256_broadcastw_epi16(a)};
}
static inline __m512i _mm512_broadcastd_epi32(__m128i a) {
  return {_mm256_broadcastd_epi32(a), _mm256_broadcastd_epi32(a)};
}
static inline __m512i _mm512_broadcastq_epi64(__m128i a) {
  return {_mm256_broadcastq_epi64(a), _mm256_broadcastq_epi64(a)};
}
static inline __m512 _mm512_broadcast_f32x4(__m128 a) {
  return {_mm256_set_m128(a, a), _mm256_set_m128(a, a)};
}
static inline __m512i _mm512_broadcast_i32x4(__m128i a) {
  return {_mm256_set_m128i(a, a), _mm256_set_m128i(a, a)};
}
static inline __m512 _mm512_broadcast_f32x8(__m256 a) { return {a, a}; }
static inline __m512i _mm512_broadcast_i32x8(__m256i a) { return {a, a}; }
static inline __m512i _mm512_broadcast_i64x4(__m256i a) { return {a, a}; }

static inline __m256 _mm512_extractf32x8_ps(const __m512& a, int part) { return part & 1 ? a.high : a.low; }
static inline __m256i _mm512_extracti32x8_epi32(const __m512i& a, int part) {
  return part & 1 ? a.high : a.low;
}
static inline __m256i _mm512_extracti64x4_epi64(const __m512i& a, int part) {
  return part & 1 ? a.high : a.low;
}
static inline __m128 _mm512_extractf32x4_ps(const __m512& a, int part) {
  return Lanes<__m128, __m512>(a).at[part & 3];
}
static inline __m128i _mm512_extracti32x4_epi32(const __m512i& a, int part) {
  return Lanes<__m128i, __m512i>(a).at[part & 3];
}
static inline __m512 _mm512_insertf32x8(const __m512& a, __m256 b, int part) {
  return part & 1 ? __m512{a.low, b} : __m512{b, a.high};
}
static inline __m512i _mm512_inserti32x8(const __m512i& a, __m256i b, int part) {
  return part & 1 ? __m512i{a.low, b} : __m512i{b, a.high};
}
static inline __m512i _mm512_inserti64x4(const __m512i& a, __m256i b, int part) {
  return _mm512_inserti32x8(a, b, part);
}

static inline __m512i _mm512_maskz_mov_epi16(__mmask32 mask, const __m512i& a) {
  return select<int16_t>(mask, a, __m512i{});
}

// Lane i of the result is the lane of `a` (permutex2var: of `a` and `b`) that lane i of `index` selects.
template <class T, class I, class V>
static inline V permute(const __m512i& index, const V& a, const V& b) {
  Lanes<I, __m512i> from(index);
  Lanes<T, V> x(a), y(b), out;
  constexpr int kCount = out.kCount;
  for (int i = 0; i < kCount; ++i) out.at[i] = (from.at[i] & kCount ? y : x).at[from.at[i] & (kCount - 1)];
  return out.vector();
}
#define QUIRE_PERMUTE(name, V, T, I)                                                         \
  static inline V _mm512_permutexvar_##name(const __m512i& index, const V& a) {              \
    return permute<T, I>(index, a, a);                                                       \
  }                                                                                          \
  static inline V _mm512_permutex2var_##name(const V& a, const __m512i& index, const V& b) { \
    return permute<T, I>(index, a, b);                                                       \
  }
QUIRE_PERMUTE(epi16, __m512i, int16_t, uint16_t)
QUIRE_PERMUTE(epi32, __m512i, int32_t, uint32_t)
QUIRE_PERMUTE(epi64, __m512i, int64_t, uint64_t)
QUIRE_PERMUTE(ps, __m512, float, uint32_t)
#undef QUIRE_PERMUTE

// Four 128-bit lanes: two of `a`, then two of `b`, two bits of `control` each.
template <class Part, class V>
static inline V shuffle_parts(const V& a, const V& b, int control) {
  Lanes<Part, V> x(a), y(b), out;
  for (int i = 0; i < 4; ++i) out.at[i] = (i < 2 ? x : y).at[control >> (2 * i) & 3];
  return out.vector();
}
static inline __m512 _mm512_shuffle_f32x4(const __m512& a, const __m512& b, int control) {
  return shuffle_parts<__m128>(a, b, control);
}
static inline __m512i _mm512_shuffle_i32x4(const __m512i& a, const __m512i& b, int control) {
  return shuffle_parts<__m128i>(a, b, control);
}
static inline __m512i _mm512_shuffle_i64x2(const __m512i& a, const __m512i& b, int control) {
  return shuffle_parts<__m128i>(a, b, control);
}

// Within each 128 bits.
static inline __m512i _mm512_shuffle_epi32(const __m512i& a, int control) {
  Lanes<int32_t, __m512i> x(a), out;
  for (int i = 0; i < out.kCount; ++i) out.at[i] = x.at[i / 4 * 4 + (control >> (i % 4 * 2) & 3)];
  return out.vector();
}

}  // namespace quire::QUIRE_ISA
