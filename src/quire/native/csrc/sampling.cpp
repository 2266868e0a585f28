#include "sampling.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "shades.h"

namespace quire {

// The kernels of a row by its element.
static void find_maxima(const Kernels& k, const float* x, int64_t n, float* maxima) { k.block_maxima(x, n, maxima); }
static void find_maxima(const Kernels& k, const double* x, int64_t n, double* maxima) { k.block_maxima_wide(x, n, maxima); }
static void fill_buckets(const Kernels& k, const float* x, int64_t n, const Weighing& w, uint16_t* buckets, double* sums) {
  k.fill_buckets(x, n, w, buckets, sums);
}
static void fill_buckets(const Kernels& k, const double* x, int64_t n, const Weighing& w, uint16_t* buckets, double* sums) {
  k.fill_buckets_wide(x, n, w, buckets, sums);
}

// A row and the largest value of each of its blocks.
template <class T>
struct Row {
  const Kernels& kernels;
  const T* x;
  int64_t n;
  std::vector<T> maxima;

  Row(const Kernels& k, const T* values, int64_t size)
      : kernels(k), x(values), n(size), maxima(static_cast<size_t>((size + kBlock - 1) / kBlock)) {
    find_maxima(k, x, n, maxima.data());
  }
  int64_t num_blocks() const { return static_cast<int64_t>(maxima.size()); }
  int64_t size_of(int64_t block) const { return std::min<int64_t>(kBlock, n - block * kBlock); }
  T best() const { return *std::max_element(maxima.begin(), maxima.end()); }
  bool is_before(int64_t a, int64_t b) const { return x[a] > x[b] || (x[a] == x[b] && a < b); }
};

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
    kernels.block_maxima(x + begin, size, maxima);
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

// 2^(-k/64) by square roots, which every machine rounds alike.
static std::vector<double> bucket_weights() {
  double roots[6], root = 0.5;
  for (int bit = 5; bit >= 0; --bit) roots[bit] = root = std::sqrt(root);  // roots[bit] = 2^(-2^bit / 64)
  std::vector<double> weights(kNumBuckets, 1.0);
  for (int64_t k = 1; k < kBucketsPerOctave; ++k)
    for (int bit = 0; bit < 6; ++bit)
      if (k >> bit & 1) weights[static_cast<size_t>(k)] *= roots[bit];
  for (size_t k = kBucketsPerOctave; k < weights.size(); ++k) weights[k] = weights[k - kBucketsPerOctave] / 2;
  return weights;
}

static double weight_of(int64_t bucket) {
  static const std::vector<double> weights = bucket_weights();
  return weights[static_cast<size_t>(bucket)];
}

// The weights of a row by bucket: a head of the order is whole buckets and a part of one.
template <class T>
class Buckets {
 public:
  // A token's place in the order: the bucket, its number inside, the cumulative weight up to and with it, and its id.
  struct Place {
    int64_t bucket;
    int64_t number;
    double cumulative;
    int64_t id;
  };

  Buckets(const Row<T>& row, double sharpness, double least)
      : row_(row), weighing_{static_cast<double>(row.best()), sharpness, std::max(least, kLeast)},
        buckets_(static_cast<size_t>(row.n), kNoBucket), cumulative_(kNumBuckets) {
    std::vector<double> sums((kNumBuckets + 1) * kSumLanes);
    for (int64_t b = 0; b < row.num_blocks(); ++b)
      if (difference(row.maxima[static_cast<size_t>(b)]) >= weighing_.least)
        fill_buckets(row.kernels, row.x + b * kBlock, row.size_of(b), weighing_, buckets_.data() + b * kBlock, sums.data());
    double before = 0.0;
    for (int64_t b = 0; b < kNumBuckets; ++b) {
      const double* lanes = &sums[static_cast<size_t>(b * kSumLanes)];
      cumulative_[static_cast<size_t>(b)] = before += ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) * weight_of(b);
    }
  }

  double total() const { return cumulative_.back(); }

  // The first token at which the cumulative weight is `goal` or more.
  Place reaching(double goal) const {
    return place(std::lower_bound(cumulative_.begin(), cumulative_.end(), goal) - cumulative_.begin(), [goal](double sum) { return sum >= goal; });
  }

  // The first token at which it is more than `goal`, or the last one.
  Place beyond(double goal) const {
    int64_t last = std::lower_bound(cumulative_.begin(), cumulative_.end(), total()) - cumulative_.begin();
    int64_t found = std::upper_bound(cumulative_.begin(), cumulative_.end(), goal) - cumulative_.begin();
    return place(std::min(found, last), [goal](double sum) { return sum > goal; });
  }

 private:
  static constexpr uint16_t kNoBucket = kNumBuckets;
  struct Member {
    double shade;
    int64_t id;
  };

  double difference(T x) const { return (static_cast<double>(x) - weighing_.best) * weighing_.sharpness; }

  template <class Test>
  Place place(int64_t bucket, Test is_there) const {
    std::vector<Member> members = members_of(static_cast<uint16_t>(bucket));
    double cumulative = bucket ? cumulative_[static_cast<size_t>(bucket - 1)] : 0.0;
    size_t number = 0;
    for (;; ++number) {
      cumulative += members[number].shade * weight_of(bucket);
      if (is_there(cumulative) || number + 1 == members.size()) break;
    }
    return {bucket, static_cast<int64_t>(number), cumulative, members[number].id};
  }

  // The bucket's tokens in order.
  std::vector<Member> members_of(uint16_t bucket) const {
    std::vector<Member> members;
    for (int64_t b = 0; b < row_.num_blocks(); ++b) {
      const uint16_t* buckets = buckets_.data() + b * kBlock;
      int64_t size = row_.size_of(b);
      uint16_t found = 0;
      for (int64_t i = 0; i < size; ++i) found |= buckets[i] == bucket ? 1 : 0;
      for (int64_t i = 0; found && i < size; ++i)
        if (buckets[i] == bucket) members.push_back(member(b * kBlock + i));
    }
    auto is_before = [](const Member& a, const Member& b) { return a.shade > b.shade || (a.shade == b.shade && a.id < b.id); };
    if (!std::is_sorted(members.begin(), members.end(), is_before)) std::sort(members.begin(), members.end(), is_before);
    return members;
  }

  Member member(int64_t id) const {
    double d = difference(row_.x[id]);
    return {shade(d, shifted_bucket(d)), id};
  }

  const Row<T>& row_;
  Weighing weighing_;
  std::vector<uint16_t> buckets_;
  std::vector<double> cumulative_;
};

template <class T>
static int64_t draw_from(const Row<T>& row, const DrawMethod& method, double noise) {
  Buckets<T> buckets(row, method.sharpness, method.least);
  if (method.top_p >= 1) return buckets.beyond(buckets.total() * noise).id;
  auto last = buckets.reaching(buckets.total() * method.top_p);
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
  int64_t count = 0;
  for (int64_t i = 0; i < n; ++i) count += x[i] > x[id];
  for (int64_t i = 0; i < id; ++i) count += x[i] == x[id];
  return count;
}

}  // namespace quire
