// Whole blocks of the KV memory as bytes. Within a layer the pages of a block follow each other.
#include <cstring>

#include "decoder.h"

namespace quire {

int64_t Decoder::block_bytes() const { return static_cast<int64_t>(layers_.size()) * pages(0).block_bytes(); }

void Decoder::export_block(int64_t block, char* bytes) const {
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    KVPages p = pages(static_cast<int64_t>(layer));
    std::memcpy(bytes, p.key_tile(block, 0, 0), static_cast<size_t>(p.block_bytes()));
    bytes += p.block_bytes();
  }
}

void Decoder::import_block(int64_t block, const char* bytes) {
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    KVPages p = pages(static_cast<int64_t>(layer));
    std::memcpy(p.key_tile(block, 0, 0), bytes, static_cast<size_t>(p.block_bytes()));
    bytes += p.block_bytes();
  }
}

}  // namespace quire
