#include "sampling.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "bucket_sampler.h"

namespace quire {

Best best_of(const Kernels& kernels, const float* x, int64_t n, int64_t first_id) {
  Best best;
  if (!kernels.is_finite(x, n)) {
    best.num_not_finite = std::count_if(x, x + n, [](float value) { return !std::isfinite(value); });
    return best;
  }
  constexpr int64_t kPart = 64;  // blocks looked at together
  float maxima[kPart];
  for (int64_t begin = 0; begin < n; begin += kPart * kBlock) {
    int64_t size = std::min(kPart * kBlock, n - begin);
    kernels.logits.block_maxima(x + begin, size, maxima);
    const float* top = std::max_element(maxima, maxima + (size + kBlock - 1) / kBlock);
    if (begin > 0 && *top <= best.value) continue;
    const float* block = x + begin + (top - maxima) * kBlock;
    best.value = *top;
    best.id = first_id + (std::find(block, x + n, *top) - x);
  }
  return best;
}

// Ids of the `count` largest, in no order. The count-th largest of the blocks' maxima bounds the count-th largest value from
// below, so only blocks that reach it are looked at.
template <class T>
static std::vector<int64_t> largest(const Row<T>& row, int64_t count) {
  T bound = -std::numeric_limits<T>::infinity();
  if (count <= row.num_blocks()) {
    std::vector<T> maxima = row.maxima;
    std::nth_element(maxima.begin(), maxima.begin() + count - 1, maxima.end(), std::greater<T>());
    bound = maxima[static_cast<size_t>(count - 1)];
  }
  std::vector<int64_t> ids;
  for (int64_t b = 0; b < row.num_blocks(); ++b) {
    if (row.maxima[static_cast<size_t>(b)] < bound) continue;
    for (int64_t i = b * kBlock; i < b * kBlock + row.size_of(b); ++i)
      if (row.x[i] >= bound) ids.push_back(i);
  }
  if (count >= static_cast<int64_t>(ids.size())) return ids;
  std::nth_element(ids.begin(), ids.begin() + count, ids.end(), [&](int64_t a, int64_t b) { return row.is_before(a, b); });
  ids.resize(static_cast<size_t>(count));
  return ids;
}

std::vector<int64_t> largest_ids(const Kernels& kernels, const float* x, int64_t n, int64_t count) {
  Row<float> row(kernels, x, n);
  std::vector<int64_t> ids = largest(row, std::min(count, n));
  std::sort(ids.begin(), ids.end(), [&](int64_t a, int64_t b) { return row.is_before(a, b); });
  return ids;
}

template <class T>
static int64_t draw_from(const Row<T>& row, const DrawMethod& method, double noise) {
  Buckets<T> buckets(row, method.sharpness, method.least);
  if (method.top_p >= 1) return buckets.for_total([&](double total) { return buckets.beyond(total * noise); }).id;
  auto last = buckets.for_total([&](double total) { return buckets.reaching(total * method.top_p); });
  auto place = buckets.beyond(last.cumulative * noise);
  bool is_kept = place.bucket < last.bucket || (place.bucket == last.bucket && place.number <= last.number);
  return is_kept ? place.id : last.id;
}

template <class T>
static int64_t draw_row(const Kernels& kernels, const T* x, int64_t n, const DrawMethod& method, double noise) {
  Row<T> row(kernels, x, n);
  if (method.top_k >= n) return draw_from(row, method, noise);
  std::vector<int64_t> ids = largest(row, method.top_k);
  std::sort(ids.begin(), ids.end());
  std::vector<T> values;
  for (int64_t id : ids) values.push_back(x[id]);
  return ids[static_cast<size_t>(draw_from(Row<T>(kernels, values.data(), static_cast<int64_t>(values.size())), method, noise))];
}

int64_t draw(const Kernels& kernels, const float* x, int64_t n, const DrawMethod& method, double noise) {
  return draw_row(kernels, x, n, method, noise);
}

int64_t draw(const Kernels& kernels, const double* x, int64_t n, const DrawMethod& method, double noise) {
  return draw_row(kernels, x, n, method, noise);
}

double exp_sum(const Kernels& kernels, const float* x, int64_t n) {
  return Buckets<float>(Row<float>(kernels, x, n), 1.0, kLeast).total();
}

int64_t num_before(const float* x, int64_t n, int64_t id) {
  int32_t count = 0, num_nan = 0;  // as wide as a logit, so that vectors of both go together
  for (int64_t i = 0; i < n; ++i) count += x[i] > x[id], num_nan += x[i] != x[i];
  if (num_nan > 0) throw std::invalid_argument("a logit of the row is NaN");
  for (int64_t i = 0; i < id; ++i) count += x[i] == x[id];
  return count;
}

}  // namespace quire
