// What kernels do with K/V tiles, one policy per KV format: which words products load, what rows they
// multiply them with, and how a head is stored. The layout itself is in kv_layouts.h.
//
//   Word     32 bits of a tile row: one element or several
//   Row      what a query or a row of probabilities is read as: floats, or bfloat16 pairs along K
//   kWidens  rows are floats and words are not: queries are widened, and for many rows so are tiles
#pragma once

#include <cstring>
#include <type_traits>

#include "kv_layouts.h"
#include "simd.h"

namespace quire::QUIRE_ISA {

#if defined(QUIRE_BF16_DOT)
constexpr bool kHasBF16Dot = true;
#else
constexpr bool kHasBF16Dot = false;
#endif

struct Float32Pages : Float32Tiles {
  using Word = float;
  using Row = float;
  static constexpr bool kIsPaired = false;
  static constexpr bool kWidens = false;

  // Stores one head of K and V as token `offset` of a tile.
  static void store_head(float* keys, float* values, int64_t offset, const float* k, const float* v,
                         int64_t size) {
    for (int64_t d = 0; d < size; ++d) keys[key_at(d, offset)] = k[d];
    for (int64_t d = 0; d < size; ++d) values[value_at(offset, d, size)] = v[d];
  }
};

struct BFloat16Pages : BFloat16Tiles {
  using Word = uint32_t;
  using Row = std::conditional_t<kHasBF16Dot, uint32_t, float>;
  static constexpr bool kIsPaired = true;
  static constexpr bool kWidens = !kHasBF16Dot;

  static void store_head(uint16_t* keys, uint16_t* values, int64_t offset, const float* k, const float* v,
                         int64_t size) {
    uint16_t bits[kLanes];
    for (int64_t d = 0; d < size; d += kLanes) {
      int n = lanes_left(d, size);
      store_as(bits, load_n(k + d, n), n);
      for (int i = 0; i < n; i += 2) std::memcpy(keys + key_at(d + i, offset), bits + i, 2 * sizeof *bits);
      store_bf16_interleaved(values + value_at(offset, d, size) - offset % 2, static_cast<int>(offset % 2),
                             load_n(v + d, n), n);
    }
  }
};

template <class Visit>
static inline void with_pages(KVElement element, const Visit& visit) {
  if (element == KVElement::kF32) visit(Float32Pages{});
  else visit(BFloat16Pages{});
}

}  // namespace quire::QUIRE_ISA
