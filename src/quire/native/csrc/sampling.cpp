#include "sampling.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "bucket_sampler.h"

namespace quire {

int64_t count_not_finite(const Kernels& kernels, const float* x, int64_t n) {
  if (kernels.is_finite(x, n)) return 0;
  return std::count_if(x, x + n, [](float value) { return !std::isfinite(value); });
}

Argmax argmax(const Kernels& kernels, const float* x, int64_t n, int64_t first_id) {
  Argmax best;
  best.num_not_finite = count_not_finite(kernels, x, n);
  if (best.num_not_finite > 0) return best;
  constexpr int64_t kSpans = 64;  // spans per pass
  float maxima[kSpans];
  for (int64_t begin = 0; begin < n; begin += kSpans * kLogitSpan) {
    int64_t size = std::min(kSpans * kLogitSpan, n - begin);
    kernels.logits.span_maxima(x + begin, size, maxima);
    const float* top = std::max_element(maxima, maxima + (size + kLogitSpan - 1) / kLogitSpan);
    if (begin > 0 && *top <= best.value) continue;
    const float* span = x + begin + (top - maxima) * kLogitSpan;
    best.value = *top;
    best.id = first_id + (std::find(span, x + n, *top) - x);
  }
  return best;
}

// Ids of the `count` largest, in no order. The count-th largest of the span maxima bounds the count-th
// largest value from below, so only spans that reach it are searched.
template <class T>
static std::vector<int64_t> largest(const LogitRow<T>& row, int64_t count) {
  T bound = -std::numeric_limits<T>::infinity();
  if (count <= row.num_spans()) {
    std::vector<T> maxima = row.maxima;
    std::nth_element(maxima.begin(), maxima.begin() + count - 1, maxima.end(), std::greater<T>());
    bound = maxima[static_cast<size_t>(count - 1)];
  }
  std::vector<int64_t> ids;
  for (int64_t b = 0; b < row.num_spans(); ++b) {
    if (row.maxima[static_cast<size_t>(b)] < bound) continue;
    for (int64_t i = b * kLogitSpan; i < b * kLogitSpan + row.size_of(b); ++i)
      if (row.x[i] >= bound) ids.push_back(i);
  }
  if (count >= static_cast<int64_t>(ids.size())) return ids;
  std::nth_element(ids.begin(), ids.begin() + count, ids.end(),
                   [&](int64_t a, int64_t b) { return row.is_before(a, b); });
  ids.resize(static_cast<size_t>(count));
  return ids;
}

std::vector<int64_t> largest_ids(const LogitRow<float>& row, int64_t count) {
  std::vector<int64_t> ids = largest(row, std::min(count, row.n));
  std::sort(ids.begin(), ids.end(), [&](int64_t a, int64_t b) { return row.is_before(a, b); });
  return ids;
}

template <class T>
static int64_t draw_from(const LogitRow<T>& row, const DrawMethod& method, double noise) {
  BucketSampler<T> buckets(row, method.sharpness, method.least);
  if (method.top_p >= 1)
    return buckets.with_total([&](double total) { return buckets.first_above(total * noise); }).id;
  auto last = buckets.with_total([&](double total) { return buckets.first_reaching(total * method.top_p); });
  auto place = buckets.first_above(last.cumulative * noise);
  bool is_kept = place.bucket < last.bucket || (place.bucket == last.bucket && place.number <= last.number);
  return is_kept ? place.id : last.id;
}

template <class T>
int64_t draw(const Kernels& kernels, const LogitRow<T>& row, const DrawMethod& method, double noise) {
  row.ordered();
  if (method.top_k >= row.n) return draw_from(row, method, noise);
  std::vector<int64_t> ids = largest(row, method.top_k);
  std::sort(ids.begin(), ids.end());
  std::vector<T> values;
  for (int64_t id : ids) values.push_back(row.x[id]);
  return ids[static_cast<size_t>(
      draw_from(LogitRow<T>(kernels, values.data(), static_cast<int64_t>(values.size())), method, noise))];
}

template int64_t draw(const Kernels&, const LogitRow<float>&, const DrawMethod&, double);
template int64_t draw(const Kernels&, const LogitRow<double>&, const DrawMethod&, double);

double exp_sum(const LogitRow<float>& row) {
  return BucketSampler<float>(row.ordered(), 1.0, kMinNats).total();
}

int64_t num_before(const LogitRow<float>& row, int64_t id) {
  const float* x = row.x;
  int32_t count = 0;  // as wide as a float, so that both vectorize together
  for (int64_t i = 0; i < row.n; ++i) count += x[i] > x[id];
  for (int64_t i = 0; i < id; ++i) count += x[i] == x[id];
  return count;
}

}  // namespace quire
