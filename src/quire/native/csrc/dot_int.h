// Dot products of codes and activations, by instruction set. A step of a block takes two factors from each
// column, vectors of four codes per lane, and multiplies them with two words of four activations. Within a
// block of 32 elements sums are exact integers, so each instruction set may add them in its own way and
// order.
#pragma once

#include "row_dispatch.h"
#include "simd.h"
#include "weight_format.h"

namespace quire::QUIRE_ISA {

// Shifts of words, and of bytes, whose neighbors' bits are masked afterwards; low | (plane & mask).
#if QUIRE_LANES == 16
static inline vi shift_words_left(vi x, int n) { return _mm512_slli_epi32(x, static_cast<unsigned>(n)); }
static inline vi shift_right(vi x, int n) { return _mm512_srli_epi16(x, static_cast<unsigned>(n)); }
static inline vi shift_left(vi x, int n) { return _mm512_slli_epi16(x, static_cast<unsigned>(n)); }
static inline vi or_masked(vi low, vi plane, uint32_t mask) {
  return _mm512_ternarylogic_epi32(low, plane, set1_word(mask), 0xf8);
}
#elif QUIRE_LANES == 8
static inline vi shift_words_left(vi x, int n) { return _mm256_slli_epi32(x, n); }
static inline vi shift_right(vi x, int n) { return _mm256_srli_epi16(x, n); }
static inline vi shift_left(vi x, int n) { return _mm256_slli_epi16(x, n); }
static inline vi or_masked(vi low, vi plane, uint32_t mask) {
  return _mm256_or_si256(low, and_bits(plane, mask));
}
#else
static inline vi shift_words_left(vi x, int n) { return (vi)((word_lanes)x << n); }
static inline vi shift_right(vi x, int n) { return (vi)((word_lanes)x >> n); }
static inline vi shift_left(vi x, int n) { return (vi)((word_lanes)x << n); }
static inline vi or_masked(vi low, vi plane, uint32_t mask) { return low | and_bits(plane, mask); }
#endif

// A plane shifted such that `bit` of a byte comes to bit 4.
template <int kBit>
static QUIRE_INLINE vi to_bit_4(vi plane) {
  if constexpr (kBit > 4) return shift_right(plane, kBit - 4);
  else if constexpr (kBit < 4) return shift_left(plane, 4 - kBit);
  else return plane;
}

// The bytes of four codes below 64 from nibbles and planes; `kFour` counts them along the block.
template <int kBits, int kFour>
static QUIRE_INLINE vi with_high_bits(vi nibbles, const uint32_t* planes) {
  if constexpr (kBits == 5) return or_masked(nibbles, to_bit_4<kFour>(load_words(planes)), 0x10101010u);
  else if constexpr (kBits == 6)
    return or_masked(nibbles, to_bit_4<kFour % 4 * 2>(load_words(planes + kFour / 4 * kPanel)), 0x30303030u);
  else return nibbles;
}

// Nibbles, with or without planes: a step reads a word of eight.
template <int kBits>
struct NibbleUnpacking {
  static constexpr int kSteps = 4;
  static constexpr int word_at(int step, int factor) { return 2 * step + factor; }

