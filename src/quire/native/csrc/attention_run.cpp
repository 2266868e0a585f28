#include "attention_run.h"

namespace quire {

void run_attention(const AttentionRun& run, Attention a, float* partials) {
  const AttentionPlan& plan = run.plan;
  a.rows = plan.rows.data();
  a.partials = partials;
  a.first_partial = plan.first_partial.data();
  const int64_t scratch = attention_scratch(a.num_heads / a.pages.num_kv_heads, a.pages.head_dim);
  const int64_t num_whole = static_cast<int64_t>(plan.whole.size()),
                num_split = static_cast<int64_t>(plan.split.size());
  run.threads.run(num_whole + num_split, run.grain, [&](int64_t begin, int64_t end, int worker) {
    float* own = run.scratch + worker * scratch;
    for (int64_t i = begin; i < end; ++i) {
      if (i < num_whole) run.kernels.attend(a, plan.whole[static_cast<size_t>(i)], own);
      else run.kernels.attend_split(a, plan.split[static_cast<size_t>(i - num_whole)], own);
    }
  });
  run.threads.run(static_cast<int64_t>(plan.merged.size()) * a.num_heads, 8,
                  [&](int64_t begin, int64_t end, int worker) {
                    for (int64_t i = begin; i < end; ++i)
                      run.kernels.merge_splits(a, plan.merged[static_cast<size_t>(i / a.num_heads)],
                                               i % a.num_heads, run.scratch + worker * scratch);
                  });
}

}  // namespace quire
