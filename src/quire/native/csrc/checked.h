// Products and sums of sizes that a caller chose: overflow is an error, never a small number.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <stdexcept>

namespace quire {

// The product of nonnegative factors. Throws std::overflow_error beyond 2^63 - 1.
inline int64_t checked_mul(std::initializer_list<int64_t> factors) {
  int64_t product = 1;
  for (int64_t factor : factors)
    if (__builtin_mul_overflow(product, factor, &product))
      throw std::overflow_error("a size is beyond 2^63 - 1 bytes");
  return product;
}

// The sum of nonnegative terms. Throws std::overflow_error beyond 2^63 - 1.
inline int64_t checked_add(int64_t a, int64_t b) {
  int64_t sum;
  if (__builtin_add_overflow(a, b, &sum)) throw std::overflow_error("a size is beyond 2^63 - 1 bytes");
  return sum;
}

inline size_t checked_bytes(std::initializer_list<int64_t> factors) {
  return static_cast<size_t>(checked_mul(factors));
}

}  // namespace quire
