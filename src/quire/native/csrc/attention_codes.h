// Integer products of attention, by instruction set: codes of a K/V tile, four per lane, times codes of a
// row. Sums are exact, so the order in which they are added does not matter.
//
//   codes     of a vector of bytes, four per lane, ready to multiply: in kParts vectors
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

constexpr float kSmallestTop = 1e-30f;  // below this maximum codes are zero: its inverse could overflow

// What integers stand for, and what values are multiplied by to get them. A maximum that is not finite makes
// a scale that is not.
struct IntScale {
  float scale;
  float inverse;
};
static QUIRE_INLINE IntScale int_scale(float top, float most) {
  return {top * (1.0f / most), top > kSmallestTop ? most / top : 0.0f};
}

// A word in all lanes. Of few rows it may stay in a register; of many GCC 12 would keep sums in memory
// instead.
template <int R>
static QUIRE_INLINE vi word_of_rows(const uint32_t* word) {
#if QUIRE_LANES == 8
  if constexpr (R > 2) {
    vi x;
    asm volatile("vpbroadcastd %1, %0" : "=x"(x) : "m"(*word));
    return x;
  }
#endif
  return set1_word(*word);
}

static QUIRE_INLINE vi low_nibbles(vi bytes) { return and_bits(bytes, 0x0f0f0f0fu); }
static QUIRE_INLINE vi high_nibbles(vi bytes) { return and_bits(shift_right(bytes, 4), 0x0f0f0f0fu); }

#if QUIRE_LANES > 4 && !defined(QUIRE_VNNI)

// AVX2, and AVX-512 without VNNI: codes and words are widened to 16 bits, in two parts: elements 0 and 2 of
// each four, then 1 and 3.
constexpr int kParts = 2;

#if QUIRE_LANES == 16
static inline vi shift_right_signed(vi x, int n) { return _mm512_srai_epi16(x, static_cast<unsigned>(n)); }
#else
static inline vi shift_right_signed(vi x, int n) { return _mm256_srai_epi16(x, n); }
#endif

static QUIRE_INLINE vi signed_codes(vi bytes, int part) {
  return shift_right_signed(part == 0 ? shift_left(bytes, 8) : bytes, 8);
}
static QUIRE_INLINE vi low_codes(vi bytes, int part) {
  return and_bits(part == 0 ? bytes : shift_right(bytes, 8), 0x000f000fu);
}
static QUIRE_INLINE vi high_codes(vi bytes, int part) {
  return part == 0 ? and_bits(shift_right(bytes, 4), 0x000f000fu) : shift_right(bytes, 12);
}

struct WidenedSums {
  vi sum = set1_word(0);

  QUIRE_INLINE void add(vi codes, vi word) { sum = madd_int16(sum, codes, word); }
  QUIRE_INLINE vi total() const { return sum; }
};

using ProbSums = WidenedSums;
using ProbWords = vi;

template <int R>
static QUIRE_INLINE ProbWords prob_words(const uint32_t* words, int quad, int part) {
  return word_of_rows<R>(words + 2 * quad + part);
}

// Writes the words of four quads of 16-bit integers.
static QUIRE_INLINE void store_quads(uint32_t* words, __m256i integers) {
  const __m256i order = _mm256_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15, 0, 1, 4, 5, 2,
                                         3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(words), _mm256_shuffle_epi8(integers, order));
}

static QUIRE_INLINE void store_rounded_probs(uint32_t* words, const vf (&x)[kTileVectors], vf factor) {
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

static QUIRE_INLINE vi key_codes(vi bytes, int part) { return signed_codes(bytes, part); }

// 15 * 127 * 2 * 8 fits 16 bits: products of four words of eight codes are added there.
struct NibbleSums {
  static constexpr int kWordsPerPart = 4;
  vi sum = set1_word(0), part = set1_word(0);

  QUIRE_INLINE void add(vi codes, vi word) { part = madd_bytes(part, codes, word); }
  QUIRE_INLINE void end_part() {
    sum = madd_int16(sum, part, ones_of_16_bits());
    part = set1_word(0);
  }
};

#else

// AVX-512 with VNNI, and the generic kernels: codes stay bytes; an integer of 15 bits is a high and a low
// byte.
constexpr int kParts = 1;

static QUIRE_INLINE vi signed_codes(vi bytes, int) { return bytes; }
static QUIRE_INLINE vi low_codes(vi bytes, int) { return low_nibbles(bytes); }
static QUIRE_INLINE vi high_codes(vi bytes, int) { return high_nibbles(bytes); }

struct ProbWords {
  vi high, low;
};

template <int R>
static QUIRE_INLINE ProbWords prob_words(const uint32_t* words, int quad, int) {
  return {set1_word(words[quad]), set1_word(words[kQuads + quad])};
}

struct ProbSums {
  vi high = set1_word(0), low = set1_word(0);

  QUIRE_INLINE void add(vi codes, const ProbWords& words) {
    high = dpbusd(high, words.high, codes);
    low = dpbusd(low, words.low, codes);
  }
  QUIRE_INLINE vi total() const { return add_words(shift_words_left(high, 8), low); }
};

static QUIRE_INLINE void store_rounded_probs(uint32_t* words, const vf (&x)[kTileVectors], vf factor) {
  uint8_t *high = reinterpret_cast<uint8_t*>(words), *low = reinterpret_cast<uint8_t*>(words + kQuads);
  for (int v = 0; v < kTileVectors; ++v)
    store_two_bytes(high + v * kLanes, low + v * kLanes, to_int(mul(x[v], factor)));
}

constexpr int kKeyWords = 1;

// The codes of keys are made unsigned, which adds 128 times the sum of the query's codes.
struct KeySums {
  vi sum;

  QUIRE_INLINE void begin(int32_t query_sum) { sum = set1_word(static_cast<uint32_t>(-128 * query_sum)); }
  QUIRE_INLINE void add(vi codes, vi word) { sum = dpbusd(sum, codes, word); }
  QUIRE_INLINE vi total() const { return sum; }
};

static QUIRE_INLINE void store_key_words(uint32_t* words, const int8_t* codes) {
  std::memcpy(words, codes, 16);
}

static QUIRE_INLINE vi key_codes(vi bytes, int) { return xor_bits(bytes, set1_word(0x80808080u)); }

struct NibbleSums {
  static constexpr int kWordsPerPart = 1;
  vi sum = set1_word(0);

  QUIRE_INLINE void add(vi codes, vi word) { sum = dpbusd(sum, codes, word); }
  QUIRE_INLINE void end_part() {}
};

#endif

// Rounds 32 probabilities x >= 0 to 15 bits, and returns what one stands for.
static QUIRE_INLINE float store_prob_words(uint32_t* words, const vf (&x)[kTileVectors]) {
  vf highest = x[0];
#pragma GCC unroll 8
  for (int v = 1; v < kTileVectors; ++v) highest = max_or_nan(highest, x[v]);
  const IntScale by = int_scale(reduce_max_or_nan(highest), kMaxProb);
  store_rounded_probs(words, x, set1(by.inverse));
  return by.scale;
}

}  // namespace quire::QUIRE_ISA
