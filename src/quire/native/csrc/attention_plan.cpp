#include "attention_plan.h"

#include <algorithm>
#include <numeric>

namespace quire {

// A request is split if its work is at least a quarter of a thread's share.
static constexpr int64_t kItemsPerThread = 4;
// Partials per head: 32 MB with head_dim 128.
static constexpr int64_t kMaxPartials = 1 << 16;

// A request's rows that read one split.
struct Visit {
  int64_t split;
  int64_t request;
  bool is_shareable;  // every row sees all of the split's keys
};

class Planner {
 public:
  explicit Planner(const AttentionWork& work) : work_(work), rows_per_item_(attention_rows(gqa()) / gqa()) {}

  AttentionPlan plan() {
    plan_.window = work_.window;
    plan_.rows.resize(static_cast<size_t>(work_.query_start[work_.num_requests]));
    std::iota(plan_.rows.begin(), plan_.rows.end(), 0);
    plan_.first_partial.resize(plan_.rows.size());
    list_visits();
    choose_split_requests();
    for (int64_t b = 0; b < work_.num_requests; ++b) is_split_[b] ? add_merged(b) : add_whole(b);
    longest_first(plan_.whole);
    for_runs([&](size_t begin, size_t end) { add_split(begin, end); });
    return std::move(plan_);
  }

 private:
  int64_t gqa() const { return work_.num_heads / work_.num_kv_heads; }
  int64_t row_begin(int64_t request) const { return work_.query_start[request]; }
  int64_t row_end(int64_t request) const { return work_.query_start[request + 1]; }
  int64_t num_rows(int64_t request) const { return row_end(request) - row_begin(request); }
  int64_t first_key(int64_t row) const { return quire::first_key(work_.positions[row], work_.window); }
  int64_t end_key(int64_t row) const { return work_.positions[row] + 1; }
  int64_t first_split(int64_t row) const { return first_key(row) / kSplitKeys; }
  int64_t last_split(int64_t row) const { return work_.positions[row] / kSplitKeys; }

  // Many rows of one request share each K/V read anyway.
  bool is_few(int64_t request) const {
    return num_rows(request) == 1 || 2 * num_rows(request) <= rows_per_item_;
  }

  void list_visits() {
    for (int64_t b = 0; b < work_.num_requests; ++b) {
      if (!is_few(b)) continue;
      int64_t first = row_begin(b), last = row_end(b) - 1;
      for (int64_t split = first_split(first); split <= last_split(last); ++split)
        visits_.push_back(
            {split, b, first_key(last) <= split * kSplitKeys && end_key(first) >= (split + 1) * kSplitKeys});
    }
    std::sort(visits_.begin(), visits_.end(),
              [this](const Visit& a, const Visit& b) { return is_before(a, b); });
  }

  const int32_t* first_block(const Visit& v) const {
    return work_.block_tables + v.request * work_.blocks_per_request +
           v.split * kSplitTiles / work_.tiles_per_block;
  }

  int64_t num_blocks(const Visit& v) const {
    int64_t end = ((v.split + 1) * kSplitTiles + work_.tiles_per_block - 1) / work_.tiles_per_block;
    return end - v.split * kSplitTiles / work_.tiles_per_block;
  }

  bool reads_same_keys(const Visit& a, const Visit& b) const {
    return a.split == b.split && a.is_shareable && b.is_shareable &&
           std::equal(first_block(a), first_block(a) + num_blocks(a), first_block(b));
  }

  // Orders visits that read the same keys next to each other.
  bool is_before(const Visit& a, const Visit& b) const {
    if (a.split != b.split) return a.split < b.split;
    if (a.is_shareable != b.is_shareable) return a.is_shareable;
    if (!a.is_shareable || reads_same_keys(a, b)) return a.request < b.request;
    return std::lexicographical_compare(first_block(a), first_block(a) + num_blocks(a), first_block(b),
                                        first_block(b) + num_blocks(b));
  }

  template <class Body>
  void for_runs(Body body) const {
    for (size_t begin = 0, end; begin < visits_.size(); begin = end) {
      end = begin + 1;
      while (end < visits_.size() && reads_same_keys(visits_[begin], visits_[end])) ++end;
      body(begin, end);
    }
  }

