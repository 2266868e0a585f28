// Loading: where each named tensor is stored.
#include <cmath>
#include <stdexcept>
#include <utility>

#include "cpu.h"
#include "decoder.h"

namespace quire {

static void require(bool holds, const std::string& what) {
  if (!holds) throw std::invalid_argument(what);
}

// RoPE computes positions in float32, which is exact up to here; and no product of two sizes, threads and
// bytes overflows.
constexpr int64_t kMaxSize = int64_t{1} << 24;

static void check_sizes(const ModelShape& s) {
  for (int64_t size : {s.hidden_size, s.num_heads, s.num_kv_heads, s.head_dim, s.vocab_size, s.max_context})
    require(size > 0 && size <= kMaxSize, "a size is not positive, or beyond 2^24");
  require(s.num_heads * s.head_dim <= kMaxSize, "all heads together are wider than 2^24");
  require(s.num_heads % s.num_kv_heads == 0, "query heads do not divide among kv heads");
  require(s.head_dim % 2 == 0, "head_dim must be even");
  require(!s.layers.empty(), "there are no layers");
}

static void check_numbers(const ModelShape& s) {
  for (float number :
       {s.norm_eps, s.attention_scale, s.embedding_scale, s.attention_softcap, s.logit_softcap})
    require(std::isfinite(number), "a number of the shape is NaN or infinite");
  require(s.norm_eps >= 0 && s.attention_softcap >= 0 && s.logit_softcap >= 0,
          "norm_eps or a softcap is negative");
}

static void check_layer(const ModelShape& s, const LayerShape& layer) {
  require(layer.window > 0, "a layer sees no key");
  require(layer.ffn.size > 0 && layer.ffn.size <= kMaxSize,
          "the size of a layer's feed-forward is not positive, or beyond 2^24");
  require(!layer.rope || (*layer.rope >= 0 && *layer.rope < static_cast<int64_t>(s.ropes.size())),
          "a layer names no rotation");
}

// Checks what the kernels assume.
static ModelShape checked(ModelShape s) {
  check_sizes(s);
  check_numbers(s);
  for (const Rope& rope : s.ropes)
    require(rope.inv_freq.size() == s.ropes[0].inv_freq.size() &&
                2 * static_cast<int64_t>(rope.inv_freq.size()) <= s.head_dim,
            "all rotations must turn as many pairs, and no more than a head has");
  for (const LayerShape& layer : s.layers) check_layer(s, layer);
  return s;
}

static int64_t widest_ffn(const ModelShape& shape) {
  int64_t widest = 0;
  for (const LayerShape& layer : shape.layers) widest = std::max(widest, layer.ffn.size);
  return widest;
}

Decoder::Decoder(ModelShape shape, const MatrixFormats& formats, const std::string& isa, int num_threads)
    : shape_(checked(std::move(shape))),
      kernels_(choose_kernels(isa)),
      threads_(num_threads),
      widest_ffn_(widest_ffn(shape_)),
      layers_(shape_.layers.size()) {
  add_tables(formats);
  for (size_t index = 0; index < layers_.size(); ++index)
    add_layer("layers." + std::to_string(index) + ".", layers_[index], shape_.layers[index].ffn, formats);
  check_formats(formats);
}

// Rows of activations keep, beyond K, what products of another encoding left there.
void Decoder::check_formats(const MatrixFormats& formats) const {
  for (const auto& [name, format] : formats.by_name)
    require(tensors_.has_matrix(name), "no matrix of this model is called '" + name + "'");
  const Encoding first = tensors_.matrices()[0]->panels().encoding();
  for (const PackedMatrix* matrix : tensors_.matrices()) {
    Encoding encoding = matrix->panels().encoding();
    require(encoding != Encoding::kInt8Amx || kernels_.has_amx,
            "int8 for AMX on an instruction set without it");
    require(encoding == first || matrix->k() % kGroup == 0,
            "matrices of several encodings must have multiples of 32 columns");
  }
}

void Decoder::add_norm(const std::string& name, NormWeights& norm) {
  tensors_.add_vector(name + ".weight", norm.weight, {shape_.hidden_size});
  if (shape_.norm == NormKind::kLayer) tensors_.add_vector(name + ".bias", norm.bias, {shape_.hidden_size});
}

static std::vector<PanelFormat> repeated(const PanelFormat& format, int64_t count) {
  return std::vector<PanelFormat>(static_cast<size_t>(count), format);
}

static void append(std::vector<PanelFormat>& formats, const PanelFormat& format, int64_t count) {
  formats.insert(formats.end(), static_cast<size_t>(count), format);
}

// A linear layer of one tensor.
void Decoder::add_linear(const std::string& name, Linear& linear, const TensorShape& shape, bool has_bias,
                         const MatrixFormats& formats) {
  std::vector<PanelFormat> panels = repeated(formats.of(name + ".weight"), panels_of(shape[0]));
  tensors_.add_panels(linear, std::move(panels), shape[1], has_bias);
  tensors_.add_linear(name, linear, shape[0]);
}

void Decoder::add_tables(const MatrixFormats& formats) {
  int64_t hidden = shape_.hidden_size;
  add_linear("embed", embed_, {shape_.vocab_size, hidden}, false, formats);
  if (!shape_.is_head_tied) add_linear("head", head_, {shape_.vocab_size, hidden}, false, formats);
  if (shape_.has_learned_positions)
    tensors_.add_vector("position.weight", position_table_, {shape_.max_context, hidden});
  add_norm("final_norm", final_norm_);
}

void Decoder::add_layer(const std::string& prefix, Layer& layer, const FfnShape& ffn,
                        const MatrixFormats& formats) {
  bool has_pre = shape_.norm_placement != NormPlacement::kPost,
       has_post = shape_.norm_placement != NormPlacement::kPre;
  if (has_pre) add_norm(prefix + "attn_norm", layer.attn_norm);
  add_projections(prefix + "attn.", layer, formats);
  if (has_post) add_norm(prefix + "attn_post_norm", layer.attn_post_norm);
  if (has_pre) add_norm(prefix + "ffn_norm", layer.ffn_norm);
  add_ffn(prefix + "ffn.", layer, ffn, formats);
  if (has_post) add_norm(prefix + "ffn_post_norm", layer.ffn_post_norm);
}

void Decoder::add_projections(const std::string& prefix, Layer& layer, const MatrixFormats& formats) {
  int64_t hidden = shape_.hidden_size, query = shape_.num_heads * shape_.head_dim,
          kv = shape_.num_kv_heads * shape_.head_dim;
  int64_t first_key = panels_of(query), first_value = first_key + panels_of(kv);
  std::vector<PanelFormat> panels = repeated(formats.of(prefix + "q.weight"), first_key);
  append(panels, formats.of(prefix + "k.weight"), panels_of(kv));
  append(panels, formats.of(prefix + "v.weight"), panels_of(kv));
  tensors_.add_panels(layer.qkv, std::move(panels), hidden, shape_.has_qkv_bias);
  tensors_.add_linear(prefix + "q", layer.qkv, query);
  tensors_.add_linear(prefix + "k", layer.qkv, kv, first_key);
  tensors_.add_linear(prefix + "v", layer.qkv, kv, first_value);
  add_linear(prefix + "out", layer.out, {hidden, query}, shape_.has_attention_out_bias, formats);
  if (shape_.qk_norm == QKNorm::kNone) return;
  bool is_whole = shape_.qk_norm == QKNorm::kWhole;
  tensors_.add_vector(prefix + "q_norm.weight", layer.q_norm, {is_whole ? query : shape_.head_dim});
  tensors_.add_vector(prefix + "k_norm.weight", layer.k_norm, {is_whole ? kv : shape_.head_dim});
}

// Panels of gate and up take turns, so that one unit of a product holds both.
void Decoder::add_ffn(const std::string& prefix, Layer& layer, const FfnShape& ffn,
                      const MatrixFormats& formats) {
  int64_t hidden = shape_.hidden_size, step = ffn.is_gated ? 2 : 1;
  std::vector<PanelFormat> panels = repeated(formats.of(prefix + "up.weight"), panels_of(ffn.size) * step);
  for (size_t i = 0; ffn.is_gated && i < panels.size(); i += 2)
    panels[i] = formats.of(prefix + "gate.weight");
  tensors_.add_panels(layer.up, std::move(panels), hidden, ffn.has_bias);
  if (ffn.is_gated) tensors_.add_linear(prefix + "gate", layer.up, ffn.size, 0, step);
  tensors_.add_linear(prefix + "up", layer.up, ffn.size, step - 1, step);
  add_linear(prefix + "down", layer.down, {hidden, ffn.size}, ffn.has_bias, formats);
}

size_t Decoder::weight_bytes() const {
  size_t bytes = 0;
  for (const PackedMatrix* matrix : tensors_.matrices()) bytes += matrix->bytes();
  return bytes;
}

}  // namespace quire
