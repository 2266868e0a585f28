// The decoder: packed weights, paged K/V memory, and one call per step that runs the whole forward pass.
//
// Decoder::run in decoder.cpp is the forward pass in order; decoder_head.cpp has its end, weights.cpp the
// loading.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "attention_plan.h"
#include "kernels.h"
#include "linear.h"
#include "sampling.h"
#include "tensor_table.h"
#include "threads.h"
#include "work_counts.h"

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

struct Layer {
  NormWeights attn_norm, attn_post_norm, ffn_norm, ffn_post_norm;
  Linear qkv, out, up, down;
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
  const int32_t* own_tiles;  // null: the KV format has none
};

// K/V of a step that are NaN or infinite, in a format that cannot hold them.
struct NotFiniteError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Bytes behind the last tile: a strip of values may be wider than head_dim.
constexpr int64_t kTileOverread = kPanel * static_cast<int64_t>(sizeof(float));

// Memory for K/V; the bytes are those of the formulas in quire/kv/layout.py.
struct KVMemory {
  int64_t num_blocks, block_size;
  KVFormat format;
  int64_t bytes_per_block;
  std::vector<int64_t> exact_key_layers;  // keys of these stay bfloat16; quantized formats only
  int64_t num_own_tiles, bytes_per_own_tile;
};

// Where a step writes what the products of a layer multiply, float32 [T, K]; null: nowhere.
struct LayerInputs {
  float *qkv, *out, *up, *down;
};

// Units per hand-over to another thread: below some 64k multiplications a hand-over costs more than it saves.
inline int64_t grain_of(int64_t multiplications_per_unit) {
  return 1 + (1 << 16) / (1 + multiplications_per_unit);
}

class Decoder {
 public:
  // Reserves memory for all weights. Throws std::invalid_argument for a shape that contradicts itself or
  // exceeds the kernels' sizes, and for formats of matrices that cannot be multiplied together.
  Decoder(ModelShape shape, const MatrixFormats& formats, const std::string& isa, int num_threads);

  // Every tensor of the model by canonical name, to be set before the first step.
  TensorTable& tensors() { return tensors_; }
  const TensorTable& tensors() const { return tensors_; }
  const Kernels& kernels() const { return kernels_; }
  ThreadPool& threads() { return threads_; }

  // Reserves K/V memory. Throws std::invalid_argument for what contradicts itself, the shape or the bytes
  // that were planned; std::overflow_error and std::bad_alloc.
  void allocate_kv(const KVMemory& memory);

  // Runs one step that passed check_step, and writes logits [num_samples, vocab_size]. Throws
  // std::invalid_argument with the name of a weight that was never set, and NotFiniteError.
  void run(const Step& step, float* logits);

  // Runs the one layer of this decoder on `residual`, float32 [T, E], in place, without embedding and head;
  // the step's token_ids and sample_rows are not read. Throws std::invalid_argument for a decoder of several
  // layers, or one whose products read other activations than float32.
  void run_layer(const Step& step, float* residual, const LayerInputs& inputs);

  // Writes logits [count, vocab_size] of rows in [0, num_rows()) of the latest step: what `run` does for its
  // sample rows.
  void head(const int32_t* rows, int64_t count, float* logits);
  int64_t num_rows() const { return num_rows_; }

  // The argmax of each of these rows: over the values that `head` would write, a few panels at a time, so
  // that they are never all in memory.
  void argmax(const int32_t* rows, int64_t count, Argmax* found);

  // Writes K and V of each slot, float32 [count, K, D]. The slots of own tiles follow those of all blocks;
  // where there are own tiles, what a block has of a tile that is not full is NaN.
  void read_kv(int64_t layer, const int32_t* slots, int64_t count, float* keys, float* values) const;
  void copy_block(int64_t source, int64_t target);
  void copy_own_tile(int64_t source, int64_t target);

  // Copies all layers' pages of a block out of the KV memory or into it, block_bytes() of them: layer after
  // layer. Throws std::invalid_argument for a block of which the K/V are still in own tiles.
  int64_t block_bytes() const;
  void export_block(int64_t block, char* pages) const;
  void import_block(int64_t block, const char* pages);

  // How products prefetch weights; changes no bit.
  void set_prefetch(Prefetch prefetch) { prefetch_ = prefetch; }
  Prefetch prefetch() const { return prefetch_; }

  // Multiply-adds of all steps while it holds a value; counting changes no bit.
  std::optional<WorkCounts>& counts() { return counts_; }

  // Splits some of the packed weights into `count` regions of nearly equal size, at most `bytes` each, evenly
  // spread; none if there are fewer panels than that. Then returns the seconds that products of one row take
  // to read a region.
  int64_t divide_weights(int64_t count, int64_t bytes);
  double read_seconds(int64_t region, Prefetch prefetch);

  // Held during a call from Python; and how often the process had been forked when the last call began.
  std::mutex& one_caller() { return one_caller_; }
  std::atomic<uint64_t>& forks_before_call() { return forks_before_call_; }
  const ModelShape& shape() const { return shape_; }
  const char* isa() const { return kernels_.name; }
  int num_threads() const { return threads_.size(); }
  int64_t num_blocks() const { return num_blocks_; }
  int64_t block_size() const { return tiles_per_block_ * kTile; }
  int64_t num_own_tiles() const { return num_own_tiles_; }
  bool has_own_tiles() const { return num_own_tiles_ > 0; }
  int64_t num_slots() const { return num_blocks_ * block_size() + num_own_tiles_ * kTile; }
  size_t weight_bytes() const;
  size_t kv_bytes() const;

