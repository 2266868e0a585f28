// The decoder: packed weights, paged K/V memory, and one call per step that runs the whole forward pass.
//
// Decoder::run in decoder.cpp is the forward pass in order; decoder_head.cpp has its end, weights.cpp the
// loading.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "attention_plan.h"
#include "kernels.h"
#include "packed_matrix.h"
#include "sampling.h"
#include "threads.h"

namespace quire {

enum class NormPlacement { kPre, kPost, kSandwich };
enum class QKNorm { kNone, kPerHead, kWhole };

struct Rope {
  std::vector<float> inv_freq;
  float attention_factor = 1.0f;
};

struct FfnShape {
  bool is_gated = true;
  Activation activation = Activation::kSilu;
  int64_t size = 0;
  bool has_bias = false;
};

struct LayerShape {
  std::optional<int64_t> rope;  // index into ropes; none: no rotation
  int64_t window = 0;
  FfnShape ffn;
};

// The fields of ModelSpec that the forward pass reads, with the same names.
struct ModelShape {
  int64_t hidden_size = 0, num_heads = 0, num_kv_heads = 0, head_dim = 0, vocab_size = 0, max_context = 0;
  NormKind norm = NormKind::kRms;
  float norm_eps = 0;
  NormPlacement norm_placement = NormPlacement::kPre;
  QKNorm qk_norm = QKNorm::kNone;
  bool is_head_tied = false, has_learned_positions = false;
  bool has_qkv_bias = false, has_attention_out_bias = false;
  float attention_scale = 1, embedding_scale = 1, attention_softcap = 0,
        logit_softcap = 0;  // softcap 0: none
  std::vector<Rope> ropes;
  std::vector<LayerShape> layers;
};

// Where a named tensor is stored: a linear weight in panels of a matrix, which `q`, `k`, `v` and `gate`, `up`
// range; its bias in a vector laid out like the panels; any other vector unchanged.
struct Target {
  PackedMatrix* matrix;        // null: the tensor is a vector
  std::vector<float>* vector;  // null: the tensor is a matrix
  int64_t rows;                // or elements of a vector
  int64_t first_panel;
  int64_t panel_step;
  bool is_laid_in_panels;
  bool is_set = false;
};

struct Layer {
  PackedMatrix qkv, out, up, down;
  std::vector<float> qkv_bias, out_bias, up_bias, down_bias;
  std::vector<float> attn_norm, attn_norm_bias, attn_post_norm, attn_post_norm_bias;
  std::vector<float> ffn_norm, ffn_norm_bias, ffn_post_norm, ffn_post_norm_bias;
  std::vector<float> q_norm, k_norm;
};

// The arrays of a step, all int32; see StepBatch.
struct Step {
  int64_t num_rows, num_requests, blocks_per_request, num_samples;
  const int32_t* token_ids;
  const int32_t* positions;
  const int32_t* query_start;
  const int32_t* block_tables;
  const int32_t* slots;
  const int32_t* sample_rows;
};

inline const float* pointer_or_null(const std::vector<float>& values) {
  return values.empty() ? nullptr : values.data();
}

// Units per hand-over to another thread: below some 64k multiplications a hand-over costs more than it saves.
inline int64_t grain_of(int64_t multiplications_per_unit) {
  return 1 + (1 << 16) / (1 + multiplications_per_unit);
}

class Decoder {
 public:
  // Reserves memory for all weights. Throws std::invalid_argument for a shape that contradicts itself or
  // exceeds the kernels' sizes.
  Decoder(ModelShape shape, WeightFormat weights, const std::string& isa, int num_threads);

  // Packs the weight with that canonical name. Throws std::invalid_argument for a name that the model does
  // not have, or another shape.
  void set_matrix(const std::string& name, const SourceMatrix& source);
  void set_vector(const std::string& name, const float* values, int64_t size);

  // All matrices, in the order of a file of packed weights.
  const std::vector<PackedMatrix*>& matrices() const { return matrices_; }
  // Call this after reading a matrix from such a file: either all of its weights are set, or none.
  void mark_read(const PackedMatrix& matrix, bool is_whole);
  ThreadPool& threads() { return threads_; }

  // Reserves K/V memory for blocks of `block_size` tokens. Throws std::invalid_argument, std::overflow_error
  // and std::bad_alloc.
  void allocate_kv(int64_t num_blocks, int64_t block_size, Element element);

  // Runs one step that passed check_step, and writes logits [num_samples, vocab_size]. Throws
  // std::invalid_argument with the name of a weight that was never set.
  void run(const Step& step, float* logits);

  // Writes logits [count, vocab_size] of rows in [0, num_rows()) of the latest step: what `run` does for its
  // sample rows.
  void head(const int32_t* rows, int64_t count, float* logits);
  int64_t num_rows() const { return num_rows_; }

