// AMX: TMULs on tmm registers of 16 rows by 16 columns; one instruction multiplies 32 elements of K in
// bfloat16, 64 in bytes.
//
// Weight panels and K/V pages already have the layout that a TMUL reads: 16 pairs or quads of K by 16 columns
// of 32-bit words. An output is one element of a tmm register that sees K in slices of 32 or 64 elements,
// whatever the number of rows, so rows are independent; decode and prefill use the same instruction.
#pragma once

#include <immintrin.h>

#include "kernels.h"
#include "prefetch.h"

namespace quire::QUIRE_ISA {

constexpr int kTmmRows = 16;
constexpr int kTmmColumns = 16;
constexpr int kRowPanel = 2 * kTmmRows;  // rows of A that share each loaded B
static_assert(kGroup == 32 && kTmmBytes == 64, "what a row of a tmm register holds");

enum class TmmElement { kBF16, kInt8 };

// The operand of LDTILECFG. Palette 1: eight tmm registers of at most 16 rows of 64 bytes.
struct alignas(64) TileConfig {
  uint8_t palette;
  uint8_t start_row;
  uint8_t reserved[14];
  uint16_t bytes_per_row[16];
  uint8_t rows[16];
};

// GCC does not know that TILELOADD reads memory; this makes it complete its stores first.
static inline void compiler_barrier() { asm volatile("" ::: "memory"); }

static inline void load_tile_config(const uint8_t (&rows)[8], const uint8_t (&bytes_per_row)[8]) {
  TileConfig config{};
  config.palette = 1;
  for (int tmm = 0; tmm < 8; ++tmm) {
    config.rows[tmm] = rows[tmm];
    config.bytes_per_row[tmm] = bytes_per_row[tmm];
  }
  compiler_barrier();
  _tile_loadconfig(&config);
}

// Use few tmm registers, so that renaming keeps more loads and TMULs in flight, and reuse the same tmm for
// successive operands: each register in use seems to hold a physical one, and with all eight in use only two
// are spare while the sibling hyperthread uses AMX too.
//
// tmm0-3 accumulate C, tmm4 holds A, tmm5 holds B. Up to 16 rows keep their accumulators side by side (1xN),
// and a last k-slice may be as short as `last_k_words` pairs or quads, with its A in tmm6 and its B in tmm7.
// 17 to 32 rows are two halves of equally many rows (2x2), which share one row if their number is odd.
static inline void configure_tmm(int rows, int last_k_words = kTmmRows) {
  uint8_t height = static_cast<uint8_t>(rows <= kTmmRows ? rows : (rows + 1) / 2);
  uint8_t last = static_cast<uint8_t>(last_k_words), last_bytes = static_cast<uint8_t>(4 * last_k_words);
  load_tile_config({height, height, height, height, height, kTmmRows, height, last},
                   {64, 64, 64, 64, 64, 64, last_bytes, 64});
}

// tmm numbers are part of the instruction.
#define QUIRE_TMUL(element, c, a, b)                                   \
  do {                                                                 \
    if constexpr (element == TmmElement::kInt8) _tile_dpbssd(c, a, b); \
    else _tile_dpbf16ps(c, a, b);                                      \
  } while (false)

// C [rows, ..] = A [rows, K] B over k-slices [begin, end), each 64 bytes of a row of A. Strides are in bytes.
struct TmulTask {
  const char* a;
  int64_t a_stride;
  int64_t b_stride;  // between pairs or quads of K
  int64_t begin;
  int64_t end;
  float* c;  // int32 for bytes
  int64_t c_stride;
  int64_t lower = kTmmRows;  // first row of the lower half

