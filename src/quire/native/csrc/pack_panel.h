// Packing: up to 64 rows of a checkpoint's matrix become one panel, a group of 32 elements of K at a time.
//
// A group is turned first, so that columns of the panel lie side by side as they will be stored; from there on a lane is a
// column. What is stored is the same for every instruction set: values are rounded lane by lane, and sums over a group are
// taken by eight partial sums and then in a fixed order.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace quire::QUIRE_ISA {

typedef uint32_t words4 __attribute__((vector_size(16)));
typedef uint32_t word_lanes __attribute__((vector_size(4 * kLanes)));

// A group of K: row i holds element i of 64 columns, as words of 32 bits.
struct alignas(64) TurnedGroup {
  float rows[kGroup][kPanel];
};

static inline word_lanes bits_of(vf x) {
  word_lanes bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

static inline vf clamp(vf x, float low, float high) { return min(max(x, set1(low)), set1(high)); }

// For |x| < 2^22: 1.5 * 2^23 leaves no fraction bits, and the integer itself in the low bits.
constexpr float kMagic = 12582912.0f;

// Four rows of `count` words, turned: word i of row r goes to to[i][r].
static inline void turn4(const uint32_t* const from[4], int count, uint32_t (*to)[kPanel]) {
  for (int i = 0; i < count; i += 4) {
    words4 a, b, c, d;
    std::memcpy(&a, from[0] + i, sizeof a);
    std::memcpy(&b, from[1] + i, sizeof b);
    std::memcpy(&c, from[2] + i, sizeof c);
    std::memcpy(&d, from[3] + i, sizeof d);
    words4 ab = __builtin_shuffle(a, b, words4{0, 4, 1, 5}), ab_high = __builtin_shuffle(a, b, words4{2, 6, 3, 7});
    words4 cd = __builtin_shuffle(c, d, words4{0, 4, 1, 5}), cd_high = __builtin_shuffle(c, d, words4{2, 6, 3, 7});
    words4 turned[4] = {__builtin_shuffle(ab, cd, words4{0, 1, 4, 5}), __builtin_shuffle(ab, cd, words4{2, 3, 6, 7}),
                        __builtin_shuffle(ab_high, cd_high, words4{0, 1, 4, 5}), __builtin_shuffle(ab_high, cd_high, words4{2, 3, 6, 7})};
    for (int r = 0; r < 4; ++r) std::memcpy(to[i + r], &turned[r], sizeof turned[r]);
  }
}

// Element by element, for every stride and every edge: columns [first_column, 64) of a turned group, zero where there is no source.
template <class From>
static void turn_slowly(const SourceMatrix& source, int64_t first_row, int64_t k, int64_t first_column, uint32_t (*to)[kPanel]) {
  constexpr int kPerWord = 4 / sizeof(From);
  for (int i = 0; i < kGroup / kPerWord; ++i)
    for (int64_t n = first_column; n < kPanel; ++n) {
      From word[kPerWord] = {};
      for (int j = 0; j < kPerWord; ++j) {
        int64_t row = first_row + n, column = k + i * kPerWord + j;
        if (row < source.rows && column < source.columns)
          word[j] = static_cast<const From*>(source.base)[row * source.row_stride + column * source.column_stride];
      }
      std::memcpy(&to[i][n], word, sizeof word);
    }
}

// Reads a group turned: kGroup rows of floats, or kGroup / 2 rows of pairs of bfloat16.
template <class From>
static inline void turn(const SourceMatrix& source, int64_t first_row, int64_t k, uint32_t (*to)[kPanel]) {
  constexpr int64_t kAhead = 512 / sizeof(From);  // far enough for the rows, which no hardware prefetcher follows all at once
  int64_t rows = source.rows - first_row < kPanel ? source.rows - first_row : kPanel, n = 0;
  bool is_whole = source.column_stride == 1 && k + kGroup <= source.columns;
  for (; is_whole && n + 4 <= rows; n += 4) {
    const uint32_t* from[4];
    for (int r = 0; r < 4; ++r) {
      const From* row = static_cast<const From*>(source.base) + (first_row + n + r) * source.row_stride + k;
      for (size_t line = 0; line < kGroup * sizeof(From); line += 64) __builtin_prefetch(reinterpret_cast<const char*>(row + kAhead) + line);
      from[r] = reinterpret_cast<const uint32_t*>(row);
    }
    turn4(from, kGroup * sizeof(From) / 4, reinterpret_cast<uint32_t(*)[kPanel]>(&to[0][n]));
  }
  if (n < kPanel) turn_slowly<From>(source, first_row, k, n, to);
}

// Pairs of bfloat16 as two rows of floats each.
static inline void widen(const uint32_t (*pairs)[kPanel], float (*to)[kPanel]) {
  for (int i = 0; i < kGroup / 2; ++i)
    for (int n = 0; n < kPanel; n += kLanes) {
      vi pair = load_pairs(&pairs[i][n]);
      store(&to[2 * i][n], even_of(pair));
      store(&to[2 * i + 1][n], odd_of(pair));
    }
}

static inline void round_to_pairs(const float (*from)[kPanel], uint32_t (*pairs)[kPanel]) {
  for (int i = 0; i < kGroup / 2; ++i)
    for (int n = 0; n < kPanel; n += kLanes) {
      word_lanes even = bits_of(round_to_bf16(load(&from[2 * i][n]))), odd = bits_of(round_to_bf16(load(&from[2 * i + 1][n])));
      word_lanes pair = even >> 16 | odd;
      std::memcpy(&pairs[i][n], &pair, sizeof pair);
    }
}

// Of each column: the value of largest magnitude, with its sign, and NaN where a weight is not finite, else zero.
struct Extremes {
  vf value, poison;
};
static inline Extremes extremes_of(const float (*x)[kPanel]) {
  vf high = load(x[0]), low = high, poison = set1(0.0f);
  for (int i = 0; i < kGroup; ++i) {
    vf each = load(x[i]);
    high = max(each, high);
    low = min(each, low);
    poison = add(poison, mul(each, set1(0.0f)));
  }
  return {if_less(high, sub(set1(0.0f), low), low, high), poison};
}

// Two sums over a group: of unit * q, in the order of eight partial sums, and of q * q, exact in any order.
struct Fit {
  vf with_x, with_itself;
};
static inline Fit fit(const vf (&units)[kGroup], vf steps) {
  vf parts[8], all_squares = set1(0.0f);
  for (int lane = 0; lane < 8; ++lane) {
    vf sum = set1(0.0f), squares = set1(0.0f);
    for (int i = lane; i < kGroup; i += 8) {
      vf q = sub(add(clamp(mul(units[i], steps), -8.0f, 7.0f), set1(kMagic)), set1(kMagic));
      sum = add(sum, mul(units[i], q));
      squares = add(squares, mul(q, q));
    }
    parts[lane] = sum;
    all_squares = add(all_squares, squares);
  }
  vf even = add(add(parts[0], parts[4]), add(parts[2], parts[6])), odd = add(add(parts[1], parts[5]), add(parts[3], parts[7]));
  return {add(even, odd), all_squares};
}

// The scale that suits steps in [-8, 7] best: steps of several sizes are tried, each with the scale of least squares.
static inline vf best_int4_scale(const float (*x)[kPanel], vf extreme) {
  constexpr int kTries = 7;
  vf units[kGroup], unit = div(set1(1.0f), extreme);
  for (int i = 0; i < kGroup; ++i) units[i] = mul(load(x[i]), unit);
  vf best = set1(-0.125f), most = set1(-1.0f);  // in units of the extreme
  for (int i = 0; i < kTries; ++i) {
    Fit found = fit(units, set1(-6.5f - 0.375f * static_cast<float>(i)));
    vf dot = found.with_x, square = found.with_itself, gain = mul(dot, dot), bar = mul(most, square);
    vf is_better = if_less(bar, gain, set1(1.0f), set1(0.0f)), is_some = if_less(set1(0.0f), square, is_better, set1(0.0f));
    most = if_less(set1(0.0f), is_some, div(gain, square), most);
    best = if_less(set1(0.0f), is_some, div(dot, square), best);
  }
  return mul(best, extreme);
}

// Writes kLanes columns' scales and returns what their values are multiplied by.
static inline vf write_scales(WeightFormat format, const float (*x)[kPanel], uint16_t* scales) {
  const vf zero = set1(0.0f), smallest = set1(1e-30f);
  Extremes extremes = extremes_of(x);
  vf size = magnitude(extremes.value);
  vf wanted = format == WeightFormat::kInt4 ? best_int4_scale(x, extremes.value) : div(extremes.value, set1(-128.0f));
  vf scale = round_to_bf16(if_less(size, smallest, zero, wanted));
  scale = if_less(extremes.poison, set1(1.0f), scale, set1(float_of(0x7fc00000)));
  word_lanes bits = bits_of(scale) >> 16;
  for (int lane = 0; lane < kLanes; ++lane) scales[lane] = static_cast<uint16_t>(bits[lane]);
  return if_less(size, smallest, zero, div(set1(1.0f), scale));
}

// The unsigned value of each column, in the low bits of its word.
template <WeightFormat format>
static inline word_lanes quantised(vf x, vf inverse) {
  constexpr float kOffset = format == WeightFormat::kInt4 ? 8.0f : 128.0f;
  return bits_of(add(clamp(mul(x, inverse), -kOffset, kOffset - 1.0f), set1(kMagic + kOffset))) & 0xff;
}

template <WeightFormat format>
static inline void write_ints(const float (*x)[kPanel], const Panels& target, int64_t panel, int64_t group) {
  for (int n = 0; n < kPanel; n += kLanes) {
    const float(*columns)[kPanel] = reinterpret_cast<const float(*)[kPanel]>(&x[0][n]);
    vf inverse = write_scales(format, columns, target.scales(panel, group) + n);
    for (int i = 0; i < target.words(); ++i) {
      word_lanes word{};
      for (int byte = 0; byte < 4; ++byte) {
        if (format == WeightFormat::kInt8) {
          word |= quantised<format>(load(columns[4 * i + byte]), inverse) << (8 * byte);
        } else {
          word |= quantised<format>(load(columns[8 * i + byte]), inverse) << (8 * byte);
          word |= quantised<format>(load(columns[8 * i + 4 + byte]), inverse) << (8 * byte + 4);
        }
      }
      std::memcpy(target.word(panel, group, n, i), &word, sizeof word);
    }
  }
}

static inline void write_floats(const float (*x)[kPanel], const Panels& target, int64_t panel, int64_t group) {
  switch (target.format) {
    case WeightFormat::kF32: std::memcpy(target.word(panel, group, 0, 0), x, sizeof(TurnedGroup)); break;
    case WeightFormat::kBF16: round_to_pairs(x, reinterpret_cast<uint32_t(*)[kPanel]>(target.word(panel, group, 0, 0))); break;
    case WeightFormat::kInt8: write_ints<WeightFormat::kInt8>(x, target, panel, group); break;
    case WeightFormat::kInt4: write_ints<WeightFormat::kInt4>(x, target, panel, group); break;
  }
}

// Turned pairs of bfloat16 are what a bfloat16 panel holds; everything else goes through floats.
static void pack(const SourceMatrix& source, int64_t first_row, const Panels& target, int64_t panel) {
  TurnedGroup floats;
  alignas(64) uint32_t pairs[kGroup / 2][kPanel];
  for (int64_t group = 0; group < target.num_groups(); ++group) {
    int64_t k = group * kGroup;
    if (source.element == Element::kF32) {
      turn<float>(source, first_row, k, reinterpret_cast<uint32_t(*)[kPanel]>(floats.rows));
    } else if (target.format == WeightFormat::kBF16) {
      turn<uint16_t>(source, first_row, k, reinterpret_cast<uint32_t(*)[kPanel]>(target.word(panel, group, 0, 0)));
      continue;
    } else {
      turn<uint16_t>(source, first_row, k, pairs);
      widen(pairs, floats.rows);
    }
    write_floats(floats.rows, target, panel, group);
  }
}

}  // namespace quire::QUIRE_ISA