  template <int kStep>
  static QUIRE_INLINE void unpack(const uint32_t* block, vi (&factors)[2]) {
    vi raw = load_words(block + kStep * kPanel);
    const uint32_t* planes = block + 4 * kPanel;
    factors[0] = with_high_bits<kBits, 2 * kStep>(and_bits(raw, 0x0f0f0f0fu), planes);
    factors[1] = with_high_bits<kBits, 2 * kStep + 1>(and_bits(shift_right(raw, 4), 0x0f0f0f0fu), planes);
  }
};

#if QUIRE_LANES > 4 && !defined(QUIRE_VNNI)

// AVX2, and AVX-512 without VNNI: products of unsigned and signed bytes are added in pairs, in 16 bits.
#if QUIRE_LANES == 16
static inline vi madd_int16(vi sum, vi a, vi b) { return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b)); }
static inline vi madd_bytes(vi sum, vi u, vi s) { return _mm512_add_epi16(sum, _mm512_maddubs_epi16(u, s)); }
static inline vi multiply_bytes(vi u, vi s) { return _mm512_maddubs_epi16(u, s); }
#else
// Keeps `sum` in its register, like fma_into: GCC 12 would move and spill sums.
static inline vi madd_int16(vi sum, vi a, vi b) {
  vi product;
  asm("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(sum), "=&x"(product) : "x"(a), "x"(b));
  return sum;
}
static inline vi madd_bytes(vi sum, vi u, vi s) {
  vi product;
  asm("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+x"(sum), "=&x"(product) : "x"(u), "x"(s));
  return sum;
}
static inline vi multiply_bytes(vi u, vi s) { return _mm256_maddubs_epi16(u, s); }
#endif
static inline vi ones_of_16_bits() { return set1_word(0x00010001u); }

// kPairs: both factors are added at once. kWidens: activations are words of two 16-bit integers.
// kStartsInWords: sums begin with the compensation; else `finish` adds it.
template <int kBits>
struct Dot : NibbleUnpacking<kBits> {
  static constexpr bool kPairs = kBits > 4, kWidens = false, kStartsInWords = kPairs;
  // 15 * 127 * 2 * 8 fits 16 bits, so a block of nibbles is added there.
  static vi add(vi sum, vi factor, vi word) { return madd_bytes(sum, factor, word); }
  // 63 * 127 * 2 * 2 fits 16 bits.
  static vi add_pair(vi sum, const vi (&factors)[2], vi first, vi second) {
    vi both = madd_bytes(multiply_bytes(factors[0], first), factors[1], second);
    return madd_int16(sum, both, ones_of_16_bits());
  }
  static vi finish(vi sum, vi compensation) {
    return kPairs ? sum : madd_int16(compensation, sum, ones_of_16_bits());
  }
};

// Two products of bytes do not always fit 16 bits: bytes are widened, elements 0 and 2 of each four, then 1
// and 3.
template <>
struct Dot<8> {
  static constexpr int kSteps = 8;
  static constexpr bool kPairs = false, kWidens = true, kStartsInWords = true;
  static constexpr int word_at(int step, int factor) { return 8 * factor + step; }

  template <int kStep>
  static QUIRE_INLINE void unpack(const uint32_t* block, vi (&factors)[2]) {
    vi raw = load_words(block + kStep * kPanel);
    factors[0] = and_bits(raw, 0x00ff00ffu);
    factors[1] = shift_right(raw, 8);
  }
  static vi add(vi sum, vi factor, vi word) { return madd_int16(sum, factor, word); }
  static vi finish(vi sum, vi) { return sum; }
};

// Widens 32 activations to what Dot<8> multiplies: elements 0 and 2 of each four [8], then 1 and 3 [8].
static QUIRE_INLINE void widen_activations(const uint32_t* from, uint32_t* to) {
  __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 8), _mm256_srai_epi16(bytes, 8));
}

#else

// AVX-512 with VNNI, and the generic kernels.
#if !defined(QUIRE_VNNI)
static inline vi dpbusd(vi sum, vi u, vi s) {
  for (int i = 0; i < 4; ++i) sum += ((u >> (8 * i)) & 0xff) * ((vi)((word_lanes)s << (24 - 8 * i)) >> 24);
  return sum;
}
#endif

struct VnniDot {
  static constexpr bool kPairs = false, kWidens = false, kStartsInWords = true;
  static vi add(vi sum, vi factor, vi word) { return dpbusd(sum, factor, word); }
  static vi finish(vi sum, vi) { return sum; }
};

template <int kBits>
struct Dot : VnniDot, NibbleUnpacking<kBits> {};

template <>
struct Dot<8> : VnniDot {
  static constexpr int kSteps = 4;
  static constexpr int word_at(int step, int factor) { return 2 * step + factor; }

  template <int kStep>
  static QUIRE_INLINE void unpack(const uint32_t* block, vi (&factors)[2]) {
    factors[0] = load_words(block + 2 * kStep * kPanel);
    factors[1] = load_words(block + (2 * kStep + 1) * kPanel);
  }
};

static QUIRE_INLINE void widen_activations(const uint32_t*, uint32_t*) {}

#endif

}  // namespace quire::QUIRE_ISA
