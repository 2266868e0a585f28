// Memory layouts: packed weights, and activations as a product reads them. Those of K/V are in kv_layouts.h.
//
// `Panels` addresses packed weights, `ActivationRows` the other operand of a product.
#pragma once

#include <cstdint>

#include "weight_format.h"

namespace quire {

enum class Element { kF32, kBF16 };

inline int64_t element_bytes(Element e) { return e == Element::kF32 ? 4 : 2; }

// 64 output columns of a weight matrix W [N, K]: sections along K, one after the other, each a header and
// blocks of 32 elements; every part is aligned to a cache line. A block is rows of 64 32-bit words, a word
// per column:
//   float32   [32][64]          1 element per word
//   bfloat16  [16][64]          2 elements
//   8 bits    [8][64]           4 bytes, unsigned; signed for kInt8Amx
//   4 bits    [4][64]           8 nibbles: elements 0 to 3 in the low halves of a word's bytes, then 4 to 7
//   5 bits    [4][64], [1][64]  nibbles, then a plane: bit i of byte j is the fifth of element 4 i + j
//   6 bits    [4][64], [2][64]  nibbles, then two planes of 16 elements: bits 2 i of byte j belong to 4 i + j
// Headers: nothing for floats; of groups, see GroupFormat:
//   one level   scales [64], then minimums [64] or zero points u8 [64]
//   two levels  d [64], dmin [64] (kMinimum), s int8 [256 / group][64], m u8 [8][64] (kMinimum)
//   kInt8Amx    scales [64]
// Columns beyond N and elements beyond K are multiplied by nothing that is kept, or by zero. The last section
// ends with the block that holds the last element of K.
struct Panel {
  char* base;
  PanelFormat format;
  int64_t k;
  const float*
      input_factors;  // [padded_k] of kRotated: what inputs are multiplied by before they are rotated

  int64_t num_sections() const { return format.num_sections(k); }
  int64_t padded_k() const { return format.padded_k(k); }
  int64_t elements_of(int64_t section) const {
    return std::min(format.section_elements(), padded_k() - section * format.section_elements());
  }
  char* section(int64_t i) const { return base + i * format.section_bytes(); }
  char* block(int64_t section_index, int64_t i) const {
    return section(section_index) + format.header_bytes() + i * format.block_bytes();
  }
  // Words of a section, from one column on, in rows of 64.
  uint32_t* words(int64_t section_index, int64_t column) const {
    return reinterpret_cast<uint32_t*>(block(section_index, 0)) + column;
  }
  uint16_t* scales(int64_t section_index) const {
    return reinterpret_cast<uint16_t*>(section(section_index));
  }
};

// A weight matrix [N, K]: panels, each in a format of its own but all of one encoding.
struct Panels {
  char* base;
  const PanelFormat* formats;  // [num_panels]
  const int64_t* offsets;      // [num_panels + 1] bytes from base
  int64_t k;
  int64_t num_panels;
  const float* input_factors;  // see Panel

  Encoding encoding() const { return formats[0].encoding; }
  Panel operator[](int64_t i) const { return {base + offsets[i], formats[i], k, input_factors}; }
};

// How activations are written for a product. Each instruction set reads one format per encoding of weights.
//   kF32         float
//   kBF16AsF32   bfloat16 values held as float, for instruction sets without bfloat16 dot products
//   kBF16        bfloat16
//   kInt8        q int8 [K], then per 32 elements a float scale (a = scale * q), the float scale * sum(q) and
//                the int32 -sum(q), each [K / 32]; then per 16 elements the int32 -sum(q)
//   kInt8Rotated the same of rotated values: see rotate.h
//   kInt16Split  a = 256 * high + low: high bytes [K], then one float scale per 256 elements;
//                half a stride later the low bytes [K]
enum class ActivationFormat { kF32, kBF16AsF32, kBF16, kInt8, kInt8Rotated, kInt16Split };

// Bytes between rows of kInt16Split, such that rows, and high and low bytes, share no L1 sets.
inline int64_t split_row_stride(int64_t k) {
  int64_t half = round_up(k, kTmmBytes) / kTmmBytes + 1 + k / (16 * kSuperGroup);
  return 2 * kTmmBytes * (half % 16 == 0 ? half + 1 : half);
}

// Activations A [M, K], rows `stride` bytes apart; zero from k up to the weights' padded K.
struct ActivationRows {
  char* base;
  int64_t stride;
  ActivationFormat format;
  int64_t k;
  const float* input_factors = nullptr;  // [K, in whole groups] of kInt8Rotated

  char* row(int64_t i) const { return base + i * stride; }
  int64_t num_groups() const { return (k + kGroup - 1) / kGroup; }
  // kInt8
  float* scales(int64_t i) const { return reinterpret_cast<float*>(row(i) + num_groups() * kGroup); }
  float* scaled_sums(int64_t i) const { return scales(i) + num_groups(); }
  uint32_t* negative_sums(int64_t i) const {
    return reinterpret_cast<uint32_t*>(scaled_sums(i) + num_groups());
  }
  uint32_t* negative_half_sums(int64_t i) const { return negative_sums(i) + num_groups(); }
  // kInt16Split
  float* split_scales(int64_t i) const { return reinterpret_cast<float*>(row(i) + round_up(k, kTmmBytes)); }
  int8_t* high_bytes(int64_t i) const { return reinterpret_cast<int8_t*>(row(i)); }
  int8_t* low_bytes(int64_t i) const { return reinterpret_cast<int8_t*>(row(i) + stride / 2); }
};

// A matrix as it lies in a checkpoint. Strides are in elements, so slices and transposes need no copy.
struct SourceMatrix {
  const void* base;
  Element element;
  int64_t rows;
  int64_t columns;
  int64_t row_stride;
  int64_t column_stride;
  const float* importance = nullptr;  // [columns] what a squared error at a column weighs; null: all the same
};

}  // namespace quire