  // The argmax of each of these rows: over the values that `head` would write, a few panels at a time, so
  // that they are never all in memory.
  void best(const int32_t* rows, int64_t count, Argmax* found);

  // Writes K and V of each slot, float32 [count, K, D].
  void read_kv(int64_t layer, const int32_t* slots, int64_t count, float* keys, float* values) const;
  void copy_block(int64_t source, int64_t target);

  // Held during a call from Python; and how often the process had been forked when the last call began.
  std::mutex& one_caller() { return one_caller_; }
  std::atomic<uint64_t>& forks_before_call() { return forks_before_call_; }
  const ModelShape& shape() const { return shape_; }
  const char* isa() const { return kernels_.name; }
  int num_threads() const { return threads_.size(); }
  int64_t num_blocks() const { return num_blocks_; }
  int64_t block_size() const { return tiles_per_block_ * kTile; }
  size_t weight_bytes() const;
  size_t kv_bytes() const { return kv_.size(); }

 private:
  struct Activations;

  void add_matrix(PackedMatrix& matrix, int64_t num_panels, int64_t k);
  void add_linear(const std::string& name, const Target& target);
  void add_vector(const std::string& name, std::vector<float>& vector, int64_t size);
  void add_norm(const std::string& name, std::vector<float>& weight, std::vector<float>& bias);
  void add_tables();
  void add_layer(const std::string& prefix, Layer& layer, const FfnShape& ffn);
  void add_projections(const std::string& prefix, Layer& layer);
  void add_ffn(const std::string& prefix, Layer& layer, const FfnShape& ffn);
  Target& target_of(const std::string& name, bool is_matrix);
  void require_weights();
  KVPages pages(int64_t layer) const;
  int64_t columns_of(int64_t rows) const { return round_up(rows, kPanel); }
  // Floats between rows of activations: whole panels, which every format fits into, plus one cache line. Rows
  // a multiple of 4 KB apart would range L1 sets.
  int64_t stride_of(int64_t size) const { return columns_of(size) + 16; }
  int64_t qkv_stride() const { return stride_of(layers_[0].qkv.panels().num_panels * kPanel); }
  int64_t widest_ffn() const;
  int64_t widest_scratch() const {
    return gemm_scratch(std::max({shape_.hidden_size, shape_.num_heads * shape_.head_dim, widest_ffn()}));
  }
  char* gemm_scratch_of(int worker) const {
    return widened_.size() ? widened_.get() + worker * widest_scratch() : nullptr;
  }
  ActivationRows rows_in(const Buffer& buffer, int64_t k, WeightFormat meets) const;

  void reserve(const Step& step);
  void plan_attention(const Step& step);
  const AttentionPlan& plan_of(int64_t window) const;
  void embed(const Step& step);
  void compute_rotations(const Step& step);
  void attention_block(const Step& step, int64_t layer);
  void ffn_block(const Step& step, int64_t layer);
  void project_qkv(const Step& step, const Layer& layer);
  void rotate_append(const Step& step, int64_t layer);
  void attend(const Step& step, int64_t layer);
  void convert(const Buffer& from, int64_t rows, const ActivationRows& to);

  void normalize(const std::vector<float>& weight, const std::vector<float>& bias, int64_t rows);
  void add_normalized(const std::vector<float>& weight, const std::vector<float>& bias, int64_t rows);
  void add_product(const PackedMatrix& weight, const std::vector<float>& bias, const ActivationRows& a,
                   const Step& step);
  void multiply(const Gemm& gemm);
  Gemm head_product(const int32_t* rows, int64_t count);
  void merge_panels(Gemm product, int64_t begin, int64_t end, float* logits, Argmax* bests);

  std::mutex one_caller_;
  std::atomic<uint64_t> forks_before_call_{0};
  ModelShape shape_;
  const Kernels& kernels_;
  WeightFormat format_;
  ThreadPool threads_;

  PackedMatrix embed_, head_;
  std::vector<float> position_table_, final_norm_, final_norm_bias_;
  std::vector<Layer> layers_;
  std::map<std::string, Target>
      targets_;  // every tensor of the model by canonical name; linear weights without ".weight"
  std::vector<PackedMatrix*> matrices_;
  bool has_all_weights_ = false;

  Buffer kv_;
  Element kv_element_ = Element::kF32;
  int64_t num_blocks_ = 0, tiles_per_block_ = 1;

  // Activations of a step; grown when a step is larger than all before it.
  int64_t capacity_ = 0, sample_capacity_ = 0, num_rows_ = 0;
  Buffer residual_, normed_, qkv_, queries_, attended_, mixed_, hidden_, gated_, product_, sampled_, scratch_,
      widened_, partials_;
  std::vector<float> cos_, sin_;
  std::vector<AttentionPlan> plans_;  // one per distinct window of the layers
  int64_t attention_grain_ = 1;
};

}  // namespace quire
