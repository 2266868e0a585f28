// int4 for matrix tiles: nibbles become bytes t * q, in the order of int8 panels.
#pragma once

#include "prefetch.h"
#include "kernels.h"
#include "amx.h"
#include "simd.h"

namespace quire::QUIRE_ISA {

constexpr int64_t kStepWords = kTileBytes / 4 * kPanel;  // of a panel, as bytes, in a step of 64 elements
constexpr int64_t kWideGroupWords = kWideGroup / 4 * kPanel;

// Multipliers of 32 elements of kLanes columns. Two nibbles times t, up to 225 each, are one product of 16 bits; upper nibbles are 16 times
// themselves where they lie, and their product is taken from its upper half.
class MultipliedNibbles {
 public:
  QUIRE_INLINE explicit MultipliedNibbles(const uint8_t* multipliers) {
    vi t = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(multipliers)));
    __mmask16 is_turned = _mm512_test_epi32_mask(t, set1_pair(16));
    vi size = keep_bits(t, 15);
    sizes_ = _mm512_or_si512(size, _mm512_slli_epi32(size, 16));
    sizes_of_upper_ = _mm512_slli_epi16(sizes_, 12);
    offsets_ = _mm512_mullo_epi16(sizes_, _mm512_mask_blend_epi32(is_turned, set1_pair(0x08080808u), set1_pair(0x07070707u)));
  }

  QUIRE_INLINE vi lower(vi nibbles) const { return _mm512_sub_epi8(_mm512_mullo_epi16(keep_bits(nibbles, 0x0f0f0f0fu), sizes_), offsets_); }
  QUIRE_INLINE vi upper(vi nibbles) const {
    return _mm512_sub_epi8(_mm512_mulhi_epu16(keep_bits(nibbles, 0xf0f0f0f0u), sizes_of_upper_), offsets_);
  }

 private:
  vi sizes_, sizes_of_upper_, offsets_;
};

constexpr int64_t kVectorsOfPanel = kPanel / kLanes;
constexpr int64_t kNibbleWords = kGroup / 8;  // of 32 elements

// Writes 32 elements of kLanes columns as bytes.
template <bool kPrefetch>
static QUIRE_INLINE void widen(const uint32_t* words, const uint8_t* multipliers, uint32_t* to) {
  MultipliedNibbles bytes_of(multipliers);
#pragma GCC unroll 4
  for (int64_t i = 0; i < kNibbleWords; ++i) {
    if constexpr (kPrefetch) prefetch_stream(reinterpret_cast<const char*>(words + i * kPanel), kLineBytes);
    vi nibbles = load_pairs(words + i * kPanel);
    _mm512_store_si512(to + 2 * i * kPanel, bytes_of.lower(nibbles));
    _mm512_store_si512(to + (2 * i + 1) * kPanel, bytes_of.upper(nibbles));
  }
}

// A group that comes from the second-level cache and is kept for more rows.
class GroupWidener {
 public:
  GroupWidener() = default;
  GroupWidener(const Panels& weight, int64_t panel, int64_t group, uint32_t* to)
      : multipliers_(weight.multipliers(panel, group, 0)), words_(weight.word(panel, group, 0, 0)), to_(to),
        end_(weight.elements_of(group) / kGroup * kVectorsOfPanel) {}

  QUIRE_INLINE void widen_piece() {
    if (next_ == end_) return;
    int64_t part = next_ / kVectorsOfPanel, column = next_ % kVectorsOfPanel * kLanes;
    uint32_t* to = to_ + part * 2 * kNibbleWords * kPanel + column;
    widen<false>(words_ + part * kNibbleWords * kPanel + column, multipliers_ + part * kPanel + column, to);
    ++next_;
  }
  void widen_all() {
    while (next_ < end_) widen_piece();
  }

 private:
  const uint8_t* multipliers_ = nullptr;
  const uint32_t* words_ = nullptr;
  uint32_t* to_ = nullptr;
  int64_t next_ = 0, end_ = 0;
};

// Panels that come from memory and are read once, step by step of 64 elements, in a ring that stays in the first-level cache. Steps are
// written two ahead of the one that is multiplied, since tiles are loaded only after all stores to them.
class StepRing {
 public:
  static constexpr int64_t kSteps = 4, kAhead = 2;
  static_assert(kSteps * kStepWords * 4 <= 2 * kWideGroup * kPanel, "gemm_scratch has room for it");

  StepRing() = default;
  StepRing(const Panels& weight, int64_t panel_begin, int64_t panel_end, uint32_t* room)
      : weight_(weight), panel_(panel_begin), panel_end_(panel_end), room_(room) {
    open_group();
    for (int64_t step = 0; step < kAhead; ++step)
      for (int part = 0; part < 4; ++part) widen_part(part);
  }

  // Of a step, counted from the first one.
  const uint32_t* words(int64_t step) const {
    finish_writes();
    return room_ + step % kSteps * kStepWords;
  }

  // Writes a quarter of the next step: 32 of its elements, 32 of the columns. The last quarter ends it.
  QUIRE_INLINE void widen_part(int part) {
    if (steps_left_ == 0) return;
    int half = part / 2, column = part % 2 * 2 * kLanes;
    uint32_t* to = room_ + step_ % kSteps * kStepWords + half * (kStepWords / 2) + column;
    const uint32_t* words = words_ + half * kNibbleWords * kPanel + column;
    const uint8_t* multipliers = multipliers_ + half * kPanel + column;
    widen<true>(words, multipliers, to);
    widen<true>(words + kLanes, multipliers + kLanes, to + kLanes);
    if (part == 3) end_step();
  }

 private:
  QUIRE_INLINE void end_step() {
    ++step_;
    words_ += 2 * kNibbleWords * kPanel;
    multipliers_ += 2 * kPanel;
    if (--steps_left_ == 0) open_next_group();
  }
  void open_group() {
    multipliers_ = weight_.multipliers(panel_, group_, 0);
    words_ = weight_.word(panel_, group_, 0, 0);
    steps_left_ = weight_.elements_of(group_) / kTileBytes;
    prefetch_stream(reinterpret_cast<const char*>(weight_.scales(panel_, group_)), weight_.header_bytes());
  }
  __attribute__((noinline)) void open_next_group() {
    if (++group_ == weight_.num_groups()) group_ = 0, ++panel_;
    if (panel_ < panel_end_) open_group();
  }

  Panels weight_{};
  int64_t panel_ = 0, panel_end_ = 0, group_ = 0;
  int64_t step_ = 0, steps_left_ = 0;  // the one that is written next; of its group
  const uint8_t* multipliers_ = nullptr;
  const uint32_t* words_ = nullptr;
  uint32_t* room_ = nullptr;
};

}  // namespace quire::QUIRE_ISA
