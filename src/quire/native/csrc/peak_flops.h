// Peak throughput of this instruction set: multiply-adds as products of a format of weights do them, with all
// operands in registers.
#pragma once

#include "gemm_int.h"
#if defined(QUIRE_AMX)
#include "amx.h"
#endif

namespace quire::QUIRE_ISA {

// Enough independent accumulators to hide the latency of a multiply-add.
constexpr int kPeakAccumulators = kLanes == 16 ? 24 : 12;

// Returns x, opaque to the optimizer, which would otherwise multiply once for all accumulators and rounds.
// Costs no instruction.
static inline vi opaque(vi x) {
#if defined(__x86_64__) && (QUIRE_LANES < 16 || defined(__AVX512F__))
  asm volatile("" : "+x"(x));
#else
  asm volatile("" : "+m"(x));
#endif
  return x;
}

// Each runs `rounds` rounds, adds its result to `sink` so that the work is not removed, and returns its
// number of operations.
static inline int64_t peak_float_flops(bool in_pairs, int64_t rounds, float& sink) {
  vf sums[kPeakAccumulators];
  for (vf& x : sums) x = set1(0.0f);
  vf half = set1(0.5f);
  vi pair = set1_word(0x3f003f00u);
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 24
    for (int s = 0; s < kPeakAccumulators; ++s)
      sums[s] = in_pairs ? dpbf16(sums[s], pair, pair) : fma(sums[s], half, half);
  }
  for (vf x : sums) sink += reduce_add(x);
  return rounds * kPeakAccumulators * kLanes * (in_pairs ? 4 : 2);
}

template <int kBits>
static inline int64_t peak_int_ops(int64_t rounds, float& sink) {
  using D = Dot<kBits>;
  vi sums[kPeakAccumulators];
  for (vi& x : sums) x = set1_word(0);
  vi factor = set1_word(0x01000100u), word = set1_word(0x00010001u);
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 24
    for (int s = 0; s < kPeakAccumulators; ++s) sums[s] = D::add(sums[s], factor = opaque(factor), word);
  }
  for (vi x : sums) sink += reduce_add(to_float(x));
  return rounds * kPeakAccumulators * kLanes * (D::kWidens ? 4 : 8);
}

static int64_t peak_flops(const PanelFormat& format, int64_t rounds, float& sink) {
#if defined(QUIRE_AMX)
  if (format.encoding == Encoding::kBF16) return peak_tmul<TmmElement::kBF16>(rounds, sink);
  if (format.encoding == Encoding::kInt8Amx) return peak_tmul<TmmElement::kInt8>(rounds, sink);
#endif
  if (!format.has_groups()) return peak_float_flops(format.encoding == Encoding::kBF16, rounds, sink);
  return format.groups.bits == 8 ? peak_int_ops<8>(rounds, sink) : peak_int_ops<4>(rounds, sink);
}

}  // namespace quire::QUIRE_ISA
