// The kernels, compiled once per instruction set in the namespace QUIRE_ISA.
#include "rope_append_kv.h"
#include "attention.h"
#include "gemm.h"
#include "logit_kernels.h"
#include "pack_panel.h"
#include "norm_embed.h"
#include "peak_flops.h"

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

// Reads a buffer as kStreams equal parts side by side.
template <int kStreams>
static uint64_t read_streams(const char* data, int64_t num_bytes, Prefetch prefetch) {
  constexpr int kVectors = 8;
  constexpr int64_t kStep = kVectors * sizeof(vi);
  const int64_t part = num_bytes / (kStreams * kStep) * kStep;
  vi acc[kVectors];
  for (vi& x : acc) x = set1_word(0);
  for (int64_t i = 0; i < part; i += kStep)
    for (int s = 0; s < kStreams; ++s) {
      const char* at = data + s * part + i;
      prefetch_stream(at, kStep, prefetch);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v)
        acc[v] = xor_bits(acc[v], load_words(reinterpret_cast<const uint32_t*>(at) + v * kLanes));
    }
  uint64_t sum = 0;
  for (vi x : acc) {
    uint32_t lanes[kLanes];
    std::memcpy(lanes, &x, sizeof x);
    for (uint32_t lane : lanes) sum += lane;
  }
  return sum;
}

static uint64_t read(const char* data, int64_t num_bytes, Prefetch prefetch, bool in_streams) {
  return in_streams ? read_streams<kReadStreams>(data, num_bytes, prefetch)
                    : read_streams<1>(data, num_bytes, prefetch);
}

#define QUIRE_TEXT(x) #x
#define QUIRE_NAME(x) QUIRE_TEXT(x)

#if defined(QUIRE_BF16_DOT)
constexpr ActivationFormat kBF16Activations = ActivationFormat::kBF16;
#else
constexpr ActivationFormat kBF16Activations = ActivationFormat::kBF16AsF32;
#endif

#if defined(QUIRE_AMX)
constexpr bool kHasAmx = true;
#else
constexpr bool kHasAmx = false;
#endif

extern const Kernels kernels = {
    QUIRE_NAME(QUIRE_ISA),
    kHasAmx,
    {ActivationFormat::kF32, kBF16Activations, ActivationFormat::kInt8, ActivationFormat::kInt8Rotated,
     ActivationFormat::kInt16Split},
    pack,
    dequantize,
    gemm,
    norm,
    embed,
    rope_append_kv,
    fill_tiles,
    attend,
    attend_split,
    merge_splits,
    activate_all,
    softcap_all,
    is_finite,
    {span_maxima<float, vs>, select<float>, approx_exp_sum<float>, add_residuals<float>},
    {span_maxima<double, vd>, select<double>, approx_exp_sum<double>, add_residuals<double>},
    peak_flops,
    read,
};

}  // namespace quire::QUIRE_ISA
