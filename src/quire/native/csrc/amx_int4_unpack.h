// Unpacks int4 weights of the AMX layout: nibbles become bytes sub_scale * q, in int8 AMX order.
#pragma once

#include "amx.h"
#include "kernels.h"
#include "prefetch.h"
#include "simd.h"

namespace quire::QUIRE_ISA {

constexpr int64_t kSliceWords = kTmmBytes / 4 * kPanel;  // of an unpacked panel per k-slice of 64 elements
constexpr int64_t kAmxGroupWords = kAmxGroup / 4 * kPanel;

// Multiplies nibbles of 32 elements of kLanes columns by their sub-scales. Two nibbles times a sub-scale,
// each product up to 225, are one 16-bit multiplication; high nibbles are 16 times their value in place, and
// their product is taken from the high half (mulhi). The zero points, multiplied alike, are then subtracted
// per byte.
class NibbleUnpacker {
 public:
  QUIRE_INLINE explicit NibbleUnpacker(const uint8_t* sub_scales) {
    vi bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(sub_scales)));
    __mmask16 has_zero_point_7 = _mm512_test_epi32_mask(bytes, set1_word(16));
    vi scale = and_bits(bytes, 15);
    scales_ = _mm512_or_si512(scale, _mm512_slli_epi32(scale, 16));
    scales_of_high_ = _mm512_slli_epi16(scales_, 12);
    zero_points_ = _mm512_mullo_epi16(
        scales_, _mm512_mask_blend_epi32(has_zero_point_7, set1_word(0x08080808u), set1_word(0x07070707u)));
  }

  QUIRE_INLINE vi low(vi nibbles) const {
    return _mm512_sub_epi8(_mm512_mullo_epi16(and_bits(nibbles, 0x0f0f0f0fu), scales_), zero_points_);
  }
  QUIRE_INLINE vi high(vi nibbles) const {
    return _mm512_sub_epi8(_mm512_mulhi_epu16(and_bits(nibbles, 0xf0f0f0f0u), scales_of_high_), zero_points_);
  }

 private:
  vi scales_, scales_of_high_, zero_points_;
};

constexpr int64_t kPanelVectors = kPanel / kLanes;
constexpr int64_t kNibbleWords = kGroup / 8;  // per subgroup of 32 elements

// Unpacks one subgroup of kLanes columns.
static QUIRE_INLINE void unpack(const uint32_t* words, const uint8_t* sub_scales, Prefetch prefetch,
                                uint32_t* to) {
  NibbleUnpacker unpacker(sub_scales);
#pragma GCC unroll 4
  for (int64_t i = 0; i < kNibbleWords; ++i) {
    prefetch_stream(reinterpret_cast<const char*>(words + i * kPanel), kLineBytes, prefetch);
    vi nibbles = load_words(words + i * kPanel);
    _mm512_store_si512(to + 2 * i * kPanel, unpacker.low(nibbles));
    _mm512_store_si512(to + (2 * i + 1) * kPanel, unpacker.high(nibbles));
  }
}

// Unpacks a whole AMX group, piece by piece, from L2 to where further rows find it.
class GroupUnpacker {
 public:
  GroupUnpacker() = default;
  GroupUnpacker(const Panels& weight, int64_t panel, int64_t group, uint32_t* to)
      : sub_scales_(weight.sub_scales(panel, group, 0)),
        words_(weight.word(panel, group, 0, 0)),
        to_(to),
        end_(weight.group_elements(group) / kGroup * kPanelVectors) {}

  QUIRE_INLINE void unpack_some() {
    if (next_ == end_) return;
    int64_t subgroup = next_ / kPanelVectors, column = next_ % kPanelVectors * kLanes;
    uint32_t* to = to_ + subgroup * 2 * kNibbleWords * kPanel + column;
    unpack(words_ + subgroup * kNibbleWords * kPanel + column, sub_scales_ + subgroup * kPanel + column,
           Prefetch::kNone, to);
    ++next_;
  }
  void unpack_all() {
    while (next_ < end_) unpack_some();
  }

 private:
  const uint8_t* sub_scales_ = nullptr;
  const uint32_t* words_ = nullptr;
  uint32_t* to_ = nullptr;
  int64_t next_ = 0, end_ = 0;
};

// Panels that stream from memory and are read once: k-slices of 64 elements are unpacked into a ring that
// stays in L1. A slice is written two slices ahead of the TMULs that read it, because a TILELOADD waits for
// all stores to its lines.
class UnpackRing {
 public:
  static constexpr int64_t kSlices = 4, kAhead = 2;
  static_assert(kSlices * kSliceWords * 4 <= 2 * kAmxGroup * kPanel, "gemm_scratch has room for the ring");

  UnpackRing() = default;
  UnpackRing(const Gemm& g, int64_t panel_begin, int64_t panel_end, uint32_t* ring)
      : weight_(g.weight), prefetch_(g.prefetch), panel_(panel_begin), panel_end_(panel_end), ring_(ring) {
    open_group();
    for (int64_t k_slice = 0; k_slice < kAhead; ++k_slice)
      for (int quarter = 0; quarter < 4; ++quarter) unpack_quarter(quarter);
  }

  // Unpacked words of a k-slice, counted from the first one.
  const uint32_t* words(int64_t k_slice) const {
    compiler_barrier();
    return ring_ + k_slice % kSlices * kSliceWords;
  }

  // Unpacks a quarter of the next k-slice: 32 of its elements of 32 columns. Quarter 3 completes the slice.
  QUIRE_INLINE void unpack_quarter(int quarter) {
    if (slices_left_ == 0) return;
    int half = quarter / 2, column = quarter % 2 * 2 * kLanes;
    uint32_t* to = ring_ + k_slice_ % kSlices * kSliceWords + half * (kSliceWords / 2) + column;
    const uint32_t* words = words_ + half * kNibbleWords * kPanel + column;
    const uint8_t* sub_scales = sub_scales_ + half * kPanel + column;
    unpack(words, sub_scales, prefetch_, to);
    unpack(words + kLanes, sub_scales + kLanes, prefetch_, to + kLanes);
    if (quarter == 3) end_slice();
  }

 private:
  QUIRE_INLINE void end_slice() {
    ++k_slice_;
    words_ += 2 * kNibbleWords * kPanel;
    sub_scales_ += 2 * kPanel;
    if (--slices_left_ == 0) open_next_group();
  }
  void open_group() {
    sub_scales_ = weight_.sub_scales(panel_, group_, 0);
    words_ = weight_.word(panel_, group_, 0, 0);
    slices_left_ = weight_.group_elements(group_) / kTmmBytes;
    prefetch_stream(reinterpret_cast<const char*>(weight_.scales(panel_, group_)), weight_.header_bytes(),
                    prefetch_);
  }
  __attribute__((noinline)) void open_next_group() {
    if (++group_ == weight_.num_groups()) group_ = 0, ++panel_;
    if (panel_ < panel_end_) open_group();
  }

  Panels weight_{};
  Prefetch prefetch_ = Prefetch::kBoth;
  int64_t panel_ = 0, panel_end_ = 0, group_ = 0;
  int64_t k_slice_ = 0, slices_left_ = 0;  // the slice to be written next; slices left of its group
  const uint8_t* sub_scales_ = nullptr;
  const uint32_t* words_ = nullptr;
  uint32_t* ring_ = nullptr;
};

}  // namespace quire::QUIRE_ISA
