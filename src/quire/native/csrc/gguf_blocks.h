// The number formats of GGUF files as group formats: which one holds a kind exactly, and how blocks become
// integers. Kinds have ggml's numbers, and their fields its names.
#pragma once

#include "pack_groups.h"

namespace quire {

struct BlockKind {
  int number;
  int64_t elements;  // of a block: as many as a section of the format has
  int64_t bytes;     // of a block
  GroupFormat format;
  // Writes a section of `count` columns, from a block of each.
  void (*decode)(const uint8_t* const* blocks, int64_t count, GroupSection& section);
};

// Returns the kind, or null for one that no group format holds exactly.
const BlockKind* block_kind(int number);

}  // namespace quire
