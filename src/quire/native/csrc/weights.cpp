// Loading: which canonical name goes into which matrix, and the K/V memory.
#include <stdexcept>

#include "cpu.h"
#include "decoder.h"

namespace quire {

static int64_t panels_of(int64_t rows) { return round_up(rows, kPanel) / kPanel; }

static void make(PackedMatrix& matrix, int64_t num_panels, int64_t k, WeightFormat format) {
  if (matrix.is_empty()) matrix = PackedMatrix(num_panels, k, format);
}

// "layers.12.attn.q" -> 12 and "attn.q"; other names are left whole with layer 0.
static int64_t split_layer(std::string& name) {
  if (name.rfind("layers.", 0) != 0) return 0;
  size_t dot = name.find('.', 7);
  int64_t layer = std::stoll(name.substr(7, dot - 7));
  name = name.substr(dot + 1);
  return layer;
}

static void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(what);
}

// What the kernels take for granted.
static void check_shape(const ModelShape& s) {
  require(!s.layers.empty() && s.hidden_size > 0 && s.ffn_size > 0 && s.vocab_size > 0, "a size is not positive");
  require(s.num_kv_heads > 0 && s.num_heads > 0 && s.num_heads % s.num_kv_heads == 0, "query heads do not divide among kv heads");
  require(s.head_dim > 0 && s.head_dim % 2 == 0, "head_dim must be even");
  require(s.ropes.empty() == s.has_learned_positions, "positions are either learned or rotated");
  for (const Rope& rope : s.ropes)
    require(rope.inv_freq.size() == s.ropes[0].inv_freq.size() && 2 * static_cast<int64_t>(rope.inv_freq.size()) <= s.head_dim,
            "all rotations must turn as many pairs, and no more than a head has");
  for (const LayerShape& layer : s.layers) {
    require(layer.window > 0, "a layer sees no key");
    require(s.ropes.empty() || (layer.rope >= 0 && layer.rope < static_cast<int64_t>(s.ropes.size())), "a layer names no rotation");
  }
}

Decoder::Decoder(ModelShape shape, WeightFormat weights, const std::string& isa, int num_threads)
    : shape_(std::move(shape)), kernels_(choose_kernels(isa)), format_(form_of(kernels_, weights)), threads_(num_threads),
      layers_(shape_.layers.size()) {
  check_shape(shape_);
}

Slice Decoder::find_slice(const std::string& name) {
  std::string part = name;
  int64_t index = split_layer(part);
  if (part == "embed" || part == "head") {
    PackedMatrix& matrix = part == "embed" ? embed_ : head_;
    make(matrix, panels_of(shape_.vocab_size), shape_.hidden_size, format_);
    return {&matrix, nullptr, shape_.vocab_size, 0, 1};
  }
  Layer& layer = layers_.at(static_cast<size_t>(index));
  int64_t query = shape_.num_heads * shape_.head_dim, kv = shape_.num_kv_heads * shape_.head_dim;
  if (part == "attn.q" || part == "attn.k" || part == "attn.v") {
    make(layer.qkv, panels_of(query) + 2 * panels_of(kv), shape_.hidden_size, format_);
    if (part == "attn.q") return {&layer.qkv, &layer.qkv_bias, query, 0, 1};
    return {&layer.qkv, &layer.qkv_bias, kv, panels_of(query) + (part == "attn.v" ? panels_of(kv) : 0), 1};
  }
  if (part == "attn.out") {
    make(layer.out, panels_of(shape_.hidden_size), query, format_);
    return {&layer.out, &layer.out_bias, shape_.hidden_size, 0, 1};
  }
  if (part == "ffn.gate" || part == "ffn.up") {
    int64_t step = shape_.is_ffn_gated ? 2 : 1;
    make(layer.up, panels_of(shape_.ffn_size) * step, shape_.hidden_size, format_);
    return {&layer.up, &layer.up_bias, shape_.ffn_size, part == "ffn.up" ? step - 1 : 0, step};
  }
  if (part == "ffn.down") {
    make(layer.down, panels_of(shape_.hidden_size), shape_.ffn_size, format_);
    return {&layer.down, &layer.down_bias, shape_.hidden_size, 0, 1};
  }
  throw std::invalid_argument("no weight is called '" + name + "'");
}

void Decoder::set_matrix(const std::string& name, const SourceMatrix& source) {
  if (name == "position") throw std::invalid_argument("'position' is a table: set it as a vector");
  Slice slice = find_slice(name);
  if (source.rows != slice.rows || source.columns != slice.matrix->panels().k)
    throw std::invalid_argument("'" + name + "' has the wrong shape");
  slice.matrix->pack(kernels_, source, slice.first_panel, slice.panel_step, threads_);
}

