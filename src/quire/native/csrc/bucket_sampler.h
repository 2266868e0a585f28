// Finds a token by cumulative weight without sorting: the weights of a row in buckets of nearly equal ones,
// heaviest first; see quire/sample/buckets.py. Light tokens are rarely weighed: the sum of all weights is
// known approximately, and buckets are filled from the heaviest on until they hold the goal.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "exp_buckets.h"
#include "logit_row.h"

namespace quire {

// 2^(-k/64) for each bucket k, by square roots, which every machine rounds alike.
inline double bucket_weight(int64_t bucket) {
  static const std::vector<double> weights = [] {
    double roots[6], root = 0.5;
    for (int bit = 5; bit >= 0; --bit) roots[bit] = root = std::sqrt(root);  // roots[bit] = 2^(-2^bit / 64)
    std::vector<double> powers(kNumBuckets, 1.0);
    for (int64_t k = 1; k < kBucketsPerOctave; ++k)
      for (int bit = 0; bit < 6; ++bit)
        if (k >> bit & 1) powers[static_cast<size_t>(k)] *= roots[bit];
    for (size_t k = kBucketsPerOctave; k < powers.size(); ++k) powers[k] = powers[k - kBucketsPerOctave] / 2;
    return powers;
  }();
  return weights[static_cast<size_t>(bucket)];
}

template <class T>
class BucketSampler {
 public:
  // A token's place in the order: its bucket, its index in the bucket, the cumulative weight including it,
  // and its id.
  struct Place {
    int64_t bucket;
    int64_t number;
    double cumulative;
    int64_t id;
  };

  // Throws std::invalid_argument for a row whose largest logit is infinite: weights are relative to it.
  BucketSampler(const LogitRow<T>& row, double sharpness, double least)
      : row_(row), params_{static_cast<double>(row.best()), sharpness, std::max(least, kMinNats)} {
    if (!std::isfinite(params_.best)) throw std::invalid_argument("the largest logit of the row is infinite");
  }

  double total() {
    if (!is_full()) fill(kNumBuckets);
    return cumulative_.back();
  }

  // Returns find(total()), for a `find` that never decreases with the total. If both ends of the approximate
  // total's error interval lead to the same token, that is the result; otherwise, rarely, the exact total is
  // computed.
  template <class Find>
  Place with_total(Find find) {
    double about = approx_total();
    if (std::isnan(about)) return find(total());
    Place place = find(about * (1 - kApproxSumError));
    return find(about * (1 + kApproxSumError)).id == place.id ? place : find(total());
  }

  double approx_total() const {
    bool is_known =
        row_.approx_sum && row_.approx_sum->sharpness == params_.sharpness && params_.least == kMinNats;
    return is_known ? row_.approx_sum->sum : row_.kernels.approx_exp_sum(row_.x, row_.n, params_);
  }

  // The first token at which the cumulative weight is `goal` or more, or the last one.
  Place first_reaching(double goal) {
    while (!is_full() && held() < goal) fill(next_end(goal));
    return place(std::lower_bound(cumulative_.cbegin(), cumulative_.cend(), goal),
                 [goal](double sum) { return sum >= goal; });
  }

  // The first token at which it is more than `goal`, or the last one.
  Place first_above(double goal) {
    while (!is_full() && held() <= goal) fill(next_end(goal));
    return place(std::upper_bound(cumulative_.cbegin(), cumulative_.cend(), goal),
                 [goal](double sum) { return sum > goal; });
  }

 private:
  static constexpr int64_t kFirstBuckets = 3 * kBucketsPerOctave;
  static constexpr int64_t kFewSpans = 8;       // an eighth
  static constexpr int64_t kSpareBuckets = 16;  // beyond an estimate

  struct Member {
    double residual;
    int64_t id;
  };

  // The tokens that a range of buckets was filled with.
  struct Selection {
    BucketRange range;
    std::vector<uint32_t> ids;
    std::vector<T> x;
  };

