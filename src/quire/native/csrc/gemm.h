// y = a W^T over packed panels, with what follows the product fused onto the tile while it is still in cache.
#pragma once

#include "tile.h"
#include "vecmath.h"
#if defined(QUIRE_AMX)
#include "matrix_tiles.h"
#endif

namespace quire::QUIRE_ISA {

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

template <class T>
static inline void finish_hidden(const Gemm& g, int64_t row, int64_t unit, const float* y) {
  T* hidden = static_cast<T*>(g.hidden) + row * g.ldh + unit * kPanel;
  bool gated = g.epilogue == Epilogue::kGate;
  int64_t column = unit * kPanel * (gated ? 2 : 1);
  for (int c = 0; c < kPanel; c += kLanes) {
    vf value = activate(g.activation, with_bias(g, column + c, load(y + c)));
    if (gated) value = mul(value, with_bias(g, column + kPanel + c, load(y + kPanel + c)));
    store_as(hidden + c, value, kLanes);
  }
}

static inline int panels_of(const Gemm& g) { return g.epilogue == Epilogue::kGate ? 2 : 1; }

// y: the products of one row with the panels of a unit.
template <class S>
static inline void finish(const Gemm& g, int64_t row, int64_t unit, const float* y) {
  if (g.epilogue == Epilogue::kActivate || g.epilogue == Epilogue::kGate)
    finish_hidden<S>(g, row, unit, y);
  else
    finish_out(g, row, unit, y);
}

// T: how rows are read for the product (float, or uint32 pairs of bfloat16); S: one stored element of `hidden`.
template <class T, class S>
struct GemmTiles {
  const Gemm& g;
  int64_t unit;

  template <int R>
  void run(int64_t first_row) const {
    int panels = panels_of(g);
    int64_t steps = g.weight.element == Element::kF32 ? g.weight.k : (g.weight.k + 1) / 2;
    const T* a[R];
    for (int r = 0; r < R; ++r) a[r] = reinterpret_cast<const T*>(static_cast<const S*>(g.a) + (first_row + r) * g.lda);
    float y[R][2 * kPanel];
    for (int p = 0; p < panels; ++p) {
      const char* panel = static_cast<const char*>(g.weight.base) + (unit * panels + p) * g.weight.bytes_per_panel();
      multiply<R, kPanel>(a, reinterpret_cast<const T*>(panel), steps, y[0] + p * kPanel, 2 * kPanel);
    }
    for (int r = 0; r < R; ++r) finish<S>(g, first_row + r, unit, y[r]);
  }
};

#if defined(QUIRE_AMX)
static void gemm_tiles(const Gemm& g, int64_t unit_begin, int64_t unit_end) {
  int panels = panels_of(g);
  int64_t depth = round_up(g.weight.k, kDepth) / kDepth;
  alignas(64) float y[kTileRows][2 * kPanel];
  int configured = 0;
  for (int64_t unit = unit_begin; unit < unit_end; ++unit) {
    const char* weight = static_cast<const char*>(g.weight.base) + unit * panels * g.weight.bytes_per_panel();
    for (int64_t row = 0; row < g.rows; row += kTileRows) {
      int rows = g.rows - row < kTileRows ? static_cast<int>(g.rows - row) : kTileRows;
      if (rows != configured) configure_tiles(configured = rows);
      const uint16_t* a = static_cast<const uint16_t*>(g.a) + row * g.lda;
      for (int p = 0; p < panels; ++p)
        multiply_tiles(a, g.lda, weight + p * g.weight.bytes_per_panel(), depth, y[0] + p * kPanel, 2 * kPanel);
      for (int r = 0; r < rows; ++r) finish<uint16_t>(g, row + r, unit, y[r]);
    }
  }
  _tile_release();
}
#endif

static void gemm(const Gemm& g, int64_t unit_begin, int64_t unit_end) {
#if defined(QUIRE_AMX)
  if (g.weight.element == Element::kBF16) return gemm_tiles(g, unit_begin, unit_end);
#endif
  for (int64_t unit = unit_begin; unit < unit_end; ++unit) {
    if (g.weight.element == Element::kF32)
      for_row_tiles(g.rows, GemmTiles<float, float>{g, unit});
    else
      for_row_tiles(g.rows, GemmTiles<uint32_t, uint16_t>{g, unit});
  }
}

}  // namespace quire::QUIRE_ISA
