// Who attends to what in a step: rows are cut into items that threads take, without changing what a row computes.
//
//   whole items   rows of one request that walk all their splits and are written at once
//   split items   few rows against one split of 512 keys: they leave a state, and the states of a row are merged in order
//
// Splitting lets threads share a long context, and lets requests share a split: where block tables hold the same blocks,
// their rows are stacked, and K/V is read once for all of them.
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
  std::vector<int32_t> rows;  // of the step, in the order that items count them
  std::vector<AttentionItem> whole;
  std::vector<AttentionItem> split;
  std::vector<int32_t> merged;         // rows of split items
  std::vector<int64_t> first_partial;  // [T], for merged rows: where their states begin, in units of all heads
  int64_t num_partials = 0;
};

AttentionPlan plan_attention(const AttentionWork& work);

}  // namespace quire
