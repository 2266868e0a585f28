// Whole blocks of the KV memory as bytes. Within a layer the pages of a block follow each other.
#include <cstring>

#include "decoder.h"

namespace quire {

static int64_t layer_bytes(const KVPages& pages) { return pages.key_tile(1, 0, 0) - pages.key_tile(0, 0, 0); }

int64_t Decoder::block_bytes() const { return static_cast<int64_t>(layers_.size()) * layer_bytes(pages(0)); }

void Decoder::export_block(int64_t block, char* bytes) const {
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    KVPages p = pages(static_cast<int64_t>(layer));
    std::memcpy(bytes, p.key_tile(block, 0, 0), static_cast<size_t>(layer_bytes(p)));
    bytes += layer_bytes(p);
  }
}

void Decoder::import_block(int64_t block, const char* bytes) {
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    KVPages p = pages(static_cast<int64_t>(layer));
    std::memcpy(p.key_tile(block, 0, 0), bytes, static_cast<size_t>(layer_bytes(p)));
    bytes += layer_bytes(p);
  }
}

}  // namespace quire
