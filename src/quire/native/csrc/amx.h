// AMX: products on matrix tiles of 16 rows by 16 columns, 32 elements of K an instruction in bfloat16 and 64 in bytes.
//
// Weight panels and K/V pages are already what a tile wants: 16 pairs or quads of K by 16 columns of words. An output is one element of a
// tile that sees K in steps of 32 or 64, whatever the number of rows, so rows stay independent; decode and prefill use the same
// instruction.
#pragma once

#include <immintrin.h>

#include "prefetch.h"
#include "kernels.h"

namespace quire::QUIRE_ISA {

constexpr int kTileRows = 16;
constexpr int kTileColumns = 16;
constexpr int kBlockRows = 2 * kTileRows;  // rows that share what is loaded of the words
static_assert(kGroup == 32 && kTileBytes == 64, "what a row of a tile holds");

enum class TileElement { kBF16, kByte };

// Palette 1: eight tiles of at most 16 rows of 64 bytes.
struct alignas(64) TileConfig {
  uint8_t palette;
  uint8_t start_row;
  uint8_t reserved[14];
  uint16_t bytes_per_row[16];
  uint8_t rows[16];
};

// GCC does not tell its optimiser that tile loads read memory; this makes it finish writing before them.
static inline void finish_writes() { asm volatile("" ::: "memory"); }

static inline void configure(const uint8_t (&rows)[8], const uint8_t (&bytes_per_row)[8]) {
  TileConfig config{};
  config.palette = 1;
  for (int tile = 0; tile < 8; ++tile) {
    config.rows[tile] = rows[tile];
    config.bytes_per_row[tile] = bytes_per_row[tile];
  }
  finish_writes();
  _tile_loadconfig(&config);
}

// Every tile that was written seems to hold a register, of which two are to spare where all eight are in use and the core's other thread uses
// tiles as well: few names give many loads and products under way at once. So an operand goes where the one before it was.
//
// Tiles 0 to 3 hold sums, 4 rows, 5 words. Up to 16 rows have their sums side by side, and a last step that may have `last_groups` pairs or
// quads of K only, with its rows in 6 and words in 7. Up to 32 rows have them two by two: an upper and a lower half of as many rows, which
// share one if they are odd.
static inline void configure_tiles(int rows, int last_groups = kTileRows) {
  uint8_t height = static_cast<uint8_t>(rows <= kTileRows ? rows : (rows + 1) / 2);
  uint8_t last = static_cast<uint8_t>(last_groups), last_bytes = static_cast<uint8_t>(4 * last_groups);
  configure({height, height, height, height, height, kTileRows, height, last}, {64, 64, 64, 64, 64, 64, last_bytes, 64});
}

// Tile numbers are part of an instruction.
#define QUIRE_TILE_PRODUCT(element, sums, rows, words)                            \
  do {                                                                            \
    if constexpr (element == TileElement::kByte) _tile_dpbssd(sums, rows, words); \
    else _tile_dpbf16ps(sums, rows, words);                                       \
  } while (false)

// sums [rows, ..] = rows [rows, K] times words, over steps [begin, end) of 64 bytes of a row. Strides in bytes.
struct TileWork {
  const char* rows;
  int64_t row_stride;
  int64_t word_stride;  // from one pair or quad of K to the next
  int64_t begin;
  int64_t end;
  float* sums;  // int32 where bytes are multiplied
  int64_t sum_stride;
  int64_t lower = kTileRows;  // first row of the lower half

