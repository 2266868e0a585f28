// Multiply-adds of what kernels were handed: of products without the padding of panels, of attention for the
// keys that rows see.
#pragma once

#include <algorithm>

#include "attention_plan.h"
#include "kernels.h"

namespace quire {

struct WorkCounts {
  int64_t projections = 0, scores = 0, mixing = 0, head = 0;  // scores: Q K^T; mixing: probabilities times V

  static int64_t of(const Gemm& g) { return g.rows * g.weight.k * g.num_outputs; }

  void add_attention(const Attention& a, const AttentionPlan& plan) {
    int64_t pairs = 0;  // of a row and a key, for each kv head
    for (const AttentionItem& item : plan.whole) pairs += pairs_of(a, plan, item, 0, INT64_MAX);
    for (const AttentionItem& item : plan.split)
      pairs += pairs_of(a, plan, item, item.split * kSplitKeys, (item.split + 1) * kSplitKeys);
    int64_t multiplications = pairs * (a.num_heads / a.pages.num_kv_heads) * a.pages.head_dim;
    scores += multiplications;
    mixing += multiplications;
  }

 private:
  // Pairs of the item's rows and the keys in [begin, end) that they see.
  static int64_t pairs_of(const Attention& a, const AttentionPlan& plan, const AttentionItem& item,
                          int64_t begin, int64_t end) {
    int64_t pairs = 0;
    for (int32_t i = item.row_begin; i < item.row_end; ++i) {
      int64_t position = a.positions[plan.rows[static_cast<size_t>(i)]];
      int64_t first = std::max(first_key(position, a.window), begin), last = std::min(position + 1, end);
      pairs += std::max<int64_t>(last - first, 0);
    }
    return pairs;
  }
};

}  // namespace quire
