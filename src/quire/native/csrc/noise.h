// Noise as a function of seed and position; see quire/sample/noise.py.
#pragma once

#include <cstdint>

namespace quire {

// A number in [0, 1) with 53 random bits: the first word of Philox 4x64 with ten rounds, for the key `seed`
// and the counter `position` + 1.
inline double uniform(uint64_t seed, uint64_t position) {
  using Wide = unsigned __int128;
  constexpr uint64_t kMultiplier0 = 0xD2E7470EE14C6C93, kMultiplier1 = 0xCA5A826395121157;
  constexpr uint64_t kKeyStep0 = 0x9E3779B97F4A7C15, kKeyStep1 = 0xBB67AE8584CAA73B;
  uint64_t key0 = seed, key1 = 0;
  uint64_t word0 = position + 1, word1 = word0 == 0, word2 = 0, word3 = 0;
  for (int round = 0; round < 10; ++round) {
    Wide product0 = static_cast<Wide>(word0) * kMultiplier0,
         product1 = static_cast<Wide>(word2) * kMultiplier1;
    word0 = static_cast<uint64_t>(product1 >> 64) ^ word1 ^ key0;
    word1 = static_cast<uint64_t>(product1);
    word2 = static_cast<uint64_t>(product0 >> 64) ^ word3 ^ key1;
    word3 = static_cast<uint64_t>(product0);
    key0 += kKeyStep0;
    key1 += kKeyStep1;
  }
  return static_cast<double>(word0 >> 11) * 0x1p-53;
}

}  // namespace quire
