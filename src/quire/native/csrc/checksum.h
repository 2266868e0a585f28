// A checksum at memory speed in portable C++: eight independent sums over 64-bit words, one multiplication
// per word.
//
// x -> rotate((x ^ word) * odd) is one-to-one in the word and in x: damage within one word is always found,
// and any other damage is missed with a probability of about 2^-64. It finds accidents, not attacks: it is no
// cryptographic hash.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace quire {

inline uint64_t checksum(const char* bytes, size_t count) {
  constexpr uint64_t kOdd = 0x9e3779b97f4a7c15u;
  constexpr size_t kSums = 8, kStride = kSums * sizeof(uint64_t);
  auto mix = [](uint64_t x, uint64_t word) {
    x = (x ^ word) * kOdd;
    return x << 29 | x >> 35;
  };
  uint64_t sums[kSums] = {1, 2, 3, 4, 5, 6, 7, 8}, words[kSums];
  for (; count >= kStride; bytes += kStride, count -= kStride) {
    std::memcpy(words, bytes, kStride);
    for (size_t i = 0; i < kSums; ++i) sums[i] = mix(sums[i], words[i]);
  }
  std::memset(words, 0, sizeof words);
  std::memcpy(words, bytes, count);
  uint64_t result = count;
  for (size_t i = 0; i < kSums; ++i) result = mix(result, mix(sums[i], words[i]));
  return result;
}

}  // namespace quire
