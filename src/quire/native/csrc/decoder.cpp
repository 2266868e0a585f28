// The forward pass of a step, in order.
#include "decoder.h"

#include <algorithm>
#include <cmath>

#include "attention_run.h"

namespace quire {

void Decoder::run(const Step& step, float* logits) {
  tensors_.require_complete();
  DefaultFloats floats;
  num_rows_ = 0;  // no rows for `head` until the step is complete
  reserve(step);
  plan_attention(step);
  begin_writing(step);
  embed(step);
  compute_rotations(step);
  for (int64_t layer = 0; layer < static_cast<int64_t>(layers_.size()); ++layer) {
    attention_block(step, layer);
    ffn_block(step, layer);
  }
  end_writing(step);
  num_rows_ = step.num_rows;
  head(step.sample_rows, step.num_samples, logits);
}

// The padding of each row must be zero, because products read whole groups. Feed-forwards write that of
// `hidden_` in every step, so its rows may differ in length between layers; other buffers always hold rows
// of the same length.
void Decoder::reserve(const Step& step) {
  int64_t hidden = stride_of(shape_.hidden_size), query = stride_of(shape_.num_heads * shape_.head_dim);
  if (step.num_rows > capacity_) {
    size_t rows = static_cast<size_t>(step.num_rows);
    residual_ = Buffer(rows * hidden * sizeof(float));
    product_ = Buffer(rows * hidden * sizeof(float));
    normed_ = Buffer(rows * hidden * sizeof(float));
    qkv_ = Buffer(rows * qkv_stride() * sizeof(float));
    queries_ = Buffer(rows * query * sizeof(float));
    attended_ = Buffer(rows * query * sizeof(float));
    mixed_ = Buffer(rows * query * sizeof(float));
    hidden_ = Buffer(rows * stride_of(widest_ffn_) * sizeof(float));
    auto is_split = [](const Layer& layer) {
      return layer.down.weight.panels().encoding() == Encoding::kInt8Amx;
    };
    if (std::any_of(layers_.begin(), layers_.end(), is_split))
      gated_ = Buffer(rows * stride_of(widest_ffn_) * sizeof(float));
    int64_t gqa = shape_.num_heads / shape_.num_kv_heads;
    scratch_ = Buffer(static_cast<size_t>(threads_.size() * attention_scratch(gqa, shape_.head_dim)) *
                      sizeof(float));
    capacity_ = step.num_rows;  // last: if an allocation above throws, the next step must allocate again
  }
}

// The rows of a buffer, [.., k], in float32.
ActivationRows Decoder::floats_in(const Buffer& buffer, int64_t k) const {
  return {buffer.get(), stride_of(k) * static_cast<int64_t>(sizeof(float)), ActivationFormat::kF32, k};
}

// The rows of a buffer, [.., K of `next`], in the activation format that its product reads.
ActivationRows Decoder::rows_for(const PackedMatrix& next, const Buffer& buffer) const {
  ActivationRows rows = floats_in(buffer, next.k());
  rows.format = kernels_.activation_formats[static_cast<int>(next.panels().encoding())];
  rows.input_factors = next.panels().input_factors;
  if (rows.format == ActivationFormat::kInt16Split) rows.stride = split_row_stride(rows.k);
  return rows;
}

void Decoder::embed(const Step& step) {
  Embed e{embed_.weight.panels(),           step.token_ids,         step.positions,
          pointer_or_null(position_table_), shape_.embedding_scale, residual_.as<float>(),
          stride_of(shape_.hidden_size)};
  threads_.run(step.num_rows, 8, [&](int64_t begin, int64_t end, int) { kernels_.embed(e, begin, end); });
}

// cos and sin of float32(position) * inv_freq, for every distinct rotation [ropes][T][rotary_dim / 2].
void Decoder::compute_rotations(const Step& step) {
  if (shape_.ropes.empty()) return;
  size_t pairs = shape_.ropes[0].inv_freq.size(), rows = static_cast<size_t>(step.num_rows);
  cos_.resize(shape_.ropes.size() * rows * pairs);
  sin_.resize(cos_.size());
  for (size_t r = 0; r < shape_.ropes.size(); ++r) {
    const Rope& rope = shape_.ropes[r];
    threads_.run(step.num_rows, 16, [&](int64_t begin, int64_t end, int) {
      for (int64_t t = begin; t < end; ++t)
        for (size_t i = 0; i < pairs; ++i) {
          float angle = static_cast<float>(step.positions[t]) * rope.inv_freq[i];
          size_t at = (r * rows + static_cast<size_t>(t)) * pairs + i;
          cos_[at] = static_cast<float>(std::cos(static_cast<double>(angle))) * rope.attention_factor;
          sin_[at] = static_cast<float>(std::sin(static_cast<double>(angle))) * rope.attention_factor;
        }
    });
  }
}

void Decoder::attention_block(const Step& step, int64_t index) {
  const Layer& layer = layers_[static_cast<size_t>(index)];
  project_qkv(step, layer);
  rotate_append(step, index);
  fill_tiles(step, index);
  attend(step, index);
  ActivationRows mixed = rows_for(layer.out.weight, mixed_);
  observe(mixed, step.num_rows, observed_.out);
  add_product(layer.out, mixed, step.num_rows);
  add_normalized(layer.attn_post_norm, step.num_rows);
}

void Decoder::ffn_block(const Step& step, int64_t index) {
  const Layer& layer = layers_[static_cast<size_t>(index)];
  const FfnShape& ffn = shape_.layers[static_cast<size_t>(index)].ffn;
  Gemm up =
      layer.up.product(normalize(layer.ffn_norm, {step.num_rows, nullptr}, layer.up, normed_), step.num_rows);
  up.epilogue = ffn.is_gated ? Epilogue::kGate : Epilogue::kActivate;
  up.activation = ffn.activation;
  observe(up.a, step.num_rows, observed_.up);
  ActivationRows hidden = rows_for(layer.down.weight, hidden_);
  bool is_final =
      hidden.format != ActivationFormat::kInt16Split;  // whose scale spans more columns than a unit
  up.hidden = is_final ? hidden : floats_in(gated_, ffn.size);
  multiply(up);
  if (!is_final) convert(gated_, step.num_rows, hidden);
  observe(hidden, step.num_rows, observed_.down);
  add_product(layer.down, hidden, step.num_rows);
  add_normalized(layer.ffn_post_norm, step.num_rows);
}

// out = norm of these rows of the residual, or the rows themselves where there is no norm: the next product's
// activations.
ActivationRows Decoder::normalize(const NormWeights& norm, const Rows& rows, const Linear& next,
                                  const Buffer& out) {
  Norm n{shape_.norm,
         shape_.norm_eps,
         pointer_or_null(norm.weight),
         pointer_or_null(norm.bias),
         residual_.as<float>(),
         stride_of(shape_.hidden_size),
         rows.ids,
         shape_.hidden_size,
         rows_for(next.weight, out),
         false};
  threads_.run(rows.count, 2, [&](int64_t begin, int64_t end, int) { kernels_.norm(n, begin, end); });
  return n.out;
}

// residual += norm(product) if the layer normalizes its output; otherwise the product has been added already.
void Decoder::add_normalized(const NormWeights& norm, int64_t num_rows) {
  if (shape_.norm_placement == NormPlacement::kPre) return;
  Norm n{shape_.norm,
         shape_.norm_eps,
         pointer_or_null(norm.weight),
         pointer_or_null(norm.bias),
         product_.as<float>(),
         stride_of(shape_.hidden_size),
         nullptr,
         shape_.hidden_size,
         floats_in(residual_, shape_.hidden_size),
         true};
  threads_.run(num_rows, 2, [&](int64_t begin, int64_t end, int) { kernels_.norm(n, begin, end); });
}

void Decoder::add_product(const Linear& linear, const ActivationRows& a, int64_t num_rows) {
  bool adds = shape_.norm_placement == NormPlacement::kPre;
  Gemm g = linear.product(a, num_rows);
  g.epilogue = adds ? Epilogue::kAdd : Epilogue::kStore;
  g.out = adds ? residual_.as<float>() : product_.as<float>();
  g.ldo = stride_of(shape_.hidden_size);
  g.num_columns = shape_.hidden_size;
  multiply(g);
}

void Decoder::multiply(const Gemm& g) {
  if (counts_) counts_->projections += WorkCounts::of(g);
  multiply_units(g, 0, g.weight.num_panels / (g.epilogue == Epilogue::kGate ? 2 : 1), prefetch_);
}

void Decoder::multiply_units(const Gemm& g, int64_t first, int64_t last, Prefetch prefetch) {
  Gemm own = g;
  own.prefetch = prefetch;
  threads_.run(last - first, grain_of(kPanel * g.weight.k * g.rows),
               [&](int64_t begin, int64_t end, int) { kernels_.gemm(own, first + begin, first + end); });
}

void Decoder::project_qkv(const Step& step, const Layer& layer) {
  Gemm g = layer.qkv.product(normalize(layer.attn_norm, {step.num_rows, nullptr}, layer.qkv, normed_),
                             step.num_rows);
  observe(g.a, step.num_rows, observed_.qkv);
  g.epilogue = Epilogue::kStore;
  g.out = qkv_.as<float>();
  g.ldo = qkv_stride();
  g.num_columns = g.weight.num_panels * kPanel;
  multiply(g);
}

void Decoder::rotate_append(const Step& step, int64_t index) {
  const Layer& layer = layers_[static_cast<size_t>(index)];
  int64_t query = columns_of(shape_.num_heads * shape_.head_dim),
          kv = columns_of(shape_.num_kv_heads * shape_.head_dim);
  RopeAppendKV r{};
  r.q = qkv_.as<float>();
  r.k = r.q + query;
  r.v = r.k + kv;
  r.ldqkv = qkv_stride();
  r.num_heads = shape_.num_heads;
  r.q_norm = pointer_or_null(layer.q_norm);
  r.k_norm = pointer_or_null(layer.k_norm);
  r.norm_spans_heads = shape_.qk_norm == QKNorm::kWhole;
  r.norm_eps = shape_.norm_eps;
  if (const std::optional<int64_t>& turned = shape_.layers[static_cast<size_t>(index)].rope) {
    size_t rope = static_cast<size_t>(*turned);
    size_t pairs = shape_.ropes[rope].inv_freq.size();
    r.cos = cos_.data() + rope * static_cast<size_t>(step.num_rows) * pairs;
    r.sin = sin_.data() + rope * static_cast<size_t>(step.num_rows) * pairs;
    r.rotary_dim = static_cast<int64_t>(2 * pairs);
  }
  r.slots = step.slots;
  r.q_out = queries_.get();
  r.pages = pages(index);
  r.own = own_tiles(index);
  r.not_finite = &not_finite_;
  int64_t per_row = shape_.num_kv_heads / r.heads_per_unit();
  threads_.run(step.num_rows * per_row, 1 + per_row / 2,
               [&](int64_t begin, int64_t end, int) { kernels_.rope_append_kv(r, begin, end); });
}

void Decoder::attend(const Step& step, int64_t index) {
  int64_t size = shape_.num_heads * shape_.head_dim;
  ActivationRows mixed = rows_for(layers_[static_cast<size_t>(index)].out.weight, mixed_);
  Attention a{};
  a.pages = pages(index);
  a.own = own_tiles(index);
  a.q = queries_.get();
  a.num_heads = shape_.num_heads;
  a.positions = step.positions;
  a.block_tables = step.block_tables;
  a.blocks_per_request = step.blocks_per_request;
  a.window = shape_.layers[static_cast<size_t>(index)].window;
  a.scale = shape_.attention_scale;
  a.softcap = shape_.attention_softcap;
  bool is_final = mixed.format == ActivationFormat::kF32 || mixed.format == ActivationFormat::kBF16;
  a.out = is_final ? mixed.base : attended_.get();
  a.out_element = mixed.format == ActivationFormat::kBF16 ? Element::kBF16 : Element::kF32;
  a.ldo = is_final ? mixed.stride / element_bytes(a.out_element) : stride_of(size);
  const AttentionPlan& plan = plan_of(a.window);
  if (counts_) counts_->add_attention(a, plan);
  run_attention({kernels_, plan, threads_, scratch_.as<float>(), attention_grain_}, a, partials_.as<float>());
  if (!is_final) convert(attended_, step.num_rows, mixed);
}

// Converts float32 rows to the activation format of the next product.
void Decoder::convert(const Buffer& from, int64_t rows, const ActivationRows& to) {
  Norm n{};
  n.x = from.as<float>();
  n.ldx = stride_of(to.k);
  n.size = to.k;
  n.out = to;
  threads_.run(rows, 2, [&](int64_t begin, int64_t end, int) { kernels_.norm(n, begin, end); });
}

const AttentionPlan& Decoder::plan_of(int64_t window) const {
  return *std::find_if(plans_.begin(), plans_.end(),
                       [window](const AttentionPlan& plan) { return plan.window == window; });
}

// One plan per distinct window of the layers, and memory for their partials.
void Decoder::plan_attention(const Step& step) {
  AttentionWork work{step.num_requests, step.positions,          step.query_start,
                     step.block_tables, step.blocks_per_request, tiles_per_block_,
                     shape_.num_heads,  shape_.num_kv_heads,     0,
                     threads_.size()};
  size_t most_partials = 0;
  plans_.clear();
  for (const LayerShape& layer : shape_.layers) {
    work.window = layer.window;
    auto is_same = [&](const AttentionPlan& plan) { return plan.window == layer.window; };
    if (std::any_of(plans_.begin(), plans_.end(), is_same)) continue;
    plans_.push_back(quire::plan_attention(work));
    most_partials = std::max(most_partials, static_cast<size_t>(plans_.back().num_partials));
  }
  size_t bytes =
      most_partials * static_cast<size_t>(shape_.num_heads * partial_floats(shape_.head_dim)) * sizeof(float);
  if (bytes > partials_.size()) partials_ = Buffer(bytes);
  constexpr int64_t kKeysToBegin = 128;  // an item's fixed cost, as a number of keys
  int64_t longest = 1 + *std::max_element(step.positions, step.positions + step.num_rows);
  attention_grain_ = grain_of((kKeysToBegin + std::min(longest, kSplitKeys)) * shape_.num_heads /
                              shape_.num_kv_heads * shape_.head_dim);
}

}  // namespace quire
