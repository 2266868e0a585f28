// Reads checkpoint rows for packing: 32 elements of K of up to 64 rows, transposed, so that the columns of
// the panel lie side by side as they will be stored. From here on a lane is a column.
#pragma once

#include "kernels.h"
#include "prefetch.h"
#include "simd.h"

namespace quire::QUIRE_ISA {

typedef uint32_t words4 __attribute__((vector_size(16)));

// Row i holds element i of 64 columns.
struct alignas(64) TransposedGroup {
  float rows[kGroup][kPanel];
};

// Transposes four rows of `count` words: word i of row r goes to to[i][r].
static inline void transpose4(const uint32_t* const from[4], int count, uint32_t (*to)[kPanel]) {
  for (int i = 0; i < count; i += 4) {
    words4 a, b, c, d;
    std::memcpy(&a, from[0] + i, sizeof a);
    std::memcpy(&b, from[1] + i, sizeof b);
    std::memcpy(&c, from[2] + i, sizeof c);
    std::memcpy(&d, from[3] + i, sizeof d);
    words4 ab = __builtin_shuffle(a, b, words4{0, 4, 1, 5}),
           ab_high = __builtin_shuffle(a, b, words4{2, 6, 3, 7});
    words4 cd = __builtin_shuffle(c, d, words4{0, 4, 1, 5}),
           cd_high = __builtin_shuffle(c, d, words4{2, 6, 3, 7});
    words4 columns[4] = {__builtin_shuffle(ab, cd, words4{0, 1, 4, 5}),
                         __builtin_shuffle(ab, cd, words4{2, 3, 6, 7}),
                         __builtin_shuffle(ab_high, cd_high, words4{0, 1, 4, 5}),
                         __builtin_shuffle(ab_high, cd_high, words4{2, 3, 6, 7})};
    for (int r = 0; r < 4; ++r) std::memcpy(to[i + r], &columns[r], sizeof columns[r]);
  }
}

// Any strides and edges, one element at a time: columns [first_column, 64) of a transposed group, zero where
// there is no source.
template <class From>
static void transpose_scalar(const SourceMatrix& source, int64_t first_row, int64_t k, int64_t first_column,
                             uint32_t (*to)[kPanel]) {
  constexpr int kPerWord = 4 / sizeof(From);
  for (int i = 0; i < kGroup / kPerWord; ++i)
    for (int64_t n = first_column; n < kPanel; ++n) {
      From word[kPerWord] = {};
      for (int j = 0; j < kPerWord; ++j) {
        int64_t row = first_row + n, column = k + i * kPerWord + j;
        if (row < source.rows && column < source.columns)
          word[j] =
              static_cast<const From*>(source.base)[row * source.row_stride + column * source.column_stride];
      }
      std::memcpy(&to[i][n], word, sizeof word);
    }
}

// Reads a transposed group: kGroup rows of floats, or kGroup / 2 rows of bfloat16 pairs.
template <class From>
static inline void transpose(const SourceMatrix& source, int64_t first_row, int64_t k,
                             uint32_t (*to)[kPanel]) {
  // The hardware prefetcher cannot follow this many rows at once.
  constexpr int64_t kAhead = 512 / sizeof(From);
  int64_t rows = source.rows - first_row < kPanel ? source.rows - first_row : kPanel, n = 0;
  bool is_whole = source.column_stride == 1 && k + kGroup <= source.columns;
  for (; is_whole && n + 4 <= rows; n += 4) {
    const uint32_t* from[4];
    for (int r = 0; r < 4; ++r) {
      const From* row = static_cast<const From*>(source.base) + (first_row + n + r) * source.row_stride + k;
      for (size_t line = 0; line < kGroup * sizeof(From); line += 64)
        prefetch_l1(reinterpret_cast<const char*>(row + kAhead) + line);
      from[r] = reinterpret_cast<const uint32_t*>(row);
    }
    transpose4(from, kGroup * sizeof(From) / 4, reinterpret_cast<uint32_t (*)[kPanel]>(&to[0][n]));
  }
  if (n < kPanel) transpose_scalar<From>(source, first_row, k, n, to);
}

// Rows of bfloat16 pairs become two rows of floats each.
static inline void widen(const uint32_t (*pairs)[kPanel], float (*to)[kPanel]) {
  for (int i = 0; i < kGroup / 2; ++i)
    for (int n = 0; n < kPanel; n += kLanes) {
      vi pair = load_words(&pairs[i][n]);
      store(&to[2 * i][n], even_bf16(pair));
      store(&to[2 * i + 1][n], odd_bf16(pair));
    }
}

// Reads a transposed group as floats.
static inline void read_group(const SourceMatrix& source, int64_t first_row, int64_t k, float (*to)[kPanel]) {
  if (source.element == Element::kF32)
    return transpose<float>(source, first_row, k, reinterpret_cast<uint32_t (*)[kPanel]>(to));
  alignas(64) uint32_t pairs[kGroup / 2][kPanel];
  transpose<uint16_t>(source, first_row, k, pairs);
  widen(pairs, to);
}

}  // namespace quire::QUIRE_ISA
