// Owned, zeroed memory, aligned to cache lines or, if large, to 2 MB pages.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace quire {

class Buffer {
 public:
  Buffer() = default;

  // Zeroed. The operating system hands out the pages of a large buffer when they are first touched, but
  // refuses one that it could never fill. Throws std::bad_alloc.
  explicit Buffer(size_t bytes) : bytes_(bytes) {
    if (bytes > std::numeric_limits<size_t>::max() - 2 * kPage) throw std::bad_alloc();
#if defined(__linux__)
    if (bytes >= kPage) {
      mapped_ = (bytes + kPage - 1) / kPage * kPage + kPage;
      void* p = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (p == MAP_FAILED) throw std::bad_alloc();
      owned_ = p;
      base_ = reinterpret_cast<char*>((reinterpret_cast<size_t>(p) + kPage - 1) / kPage * kPage);
      madvise(base_, mapped_ - kPage, MADV_HUGEPAGE);
      return;
    }
#endif
    owned_ = std::calloc(1, bytes + kLine);
    if (!owned_) throw std::bad_alloc();
    base_ = reinterpret_cast<char*>((reinterpret_cast<size_t>(owned_) + kLine - 1) / kLine * kLine);
  }

  ~Buffer() {
#if defined(__linux__)
    if (mapped_) {
      munmap(owned_, mapped_);
      return;
    }
#endif
    std::free(owned_);
  }

  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(owned_, other.owned_);
    std::swap(mapped_, other.mapped_);
    std::swap(base_, other.base_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }

  char* get() const { return base_; }
  size_t size() const { return bytes_; }

  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(base_);
  }

 private:
  static constexpr size_t kPage = size_t{2} << 20;
  static constexpr size_t kLine = 64;
  void* owned_ = nullptr;
  size_t mapped_ = 0;
  char* base_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace quire
