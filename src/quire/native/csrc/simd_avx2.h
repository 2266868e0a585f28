// Vectors of eight floats: AVX2, FMA and F16C. See simd.h.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace quire::QUIRE_ISA {

constexpr int kLanes = 8;
using vf = __m256;
using vi = __m256i;

static inline vf set1(float x) { return _mm256_set1_ps(x); }
static inline vf load(const float* p) { return _mm256_loadu_ps(p); }
static inline void store(float* p, vf x) { _mm256_storeu_ps(p, x); }
static inline vi first_lanes(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0));
}
static inline vf load_n(const float* p, int n) {
  return n == kLanes ? load(p) : _mm256_maskload_ps(p, first_lanes(n));
}
static inline void store_n(float* p, vf x, int n) {
  n == kLanes ? store(p, x) : _mm256_maskstore_ps(p, first_lanes(n), x);
}
static inline vf add(vf a, vf b) { return _mm256_add_ps(a, b); }
static inline vf sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
static inline vf mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
static inline vf div(vf a, vf b) { return _mm256_div_ps(a, b); }
static inline vf fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
static inline vf max(vf a, vf b) { return _mm256_max_ps(a, b); }
static inline vf min(vf a, vf b) { return _mm256_min_ps(a, b); }
static inline vf select_less(vf a, vf b, vf yes, vf no) {
  return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}
static inline uint32_t mask_at_least(vf x, vf bound) {
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(x, bound, _CMP_GE_OQ)));
}
static inline uint32_t mask_at_least(__m256d x, __m256d bound) {
  return static_cast<uint32_t>(_mm256_movemask_pd(_mm256_cmp_pd(x, bound, _CMP_GE_OQ)));
}
static inline vf round_nearest(vf x) {
  return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
static inline vf exp2_int(vf n) {
  return _mm256_castsi256_ps(
      _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
static inline vf lane_index() { return _mm256_set_ps(7, 6, 5, 4, 3, 2, 1, 0); }

static inline vf magnitude(vf x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }

static inline vi set1_word(uint32_t pair) { return _mm256_set1_epi32(static_cast<int>(pair)); }
static inline vi load_words(const uint32_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
static inline vi and_bits(vi x, uint32_t mask) {
  return _mm256_and_si256(x, _mm256_set1_epi32(static_cast<int>(mask)));
}
static inline vi xor_bits(vi a, vi b) { return _mm256_xor_si256(a, b); }
static inline vf even_bf16(vi x) { return _mm256_castsi256_ps(_mm256_slli_epi32(x, 16)); }
static inline vf odd_bf16(vi x) { return _mm256_castsi256_ps(and_bits(x, 0xffff0000u)); }
static inline vf to_float(vi x) { return _mm256_cvtepi32_ps(x); }
static inline vi to_int(vf x) { return _mm256_cvtps_epi32(x); }
static inline vf load_bf16(const uint16_t* p) {
  return _mm256_castsi256_ps(
      _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16));
}

static inline vf load_f16(const uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
static inline vf load_int8(const int8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
static inline vf load_uint8(const uint8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}

// Sixteen values of x * factor, rounded to 16-bit integers, in order.
static inline vi quantized_pairs(const float* x, vf factor) {
  vi low = _mm256_cvtps_epi32(mul(load(x), factor)), high = _mm256_cvtps_epi32(mul(load(x + 8), factor));
  return _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
}
static inline uint32_t sum_of_pairs(vi pairs) {
  vi sums = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
  __m128i four = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
  __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xb1))));
}
static inline HalfSums store_quantized(int8_t* p, const float* x, vf factor) {
  vi a = quantized_pairs(x, factor), b = quantized_pairs(x + 16, factor);
  _mm256_storeu_si256(reinterpret_cast<vi*>(p), _mm256_permute4x64_epi64(_mm256_packs_epi16(a, b), 0xd8));
  return {sum_of_pairs(a), sum_of_pairs(b)};
}

static inline vf round_to_bf16(vf x) {
  vi bits = _mm256_castps_si256(x);
  vi odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  vi rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
  vf quiet = _mm256_or_ps(x, _mm256_castsi256_ps(_mm256_set1_epi32(0x400000)));
  vf chosen = _mm256_blendv_ps(_mm256_castsi256_ps(rounded), quiet, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  return odd_bf16(_mm256_castps_si256(chosen));
}

static inline void store_bf16_n(uint16_t* p, vf x, int n) {
  vi halves = _mm256_srli_epi32(_mm256_castps_si256(round_to_bf16(x)), 16);
  __m128i bits = _mm_packus_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
  if (n == kLanes) return _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bits);
  std::memcpy(p, &bits, static_cast<size_t>(n) * sizeof *p);
}

// In assembly, to keep `sum` in its register and the loads in program order: with sixteen registers GCC 12
// would load broadcasts early and keep a sum in memory instead.
static inline void fma_into(vf& sum, vf a, vf b) {
  asm volatile("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
}
static inline vf broadcast(const float* p) {
  vf x;
  asm volatile("vbroadcastss %1, %0" : "=x"(x) : "m"(*p));
  return x;
}
// The mask stays in memory, for lack of a register.
static inline vf load_even_bf16(const uint32_t* p) {
  vi x;
  asm volatile("vmovdqu %1, %0\n\tvpslld $16, %0, %0" : "=x"(x) : "m"(*reinterpret_cast<const vi*>(p)));
  return _mm256_castsi256_ps(x);
}
static inline vf load_odd_bf16(const uint32_t* p) {
  alignas(32) static const uint32_t kMask[8] = {0xffff0000u, 0xffff0000u, 0xffff0000u, 0xffff0000u,
                                                0xffff0000u, 0xffff0000u, 0xffff0000u, 0xffff0000u};
  vi x;
  asm volatile("vmovdqu %1, %0\n\tvpand %2, %0, %0"
               : "=x"(x)
               : "m"(*reinterpret_cast<const vi*>(p)), "m"(*reinterpret_cast<const vi*>(kMask)));
  return _mm256_castsi256_ps(x);
}

// The reduction trees of simd.h, in registers.
static inline float reduce_add(vf x) {
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

static inline float reduce_max(vf x) {
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

static inline vf max_or_nan(vf a, vf b) {
  return _mm256_castsi256_ps(_mm256_max_epu32(_mm256_castps_si256(a), _mm256_castps_si256(b)));
}
static inline float reduce_max_or_nan(vf x) {
  vi bits = _mm256_castps_si256(x);
  __m128i four = _mm_max_epu32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1));
  __m128i two = _mm_max_epu32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtss_f32(_mm_castsi128_ps(_mm_max_epu32(two, _mm_shuffle_epi32(two, 0xb1))));
}

}  // namespace quire::QUIRE_ISA
