// The most this instruction set can do: multiply-adds of a weight format with all operands in registers.
#pragma once

#include "gemm_int.h"
#if defined(QUIRE_AMX)
#include "amx.h"
#endif

namespace quire::QUIRE_ISA {

// Independent sums enough to hide the latency of a multiply-add.
constexpr int kSpinners = kLanes == 16 ? 24 : 12;

// The same value, which the compiler no longer knows: it would multiply once for all spinners and rounds. Costs no instruction.
static inline vi forgotten(vi x) {
#if defined(__x86_64__) && (QUIRE_LANES < 16 || defined(__AVX512F__))
  asm volatile("" : "+x"(x));
#else
  asm volatile("" : "+m"(x));
#endif
  return x;
}

// Each spins `rounds` times, adds what came of it to `sink`, so that the work is not dropped, and returns its operations.
static inline int64_t spin_floats(bool in_pairs, int64_t rounds, float& sink) {
  vf sums[kSpinners];
  for (vf& x : sums) x = set1(0.0f);
  vf half = set1(0.5f);
  vi pair = set1_pair(0x3f003f00u);
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 24
    for (int s = 0; s < kSpinners; ++s) sums[s] = in_pairs ? dot_pairs(sums[s], pair, pair) : fma(sums[s], half, half);
  }
  for (vf x : sums) sink += sum_of(x);
  return rounds * kSpinners * kLanes * (in_pairs ? 4 : 2);
}

template <class Format>
static inline int64_t spin_ints(RowFormat rows, int64_t rounds, float& sink) {
  vi sums[kSpinners];
  for (vi& x : sums) x = set1_pair(0);
  vi part = set1_pair(0x01000100u), word = set1_pair(0x00010001u);
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 24
    for (int s = 0; s < kSpinners; ++s) sums[s] = Format::add(sums[s], part = forgotten(part), word);
  }
  for (vi x : sums) sink += sum_of(to_float(x));
  return rounds * kSpinners * kLanes * (rows == RowFormat::kInt8 ? 8 : 4);
}

static int64_t spin(WeightFormat format, int64_t rounds, float& sink) {
#if defined(QUIRE_AMX)
  if (format == WeightFormat::kBF16) return spin_tiles<TileElement::kBF16>(rounds, sink);
  if (format != WeightFormat::kF32) return spin_tiles<TileElement::kByte>(rounds, sink);
#endif
  switch (format) {
    case WeightFormat::kInt8: return spin_ints<Int8>(kInt8Rows, rounds, sink);
    case WeightFormat::kInt4: return spin_ints<Int4>(RowFormat::kInt8, rounds, sink);
    default: return spin_floats(format == WeightFormat::kBF16, rounds, sink);
  }
}

}  // namespace quire::QUIRE_ISA
