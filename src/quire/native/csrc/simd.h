// One vector of floats for the instruction set this file is compiled for; the only place that names intrinsics.
//
// Included by kernel translation units alone, inside a namespace of their own: nothing here may be shared between
// instruction sets. CMakeLists.txt chooses the variant by QUIRE_LANES and QUIRE_BF16_DOT, not the compiler by its macros: an
// instruction set's name fixes its arithmetic, whatever flags a user adds. Every operation is lane-wise, so a lane's bits never depend on its neighbours. `fma(a, b, c)` is
// a * b + c, fused where the instruction set fuses and always two roundings where it does not.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if QUIRE_LANES > 4
#include <immintrin.h>
#endif

namespace quire::QUIRE_ISA {

#if QUIRE_LANES == 16

constexpr int kLanes = 16;
using vf = __m512;
using vi = __m512i;  // also: kLanes pairs of bfloat16, the even element in the low half

static inline vf set1(float x) { return _mm512_set1_ps(x); }
static inline vf load(const float* p) { return _mm512_loadu_ps(p); }
static inline vf load_n(const float* p, int n) { return _mm512_maskz_loadu_ps((1u << n) - 1, p); }
static inline void store(float* p, vf x) { _mm512_storeu_ps(p, x); }
static inline void store_n(float* p, vf x, int n) { _mm512_mask_storeu_ps(p, (1u << n) - 1, x); }
static inline vf add(vf a, vf b) { return _mm512_add_ps(a, b); }
static inline vf sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
static inline vf mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
static inline vf div(vf a, vf b) { return _mm512_div_ps(a, b); }
static inline vf fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
static inline vf max(vf a, vf b) { return _mm512_max_ps(a, b); }
static inline vf min(vf a, vf b) { return _mm512_min_ps(a, b); }
static inline vf if_less(vf a, vf b, vf yes, vf no) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
}
static inline vf to_nearest(vf x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline vf power_of_two(vf n) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23));
}
static inline vf lane_index() { return _mm512_set_ps(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0); }

static inline vf magnitude(vf x) { return _mm512_abs_ps(x); }

static inline vi set1_pair(uint32_t pair) { return _mm512_set1_epi32(static_cast<int>(pair)); }
static inline vi load_pairs(const uint32_t* p) { return _mm512_loadu_si512(p); }
static inline vi keep_bits(vi x, uint32_t mask) { return _mm512_and_si512(x, _mm512_set1_epi32(static_cast<int>(mask))); }
static inline vi xor_bits(vi a, vi b) { return _mm512_xor_si512(a, b); }
static inline vf even_of(vi x) { return _mm512_castsi512_ps(_mm512_slli_epi32(x, 16)); }
static inline vf odd_of(vi x) { return _mm512_castsi512_ps(keep_bits(x, 0xffff0000u)); }
static inline vf to_float(vi x) { return _mm512_cvtepi32_ps(x); }
static inline vf round_to_bf16(vf x) {
  vi bits = _mm512_castps_si512(x);
  vi odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  vi rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  __mmask16 is_nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  return _mm512_castsi512_ps(keep_bits(_mm512_mask_or_epi32(rounded, is_nan, bits, _mm512_set1_epi32(0x400000)), 0xffff0000u));
}
static inline vf load_bf16(const uint16_t* p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16));
}

// Stores 32 values of x * factor, rounded to integers, and returns their sum; as int16 four at a time in the order 0 2 1 3.
static inline vi store_quantised_lanes(int8_t* p, const float* x, vf factor) {
  vi q = _mm512_cvtps_epi32(mul(load(x), factor));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(q));
  return q;
}
static inline vi store_quantised_lanes(int16_t* p, const float* x, vf factor) {
  vi q = _mm512_cvtps_epi32(mul(load(x), factor));
  const __m256i order = _mm256_set_epi8(15, 14, 11, 10, 13, 12, 9, 8, 7, 6, 3, 2, 5, 4, 1, 0, 15, 14, 11, 10, 13, 12, 9, 8, 7, 6, 3, 2, 5, 4, 1, 0);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_shuffle_epi8(_mm512_cvtepi32_epi16(q), order));
  return q;
}
template <class T>
static inline int32_t store_quantised(T* p, const float* x, vf factor) {
  return _mm512_reduce_add_epi32(_mm512_add_epi32(store_quantised_lanes(p, x, factor), store_quantised_lanes(p + 16, x + 16, factor)));
}