  const char* lower_a() const { return a + lower * a_stride; }
  float* lower_c() const { return reinterpret_cast<float*>(reinterpret_cast<char*>(c) + lower * c_stride); }
};

// tmul_1xn and tmul_2x2 read B of a k-slice at b_at(k_slice), and call interleave(k_slice, i) after TMUL
// number i of the slice. Spread other work evenly over these calls: a burst of prefetches delays TILELOADDs
// in L2, and the vector units idle during a run of TMULs.

#define QUIRE_TMUL_COLUMN(a, b, number)                               \
  do {                                                                \
    if constexpr (number < kColumns / kTmmColumns) {                  \
      _tile_loadd(b, base + number * kTmmColumns * 4, task.b_stride); \
      QUIRE_TMUL(kElement, number, a, b);                             \
      interleave(k_slice, number);                                    \
    }                                                                 \
  } while (false)

template <int kColumns, bool kIsLast, TmmElement kElement, class BAt, class Interleave>
static QUIRE_INLINE void tmul_1xn_slice(const TmulTask& task, int64_t k_slice, const BAt& b_at,
                                        const Interleave& interleave) {
  const char* base = b_at(k_slice);
  if constexpr (kIsLast) {
    _tile_loadd(6, task.a + 64 * k_slice, task.a_stride);
    QUIRE_TMUL_COLUMN(6, 7, 0);
    QUIRE_TMUL_COLUMN(6, 7, 1);
    QUIRE_TMUL_COLUMN(6, 7, 2);
    QUIRE_TMUL_COLUMN(6, 7, 3);
  } else {
    _tile_loadd(4, task.a + 64 * k_slice, task.a_stride);
    QUIRE_TMUL_COLUMN(4, 5, 0);
    QUIRE_TMUL_COLUMN(4, 5, 1);
    QUIRE_TMUL_COLUMN(4, 5, 2);
    QUIRE_TMUL_COLUMN(4, 5, 3);
  }
}

// Up to 16 rows by 16, 32 or 64 columns: one TMUL per 16 columns and k-slice. kIsLastShort: the last k-slice
// has the length that configure_tmm was given.
template <int kColumns, TmmElement kElement = TmmElement::kBF16, bool kIsLastShort = false, class BAt,
          class Interleave>
static QUIRE_INLINE void tmul_1xn(const TmulTask& task, const BAt& b_at, const Interleave& interleave) {
  compiler_barrier();
  _tile_zero(0);
  if constexpr (kColumns > kTmmColumns) _tile_zero(1);
  if constexpr (kColumns > 2 * kTmmColumns) _tile_zero(2);
  if constexpr (kColumns > 3 * kTmmColumns) _tile_zero(3);
  const int64_t end = kIsLastShort ? task.end - 1 : task.end;
  for (int64_t k_slice = task.begin; k_slice < end; ++k_slice)
    tmul_1xn_slice<kColumns, false, kElement>(task, k_slice, b_at, interleave);
  if constexpr (kIsLastShort) tmul_1xn_slice<kColumns, true, kElement>(task, end, b_at, interleave);
  _tile_stored(0, task.c, task.c_stride);
  if constexpr (kColumns > kTmmColumns) _tile_stored(1, task.c + kTmmColumns, task.c_stride);
  if constexpr (kColumns > 2 * kTmmColumns) _tile_stored(2, task.c + 2 * kTmmColumns, task.c_stride);
  if constexpr (kColumns > 3 * kTmmColumns) _tile_stored(3, task.c + 3 * kTmmColumns, task.c_stride);
  compiler_barrier();
}

// 17 to 32 rows by 32 columns: four TMULs per k-slice. The first B is loaded twice rather than kept in a tmm
// of its own.
template <TmmElement kElement = TmmElement::kBF16, class BAt, class Interleave>
static QUIRE_INLINE void tmul_2x2(const TmulTask& task, const BAt& b_at, const Interleave& interleave) {
  compiler_barrier();
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t k_slice = task.begin; k_slice < task.end; ++k_slice) {
    const char* b = b_at(k_slice);
    _tile_loadd(4, task.a + 64 * k_slice, task.a_stride);
    _tile_loadd(5, b, task.b_stride);
    QUIRE_TMUL(kElement, 0, 4, 5);
    interleave(k_slice, 0);
    _tile_loadd(5, b + 64, task.b_stride);
    QUIRE_TMUL(kElement, 1, 4, 5);
    interleave(k_slice, 1);
    _tile_loadd(4, task.lower_a() + 64 * k_slice, task.a_stride);
    QUIRE_TMUL(kElement, 3, 4, 5);
    interleave(k_slice, 2);
    _tile_loadd(5, b, task.b_stride);
    QUIRE_TMUL(kElement, 2, 4, 5);
    interleave(k_slice, 3);
  }
  _tile_stored(0, task.c, task.c_stride);
  _tile_stored(1, task.c + kTmmColumns, task.c_stride);
  _tile_stored(2, task.lower_c(), task.c_stride);
  _tile_stored(3, task.lower_c() + kTmmColumns, task.c_stride);
  compiler_barrier();
}

// Four independent TMULs per round; see peak_flops.h. Operands have both signs and magnitudes below one: with
// zeros the unit draws less power and runs faster than in any real product.
template <TmmElement kElement>
static inline int64_t peak_tmul(int64_t rounds, float& sink) {
  alignas(64) uint32_t operands[kTmmRows * kTmmColumns];
  alignas(64) float c[kTmmRows * kTmmColumns];
  for (uint32_t i = 0; i < kTmmRows * kTmmColumns; ++i)
    operands[i] = (0x9e3779b9u * i & 0x807f807fu) | 0x3f003f00u;
  configure_tmm(kTmmRows);
  compiler_barrier();
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_loadd(4, operands, 64);
  _tile_loadd(5, operands, 64);
  for (int64_t i = 0; i < rounds; ++i) {
    QUIRE_TMUL(kElement, 0, 4, 5);
    QUIRE_TMUL(kElement, 1, 4, 5);
    QUIRE_TMUL(kElement, 2, 4, 5);
    QUIRE_TMUL(kElement, 3, 4, 5);
  }
  _tile_stored(0, c, 64);
  compiler_barrier();
  _tile_release();
  sink += c[0];
  return rounds * 4 * 2 * kTmmRows * kTmmColumns * (kElement == TmmElement::kInt8 ? kTmmBytes : kGroup);
}

}  // namespace quire::QUIRE_ISA
