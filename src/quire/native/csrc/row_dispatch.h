// Row panels: a few rows of a product's left operand whose number is a template parameter, so that
// accumulators stay in registers.
#pragma once

#include <cstdint>

namespace quire::QUIRE_ISA {

// Accumulators stay in registers only if everything that touches them is inlined.
#define QUIRE_INLINE inline __attribute__((always_inline))

// Calls body.run<size>(first_row, row_panel), for size in [1, R].
template <int R, class Body>
static QUIRE_INLINE void dispatch_rows(int64_t size, int64_t row, int64_t row_panel, const Body& body) {
  if constexpr (R == 1) return body.template run<1>(row, row_panel);
  else if (size == R) return body.template run<R>(row, row_panel);
  else dispatch_rows<R - 1>(size, row, row_panel, body);
}

// Splits `rows` into `row_panels` panels of at most kMost rows, as evenly as possible, and calls
// body.run<R>(first_row, row_panel).
template <int kMost, class Body>
static inline void for_row_panels(int64_t rows, int64_t row_panels, const Body& body) {
  for (int64_t row = 0, row_panel = 0; row_panel < row_panels; ++row_panel) {
    int64_t size = (rows - row + row_panels - row_panel - 1) / (row_panels - row_panel);
    dispatch_rows<kMost>(size, row, row_panel, body);
    row += size;
  }
}

}  // namespace quire::QUIRE_ISA
