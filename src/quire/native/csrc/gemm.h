// y = a W^T over packed panels, with what follows the product fused onto the tile while it is still in cache.
#pragma once

#include "tile.h"
#include "vecmath.h"

namespace quire::QUIRE_ISA {

static inline vf with_bias(const Gemm& g, int64_t column, vf y) { return g.bias ? add(y, load(g.bias + column)) : y; }

static inline void finish_out(const Gemm& g, int64_t row, int64_t panel, const float* y) {
  int64_t column = panel * kPanel;
  int64_t width = g.num_columns - column < kPanel ? g.num_columns - column : kPanel;
  float* out = g.out + row * g.ldo + column;
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

// T: how rows are read for the product (float, or uint32 pairs of bfloat16); S: one stored element of `hidden`.
template <class T, class S>
struct GemmTiles {
  const Gemm& g;
  int64_t unit;

  template <int R>
  void run(int64_t first_row) const {
    bool makes_hidden = g.epilogue == Epilogue::kActivate || g.epilogue == Epilogue::kGate;
    int panels = g.epilogue == Epilogue::kGate ? 2 : 1;
    int64_t steps = g.weight.element == Element::kF32 ? g.weight.k : (g.weight.k + 1) / 2;
    const T* a[R];
    for (int r = 0; r < R; ++r) a[r] = reinterpret_cast<const T*>(static_cast<const S*>(g.a) + (first_row + r) * g.lda);
    float y[R][2 * kPanel];
    for (int p = 0; p < panels; ++p) {
      const char* panel = static_cast<const char*>(g.weight.base) + (unit * panels + p) * g.weight.bytes_per_panel();
      multiply<R, kPanel>(a, reinterpret_cast<const T*>(panel), steps, y[0] + p * kPanel, 2 * kPanel);
    }
    for (int r = 0; r < R; ++r)
      makes_hidden ? finish_hidden<S>(g, first_row + r, unit, y[r]) : finish_out(g, first_row + r, unit, y[r]);
  }
};

static void gemm(const Gemm& g, int64_t unit_begin, int64_t unit_end) {
  for (int64_t unit = unit_begin; unit < unit_end; ++unit) {
    if (g.weight.element == Element::kF32)
      for_row_tiles(g.rows, GemmTiles<float, float>{g, unit});
    else
      for_row_tiles(g.rows, GemmTiles<uint32_t, uint16_t>{g, unit});
  }
}

}  // namespace quire::QUIRE_ISA
