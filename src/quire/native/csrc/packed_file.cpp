#include "packed_file.h"

#include <atomic>
#include <cerrno>

#include "checksum.h"

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#define QUIRE_HAS_PREAD
#endif

namespace quire {

static int64_t piece_bytes(const PackedMatrix& matrix, int64_t piece) {
  int64_t left = static_cast<int64_t>(matrix.bytes()) - piece * kPiece;
  return left < kPiece ? left : kPiece;
}

std::vector<uint64_t> checksums_of(const PackedMatrix& matrix, ThreadPool& threads) {
  std::vector<uint64_t> sums(static_cast<size_t>(pieces_of(matrix)));
  threads.run(pieces_of(matrix), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i)
      sums[static_cast<size_t>(i)] =
          checksum(matrix.data() + i * kPiece, static_cast<size_t>(piece_bytes(matrix, i)));
  });
  return sums;
}

// Whether all `count` bytes from `offset` on could be read into `to`.
static bool read_all(int file, char* to, int64_t count, int64_t offset) {
#if defined(QUIRE_HAS_PREAD)
  while (count > 0) {
    ssize_t got = pread(file, to, static_cast<size_t>(count), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    to += got;
    count -= got;
    offset += got;
  }
  return true;
#else
  (void)file, (void)to, (void)offset;
  return count == 0;
#endif
}

bool read_packed(PackedMatrix& matrix, int file, int64_t offset, const uint64_t* checksums,
                 ThreadPool& threads) {
  std::atomic<bool> is_whole{true};
  threads.run(pieces_of(matrix), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end && is_whole.load(std::memory_order_relaxed); ++i) {
      char* to = matrix.data() + i * kPiece;
      int64_t count = piece_bytes(matrix, i);
      if (!read_all(file, to, count, offset + i * kPiece) ||
          checksum(to, static_cast<size_t>(count)) != checksums[i])
        is_whole = false;
    }
  });
  return is_whole;
}

}  // namespace quire
