// Tiles of rows, whose number of rows the compiler knows.
#pragma once

#include <cstdint>

namespace quire::QUIRE_ISA {

// Accumulators stay in registers only where the compiler sees all that is done with them.
#define QUIRE_INLINE inline __attribute__((always_inline))

template <int R, class Body>
static QUIRE_INLINE void run_tile(int64_t size, int64_t row, int64_t tile, const Body& body) {
  if constexpr (R == 1) return body.template run<1>(row, tile);
  else if (size == R) return body.template run<R>(row, tile);
  else run_tile<R - 1>(size, row, tile, body);
}

// Calls body.run<R>(first_row, tile) for `tiles` tiles of at most kMost rows, as even as can be.
template <int kMost, class Body>
static inline void for_even_tiles(int64_t rows, int64_t tiles, const Body& body) {
  for (int64_t row = 0, tile = 0; tile < tiles; ++tile) {
    int64_t size = (rows - row + tiles - tile - 1) / (tiles - tile);
    run_tile<kMost>(size, row, tile, body);
    row += size;
  }
}

}  // namespace quire::QUIRE_ISA
