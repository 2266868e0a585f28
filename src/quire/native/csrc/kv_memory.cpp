// The K/V memory: pages of all layers, and own tiles beside them.
#include <cstring>
#include <stdexcept>

#include "checked.h"
#include "decoder.h"

namespace quire {

static void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(what);
}

static bool is_quantized(KVFormat format) { return value_group(format) || format == KVFormat::kInt8; }

// The pages of all layers, not yet anywhere.
static std::vector<KVPages> pages_of(const ModelShape& shape, const KVMemory& memory) {
  KVPages most{
      nullptr,        key_element(memory.format), value_element(memory.format), value_group(memory.format),
      shape.head_dim, shape.num_kv_heads,         memory.block_size / kTile};
  std::vector<KVPages> pages(shape.layers.size(), most);
  for (int64_t layer : memory.exact_key_layers) pages[static_cast<size_t>(layer)].keys = KVElement::kBF16;
  return pages;
}

static void check_memory(const ModelShape& shape, const KVMemory& m) {
  require(m.num_blocks > 0 && m.block_size > 0 && m.block_size % kTile == 0,
          "there must be blocks, and each must hold whole tiles");
  require(!is_quantized(m.format) || shape.head_dim % 8 == 0,
          "this KV format needs a head_dim that is a multiple of 8");
  require(has_own_tiles(m.format) ? m.num_own_tiles > 0 : m.num_own_tiles == 0,
          "the KV format has no own tiles, or needs some");
  require(checked_mul({m.num_own_tiles, kTile}) <= int64_t{1} << 30, "there are more own tiles than 2^25");
  require(is_quantized(m.format) || m.exact_key_layers.empty(), "keys of this KV format are always exact");
  for (int64_t layer : m.exact_key_layers)
    require(layer >= 0 && layer < static_cast<int64_t>(shape.layers.size()), "there is no such layer");
}

static Buffer tiles_buffer(int64_t bytes) {
  return Buffer(static_cast<size_t>(checked_add(bytes, kTileOverread)));
}

// Bytes of the K/V memory. Blocks may be so large that the size of one overflows.
static int64_t bytes_of(const std::vector<KVPages>& pages, const KVMemory& m) {
  int64_t bytes_per_tile = 0;
  for (const KVPages& layer : pages)
    bytes_per_tile = checked_add(bytes_per_tile, layer.num_kv_heads * layer.tile_bytes());
  int64_t bytes = checked_mul({m.num_blocks, m.block_size / kTile, bytes_per_tile});
  require(checked_mul({m.num_blocks, m.block_size}) <= int64_t{1} << 31,
          "there are more slots than 2^31, which int32 can name");
  require(bytes / m.num_blocks == m.bytes_per_block,
          "the pages of a block take other bytes than was planned");
  return bytes;
}

void Decoder::allocate_kv(const KVMemory& memory) {
  check_memory(shape_, memory);
  std::vector<KVPages> pages = pages_of(shape_, memory);
  int64_t bytes = bytes_of(pages, memory), num_layers = static_cast<int64_t>(layers_.size());
  int64_t own_bytes =
      OwnTiles{nullptr, nullptr, 0, shape_.head_dim, shape_.num_kv_heads, nullptr}.tile_bytes();
  require(memory.num_own_tiles == 0 || num_layers * own_bytes == memory.bytes_per_own_tile,
          "an own tile takes other bytes than was planned");
  Buffer kv = tiles_buffer(bytes),
         own = tiles_buffer(checked_mul({memory.num_own_tiles, memory.bytes_per_own_tile}));
  char* base = kv.get();
  for (KVPages& layer : pages) {
    layer.base = base;
    base += memory.num_blocks * layer.block_bytes();
  }
  kv_ = std::move(kv);
  own_kept_ = std::move(own);
  pages_ = std::move(pages);
  num_blocks_ = memory.num_blocks;
  tiles_per_block_ = memory.block_size / kTile;
  num_own_tiles_ = memory.num_own_tiles;
  is_full_.assign(num_own_tiles_ ? static_cast<size_t>(num_blocks_ * tiles_per_block_) : 0, false);
}

size_t Decoder::kv_bytes() const { return kv_.size() + (num_own_tiles_ ? own_kept_.size() : 0); }

void Decoder::copy_block(int64_t source, int64_t target) {
  if (source == target) return;
  for (const KVPages& p : pages_)
    std::memcpy(p.key_tile(target, 0, 0), p.key_tile(source, 0, 0), static_cast<size_t>(p.block_bytes()));
  for (int64_t tile = 0; has_own_tiles() && tile < tiles_per_block_; ++tile)
    is_full_[full_at(target, tile)] = is_full_[full_at(source, tile)];
}

void Decoder::copy_own_tile(int64_t source, int64_t target) {
  if (source == target) return;
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    OwnTiles own = own_tiles(static_cast<int64_t>(layer));
    std::memcpy(own.kept + target * own.tile_bytes(), own.kept + source * own.tile_bytes(),
                static_cast<size_t>(own.tile_bytes()));
  }
}

}  // namespace quire