#if defined(QUIRE_BF16_DOT)
static inline vf dot_pairs(vf acc, vi a, vi b) { return _mm512_dpbf16_ps(acc, (__m512bh)a, (__m512bh)b); }
static inline void store_bf16_n(uint16_t* p, vf x, int n) {
  _mm256_mask_storeu_epi16(p, static_cast<__mmask16>((1u << n) - 1), (__m256i)_mm512_cvtneps_pbh(x));
}
#else
static inline void store_bf16_n(uint16_t* p, vf x, int n) {
  vi rounded = _mm512_srli_epi32(_mm512_castps_si512(round_to_bf16(x)), 16);
  _mm256_mask_storeu_epi16(p, static_cast<__mmask16>((1u << n) - 1), _mm512_cvtepi32_epi16(rounded));
}
#endif

#elif QUIRE_LANES == 8

constexpr int kLanes = 8;
using vf = __m256;
using vi = __m256i;

static inline vf set1(float x) { return _mm256_set1_ps(x); }
static inline vf load(const float* p) { return _mm256_loadu_ps(p); }
static inline void store(float* p, vf x) { _mm256_storeu_ps(p, x); }
static inline vi first_lanes(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0));
}
static inline vf load_n(const float* p, int n) { return _mm256_maskload_ps(p, first_lanes(n)); }
static inline void store_n(float* p, vf x, int n) { _mm256_maskstore_ps(p, first_lanes(n), x); }
static inline vf add(vf a, vf b) { return _mm256_add_ps(a, b); }
static inline vf sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
static inline vf mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
static inline vf div(vf a, vf b) { return _mm256_div_ps(a, b); }
static inline vf fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
static inline vf max(vf a, vf b) { return _mm256_max_ps(a, b); }
static inline vf min(vf a, vf b) { return _mm256_min_ps(a, b); }
static inline vf if_less(vf a, vf b, vf yes, vf no) { return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ)); }
static inline vf to_nearest(vf x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline vf power_of_two(vf n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
static inline vf lane_index() { return _mm256_set_ps(7, 6, 5, 4, 3, 2, 1, 0); }

static inline vf magnitude(vf x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }

static inline vi set1_pair(uint32_t pair) { return _mm256_set1_epi32(static_cast<int>(pair)); }
static inline vi load_pairs(const uint32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
static inline vi keep_bits(vi x, uint32_t mask) { return _mm256_and_si256(x, _mm256_set1_epi32(static_cast<int>(mask))); }
static inline vi xor_bits(vi a, vi b) { return _mm256_xor_si256(a, b); }
static inline vf even_of(vi x) { return _mm256_castsi256_ps(_mm256_slli_epi32(x, 16)); }
static inline vf odd_of(vi x) { return _mm256_castsi256_ps(keep_bits(x, 0xffff0000u)); }
static inline vf to_float(vi x) { return _mm256_cvtepi32_ps(x); }
static inline vf load_bf16(const uint16_t* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16));
}

// Sixteen values of x * factor, rounded to 16-bit integers in order.
static inline vi quantised_pairs(const float* x, vf factor) {
  vi low = _mm256_cvtps_epi32(mul(load(x), factor)), high = _mm256_cvtps_epi32(mul(load(x + 8), factor));
  return _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
}
static inline int32_t sum_of_pairs(vi a, vi b) {
  vi sums = _mm256_madd_epi16(_mm256_add_epi16(a, b), _mm256_set1_epi16(1));
  int32_t lanes[8];
  std::memcpy(lanes, &sums, sizeof sums);
  return lanes[0] + lanes[1] + lanes[2] + lanes[3] + lanes[4] + lanes[5] + lanes[6] + lanes[7];
}
static inline int32_t store_quantised(int8_t* p, const float* x, vf factor) {
  vi a = quantised_pairs(x, factor), b = quantised_pairs(x + 16, factor);
  _mm256_storeu_si256(reinterpret_cast<vi*>(p), _mm256_permute4x64_epi64(_mm256_packs_epi16(a, b), 0xd8));
  return sum_of_pairs(a, b);
}
static inline int32_t store_quantised(int16_t* p, const float* x, vf factor) {
  vi a = quantised_pairs(x, factor), b = quantised_pairs(x + 16, factor);
  const vi order = _mm256_set_epi8(15, 14, 11, 10, 13, 12, 9, 8, 7, 6, 3, 2, 5, 4, 1, 0, 15, 14, 11, 10, 13, 12, 9, 8, 7, 6, 3, 2, 5, 4, 1, 0);
  _mm256_storeu_si256(reinterpret_cast<vi*>(p), _mm256_shuffle_epi8(a, order));
  _mm256_storeu_si256(reinterpret_cast<vi*>(p + 16), _mm256_shuffle_epi8(b, order));
  return sum_of_pairs(a, b);
}

static inline vf round_to_bf16(vf x) {
  vi bits = _mm256_castps_si256(x);
  vi odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  vi rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
  vf quiet = _mm256_or_ps(x, _mm256_castsi256_ps(_mm256_set1_epi32(0x400000)));
  vf chosen = _mm256_blendv_ps(_mm256_castsi256_ps(rounded), quiet, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  return odd_of(_mm256_castps_si256(chosen));
}

#else

constexpr int kLanes = 4;
typedef float vf __attribute__((vector_size(16)));
typedef int32_t vi __attribute__((vector_size(16)));

static inline vf set1(float x) { return vf{x, x, x, x}; }
static inline vf load(const float* p) {
  vf x;
  std::memcpy(&x, p, sizeof x);
  return x;
}
static inline void store(float* p, vf x) { std::memcpy(p, &x, sizeof x); }
static inline vf load_n(const float* p, int n) {
  vf x = set1(0);
  std::memcpy(&x, p, static_cast<size_t>(n) * sizeof(float));
  return x;
}
static inline void store_n(float* p, vf x, int n) { std::memcpy(p, &x, static_cast<size_t>(n) * sizeof(float)); }
static inline vf add(vf a, vf b) { return a + b; }
static inline vf sub(vf a, vf b) { return a - b; }
static inline vf mul(vf a, vf b) { return a * b; }
static inline vf div(vf a, vf b) { return a / b; }
static inline vf fma(vf a, vf b, vf c) { return a * b + c; }  // compiled with -ffp-contract=off
static inline vf max(vf a, vf b) { return a > b ? a : b; }
static inline vf min(vf a, vf b) { return a < b ? a : b; }
static inline vf if_less(vf a, vf b, vf yes, vf no) { return a < b ? yes : no; }
static inline vf to_nearest(vf x) {
  const vf magic = set1(12582912.0f);  // 1.5 * 2^23: adding it leaves no fraction bits, for |x| < 2^22
  return (x + magic) - magic;
}
static inline vf power_of_two(vf n) { return (vf)((__builtin_convertvector(n, vi) + 127) << 23); }
static inline vf lane_index() { return vf{0, 1, 2, 3}; }

static inline vf magnitude(vf x) { return (vf)((vi)x & vi{0x7fffffff, 0x7fffffff, 0x7fffffff, 0x7fffffff}); }

static inline vi set1_pair(uint32_t pair) {
  int32_t bits = static_cast<int32_t>(pair);
  return vi{bits, bits, bits, bits};
}
static inline vi load_pairs(const uint32_t* p) {
  vi x;
  std::memcpy(&x, p, sizeof x);
  return x;
}
static inline vi keep_bits(vi x, uint32_t mask) { return x & set1_pair(mask); }
static inline vi xor_bits(vi a, vi b) { return a ^ b; }
static inline vf even_of(vi x) { return (vf)(x << 16); }
static inline vf odd_of(vi x) { return (vf)keep_bits(x, 0xffff0000u); }
static inline vf to_float(vi x) { return __builtin_convertvector(x, vf); }
static inline vf load_bf16(const uint16_t* p) {
  return (vf)(vi{p[0], p[1], p[2], p[3]} << 16);
}
template <class T>
static inline int32_t store_quantised(T* p, const float* x, vf factor) {
  constexpr int kOrder[kLanes] = {0, sizeof(T) == 1 ? 1 : 2, sizeof(T) == 1 ? 2 : 1, 3};
  int32_t sum = 0;
  for (int i = 0; i < 32; i += kLanes) {
    vi q = __builtin_convertvector(to_nearest(mul(load(x + i), factor)), vi);
    for (int lane = 0; lane < kLanes; ++lane) {
      p[i + lane] = static_cast<T>(q[kOrder[lane]]);
      sum += q[lane];
    }
  }
  return sum;
}

static inline vf round_to_bf16(vf x) {
  vi bits = (vi)x;
  vi rounded = bits + 0x7fff + ((bits >> 16) & 1);
  return odd_of(x == x ? rounded : bits | 0x400000);
}

#endif

#if !defined(QUIRE_BF16_DOT)
// Two multiply-adds in K order: a pair is exactly two consecutive products of the lane's sum.
static inline vf dot_pairs(vf acc, vi a, vi b) {
  acc = fma(even_of(a), even_of(b), acc);
  return fma(odd_of(a), odd_of(b), acc);
}
#endif

// sum += a * b in the register of `sum`, and a float in all lanes, in the order they are written: with sixteen registers GCC 12
// would load further floats before it needs them and keep a sum in memory instead.
#if QUIRE_LANES == 8
static inline void add_product(vf& sum, vf a, vf b) { asm volatile("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b)); }
static inline vf everywhere(const float* p) {
  vf x;
  asm volatile("vbroadcastss %1, %0" : "=x"(x) : "m"(*p));
  return x;
}
// The same for the halves of pairs; the mask stays in memory.
static inline vf even_at(const uint32_t* p) {
  vi x;
  asm volatile("vmovdqu %1, %0\n\tvpslld $16, %0, %0" : "=x"(x) : "m"(*reinterpret_cast<const vi*>(p)));
  return _mm256_castsi256_ps(x);
}
static inline vf odd_at(const uint32_t* p) {
  alignas(32) static const uint32_t kMask[8] = {0xffff0000u, 0xffff0000u, 0xffff0000u, 0xffff0000u, 0xffff0000u, 0xffff0000u, 0xffff0000u, 0xffff0000u};
  vi x;
  asm volatile("vmovdqu %1, %0\n\tvpand %2, %0, %0" : "=x"(x) : "m"(*reinterpret_cast<const vi*>(p)), "m"(*reinterpret_cast<const vi*>(kMask)));
  return _mm256_castsi256_ps(x);
}
#else
static inline void add_product(vf& sum, vf a, vf b) { sum = fma(a, b, sum); }
static inline vf everywhere(const float* p) { return set1(*p); }
static inline vf even_at(const uint32_t* p) { return even_of(load_pairs(p)); }
static inline vf odd_at(const uint32_t* p) { return odd_of(load_pairs(p)); }
#endif

static inline uint16_t to_bf16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

static inline float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

static inline float from_bf16(uint16_t x) { return float_of(static_cast<uint32_t>(x) << 16); }

#if QUIRE_LANES != 16
static inline void store_bf16_n(uint16_t* p, vf x, int n) {
  float lanes[kLanes];
  store(lanes, x);
  for (int i = 0; i < n; ++i) p[i] = to_bf16(lanes[i]);
}
#endif

static inline void store_as(float* p, vf x, int n) { n == kLanes ? store(p, x) : store_n(p, x, n); }
static inline void store_as(uint16_t* p, vf x, int n) { store_bf16_n(p, x, n); }

#if QUIRE_LANES == 8
// The tree below, in registers.
static inline float sum_of(vf x) {
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

static inline float max_of(vf x) {
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
#else
static inline float sum_of(vf x) {
  float lanes[kLanes];
  store(lanes, x);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  return lanes[0];
}

static inline float max_of(vf x) {
  float lanes[kLanes];
  store(lanes, x);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lanes[i] = lanes[i] > lanes[i + width] ? lanes[i] : lanes[i + width];
  return lanes[0];
}
#endif

static inline int lanes_left(int64_t done, int64_t total) { return total - done < kLanes ? static_cast<int>(total - done) : kLanes; }

}  // namespace quire::QUIRE_ISA
