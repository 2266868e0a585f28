// What follows a product while it is still in cache: bias, residual, activation, gate, and the format of the next product.
#pragma once

#include "rows_format.h"
#include "vecmath.h"

namespace quire::QUIRE_ISA {

constexpr int64_t kLdy = 2 * kPanel;  // sums of a row: the panels of a pair

static inline vf with_bias(const Gemm& g, int64_t column, vf y) { return g.bias ? add(y, load(g.bias + column)) : y; }

static inline void finish_out(const Gemm& g, int64_t row, int64_t panel, const float* y) {
  int64_t column = panel * kPanel;
  int64_t width = g.num_columns - column < kPanel ? g.num_columns - column : kPanel;
  float* out = g.out + row * g.ldo + column - g.out_column;
  for (int64_t c = 0; c < width; c += kLanes) {
    int n = lanes_left(c, width);
    vf value = with_bias(g, column + c, load(y + c));
    if (g.epilogue == Epilogue::kAdd) value = add(load_n(out + c, n), value);
    store_as(out + c, value, n);
  }
}

static inline void finish_hidden(const Gemm& g, int64_t row, int64_t unit, const float* y) {
  bool gated = g.epilogue == Epilogue::kGate;
  int64_t column = unit * kPanel * (gated ? 2 : 1);
  float hidden[kPanel];
  for (int c = 0; c < kPanel; c += kLanes) {
    vf value = activate(g.activation, with_bias(g, column + c, load(y + c)));
    if (gated) value = mul(value, with_bias(g, column + kPanel + c, load(y + kPanel + c)));
    store(hidden + c, value);
  }
  int64_t first = unit * kPanel, end = round_up(g.hidden.k, kGroup);
  for (int c = 0; c < kPanel && first + c < end; c += kGroup) write_group(g.hidden, row, first + c, hidden + c, kGroup);
}

// y: the products of one row with the panels of a unit.
static inline void finish(const Gemm& g, int64_t row, int64_t unit, const float* y) {
  if (g.epilogue == Epilogue::kActivate || g.epilogue == Epilogue::kGate)
    finish_hidden(g, row, unit, y);
  else
    finish_out(g, row, unit, y);
}

static inline int panels_of(const Gemm& g) { return g.epilogue == Epilogue::kGate ? 2 : 1; }

}  // namespace quire::QUIRE_ISA