 private:
  // Rows ids[0..count) of a buffer, or its first ones where `ids` is null.
  struct Rows {
    int64_t count;
    const int32_t* ids;
  };

  // Panels [begin, end) of a matrix.
  struct PanelRange {
    const PackedMatrix* matrix;
    int64_t begin, end;
  };

  void add_norm(const std::string& name, NormWeights& norm);
  void add_linear(const std::string& name, Linear& linear, const TensorShape& shape, bool has_bias,
                  const MatrixFormats& formats);
  void add_tables(const MatrixFormats& formats);
  void add_layer(const std::string& prefix, Layer& layer, const FfnShape& ffn, const MatrixFormats& formats);
  void add_projections(const std::string& prefix, Layer& layer, const MatrixFormats& formats);
  void add_ffn(const std::string& prefix, Layer& layer, const FfnShape& ffn, const MatrixFormats& formats);
  void check_formats(const MatrixFormats& formats) const;
  const KVPages& pages(int64_t layer) const { return pages_[static_cast<size_t>(layer)]; }
  OwnTiles own_tiles(int64_t layer) const;
  size_t full_at(int64_t block, int64_t tile) const {
    return static_cast<size_t>(block * tiles_per_block_ + tile);
  }
  void read_paged_head(const KVPages& p, int64_t slot, int64_t head, float* key, float* value) const;
  int64_t columns_of(int64_t rows) const { return round_up(rows, kPanel); }
  // Floats between rows of activations: whole panels, which every format fits into, plus one cache line. Rows
  // a multiple of 4 KB apart would range L1 sets.
  int64_t stride_of(int64_t size) const { return columns_of(size) + 16; }
  int64_t qkv_stride() const { return stride_of(layers_[0].qkv.weight.num_panels() * kPanel); }
  ActivationRows floats_in(const Buffer& buffer, int64_t k) const;
  ActivationRows rows_for(const PackedMatrix& next, const Buffer& buffer) const;

  void reserve(const Step& step);
  void begin_writing(const Step& step);
  void plan_own_tiles(const Step& step);
  void end_writing(const Step& step);
  void plan_attention(const Step& step);
  const AttentionPlan& plan_of(int64_t window) const;
  void embed(const Step& step);
  void observe(const ActivationRows& a, int64_t num_rows, float* to);
  void compute_rotations(const Step& step);
  void attention_block(const Step& step, int64_t layer);
  void ffn_block(const Step& step, int64_t layer);
  void project_qkv(const Step& step, const Layer& layer);
  void rotate_append(const Step& step, int64_t layer);
  void fill_tiles(const Step& step, int64_t layer);
  void attend(const Step& step, int64_t layer);
  void convert(const Buffer& from, int64_t rows, const ActivationRows& to);

  ActivationRows normalize(const NormWeights& norm, const Rows& rows, const Linear& next, const Buffer& out);
  void add_normalized(const NormWeights& norm, int64_t num_rows);
  void add_product(const Linear& linear, const ActivationRows& a, int64_t num_rows);
  void multiply(const Gemm& gemm);
  void multiply_units(const Gemm& gemm, int64_t first, int64_t last, Prefetch prefetch);
  Gemm head_product(const int32_t* rows, int64_t count);
  void merge_panels(Gemm product, int64_t begin, int64_t end, float* logits, Argmax* bests);

  std::mutex one_caller_;
  std::atomic<uint64_t> forks_before_call_{0};
  ModelShape shape_;
  const Kernels& kernels_;
  Prefetch prefetch_ = Prefetch::kBoth;
  ThreadPool threads_;
  int64_t widest_ffn_;

  Linear embed_, head_;
  std::vector<float> position_table_;
  NormWeights final_norm_;
  std::vector<Layer> layers_;
  TensorTable tensors_;
  std::vector<std::vector<PanelRange>> regions_;  // for read_seconds

  Buffer kv_, own_kept_;
  std::vector<KVPages> pages_;  // of each layer
  int64_t num_blocks_ = 0, tiles_per_block_ = 1, num_own_tiles_ = 0;
  std::vector<bool>
      is_full_;  // [num_blocks * tiles_per_block] with own tiles: what was filled and not reopened

  // Activations of a step; grown when a step is larger than all before it.
  int64_t capacity_ = 0, sample_capacity_ = 0, num_rows_ = 0;
  Buffer residual_, normed_, qkv_, queries_, attended_, mixed_, hidden_, gated_, product_, sampled_, scratch_,
      partials_;
  Buffer scratch_tiles_;
  std::vector<int32_t> tile_of_row_;  // see OwnTiles
  std::vector<int32_t> full_rows_;    // the rows of the step that end their tiles
  int32_t not_finite_ = 0;
  std::vector<float> cos_, sin_;
  std::vector<AttentionPlan> plans_;  // one per distinct window of the layers
  int64_t attention_grain_ = 1;
  std::optional<WorkCounts> counts_;
  LayerInputs observed_{};  // where the products' inputs are copied to during run_layer
};

}  // namespace quire