  const char* lower_rows() const { return rows + lower * row_stride; }
  float* lower_sums() const { return reinterpret_cast<float*>(reinterpret_cast<char*>(sums) + lower * sum_stride); }
};

// Both products below read the words of a step at words(step), and call beside(step, part) after each instruction that multiplies, part
// counting them within the step. What else a step wants done is best spread over these places: tile loads wait for the second-level
// cache behind one burst of prefetches, and vectors idle behind a row of tile instructions.

// The columns of sums `number` of a step, whose rows are loaded.
#define QUIRE_FLAT_PART(rows, words, number)                               \
  do {                                                                     \
    if constexpr (number < kColumns / kTileColumns) {                      \
      _tile_loadd(words, w + number * kTileColumns * 4, work.word_stride); \
      QUIRE_TILE_PRODUCT(kElement, number, rows, words);                   \
      beside(step, number);                                                \
    }                                                                      \
  } while (false)

template <int kColumns, bool kIsLast, TileElement kElement, class Words, class Beside>
static QUIRE_INLINE void multiply_flat_step(const TileWork& work, int64_t step, const Words& words, const Beside& beside) {
  const char* w = words(step);
  if constexpr (kIsLast) {
    _tile_loadd(6, work.rows + 64 * step, work.row_stride);
    QUIRE_FLAT_PART(6, 7, 0);
    QUIRE_FLAT_PART(6, 7, 1);
    QUIRE_FLAT_PART(6, 7, 2);
    QUIRE_FLAT_PART(6, 7, 3);
  } else {
    _tile_loadd(4, work.rows + 64 * step, work.row_stride);
    QUIRE_FLAT_PART(4, 5, 0);
    QUIRE_FLAT_PART(4, 5, 1);
    QUIRE_FLAT_PART(4, 5, 2);
    QUIRE_FLAT_PART(4, 5, 3);
  }
}

// Up to 16 rows by 16, 32 or 64 columns: a part a step for each 16. The last step may be as short as tiles were configured for.
template <int kColumns, TileElement kElement = TileElement::kBF16, bool kIsLastShort = false, class Words, class Beside>
static QUIRE_INLINE void multiply_flat(const TileWork& work, const Words& words, const Beside& beside) {
  finish_writes();
  _tile_zero(0);
  if constexpr (kColumns > kTileColumns) _tile_zero(1);
  if constexpr (kColumns > 2 * kTileColumns) _tile_zero(2);
  if constexpr (kColumns > 3 * kTileColumns) _tile_zero(3);
  const int64_t end = kIsLastShort ? work.end - 1 : work.end;
  for (int64_t step = work.begin; step < end; ++step) multiply_flat_step<kColumns, false, kElement>(work, step, words, beside);
  if constexpr (kIsLastShort) multiply_flat_step<kColumns, true, kElement>(work, end, words, beside);
  _tile_stored(0, work.sums, work.sum_stride);
  if constexpr (kColumns > kTileColumns) _tile_stored(1, work.sums + kTileColumns, work.sum_stride);
  if constexpr (kColumns > 2 * kTileColumns) _tile_stored(2, work.sums + 2 * kTileColumns, work.sum_stride);
  if constexpr (kColumns > 3 * kTileColumns) _tile_stored(3, work.sums + 3 * kTileColumns, work.sum_stride);
  finish_writes();
}

// 17 to 32 rows by 32 columns: four parts a step. The first words are loaded twice rather than kept in a tile of their own.
template <TileElement kElement = TileElement::kBF16, class Words, class Beside>
static QUIRE_INLINE void multiply_square(const TileWork& work, const Words& words, const Beside& beside) {
  finish_writes();
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t step = work.begin; step < work.end; ++step) {
    const char* w = words(step);
    _tile_loadd(4, work.rows + 64 * step, work.row_stride);
    _tile_loadd(5, w, work.word_stride);
    QUIRE_TILE_PRODUCT(kElement, 0, 4, 5);
    beside(step, 0);
    _tile_loadd(5, w + 64, work.word_stride);
    QUIRE_TILE_PRODUCT(kElement, 1, 4, 5);
    beside(step, 1);
    _tile_loadd(4, work.lower_rows() + 64 * step, work.row_stride);
    QUIRE_TILE_PRODUCT(kElement, 3, 4, 5);
    beside(step, 2);
    _tile_loadd(5, w, work.word_stride);
    QUIRE_TILE_PRODUCT(kElement, 2, 4, 5);
    beside(step, 3);
  }
  _tile_stored(0, work.sums, work.sum_stride);
  _tile_stored(1, work.sums + kTileColumns, work.sum_stride);
  _tile_stored(2, work.lower_sums(), work.sum_stride);
  _tile_stored(3, work.lower_sums() + kTileColumns, work.sum_stride);
  finish_writes();
}

// Four independent products a round; see peak_flops.h. The operands are numbers of both signs below one:
// with zeros tiles draw less power and run faster than any product does.
template <TileElement kElement>
static inline int64_t spin_tiles(int64_t rounds, float& sink) {
  alignas(64) uint32_t operands[kTileRows * kTileColumns];
  alignas(64) float sums[kTileRows * kTileColumns];
  for (uint32_t i = 0; i < kTileRows * kTileColumns; ++i) operands[i] = (0x9e3779b9u * i & 0x807f807fu) | 0x3f003f00u;
  configure_tiles(kTileRows);
  finish_writes();
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_loadd(4, operands, 64);
  _tile_loadd(5, operands, 64);
  for (int64_t i = 0; i < rounds; ++i) {
    QUIRE_TILE_PRODUCT(kElement, 0, 4, 5);
    QUIRE_TILE_PRODUCT(kElement, 1, 4, 5);
    QUIRE_TILE_PRODUCT(kElement, 2, 4, 5);
    QUIRE_TILE_PRODUCT(kElement, 3, 4, 5);
  }
  _tile_stored(0, sums, 64);
  finish_writes();
  _tile_release();
  sink += sums[0];
  return rounds * 4 * 2 * kTileRows * kTileColumns * (kElement == TileElement::kByte ? kTileBytes : kGroup);
}

}  // namespace quire::QUIRE_ISA
