// One vector of floats for the instruction set this file is compiled for; the only place that names its intrinsics, but for
// products of integers (gemm_int.h, and on AMX amx_int4_unpack.h, gemv_int4_vnni.h, gemm_amx_int.h).
//
// Included by kernel translation units alone, inside a namespace of their own: nothing here may be shared between
// instruction sets. CMakeLists.txt chooses the variant by QUIRE_LANES and QUIRE_BF16_DOT, not the compiler by its macros: an
// instruction set's name fixes its arithmetic, whatever flags a user adds. Every operation is lane-wise, so a lane's bits
// never depend on its neighbours. `fma(a, b, c)` is a * b + c, fused where the instruction set fuses and always two roundings
// where it does not. `store_quantised` stores 32 values of x * factor, rounded to integers, and returns their sum; as int16 four
// at a time in the order 0 2 1 3.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

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
static inline vf dot_pairs(vf acc, vi a, vi b) {
  acc = fma(even_of(a), even_of(b), acc);
  return fma(odd_of(a), odd_of(b), acc);
}
#endif

#if QUIRE_LANES != 16
// Stores first + lane for every lane of the mask, and returns where the next number goes; writes up to kLanes numbers.
static inline uint32_t* store_numbers(uint32_t* p, uint32_t first, uint32_t lanes) {
  for (; lanes; lanes &= lanes - 1) *p++ = first + static_cast<uint32_t>(__builtin_ctz(lanes));
  return p;
}
#endif

#if QUIRE_LANES != 8
// sum += a * b, a float in all lanes, and the halves of the pairs at `p`.
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

#if QUIRE_LANES == 4
static inline void store_bf16_n(uint16_t* p, vf x, int n) {
  float lanes[kLanes];
  store(lanes, x);
  for (int i = 0; i < n; ++i) p[i] = to_bf16(lanes[i]);
}
#endif

#if QUIRE_LANES != 16
// Into the even or the odd halves of pairs, and nowhere else.
static inline void store_bf16_in_pairs(uint16_t* pairs, int half, vf x, int n) {
  uint16_t bits[kLanes];
  store_bf16_n(bits, x, kLanes);
  for (int i = 0; i < n; ++i) pairs[2 * i + half] = bits[i];
}
#endif

static inline void store_as(float* p, vf x, int n) { store_n(p, x, n); }
static inline void store_as(uint16_t* p, vf x, int n) { store_bf16_n(p, x, n); }

#if QUIRE_LANES == 4
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
