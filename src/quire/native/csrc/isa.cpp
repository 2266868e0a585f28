// The kernels, compiled once for each instruction set under the namespace QUIRE_ISA.
#include "attention.h"
#include "gemm.h"
#include "logits.h"
#include "rows.h"

namespace quire::QUIRE_ISA {

static void activate_all(Activation kind, float* x, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) {
    int n = lanes_left(i, count);
    store_as(x + i, activate(kind, load_n(x + i, n)), n);
  }
}

static void softcap_all(float* x, int64_t count, float cap) {
  for (int64_t i = 0; i < count; i += kLanes) {
    int n = lanes_left(i, count);
    store_as(x + i, softcap(load_n(x + i, n), cap), n);
  }
}

// Independent accumulators enough to hide the latency of a multiply-add.
constexpr int kSpinners = kLanes == 16 ? 24 : 12;

static float spin(Element element, int64_t rounds) {
#if defined(QUIRE_AMX)
  if (element == Element::kBF16) return spin_tiles(rounds);
#endif
  vf acc[kSpinners];
  for (vf& x : acc) x = set1(0.0f);
  vf half = set1(0.5f);
  vi pair = set1_pair(0x3f003f00u);
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 24
    for (int s = 0; s < kSpinners; ++s) acc[s] = element == Element::kF32 ? fma(acc[s], half, half) : dot_pairs(acc[s], pair, pair);
  }
  float sum = 0.0f;
  for (vf x : acc) sum += sum_of(x);
  return sum;
}

#if defined(QUIRE_AMX)
constexpr int64_t kSpinFlopsBF16 = kSpinTileFlops;
#else
constexpr int64_t kSpinFlopsBF16 = kSpinners * kLanes * 4;
#endif

static uint64_t read(const char* data, int64_t num_bytes) {
  constexpr int kStreams = 8;
  vi acc[kStreams];
  for (vi& x : acc) x = set1_pair(0);
  for (int64_t i = 0; i + kStreams * static_cast<int64_t>(sizeof(vi)) <= num_bytes; i += kStreams * sizeof(vi)) {
#pragma GCC unroll 8
    for (int s = 0; s < kStreams; ++s) acc[s] = xor_bits(acc[s], load_pairs(reinterpret_cast<const uint32_t*>(data + i) + s * kLanes));
  }
  uint64_t sum = 0;
  for (vi x : acc) {
    uint32_t lanes[kLanes];
    std::memcpy(lanes, &x, sizeof x);
    for (uint32_t lane : lanes) sum += lane;
  }
  return sum;
}

#define QUIRE_TEXT(x) #x
#define QUIRE_NAME(x) QUIRE_TEXT(x)

extern const Kernels kernels = {QUIRE_NAME(QUIRE_ISA), gemm, norm, embed, rotate_append, attend, activate_all, softcap_all,
                                is_finite, block_maxima<float, vf>, block_maxima<double, vd>, fill_buckets<float>,
                                fill_buckets<double>, spin, read, kSpinners * kLanes * 2, kSpinFlopsBF16};

}  // namespace quire::QUIRE_ISA
