// One layer's attention on all threads.
#pragma once

#include "attention_plan.h"
#include "threads.h"

namespace quire {

struct AttentionRun {
  const Kernels& kernels;
  const AttentionPlan& plan;
  ThreadPool& threads;
  float* scratch;  // [threads][attention_scratch]
  int64_t grain;   // items per hand-over to another thread
};

// `a` lacks only what the plan and memory for its partials say.
void run_attention(const AttentionRun& run, Attention a, float* partials);

}  // namespace quire
