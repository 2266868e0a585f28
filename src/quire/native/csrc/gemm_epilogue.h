// What follows a product while C is in cache: bias, residual, activation, gate, the next product's format.
#pragma once

#include "prefetch.h"
#include "quantize_activations.h"
#include "vecmath.h"

namespace quire::QUIRE_ISA {

constexpr int64_t kLdy = 2 * kPanel;  // accumulators per row: the panels of a gate/up pair

static inline vf with_bias(const Gemm& g, int64_t column, vf y) {
  return g.bias ? add(y, load(g.bias + column)) : y;
}

static inline void store_out(const Gemm& g, int64_t row, int64_t panel, const float* y) {
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

static inline void store_hidden(const Gemm& g, int64_t row, int64_t unit, const float* y) {
  bool gated = g.epilogue == Epilogue::kGate;
  int64_t column = unit * kPanel * (gated ? 2 : 1);
  float hidden[kPanel];
  for (int c = 0; c < kPanel; c += kLanes) {
    vf value = activate(g.activation, with_bias(g, column + c, load(y + c)));
    if (gated) value = mul(value, with_bias(g, column + kPanel + c, load(y + kPanel + c)));
    store(hidden + c, value);
  }
  int64_t first = unit * kPanel, end = round_up(g.hidden.k, kGroup);
  for (int c = 0; c < kPanel && first + c < end; c += kGroup)
    write_group(g.hidden, row, first + c, hidden + c, kGroup);
}

static inline int panels_per_unit(const Gemm& g) { return g.epilogue == Epilogue::kGate ? 2 : 1; }
static inline bool writes_hidden(const Gemm& g) {
  return g.epilogue == Epilogue::kActivate || g.epilogue == Epilogue::kGate;
}

// y: one row's products with the panels of a unit.
static inline void run_epilogue(const Gemm& g, int64_t row, int64_t unit, const float* y) {
  if (writes_hidden(g)) store_hidden(g, row, unit, y);
  else store_out(g, row, unit, y);
}

// Rows whose products with a unit are in y and whose epilogue is pending. Epilogues run one row at a time,
// interleaved with the TMULs of the next row panel, which hides the latency of their stores; the destination
// lines are prefetched some rows ahead.
class EpilogueQueue {
 public:
  explicit EpilogueQueue(const Gemm& g) : g_(g) {}

  void push(int64_t first_row, int64_t rows, int64_t unit, const float* y) {
    flush();
    row_ = first_row, end_ = first_row + rows, unit_ = unit, y_ = y;
  }

  QUIRE_INLINE void run_some(int64_t rows) {
    for (; rows > 0 && row_ < end_; --rows) run_next();
  }

  void flush() { run_some(end_ - row_); }

 private:
  static constexpr int64_t kAhead = 8;

  [[gnu::noinline]] void run_next() {
    if (row_ + kAhead < g_.rows) prefetch(row_ + kAhead);
    run_epilogue(g_, row_++, unit_, y_);
    y_ += kLdy;
  }

  void prefetch(int64_t row) const {
    const int64_t bytes =
        writes_hidden(g_) && g_.hidden.format == ActivationFormat::kBF16 ? 2 * kPanel : 4 * kPanel;
    const char* first = writes_hidden(g_)
                            ? g_.hidden.row(row)
                            : reinterpret_cast<const char*>(g_.out + row * g_.ldo - g_.out_column);
    prefetch_lines(first + unit_ * bytes, kLineBytes, static_cast<int>(bytes / kLineBytes));
  }

  const Gemm& g_;
  int64_t row_ = 0, end_ = 0, unit_ = 0;
  const float* y_ = nullptr;
};

}  // namespace quire::QUIRE_ISA
