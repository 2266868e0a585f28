// Vectors of sixteen floats: AVX-512 F, BW, DQ, VL, with QUIRE_BF16_DOT also BF16 and VNNI. See simd.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace quire::QUIRE_ISA {

constexpr int kLanes = 16;
using vf = __m512;
using vi = __m512i;  // also kLanes pairs of bfloat16, the even element in the low half

static inline vf set1(float x) { return _mm512_set1_ps(x); }
static inline vf load(const float* p) { return _mm512_loadu_ps(p); }
static inline vf load_n(const float* p, int n) {
  return n == kLanes ? load(p) : _mm512_maskz_loadu_ps((1u << n) - 1, p);
}
static inline void store(float* p, vf x) { _mm512_storeu_ps(p, x); }
// Unmasked for whole vectors: a masked store is not forwarded to later loads.
static inline void store_n(float* p, vf x, int n) {
  n == kLanes ? store(p, x) : _mm512_mask_storeu_ps(p, (1u << n) - 1, x);
}
static inline vf add(vf a, vf b) { return _mm512_add_ps(a, b); }
static inline vf sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
static inline vf mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
static inline vf div(vf a, vf b) { return _mm512_div_ps(a, b); }
static inline vf fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
static inline vf max(vf a, vf b) { return _mm512_max_ps(a, b); }
static inline vf min(vf a, vf b) { return _mm512_min_ps(a, b); }
static inline vf select_less(vf a, vf b, vf yes, vf no) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
}
static inline uint32_t mask_at_least(vf x, vf bound) { return _mm512_cmp_ps_mask(x, bound, _CMP_GE_OQ); }
static inline uint32_t mask_at_least(__m512d x, __m512d bound) {
  return _mm512_cmp_pd_mask(x, bound, _CMP_GE_OQ);
}
static inline void store_indices(uint32_t* p, uint32_t first, uint32_t lanes) {
  vi index = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  vi numbers = _mm512_add_epi32(index, _mm512_set1_epi32(static_cast<int>(first)));
  _mm512_storeu_si512(p, _mm512_maskz_compress_epi32(static_cast<__mmask16>(lanes), numbers));
}
static inline void store_lanes(float* p, const float* x, uint32_t lanes) {
  vi bits = _mm512_loadu_si512(x);
  _mm512_storeu_si512(p, _mm512_maskz_compress_epi32(static_cast<__mmask16>(lanes), bits));
}
static inline vf round_nearest(vf x) {
  return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
static inline vf exp2_int(vf n) {
  return _mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23));
}
static inline vf lane_index() { return _mm512_set_ps(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0); }

// The tree adds halves, then halves of those, and so on.
static inline float reduce_add(vf x) { return _mm512_reduce_add_ps(x); }
static inline float reduce_max(vf x) { return _mm512_reduce_max_ps(x); }

static inline vf magnitude(vf x) { return _mm512_abs_ps(x); }

static inline vf max_or_nan(vf a, vf b) {
  return _mm512_castsi512_ps(_mm512_max_epu32(_mm512_castps_si512(a), _mm512_castps_si512(b)));
}
static inline float reduce_max_or_nan(vf x) {
  vi bits = _mm512_castps_si512(x);
  __m256i eight = _mm256_max_epu32(_mm512_castsi512_si256(bits), _mm512_extracti64x4_epi64(bits, 1));
  __m128i four = _mm_max_epu32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  __m128i two = _mm_max_epu32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtss_f32(_mm_castsi128_ps(_mm_max_epu32(two, _mm_shuffle_epi32(two, 0xb1))));
}

