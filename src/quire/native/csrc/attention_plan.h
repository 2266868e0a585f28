// Divides a step's attention into items for threads, without changing what a row computes (split-KV).
//
//   whole items   rows of one request over all of their splits; written at once. Prefill, and decode of short
//   contexts
//   split items   few rows over one split of 512 keys: each row stores a partial, and a row's partials are
//   merged in order
//
// Split items let threads share a long context, and let requests share a prefix: if their block tables hold
// the same blocks for a split, their rows are stacked, and its K/V is read once for all of them.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels.h"

namespace quire {

// A step's rows and the shape of its attention.
struct AttentionWork {
  int64_t num_requests;
  const int32_t* positions;     // [T]
  const int32_t* query_start;   // [B + 1]
  const int32_t* block_tables;  // [B, M]
  int64_t blocks_per_request;
  int64_t tiles_per_block;
  int64_t num_heads;
  int64_t num_kv_heads;
  int64_t window;
  int64_t num_threads;
};

struct AttentionPlan {
  int64_t window;
  std::vector<int32_t> rows;  // rows of the step in item order
  std::vector<AttentionItem> whole;
  std::vector<AttentionItem> split;
  std::vector<int32_t> merged;  // rows of split items, whose partials must be merged
  std::vector<int64_t>
      first_partial;  // [T] for merged rows: index of their first partial, in units of all heads
  int64_t num_partials = 0;
};

AttentionPlan plan_attention(const AttentionWork& work);

}  // namespace quire
