// The rotation of keys of 4 bits, and of the queries that meet them, so that no element takes all of its
// tile's scales: parts of a head are multiplied by a Hadamard matrix, then by a factor that keeps their
// length. Applied twice it turns them back.
#pragma once

#include <algorithm>
#include <cstdint>

namespace quire {

// Elements of a part: the largest power of two up to 128 that divides head_dim.
inline int64_t hadamard_size(int64_t head_dim) { return std::min<int64_t>(128, head_dim & -head_dim); }

inline float hadamard_factor(int64_t size) {
  return static_cast<float>(1.0 / __builtin_sqrt(static_cast<double>(size)));
}

}  // namespace quire
