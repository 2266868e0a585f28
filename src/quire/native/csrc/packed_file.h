// Packed matrices as bytes of a file: checksums of what is in memory, and reading back what matches them.
//
// A matrix is cut into pieces of kPiece bytes, each with a checksum, so that threads share the work, and
// bytes are checked while in cache. Files are read, not mapped: memory keeps its 2 MB pages, and a file that
// is truncated or rewritten later changes nothing.
#pragma once

#include <cstdint>
#include <vector>

#include "packed_matrix.h"
#include "threads.h"

namespace quire {

constexpr int64_t kPiece = int64_t{1} << 20;

inline int64_t pieces_of(const PackedMatrix& matrix) {
  return (static_cast<int64_t>(matrix.bytes()) + kPiece - 1) / kPiece;
}

std::vector<uint64_t> checksums_of(const PackedMatrix& matrix, ThreadPool& threads);

// Fills the matrix from an open file; false if bytes are missing, unreadable, or have other checksums.
// `checksums` has pieces_of(matrix) elements.
bool read_packed(PackedMatrix& matrix, int file, int64_t offset, const uint64_t* checksums,
                 ThreadPool& threads);

}  // namespace quire
