// Vectors of four floats in the compiler's own vector types: any processor. See simd.h.
#pragma once

#include <cstdint>
#include <cstring>

namespace quire::QUIRE_ISA {

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
  if (n == kLanes) return load(p);
  vf x = set1(0);
  std::memcpy(&x, p, static_cast<size_t>(n) * sizeof(float));
  return x;
}
static inline void store_n(float* p, vf x, int n) {
  if (n == kLanes) return store(p, x);
  std::memcpy(p, &x, static_cast<size_t>(n) * sizeof(float));
}
static inline vf add(vf a, vf b) { return a + b; }
static inline vf sub(vf a, vf b) { return a - b; }
static inline vf mul(vf a, vf b) { return a * b; }
static inline vf div(vf a, vf b) { return a / b; }
static inline vf fma(vf a, vf b, vf c) { return a * b + c; }  // compiled with -ffp-contract=off
static inline vf max(vf a, vf b) { return a > b ? a : b; }
static inline vf min(vf a, vf b) { return a < b ? a : b; }
static inline vf select_less(vf a, vf b, vf yes, vf no) { return a < b ? yes : no; }
static inline uint32_t mask_at_least(vf x, vf bound) {
  vi lanes = (x >= bound) & vi{1, 2, 4, 8};
  return static_cast<uint32_t>(lanes[0] | lanes[1] | lanes[2] | lanes[3]);
}
typedef double two_doubles __attribute__((vector_size(16)));
static inline uint32_t mask_at_least(two_doubles x, two_doubles bound) {
  return (x[0] >= bound[0] ? 1u : 0u) | (x[1] >= bound[1] ? 2u : 0u);
}
static inline vf round_nearest(vf x) {
  const vf magic = set1(12582912.0f);  // 1.5 * 2^23: adding it leaves no fraction bits, for |x| < 2^22
  return (x + magic) - magic;
}
static inline vf exp2_int(vf n) { return (vf)((__builtin_convertvector(n, vi) + 127) << 23); }
static inline vf lane_index() { return vf{0, 1, 2, 3}; }

static inline vf magnitude(vf x) { return (vf)((vi)x & vi{0x7fffffff, 0x7fffffff, 0x7fffffff, 0x7fffffff}); }

static inline vi set1_word(uint32_t pair) {
  int32_t bits = static_cast<int32_t>(pair);
  return vi{bits, bits, bits, bits};
}
static inline vi load_words(const uint32_t* p) {
  vi x;
  std::memcpy(&x, p, sizeof x);
  return x;
}
static inline vi and_bits(vi x, uint32_t mask) { return x & set1_word(mask); }
static inline vi xor_bits(vi a, vi b) { return a ^ b; }
static inline vf even_bf16(vi x) { return (vf)(x << 16); }
static inline vf odd_bf16(vi x) { return (vf)and_bits(x, 0xffff0000u); }
static inline vf to_float(vi x) { return __builtin_convertvector(x, vf); }
static inline vi to_int(vf x) { return __builtin_convertvector(round_nearest(x), vi); }
static inline vi add_words(vi a, vi b) { return a + b; }
static inline vf load_bf16(const uint16_t* p) { return (vf)(vi{p[0], p[1], p[2], p[3]} << 16); }
static inline vf load_f16(const uint16_t* p) {
  return vf{from_f16(p[0]), from_f16(p[1]), from_f16(p[2]), from_f16(p[3])};
}
template <class T>
static inline vf load_bytes(const T* p) {
  return to_float(vi{p[0], p[1], p[2], p[3]});
}
static inline vf load_int8(const int8_t* p) { return load_bytes(p); }
static inline vf load_uint8(const uint8_t* p) { return load_bytes(p); }

static inline uint32_t store_quantized_half(int8_t* p, const float* x, vf factor) {
  uint32_t sum = 0;
  for (int i = 0; i < 16; i += kLanes) {
    vi q = __builtin_convertvector(round_nearest(mul(load(x + i), factor)), vi);
    for (int lane = 0; lane < kLanes; ++lane) {
      p[i + lane] = static_cast<int8_t>(q[lane]);
      sum += static_cast<uint32_t>(q[lane]);
    }
  }
  return sum;
}
static inline HalfSums store_quantized(int8_t* p, const float* x, vf factor) {
  return {store_quantized_half(p, x, factor), store_quantized_half(p + 16, x + 16, factor)};
}

// Stores the second byte and the lowest byte of each lane.
static inline void store_two_bytes(uint8_t* second, uint8_t* lowest, vi x) {
  for (int i = 0; i < kLanes; ++i) {
    second[i] = static_cast<uint8_t>(x[i] >> 8);
    lowest[i] = static_cast<uint8_t>(x[i]);
  }
}

static inline vf round_to_bf16(vf x) {
  vi bits = (vi)x;
  vi rounded = bits + 0x7fff + ((bits >> 16) & 1);
  return odd_bf16(x == x ? rounded : bits | 0x400000);
}

}  // namespace quire::QUIRE_ISA