static inline vi set1_word(uint32_t pair) { return _mm512_set1_epi32(static_cast<int>(pair)); }
static inline vi load_words(const uint32_t* p) { return _mm512_loadu_si512(p); }
static inline vi and_bits(vi x, uint32_t mask) {
  return _mm512_and_si512(x, _mm512_set1_epi32(static_cast<int>(mask)));
}
static inline vi xor_bits(vi a, vi b) { return _mm512_xor_si512(a, b); }
static inline vf even_bf16(vi x) { return _mm512_castsi512_ps(_mm512_slli_epi32(x, 16)); }
static inline vf odd_bf16(vi x) { return _mm512_castsi512_ps(and_bits(x, 0xffff0000u)); }
static inline vf to_float(vi x) { return _mm512_cvtepi32_ps(x); }
static inline vi to_int(vf x) { return _mm512_cvtps_epi32(x); }
static inline vi add_words(vi a, vi b) { return _mm512_add_epi32(a, b); }
static inline vf round_to_bf16(vf x) {
  vi bits = _mm512_castps_si512(x);
  vi odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  vi rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  __mmask16 is_nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  return _mm512_castsi512_ps(
      and_bits(_mm512_mask_or_epi32(rounded, is_nan, bits, _mm512_set1_epi32(0x400000)), 0xffff0000u));
}
static inline vf load_bf16(const uint16_t* p) {
  return _mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16));
}

static inline vf load_f16(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
static inline vf load_int8(const int8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
static inline vf load_uint8(const uint8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}

// Wraps around where values were not finite; _mm512_reduce_add_epi32 of GCC must not.
static inline uint32_t sum_of_lanes(vi x) {
  __m256i halves = _mm256_add_epi32(_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64(x, 1));
  __m128i quarters = _mm_add_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
  __m128i pairs = _mm_add_epi32(quarters, _mm_shuffle_epi32(quarters, 0x4e));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(_mm_add_epi32(pairs, _mm_shuffle_epi32(pairs, 0xb1))));
}
// Half of store_quantized.
static inline uint32_t store_quantized_lanes(int8_t* p, const float* x, vf factor) {
  vi q = _mm512_cvtps_epi32(mul(load(x), factor));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(q));
  return sum_of_lanes(q);
}
static inline HalfSums store_quantized(int8_t* p, const float* x, vf factor) {
  return {store_quantized_lanes(p, x, factor), store_quantized_lanes(p + 16, x + 16, factor)};
}

// Rounds x to integers of 16 bits, high * 256 + low with both bytes signed.
static inline void store_high_low(int8_t* upper, int8_t* lower, vf x) {
  vi q = _mm512_cvtps_epi32(x);
  vi high = _mm512_srai_epi32(_mm512_add_epi32(q, _mm512_set1_epi32(128)), 8);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(upper), _mm512_cvtepi32_epi8(high));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(lower), _mm512_cvtepi32_epi8(q));
}

// Stores the second byte and the lowest byte of each lane.
static inline void store_two_bytes(uint8_t* second, uint8_t* lowest, vi x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(second), _mm512_cvtepi32_epi8(_mm512_srli_epi32(x, 8)));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(lowest), _mm512_cvtepi32_epi8(x));
}

#if defined(QUIRE_BF16_DOT)
#if defined(QUIRE_EMULATED)
static inline vf dpbf16(vf acc, vi a, vi b) { return _mm512_dpbf16_ps(acc, (__m512bh)a, (__m512bh)b); }
static inline vi dpbusd(vi acc, vi u, vi s) { return _mm512_dpbusd_epi32(acc, u, s); }
#else
// In assembly: GCC 12 copies the sum before these intrinsics, twice if many sums are live.
static inline vf dpbf16(vf acc, vi a, vi b) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b));
  return acc;
}
static inline vi dpbusd(vi acc, vi u, vi s) {
  asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(u), "v"(s));
  return acc;
}
#endif
static inline __m256i to_bf16(vf x) { return (__m256i)_mm512_cvtneps_pbh(x); }
#else
static inline __m256i to_bf16(vf x) {
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_castps_si512(round_to_bf16(x)), 16));
}
#endif
static inline void store_bf16_n(uint16_t* p, vf x, int n) {
  if (n == kLanes) return _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), to_bf16(x));
  _mm256_mask_storeu_epi16(p, static_cast<__mmask16>((1u << n) - 1), to_bf16(x));
}
static inline void store_bf16_interleaved(uint16_t* pairs, int half, vf x, int n) {
  uint32_t lanes = static_cast<uint32_t>((1ull << 2 * n) - 1), halves = half ? 0xaaaaaaaau : 0x55555555u;
  vi bits = _mm512_cvtepu16_epi32(to_bf16(x));
  _mm512_mask_storeu_epi16(pairs, lanes & halves, half ? _mm512_slli_epi32(bits, 16) : bits);
}

}  // namespace quire::QUIRE_ISA
