// AMX: bfloat16 products of up to 16 rows and a whole panel, 32 elements of K an instruction.
//
// A panel is already what a tile wants: 16 pairs of K by 16 columns, 256 bytes from pair to pair. An output is one element of a
// tile that sees K in steps of 32, whatever the number of rows, so rows stay independent; decode and prefill use the same
// instruction.
#pragma once

#include <immintrin.h>

#include "kernels.h"

namespace quire::QUIRE_ISA {

constexpr int kTileRows = 16;
static_assert(kGroup == 32, "a tile multiplies 32 bfloat16 elements of K at once");

// Palette 1: tiles 0 to 3 hold sums, 4 activations, 5 to 7 weights.
struct alignas(64) TileConfig {
  uint8_t palette;
  uint8_t start_row;
  uint8_t reserved[14];
  uint16_t bytes_per_row[16];
  uint8_t rows[16];
};

// GCC does not tell its optimiser that tile loads read memory; this makes it finish writing before them.
static inline void finish_writes() { asm volatile("" ::: "memory"); }

static inline void configure_tiles(int rows) {
  TileConfig config{};
  config.palette = 1;
  for (int tile = 0; tile < 8; ++tile) {
    config.bytes_per_row[tile] = 64;
    config.rows[tile] = static_cast<uint8_t>(tile < 5 ? rows : kTileRows);
  }
  finish_writes();
  _tile_loadconfig(&config);
}

// y [rows, ldo] = a [rows, lda] times one panel of `depth` groups.
static inline void multiply_tiles(const uint16_t* a, int64_t lda, const char* panel, int64_t depth, float* y, int64_t ldo) {
  constexpr int64_t kRowBytes = kPanel * 4;
  finish_writes();
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t step = 0; step < depth; ++step) {
    const char* w = panel + step * (kGroup / 2) * kRowBytes;
    _tile_loadd(4, a + step * kGroup, lda * static_cast<int64_t>(sizeof(uint16_t)));
    _tile_loadd(5, w, kRowBytes);
    _tile_dpbf16ps(0, 4, 5);
    _tile_loadd(6, w + 64, kRowBytes);
    _tile_dpbf16ps(1, 4, 6);
    _tile_loadd(7, w + 128, kRowBytes);
    _tile_dpbf16ps(2, 4, 7);
    _tile_loadd(5, w + 192, kRowBytes);
    _tile_dpbf16ps(3, 4, 5);
  }
  int64_t stride = ldo * static_cast<int64_t>(sizeof(float));
  _tile_stored(0, y, stride);
  _tile_stored(1, y + 16, stride);
  _tile_stored(2, y + 32, stride);
  _tile_stored(3, y + 48, stride);
}

// Four independent products a round; see spin.h.
static inline int64_t spin_tiles(int64_t rounds, float& sink) {
  alignas(64) float sums[kTileRows * 16];
  configure_tiles(kTileRows);
  for (float& x : sums) x = 0.0f;
  finish_writes();
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_loadd(4, sums, 64);
  _tile_loadd(5, sums, 64);
  for (int64_t i = 0; i < rounds; ++i) {
    _tile_dpbf16ps(0, 4, 5);
    _tile_dpbf16ps(1, 4, 5);
    _tile_dpbf16ps(2, 4, 5);
    _tile_dpbf16ps(3, 4, 5);
  }
  _tile_stored(0, sums, 64);
  _tile_release();
  sink += sums[0];
  return rounds * 4 * 2 * kTileRows * 16 * kGroup;
}

}  // namespace quire::QUIRE_ISA
