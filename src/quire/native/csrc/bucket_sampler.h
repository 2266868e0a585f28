// The weights of a row in buckets of nearly equal ones, heaviest first; see quire/sample/buckets.py. A token is found without weighing
// the light ones: their sum is known roughly, and buckets are filled from the heaviest on, until they hold what is looked for.
#pragma once

#include <functional>
#include <numeric>

#include "logit_row.h"

namespace quire {

// 2^(-k/64) of every bucket k by square roots, which every machine rounds alike.
inline double weight_of(int64_t bucket) {
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
class Buckets {
 public:
  // A token's place in the order: the bucket, its number inside, the cumulative weight up to and with it, and its id.
  struct Place {
    int64_t bucket;
    int64_t number;
    double cumulative;
    int64_t id;
  };

  // Throws std::invalid_argument for a row whose largest logit is infinite: weights are relative to it.
  Buckets(const Row<T>& row, double sharpness, double least)
      : row_(row), weighing_{static_cast<double>(row.best()), sharpness, std::max(least, kLeast)} {
    if (!std::isfinite(weighing_.best)) throw std::invalid_argument("the largest logit of the row is infinite");
  }

  double total() {
    if (!is_full()) fill(kNumBuckets);
    return cumulative_.back();
  }

  // What `find`, which never falls as the total grows, returns for it. Seldom is the rough total's error what decides.
  template <class Find>
  Place for_total(Find find) {
    double about = row_.kernels.rough_sum(row_.x, row_.n, weighing_);
    if (std::isnan(about)) return find(total());
    Place place = find(about * (1 - kRoughness));
    return find(about * (1 + kRoughness)).id == place.id ? place : find(total());
  }

  // The first token at which the cumulative weight is `goal` or more, or the last one.
  Place reaching(double goal) {
    while (!is_full() && held() < goal) fill(next_end());
    return place(std::lower_bound(cumulative_.cbegin(), cumulative_.cend(), goal), [goal](double sum) { return sum >= goal; });
  }

  // The first token at which it is more than `goal`, or the last one.
  Place beyond(double goal) {
    while (!is_full() && held() <= goal) fill(next_end());
    return place(std::upper_bound(cumulative_.cbegin(), cumulative_.cend(), goal), [goal](double sum) { return sum > goal; });
  }

 private:
  struct Member {
    double shade;
    int64_t id;
  };

  int64_t num_filled() const { return static_cast<int64_t>(cumulative_.size()); }
  bool is_full() const { return num_filled() == kNumBuckets; }
  double nats(T x) const { return (static_cast<double>(x) - weighing_.best) * weighing_.sharpness; }
  double held() const { return cumulative_.empty() ? 0.0 : cumulative_.back(); }

  // How far to fill next: a few octaves, then what some sampled tokens say is a twelfth of all, then all of them.
  int64_t next_end() const {
    if (cumulative_.empty()) return 3 * kBucketsPerOctave;
    std::vector<T> sample;
    for (int64_t id = 0; id < row_.n; id += row_.n / 512 + 1) sample.push_back(row_.x[id]);
    auto lightest = sample.begin() + static_cast<int64_t>(sample.size() / 12);
    std::nth_element(sample.begin(), lightest, sample.end(), std::greater<T>());
    int64_t end = static_cast<int64_t>(kShift - shifted_bucket(std::max(nats(*lightest), kLeast)));
    return end > num_filled() ? end : kNumBuckets;
  }

  // Fills the next buckets, up to number `end`; where that is the last, all anew: whole blocks are added twice as fast as chosen ids.
  void fill(int64_t end) {
    if (end == kNumBuckets) cumulative_.clear();
    BucketRange range{num_filled(), end};
    std::vector<double> sums(static_cast<size_t>((range.end - range.begin + 1) * kSumLanes));
    auto add = [&](const uint32_t* ids, int64_t n) { row_.kernels.add_shades(row_.x, ids, n, weighing_, range, sums.data()); };
    end == kNumBuckets && weighing_.least == kLeast ? for_blocks(add) : for_chosen(range, add);
    double before = held();
    for (int64_t b = range.begin; b < range.end; ++b) {
      const double* lanes = &sums[static_cast<size_t>((b - range.begin) * kSumLanes)];
      cumulative_.push_back(before += ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) * weight_of(b));
    }
  }

  // Calls `look` with the ids of every block that has a token of some weight.
  template <class Look>
  void for_blocks(Look look) const {
    uint32_t ids[kBlock];
    for (int64_t b = 0; b < row_.num_blocks(); ++b) {
      if (row_.maxima[static_cast<size_t>(b)] < static_cast<T>(limit(kLeast))) continue;
      std::iota(ids, ids + kBlock, static_cast<uint32_t>(b * kBlock));
      look(ids, row_.size_of(b));
    }
  }

  // Calls `look` with all tokens of these buckets and a few more, a part of their ids at a time.
  template <class Look>
  void for_chosen(BucketRange range, Look look) const {
    constexpr int64_t kPart = 8 * kBlock;
    double low = limit(std::max(weighing_.least, -range.end / kBucketsPerNat));
    double high = limit(-(range.begin - 1) / kBucketsPerNat);
    uint32_t ids[kPart];
    int64_t size = 0;
    for (int64_t b = 0; b < row_.num_blocks(); ++b) {
      if (row_.maxima[static_cast<size_t>(b)] < static_cast<T>(low)) continue;
      if (size + kBlock > kPart) look(ids, size), size = 0;
      size += row_.kernels.select_ids(row_.x, static_cast<uint32_t>(b * kBlock), row_.size_of(b), low, high, ids + size);
    }
    look(ids, size);
  }

  double limit(double nats) const { return weighing_.best + nats / weighing_.sharpness; }

  // The token of a bucket where `is_there`, or its last. Sums down a bucket and of a bucket may round differently.
  template <class Test>
  Place place(std::vector<double>::const_iterator found, Test is_there) {
    auto last = std::lower_bound(cumulative_.cbegin(), cumulative_.cend(), cumulative_.back());
    int64_t bucket = std::min(found, last) - cumulative_.cbegin();
    const std::vector<Member>& members = members_of(bucket);
    double cumulative = bucket ? cumulative_[static_cast<size_t>(bucket - 1)] : 0.0;
    size_t number = 0;
    for (;; ++number) {
      cumulative += members[number].shade * weight_of(bucket);
      if (is_there(cumulative) || number + 1 == members.size()) break;
    }
    return {bucket, static_cast<int64_t>(number), cumulative, members[number].id};
  }

  // The bucket's tokens in order.
  const std::vector<Member>& members_of(int64_t bucket) {
    if (bucket == ordered_) return members_;
    ordered_ = bucket;
    members_.clear();
    for_chosen({bucket, bucket + 1}, [&](const uint32_t* ids, int64_t n) {
      for (int64_t i = 0; i < n; ++i) {
        double d = nats(row_.x[ids[i]]), shifted = shifted_bucket(d);
        if (d >= weighing_.least && kShift - shifted == bucket) members_.push_back({shade(d, shifted), ids[i]});
      }
    });
    auto is_before = [](const Member& a, const Member& b) { return a.shade > b.shade || (a.shade == b.shade && a.id < b.id); };
    if (!std::is_sorted(members_.begin(), members_.end(), is_before)) std::sort(members_.begin(), members_.end(), is_before);
    return members_;
  }

  const Row<T>& row_;
  const Weighing weighing_;
  std::vector<double> cumulative_;  // of the buckets filled
  int64_t ordered_ = -1;  // the bucket whose tokens are members_
  std::vector<Member> members_;
};

}  // namespace quire
