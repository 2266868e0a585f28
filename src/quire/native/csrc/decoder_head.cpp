// The end of a step: the logits of some rows, or only their argmax.
#include <algorithm>
#include <memory>

#include "checked.h"
#include "decoder.h"

namespace quire {

// The product of the normalized rows with the head, without its destination.
Gemm Decoder::head_product(const int32_t* rows, int64_t count) {
  if (count > sample_capacity_) {
    sampled_ = Buffer(checked_bytes({count, stride_of(shape_.hidden_size), sizeof(float)}));
    sample_capacity_ = count;
  }
  const Linear& head = shape_.is_head_tied ? embed_ : head_;
  Gemm g = head.product(normalize(final_norm_, {count, rows}, head, sampled_), count);
  g.epilogue = Epilogue::kStore;
  g.num_columns = shape_.vocab_size;
  g.prefetch = prefetch_;
  if (counts_) counts_->head += WorkCounts::of(g);
  return g;
}

void Decoder::head(const int32_t* rows, int64_t count, float* logits) {
  if (count == 0) return;
  DefaultFloats floats;
  Gemm g = head_product(rows, count);
  g.out = logits;
  g.ldo = shape_.vocab_size;
  multiply_units(g, 0, g.weight.num_panels, prefetch_);
  if (shape_.logit_softcap > 0)
    threads_.run(count, 1, [&](int64_t begin, int64_t end, int) {
      kernels_.softcap(logits + begin * shape_.vocab_size, (end - begin) * shape_.vocab_size,
                       shape_.logit_softcap);
    });
}

constexpr int64_t kPanelsAtOnce = 8;  // panels per product; their logits are read while they are in cache

// Computes some panels of the head's product, [count, ldo] in `logits`, and merges their argmax into `bests`.
void Decoder::merge_panels(Gemm g, int64_t begin, int64_t end, float* logits, Argmax* bests) {
  g.out = logits;
  g.ldo = kPanelsAtOnce * kPanel;
  g.out_column = begin * kPanel;
  kernels_.gemm(g, begin, end);
  int64_t width = std::min((end - begin) * kPanel, g.num_columns - g.out_column);
  for (int64_t row = 0; row < g.rows; ++row, logits += g.ldo) {
    if (shape_.logit_softcap > 0) kernels_.softcap(logits, width, shape_.logit_softcap);
    bests[row].merge(quire::argmax(kernels_, logits, width, g.out_column));
  }
}

// Per-worker argmax, merged by (value, id), so the result does not depend on the schedule.
void Decoder::argmax(const int32_t* rows, int64_t count, Argmax* found) {
  if (count == 0) return;
  DefaultFloats floats;
  const Gemm g = head_product(rows, count);
  std::vector<Argmax> bests(static_cast<size_t>(threads_.size() * count));
  std::unique_ptr<float[]> logits(new float[checked_bytes({threads_.size(), count, kPanelsAtOnce * kPanel})]);
  threads_.run(g.weight.num_panels, grain_of(kPanel * g.weight.k * count),
               [&](int64_t begin, int64_t end, int worker) {
                 float* own_logits = logits.get() + worker * count * kPanelsAtOnce * kPanel;
                 for (int64_t panel = begin; panel < end; panel += kPanelsAtOnce)
                   merge_panels(g, panel, std::min(panel + kPanelsAtOnce, end), own_logits,
                                bests.data() + worker * count);
               });
  std::fill(found, found + count, Argmax{});
  for (size_t i = 0; i < bests.size(); ++i) found[i % static_cast<size_t>(count)].merge(bests[i]);
}

}  // namespace quire