  // Splits requests that share a split's blocks with others, and requests long enough to keep threads
  // waiting, while there is room for partials.
  void choose_split_requests() {
    std::vector<char> gains(static_cast<size_t>(work_.num_requests), 0);
    for_runs([&](size_t begin, size_t end) {
      for (size_t i = begin; i < end && end - begin > 1; ++i)
        gains[static_cast<size_t>(visits_[i].request)] = 1;
    });
    is_split_.assign(gains.size(), 0);
    int64_t all = 0, room = kMaxPartials / work_.num_heads;
    for (int64_t b = 0; b < work_.num_requests; ++b) all += keys(b) * work_.num_kv_heads;
    for (int64_t b = 0; b < work_.num_requests; ++b) {
      int64_t partials = num_partials(b);
      if (!is_few(b) || partials > room || !(gains[b] || is_long(b, all))) continue;
      is_split_[b] = 1;
      room -= partials;
    }
  }

  int64_t keys(int64_t request) const {
    return num_rows(request) * (end_key(row_end(request) - 1) - first_key(row_begin(request)));
  }

  bool is_long(int64_t request, int64_t keys_of_all) const {
    bool has_many_splits = first_split(row_begin(request)) < last_split(row_end(request) - 1);
    return work_.num_threads > 1 && has_many_splits &&
           keys(request) * work_.num_threads * kItemsPerThread >= keys_of_all;
  }

  int64_t num_partials(int64_t request) const {
    int64_t count = 0;
    for (int64_t row = row_begin(request); row < row_end(request); ++row)
      count += last_split(row) + 1 - first_split(row);
    return count;
  }

  void add_merged(int64_t request) {
    for (int64_t row = row_begin(request); row < row_end(request); ++row) {
      plan_.merged.push_back(static_cast<int32_t>(row));
      plan_.first_partial[static_cast<size_t>(row)] = plan_.num_partials;
      plan_.num_partials += last_split(row) + 1 - first_split(row);
    }
  }

  void add_whole(int64_t request) {
    add_items(plan_.whole, {static_cast<int32_t>(request), 0, 0, 0, 0}, row_begin(request), row_end(request));
  }

  void add_split(size_t begin, size_t end) {
    int64_t first = static_cast<int64_t>(plan_.rows.size());
    const Visit& any = visits_[begin];
    for (size_t i = begin; i < end; ++i) {
      if (!is_split_[visits_[i].request]) continue;
      for (int64_t row = row_begin(visits_[i].request); row < row_end(visits_[i].request); ++row)
        if (first_split(row) <= any.split && any.split <= last_split(row))
          plan_.rows.push_back(static_cast<int32_t>(row));
    }
    AttentionItem item{static_cast<int32_t>(any.request), 0, 0, 0, static_cast<int32_t>(any.split)};
    add_items(plan_.split, item, first, static_cast<int64_t>(plan_.rows.size()));
  }

  void add_items(std::vector<AttentionItem>& items, AttentionItem item, int64_t begin, int64_t end) const {
    for (int64_t row = begin; row < end; row += rows_per_item_)
      for (int64_t head = 0; head < work_.num_kv_heads; ++head) {
        item.kv_head = static_cast<int32_t>(head);
        item.row_begin = static_cast<int32_t>(row);
        item.row_end = static_cast<int32_t>(std::min(row + rows_per_item_, end));
        items.push_back(item);
      }
  }

  // Longest first, so that no thread starts the longest item when the others have run out.
  void longest_first(std::vector<AttentionItem>& items) const {
    auto is_longer = [this](const AttentionItem& a, const AttentionItem& b) {
      return work_.positions[a.row_end - 1] > work_.positions[b.row_end - 1];
    };
    std::stable_sort(items.begin(), items.end(), is_longer);
  }

  const AttentionWork& work_;
  int64_t rows_per_item_;
  std::vector<Visit> visits_;
  std::vector<char> is_split_;  // per request
  AttentionPlan plan_;
};

AttentionPlan plan_attention(const AttentionWork& work) { return Planner(work).plan(); }

}  // namespace quire