  int64_t num_filled() const { return static_cast<int64_t>(cumulative_.size()); }
  bool is_full() const { return num_filled() == kNumBuckets; }
  double nats(T x) const { return (static_cast<double>(x) - params_.best) * params_.sharpness; }
  double held() const { return cumulative_.empty() ? 0.0 : cumulative_.back(); }

  // How far to fill next: as far as `goal` is expected but at least a few octaves, so that one selection
  // often does; then what is in few spans, then as far as expected again, then everything.
  int64_t next_end(double goal) {
    if (row_.num_spans() < kFewSpans) return cumulative_.empty() ? kFirstBuckets : kNumBuckets;
    if (num_maxima_.empty()) count_maxima();
    if (cumulative_.empty()) return std::max(kFirstBuckets, expected_end(goal));
    int64_t few = end_of_spans(), expected = expected_end(goal);
    return few > num_filled() ? std::min(few, expected) : expected;
  }

  void count_maxima() {
    num_maxima_.resize(kNumBuckets);
    for (T x : row_.maxima) {
      double d = nats(x);
      if (d >= params_.least) ++num_maxima_[static_cast<size_t>(kRoundShift - shifted_bucket(d))];
    }
  }

  // The buckets that reach into at most a few of the spans.
  int64_t end_of_spans() const {
    int64_t num_spans = 0;
    for (int64_t b = 0; b < kNumBuckets; ++b)
      if ((num_spans += num_maxima_[static_cast<size_t>(b)]) > row_.num_spans() / kFewSpans) return b;
    return kNumBuckets;
  }

  // The buckets that are expected to hold `goal`. If i of N spans have a heavier maximum than some weight,
  // their share of tokens of this weight is hidden: 1 / (1 - i / N) tokens stand for each maximum.
  int64_t expected_end(double goal) const {
    double num_spans = static_cast<double>(row_.num_spans()), num_left = num_spans, mass = held();
    for (int64_t b = 0; b < kNumBuckets; ++b) {
      int32_t count = num_maxima_[static_cast<size_t>(b)];
      if (count > 0 && b >= num_filled()) mass += count * bucket_weight(b) * num_spans / num_left;
      num_left -= count;
      if (mass > goal && b >= num_filled()) return std::min(b + kSpareBuckets, kNumBuckets);
    }
    return kNumBuckets;
  }

  // Fills the next buckets up to `end`. If that is the last one, fills all from the start: whole spans are
  // added twice as fast as selected ids.
  void fill(int64_t end) {
    if (end == kNumBuckets) cumulative_.clear(), selections_.clear();
    BucketRange range{num_filled(), end};
    std::vector<double> sums(static_cast<size_t>((range.end - range.begin + 1) * kSumLanes));
    auto add = [&](const T* x, const uint32_t* ids, int64_t n) {
      row_.kernels.add_residuals(x, ids, n, params_, range, sums.data());
    };
    if (end == kNumBuckets && params_.least == kMinNats) {
      for_spans([&](const uint32_t* ids, int64_t n) { add(row_.x + ids[0], ids, n); });
    } else {
      const Selection& selected = select(range);
      add(selected.x.data(), selected.ids.data(), static_cast<int64_t>(selected.ids.size()));
    }
    double before = held();
    for (int64_t b = range.begin; b < range.end; ++b) {
      const double* lanes = &sums[static_cast<size_t>((b - range.begin) * kSumLanes)];
      cumulative_.push_back(before += ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) * bucket_weight(b));
    }
  }

  // Copies the tokens of these buckets, and a few more, out of the row.
  const Selection& select(BucketRange range) {
    selections_.push_back({range, {}, {}});
    Selection& selected = selections_.back();
    for_selected(row_.x, row_.n, row_.maxima.data(), range, [&](const uint32_t* ids, const T* x, int64_t n) {
      selected.ids.insert(selected.ids.end(), ids, ids + n);
      selected.x.insert(selected.x.end(), x, x + n);
    });
    return selected;
  }

  // Calls visit(ids, n) for each span that has a token of nonzero weight.
  template <class Visit>
  void for_spans(Visit visit) const {
    uint32_t ids[kLogitSpan];
    for (int64_t s = 0; s < row_.num_spans(); ++s) {
      if (row_.maxima[static_cast<size_t>(s)] < static_cast<T>(limit(kMinNats))) continue;
      std::iota(ids, ids + kLogitSpan, static_cast<uint32_t>(s * kLogitSpan));
      visit(ids, row_.size_of(s));
    }
  }

