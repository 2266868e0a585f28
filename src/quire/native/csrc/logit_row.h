// A row of logits with what one pass over it finds out: the maxima of its spans, whether it has an order, and
// the approximate sum of its weights.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <stdexcept>
#include <vector>

#include "exp_buckets.h"
#include "kernels.h"

namespace quire {

inline const LogitKernels<float>& kernels_of(const Kernels& kernels, const float*) { return kernels.logits; }
inline const LogitKernels<double>& kernels_of(const Kernels& kernels, const double*) {
  return kernels.double_logits;
}

// The sum of e^((x - best) * sharpness) over a row, approximately: approx_exp_sum of all pieces.
struct ApproxSum {
  double sharpness;
  double best;
  double sum;  // NaN: unknown
};

// A row of logits, with the maximum of each span of kLogitSpan.
template <class T>
struct LogitRow {
  const LogitKernels<T>& kernels;
  const T* x;
  int64_t n;
  std::vector<T> maxima;
  RowValues values = RowValues::kFinite;
  std::optional<ApproxSum> approx_sum;

  LogitRow(const Kernels& all, const T* logits, int64_t size)
      : kernels(kernels_of(all, logits)),
        x(logits),
        n(size),
        maxima(static_cast<size_t>((size + kLogitSpan - 1) / kLogitSpan)) {
    values = kernels.span_maxima(x, n, maxima.data());
  }
  // Reads the row once for its maxima and its approximate sum: each piece is in L1 when it is summed.
  LogitRow(const Kernels& all, const T* logits, int64_t size, double sharpness)
      : kernels(kernels_of(all, logits)),
        x(logits),
        n(size),
        maxima(static_cast<size_t>((size + kLogitSpan - 1) / kLogitSpan)),
        approx_sum({sharpness, -std::numeric_limits<double>::infinity(), 0.0}) {
    constexpr int64_t kPieceSpans = 64;
    for (int64_t span = 0; span < num_spans(); span += kPieceSpans) {
      int64_t end = std::min(span + kPieceSpans, num_spans());
      add_piece(x + span * kLogitSpan, std::min(end * kLogitSpan, n) - span * kLogitSpan,
                &maxima[static_cast<size_t>(span)], end - span);
    }
  }
  // Throws std::invalid_argument for a row with NaN: it has no order.
  const LogitRow& ordered() const {
    if (values == RowValues::kNan) throw std::invalid_argument("a logit of the row is NaN");
    return *this;
  }
  int64_t num_spans() const { return static_cast<int64_t>(maxima.size()); }
  int64_t size_of(int64_t span) const { return std::min<int64_t>(kLogitSpan, n - span * kLogitSpan); }
  T best() const { return *std::max_element(maxima.begin(), maxima.end()); }
  int64_t best_id() const {
    auto top = std::max_element(maxima.begin(), maxima.end());
    return std::find(x + (top - maxima.begin()) * kLogitSpan, x + n, *top) - x;
  }
  // The order of sampling: larger logits first, then smaller ids.
  bool is_before(int64_t a, int64_t b) const { return x[a] > x[b] || (x[a] == x[b] && a < b); }

 private:
  // Sums are relative to the largest logit so far, as in an online softmax.
  void add_piece(const T* piece, int64_t size, T* piece_maxima, int64_t piece_spans) {
    values = std::max(values, kernels.span_maxima(piece, size, piece_maxima));
    ApproxSum& so_far = *approx_sum;
    double best = std::max(so_far.best,
                           static_cast<double>(*std::max_element(piece_maxima, piece_maxima + piece_spans)));
    if (best > so_far.best) {
      so_far.sum *= std::exp((so_far.best - best) * so_far.sharpness);
      so_far.best = best;
    }
    so_far.sum += kernels.approx_exp_sum(piece, size, {best, so_far.sharpness, kMinNats});
  }
};

}  // namespace quire
