// Whole blocks of the KV memory as bytes. Within a layer the pages of a block follow each other.
#include <cstring>
#include <stdexcept>

#include "decoder.h"

namespace quire {

int64_t Decoder::block_bytes() const {
  int64_t bytes = 0;
  for (const KVPages& p : pages_) bytes += p.block_bytes();
  return bytes;
}

void Decoder::export_block(int64_t block, char* bytes) const {
  for (int64_t tile = 0; has_own_tiles() && tile < tiles_per_block_; ++tile)
    if (!is_full_[full_at(block, tile)])
      throw std::invalid_argument("a tile of this block is not full, so its keys and values are not in it");
  for (const KVPages& p : pages_) {
    std::memcpy(bytes, p.key_tile(block, 0, 0), static_cast<size_t>(p.block_bytes()));
    bytes += p.block_bytes();
  }
}

void Decoder::import_block(int64_t block, const char* bytes) {
  for (const KVPages& p : pages_) {
    std::memcpy(p.key_tile(block, 0, 0), bytes, static_cast<size_t>(p.block_bytes()));
    bytes += p.block_bytes();
  }
  for (int64_t tile = 0; has_own_tiles() && tile < tiles_per_block_; ++tile)
    is_full_[full_at(block, tile)] = true;
}

}  // namespace quire