  // Calls visit(ids, logits, n) so that the ids cover all of x[0..size) in these buckets, and a few more.
  // `maxima` of spans may be null.
  template <class Visit>
  void for_selected(const T* x, int64_t size, const T* maxima, BucketRange range, Visit visit) const {
    constexpr int64_t kAtOnce = 16 * kLogitSpan;
    double low = limit(std::max(params_.least, -range.end / kBucketsPerNat));
    double high = limit(-(range.begin - 1) / kBucketsPerNat);
    uint32_t ids[kAtOnce];
    T logits[kAtOnce];
    for (int64_t begin = 0; begin < size; begin += kAtOnce) {
      int64_t count =
          row_.kernels.select(x, static_cast<uint32_t>(begin), std::min(kAtOnce, size - begin),
                              maxima ? maxima + begin / kLogitSpan : nullptr, low, high, ids, logits);
      if (count > 0) visit(ids, logits, count);
    }
  }

  double limit(double nats) const { return params_.best + nats / params_.sharpness; }

  // The first token of the bucket for which is_there(cumulative weight), or its last: the sum over members
  // may round differently from the bucket's sum.
  template <class Test>
  Place place(std::vector<double>::const_iterator found, Test is_there) {
    auto last = std::lower_bound(cumulative_.cbegin(), cumulative_.cend(), cumulative_.back());
    int64_t bucket = std::min(found, last) - cumulative_.cbegin();
    const std::vector<Member>& members = members_of(bucket);
    double cumulative = bucket ? cumulative_[static_cast<size_t>(bucket - 1)] : 0.0;
    size_t number = 0;
    for (;; ++number) {
      cumulative += members[number].residual * bucket_weight(bucket);
      if (is_there(cumulative) || number + 1 == members.size()) break;
    }
    return {bucket, static_cast<int64_t>(number), cumulative, members[number].id};
  }

  // The bucket's tokens, in order.
  const std::vector<Member>& members_of(int64_t bucket) {
    if (bucket == ordered_) return members_;
    ordered_ = bucket;
    members_.clear();
    auto add = [&](T x, uint32_t id) {
      double d = nats(x), shifted = shifted_bucket(d);
      if (d >= params_.least && kRoundShift - shifted == bucket)
        members_.push_back({residual(d, shifted), id});
    };
    const BucketRange range{bucket, bucket + 1};
    if (const Selection* selected = selection_with(bucket)) {
      for_selected(selected->x.data(), static_cast<int64_t>(selected->x.size()), nullptr, range,
                   [&](const uint32_t* places, const T* x, int64_t n) {
                     for (int64_t i = 0; i < n; ++i) add(x[i], selected->ids[places[i]]);
                   });
    } else {
      for_selected(row_.x, row_.n, row_.maxima.data(), range,
                   [&](const uint32_t* ids, const T* x, int64_t n) {
                     for (int64_t i = 0; i < n; ++i) add(x[i], ids[i]);
                   });
    }
    auto is_before = [](const Member& a, const Member& b) {
      return a.residual > b.residual || (a.residual == b.residual && a.id < b.id);
    };
    if (!std::is_sorted(members_.begin(), members_.end(), is_before))
      std::sort(members_.begin(), members_.end(), is_before);
    return members_;
  }

  const Selection* selection_with(int64_t bucket) const {
    for (const Selection& selected : selections_)
      if (selected.range.begin <= bucket && bucket < selected.range.end) return &selected;
    return nullptr;
  }

  const LogitRow<T>& row_;
  const SoftmaxParams params_;
  std::vector<double> cumulative_;   // per filled bucket
  std::vector<int32_t> num_maxima_;  // of spans, per bucket; empty until they are counted
  std::vector<Selection> selections_;
  int64_t ordered_ = -1;  // the bucket whose tokens are in members_
  std::vector<Member> members_;
};

}  // namespace quire