std::vector<float>* Decoder::find_vector(const std::string& name) {
  std::string part = name;
  int64_t index = split_layer(part);
  if (part == "position.weight") return &position_table_;
  if (part == "final_norm.weight") return &final_norm_;
  if (part == "final_norm.bias") return &final_norm_bias_;
  Layer& layer = layers_.at(static_cast<size_t>(index));
  if (part == "attn_norm.weight") return &layer.attn_norm;
  if (part == "attn_norm.bias") return &layer.attn_norm_bias;
  if (part == "attn_post_norm.weight") return &layer.attn_post_norm;
  if (part == "attn_post_norm.bias") return &layer.attn_post_norm_bias;
  if (part == "ffn_norm.weight") return &layer.ffn_norm;
  if (part == "ffn_norm.bias") return &layer.ffn_norm_bias;
  if (part == "ffn_post_norm.weight") return &layer.ffn_post_norm;
  if (part == "ffn_post_norm.bias") return &layer.ffn_post_norm_bias;
  if (part == "attn.q_norm.weight") return &layer.q_norm;
  if (part == "attn.k_norm.weight") return &layer.k_norm;
  return nullptr;
}

void Decoder::set_vector(const std::string& name, const float* values, int64_t size) {
  if (std::vector<float>* whole = find_vector(name)) {
    whole->assign(values, values + size);
    return;
  }
  Slice slice = find_slice(name.substr(0, name.rfind('.')));  // "<linear>.bias", laid out like the panels
  if (!slice.bias || size != slice.rows) throw std::invalid_argument("'" + name + "' has the wrong shape");
  slice.bias->resize(static_cast<size_t>(slice.matrix->panels().num_panels * kPanel), 0.0f);
  for (int64_t r = 0; r < size; ++r)
    (*slice.bias)[static_cast<size_t>((slice.first_panel + r / kPanel * slice.panel_step) * kPanel + r % kPanel)] = values[r];
}

std::vector<Decoder::NamedMatrix> Decoder::matrices() {
  std::vector<std::string> names = {"embed"};
  if (!shape_.is_head_tied) names.emplace_back("head");
  for (size_t layer = 0; layer < layers_.size(); ++layer)
    for (const char* part : {"attn.q", "attn.out", "ffn.up", "ffn.down"}) names.push_back("layers." + std::to_string(layer) + "." + part);
  std::vector<NamedMatrix> result;
  for (const std::string& name : names) result.push_back({name, find_slice(name).matrix});
  return result;
}

size_t Decoder::weight_bytes() const {
  size_t bytes = embed_.bytes() + head_.bytes();
  for (const Layer& layer : layers_) bytes += layer.qkv.bytes() + layer.out.bytes() + layer.up.bytes() + layer.down.bytes();
  return bytes;
}

void Decoder::allocate_kv(int64_t num_blocks, int64_t block_size, Element element) {
  if (num_blocks <= 0 || block_size <= 0 || block_size % kTile != 0) throw std::invalid_argument("there must be blocks, and each must hold whole tiles");
  int64_t per_block = block_size * shape_.num_kv_heads * shape_.head_dim * 2 * element_bytes(element);
  int64_t overread = kPanel * static_cast<int64_t>(sizeof(float));  // a strip of values may be wider than head_dim
  kv_ = Buffer(static_cast<size_t>(per_block * num_blocks * static_cast<int64_t>(layers_.size()) + overread));
  kv_element_ = element;
  num_blocks_ = num_blocks;
  tiles_per_block_ = block_size / kTile;
}

KVPages Decoder::pages(int64_t layer) const {
  KVPages pages{nullptr, kv_element_, shape_.head_dim, shape_.num_kv_heads, tiles_per_block_};
  int64_t layer_bytes = num_blocks_ * shape_.num_kv_heads * tiles_per_block_ * 2 * pages.tile_bytes();
  pages.base = kv_.get() + layer * layer_bytes;
  return pages;
}

static float element_at(const char* tile, Element element, int64_t pair_index, int64_t half, int64_t plain_index) {
  if (element == Element::kF32) return reinterpret_cast<const float*>(tile)[plain_index];
  uint32_t bits = static_cast<uint32_t>(reinterpret_cast<const uint16_t*>(tile)[pair_index * 2 + half]) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

void Decoder::read_kv(int64_t layer, const int32_t* slots, int64_t count, float* keys, float* values) const {
  KVPages p = pages(layer);
  for (int64_t i = 0; i < count; ++i) {
    int64_t block = slots[i] / block_size(), tile = slots[i] / kTile % tiles_per_block_, t = slots[i] % kTile;
    for (int64_t h = 0; h < p.num_kv_heads; ++h)
      for (int64_t d = 0; d < p.head_dim; ++d, ++keys, ++values) {
        *keys = element_at(p.key_tile(block, h, tile), p.element, d / 2 * kTile + t, d % 2, d * kTile + t);
        *values = element_at(p.value_tile(block, h, tile), p.element, t / 2 * p.head_dim + d, t % 2, t * p.head_dim + d);
      }
  }
}

void Decoder::copy_block(int64_t source, int64_t target) {
  for (int64_t layer = 0; layer < static_cast<int64_t>(layers_.size()); ++layer) {
    KVPages p = pages(layer);
    size_t bytes = static_cast<size_t>(p.num_kv_heads * tiles_per_block_ * 2 * p.tile_bytes());
    std::memcpy(p.key_tile(target, 0, 0), p.key_tile(source, 0, 0), bytes);
  }
}

}  // namespace quire
