// Vector operations of the instruction set being compiled. Only these files name its intrinsics, except for
// integer products (dot_int.h) and AMX (amx*.h, attention_amx*.h, gemm_amx_int8.h).
//
// Only kernel translation units include this, each in a namespace of its own: nothing here may be shared
// between instruction sets. CMakeLists.txt selects the variant by QUIRE_LANES and QUIRE_BF16_DOT instead of
// the compiler's macros, so that an instruction set's name fixes its arithmetic whatever flags a user adds.
// Every operation is lane-wise: a lane's bits never depend on other lanes.
//
//   vf, vi                    kLanes floats; kLanes 32-bit words, integers or pairs of bfloat16
//   fma(a, b, c)              a * b + c: fused where the instruction set has FMA, elsewhere two roundings
//   load_f16, load_int8, load_uint8, load_bf16   kLanes of them as floats, exactly
//   max_or_nan                the maximum of numbers >= +0; NaN if one of them is NaN
//   store_quantized(p, x, f)  stores 32 values of x * f, rounded to integers, and returns their sums by
//   halves
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace quire::QUIRE_ISA {

struct HalfSums {
  uint32_t first, second;  // of 16 integers each, modulo 2^32; arbitrary where a value was not finite
};

static inline float float_from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// float16 as float: exact, subnormals too.
static inline float from_f16(uint16_t x) {
  uint32_t sign = (x & 0x8000u) << 16, rest = x & 0x7fffu;
  if (rest >= 0x7c00u)
    return float_from_bits(sign | 0x7f800000u | rest << 13 | (rest > 0x7c00u ? 0x400000u : 0u));
  if (rest >= 0x0400u) return float_from_bits(sign | ((rest << 13) + (112u << 23)));
  float magnitude = static_cast<float>(rest) * 0x1p-24f;
  return sign ? -magnitude : magnitude;
}

}  // namespace quire::QUIRE_ISA

#if QUIRE_LANES == 16
#include "simd_avx512.h"
#elif QUIRE_LANES == 8
#include "simd_avx2.h"
#else
#include "simd_generic.h"
#endif

namespace quire::QUIRE_ISA {

#if !defined(QUIRE_BF16_DOT)
// Two multiply-adds in K order: a pair is exactly two consecutive products of the lane's sum.
static inline vf dpbf16(vf acc, vi a, vi b) {
  acc = fma(even_bf16(a), even_bf16(b), acc);
  return fma(odd_bf16(a), odd_bf16(b), acc);
}
#endif

#if QUIRE_LANES != 16
// Stores first + lane per lane of the mask, side by side; may write up to kLanes indices.
static inline void store_indices(uint32_t* p, uint32_t first, uint32_t lanes) {
  for (; lanes; lanes &= lanes - 1) *p++ = first + static_cast<uint32_t>(__builtin_ctz(lanes));
}
static inline void store_lanes(float* p, const float* x, uint32_t lanes) {
  for (; lanes; lanes &= lanes - 1) *p++ = x[__builtin_ctz(lanes)];
}
#endif

// Stores x[lane] per lane of the mask, side by side; with floats, may write up to kLanes values.
static inline void store_lanes(double* p, const double* x, uint32_t lanes) {
  for (; lanes; lanes &= lanes - 1) *p++ = x[__builtin_ctz(lanes)];
}

#if QUIRE_LANES != 8
// fma_into: sum += a * b. broadcast: a float in all lanes. load_even/odd_bf16: that half of the pairs at `p`,
// as floats.
static inline void fma_into(vf& sum, vf a, vf b) { sum = fma(a, b, sum); }
static inline vf broadcast(const float* p) { return set1(*p); }
static inline vf load_even_bf16(const uint32_t* p) { return even_bf16(load_words(p)); }
static inline vf load_odd_bf16(const uint32_t* p) { return odd_bf16(load_words(p)); }
#endif

static inline uint16_t to_bf16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// The nearest float16, ties to even; infinity beyond its range.
static inline uint16_t to_f16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  uint32_t sign = bits >> 16 & 0x8000u, size = bits & 0x7fffffffu;
  if (size > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (size >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (size < 0x38800000u) {  // subnormal: adding a half leaves the rounded multiple of 2^-24 in the low bits
    float shifted = float_from_bits(size) + 0.5f;
    std::memcpy(&size, &shifted, sizeof size);
    return static_cast<uint16_t>(sign | (size - 0x3f000000u));
  }
  return static_cast<uint16_t>(sign | (size - 0x38000000u + 0xfffu + (size >> 13 & 1)) >> 13);
}

static inline float from_bf16(uint16_t x) { return float_from_bits(static_cast<uint32_t>(x) << 16); }

#if QUIRE_LANES == 4
static inline void store_bf16_n(uint16_t* p, vf x, int n) {
  float lanes[kLanes];
  store(lanes, x);
  for (int i = 0; i < n; ++i) p[i] = to_bf16(lanes[i]);
}
#endif

#if QUIRE_LANES != 16
// Writes only the even, or only the odd, elements of the pairs.
static inline void store_bf16_interleaved(uint16_t* pairs, int half, vf x, int n) {
  uint16_t bits[kLanes];
  store_bf16_n(bits, x, kLanes);
  for (int i = 0; i < n; ++i) pairs[2 * i + half] = bits[i];
}
#endif

// Words of a vector, to compute with as the compiler does.
typedef uint32_t word_lanes __attribute__((vector_size(4 * kLanes)));

static inline word_lanes bits_of(vf x) {
  word_lanes bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

static inline void store_as(float* p, vf x, int n) { store_n(p, x, n); }
static inline void store_as(uint16_t* p, vf x, int n) { store_bf16_n(p, x, n); }

#if QUIRE_LANES == 4
static inline float reduce_add(vf x) {
  float lanes[kLanes];
  store(lanes, x);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  return lanes[0];
}

static inline float reduce_max(vf x) {
  float lanes[kLanes];
  store(lanes, x);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lanes[i] = lanes[i] > lanes[i + width] ? lanes[i] : lanes[i + width];
  return lanes[0];
}
#endif

#if QUIRE_LANES == 4
static inline vf max_or_nan(vf a, vf b) { return bits_of(a) > bits_of(b) ? a : b; }
static inline float reduce_max_or_nan(vf x) {
  float lanes[kLanes];
  store(lanes, x);
  for (int i = 1; i < kLanes; ++i)
    if (!(lanes[0] != lanes[0]) && !(lanes[i] <= lanes[0])) lanes[0] = lanes[i];
  return lanes[0];
}
#endif

static inline int lanes_left(int64_t done, int64_t total) {
  return total - done < kLanes ? static_cast<int>(total - done) : kLanes;
}

}  // namespace quire::QUIRE_ISA
