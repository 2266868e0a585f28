// Row-wise kernels: norms, conversion of activations, embedding. Rows are independent.
#pragma once

#include "dequantize.h"
#include "kernels.h"
#include "quantize_activations.h"

namespace quire::QUIRE_ISA {

static inline vf inverse_sqrt(float x) { return set1(1.0f / __builtin_sqrtf(x)); }

static inline float mean_square(const float* x, int64_t size, float mean) {
  vf sum = set1(0.0f);
  for (int64_t i = 0; i < size; i += kLanes) {
    int n = lanes_left(i, size);
    vf d = sub(load_n(x + i, n), set1(mean));
    if (n < kLanes) d = select_less(lane_index(), set1(static_cast<float>(n)), d, set1(0.0f));
    sum = fma(d, d, sum);
  }
  return reduce_add(sum) / static_cast<float>(size);
}

static inline float mean_of(const float* x, int64_t size) {
  vf sum = set1(0.0f);
  for (int64_t i = 0; i < size; i += kLanes) sum = add(sum, load_n(x + i, lanes_left(i, size)));
  return reduce_add(sum) / static_cast<float>(size);
}

// y [32] = the normalized values from column i on, or the plain values without a weight; zero past the end.
static inline void normalized_values(const Norm& a, const float* x, int64_t i, vf mean, vf factor, float* y) {
  for (int64_t c = 0; c < kGroup; c += kLanes) {
    int n = i + c < a.size ? lanes_left(i + c, a.size) : 0;
    vf value = load_n(x + i + c, n);
    if (a.weight) {
      value = mul(mul(sub(value, mean), factor), load_n(a.weight + i + c, n));
      if (a.bias) value = add(value, load_n(a.bias + i + c, n));
      value = select_less(lane_index(), set1(static_cast<float>(n)), value, set1(0.0f));
    }
    store(y + c, value);
  }
}

static inline void add_values(float* residual, const float* y, int n) {
  for (int c = 0; c < n; c += kLanes) {
    int lanes = lanes_left(c, n);
    store_as(residual + c, add(load_n(residual + c, lanes), load(y + c)), lanes);
  }
}

#if defined(QUIRE_AMX)
static inline void norm_split_row(const Norm& a, const float* x, int64_t row, vf mean, vf factor) {
  float y[kSuperGroup];
  for (int64_t begin = 0, end = round_up(a.size, kTmmBytes); begin < end; begin += kSuperGroup) {
    int64_t count = std::min<int64_t>(kSuperGroup, end - begin);
    for (int64_t i = 0; i < count; i += kGroup) normalized_values(a, x, begin + i, mean, factor, y + i);
    quantize_split_group(a.out, row, begin, y, count);
  }
}
#endif

static inline void norm_row(const Norm& a, const float* x, int64_t row) {
  float mean = a.weight && a.kind == NormKind::kLayer ? mean_of(x, a.size) : 0.0f;
  vf factor = a.weight ? inverse_sqrt(mean_square(x, a.size, mean) + a.eps) : set1(1.0f);
#if defined(QUIRE_AMX)
  if (!a.adds && a.out.format == ActivationFormat::kInt16Split)
    return norm_split_row(a, x, row, set1(mean), factor);
#endif
  for (int64_t i = 0; i < a.size; i += kGroup) {
    float y[kGroup];
    int n = a.size - i < kGroup ? static_cast<int>(a.size - i) : kGroup;
    normalized_values(a, x, i, set1(mean), factor, y);
    if (a.adds) add_values(reinterpret_cast<float*>(a.out.row(row)) + i, y, n);
    else write_group(a.out, row, i, y, n);
  }
}

static void norm(const Norm& a, int64_t row_begin, int64_t row_end) {
  for (int64_t row = row_begin; row < row_end; ++row)
    norm_row(a, a.x + (a.rows ? a.rows[row] : row) * a.ldx, row);
}

static void embed(const Embed& a, int64_t row_begin, int64_t row_end) {
  for (int64_t row = row_begin; row < row_end; ++row) {
    float* x = a.x + row * a.ldx;
    dequantize(a.table[a.token_ids[row] / kPanel], a.token_ids[row] % kPanel, x);
    for (int64_t k = 0; k < a.table.k; ++k) x[k] *= a.scale;
    if (!a.position_table) continue;
    const float* position = a.position_table + a.positions[row] * a.table.k;
    for (int64_t k = 0; k < a.table.k; ++k) x[k] += position[k];
  }
}

}  // namespace quire::QUIRE_ISA
