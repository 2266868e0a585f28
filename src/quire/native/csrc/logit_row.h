// A row of logits with the largest value of each of its blocks, and the buckets of its weights.
#pragma once

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <vector>

#include "kernels.h"
#include "exp_buckets.h"

namespace quire {

inline const LogitKernels<float>& kernels_of(const Kernels& kernels, const float*) { return kernels.logits; }
inline const LogitKernels<double>& kernels_of(const Kernels& kernels, const double*) { return kernels.wide_logits; }

template <class T>
struct Row {
  const LogitKernels<T>& kernels;
  const T* x;
  int64_t n;
  std::vector<T> maxima;

  // Throws std::invalid_argument for a row that holds NaN: it has no order.
  Row(const Kernels& all, const T* values, int64_t size)
      : kernels(kernels_of(all, values)), x(values), n(size), maxima(static_cast<size_t>((size + kBlock - 1) / kBlock)) {
    if (kernels.block_maxima(x, n, maxima.data())) throw std::invalid_argument("a logit of the row is NaN");
  }
  int64_t num_blocks() const { return static_cast<int64_t>(maxima.size()); }
  int64_t size_of(int64_t block) const { return std::min<int64_t>(kBlock, n - block * kBlock); }
  T best() const { return *std::max_element(maxima.begin(), maxima.end()); }
  bool is_before(int64_t a, int64_t b) const { return x[a] > x[b] || (x[a] == x[b] && a < b); }
};

}  // namespace quire
