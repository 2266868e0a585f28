// Integer products of attention, by instruction set: codes of a K/V tile, four per lane, times codes of a
// row. Sums are exact, so the order in which they are added does not matter.
//
//   Codes     four codes per lane, ready to multiply
//   ProbSums  sums of probabilities (integers up to kMaxProb) times codes of values
//   KeySums   sums of query codes (signed bytes) times signed codes of keys; NibbleSums of keys with 4 bits
//
// A row brings words to every four codes: two of probabilities, kKeyWords of a query.
#pragma once

#include "attention_state.h"
#include "dot_int.h"

namespace quire::QUIRE_ISA {

constexpr int kQuads = kTile / 4;       // of the tokens of a tile
constexpr float kMaxProb = 32767.0f;    // 15 bits
constexpr int kProbWords = 2 * kQuads;  // of a row and tile

// Eight codes per lane, four in each half of its bytes.
struct Nibbles {
  vi low, high;
};
static QUIRE_INLINE Nibbles nibbles(vi bytes) {
  return {and_bits(bytes, 0x0f0f0f0fu), and_bits(shift_right(bytes, 4), 0x0f0f0f0fu)};
}

#if QUIRE_LANES > 4 && !defined(QUIRE_VNNI)

// AVX2, and AVX-512 without VNNI: codes and words are widened to 16 bits, elements 0 and 2 of each four, then
// 1 and 3.
struct Codes {
  vi even, odd;
};

#if QUIRE_LANES == 16
static inline vi shift_right_signed(vi x, int n) { return _mm512_srai_epi16(x, static_cast<unsigned>(n)); }
#else
static inline vi shift_right_signed(vi x, int n) { return _mm256_srai_epi16(x, n); }
#endif

static QUIRE_INLINE Codes signed_codes(vi bytes) {
  return {shift_right_signed(shift_left(bytes, 8), 8), shift_right_signed(bytes, 8)};
}
static QUIRE_INLINE Codes low_codes(vi bytes) {
  return {and_bits(bytes, 0x000f000fu), and_bits(shift_right(bytes, 8), 0x000f000fu)};
}
static QUIRE_INLINE Codes high_codes(vi bytes) {
  return {and_bits(shift_right(bytes, 4), 0x000f000fu), shift_right(bytes, 12)};
}

struct WidenedSums {
  vi sum = set1_word(0);

  QUIRE_INLINE void add(const Codes& codes, const uint32_t* words) {
    sum = madd_int16(sum, codes.even, set1_word(words[0]));
    sum = madd_int16(sum, codes.odd, set1_word(words[1]));
  }
  QUIRE_INLINE vi total() const { return sum; }
};

struct ProbSums : WidenedSums {
  static const uint32_t* words_of(const uint32_t* words, int quad) { return words + 2 * quad; }
};

// Writes the words of four quads of 16-bit integers.
static QUIRE_INLINE void store_quads(uint32_t* words, __m256i integers) {
  const __m256i order = _mm256_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15, 0, 1, 4, 5, 2,
                                         3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(words), _mm256_shuffle_epi8(integers, order));
}

// Writes the words of 32 probabilities x * factor.
static QUIRE_INLINE void store_prob_words(uint32_t* words, const vf (&x)[kTileVectors], vf factor) {
  for (int half = 0; half < 2; ++half) {
#if QUIRE_LANES == 16
    __m256i integers = _mm512_cvtepi32_epi16(to_int(mul(x[half], factor)));
#else
    __m256i integers = _mm256_permute4x64_epi64(
        _mm256_packs_epi32(to_int(mul(x[2 * half], factor)), to_int(mul(x[2 * half + 1], factor))), 0xd8);
#endif
    store_quads(words + half * kQuads, integers);
  }
}

constexpr int kKeyWords = 2;

struct KeySums : WidenedSums {
  QUIRE_INLINE void begin(int32_t) {}
};

// Writes the words of 16 query codes.
static QUIRE_INLINE void store_key_words(uint32_t* words, const int8_t* codes) {
  store_quads(words, _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes))));
}

static QUIRE_INLINE Codes key_codes(vi bytes) { return signed_codes(bytes); }

// 15 * 127 * 2 * 8 fits 16 bits: products of four words of eight codes are added there.
struct NibbleSums {
  static constexpr int kWordsPerPart = 4;
  vi sum = set1_word(0), part = set1_word(0);

  QUIRE_INLINE void add(const Nibbles& codes, const uint32_t* words) {
    part = madd_bytes(part, codes.low, set1_word(words[0]));
    part = madd_bytes(part, codes.high, set1_word(words[1]));
  }
  QUIRE_INLINE void end_part() {
    sum = madd_int16(sum, part, ones_of_16_bits());
    part = set1_word(0);
  }
};

#else

// AVX-512 with VNNI, and the generic kernels: codes stay bytes; an integer of 15 bits is a high and a low
// byte.
struct Codes {
  vi bytes;
};

static QUIRE_INLINE Codes signed_codes(vi bytes) { return {bytes}; }
static QUIRE_INLINE Codes low_codes(vi bytes) { return {nibbles(bytes).low}; }
static QUIRE_INLINE Codes high_codes(vi bytes) { return {nibbles(bytes).high}; }

struct ProbSums {
  vi high = set1_word(0), low = set1_word(0);

  static const uint32_t* words_of(const uint32_t* words, int quad) { return words + quad; }
  QUIRE_INLINE void add(const Codes& codes, const uint32_t* words) {
    high = dpbusd(high, set1_word(words[0]), codes.bytes);
    low = dpbusd(low, set1_word(words[kQuads]), codes.bytes);
  }
  QUIRE_INLINE vi total() const { return add_words(shift_words_left(high, 8), low); }
};

static QUIRE_INLINE void store_prob_words(uint32_t* words, const vf (&x)[kTileVectors], vf factor) {
  uint8_t *high = reinterpret_cast<uint8_t*>(words), *low = reinterpret_cast<uint8_t*>(words + kQuads);
  for (int v = 0; v < kTileVectors; ++v)
    store_two_bytes(high + v * kLanes, low + v * kLanes, to_int(mul(x[v], factor)));
}

constexpr int kKeyWords = 1;

// The codes of keys are made unsigned, which adds 128 times the sum of the query's codes.
struct KeySums {
  vi sum;

  QUIRE_INLINE void begin(int32_t query_sum) { sum = set1_word(static_cast<uint32_t>(-128 * query_sum)); }
  QUIRE_INLINE void add(const Codes& codes, const uint32_t* words) {
    sum = dpbusd(sum, codes.bytes, set1_word(words[0]));
  }
  QUIRE_INLINE vi total() const { return sum; }
};

static QUIRE_INLINE void store_key_words(uint32_t* words, const int8_t* codes) {
  std::memcpy(words, codes, 16);
}

static QUIRE_INLINE Codes key_codes(vi bytes) { return {xor_bits(bytes, set1_word(0x80808080u))}; }

struct NibbleSums {
  static constexpr int kWordsPerPart = 1;
  vi sum = set1_word(0);

  QUIRE_INLINE void add(const Nibbles& codes, const uint32_t* words) {
    sum = dpbusd(sum, codes.low, set1_word(words[0]));
    sum = dpbusd(sum, codes.high, set1_word(words[1]));
  }
  QUIRE_INLINE void end_part() {}
};

#endif

}  // namespace quire::QUIRE_ISA
