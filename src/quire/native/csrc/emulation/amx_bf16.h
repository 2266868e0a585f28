// AMX with bfloat16 and int8 products, on thread-local tmm registers, and the byte permutation of AVX-512
// VBMI.
//
// Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2: LDTILECFG, TILELOADD,
// TILESTORED, TDPBF16PS, TDPBSSD and its variants. What raises #UD or #GP there aborts the process here.
#pragma once

#include "avx512_bf16.h"

#undef _tile_zero
#undef _tile_loadd
#undef _tile_stream_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#undef _tile_dpbssd
#undef _tile_dpbsud
#undef _tile_dpbusd
#undef _tile_dpbuud

namespace quire::QUIRE_ISA {

static inline __m512i _mm512_maskz_permutex2var_epi8(__mmask64 mask, const __m512i& a, const __m512i& index,
                                                     const __m512i& b) {
  return select<int8_t>(mask, permute<int8_t, uint8_t>(index, a, b), __m512i{});
}

constexpr int kTmms = 8, kMaxRows = 16, kMaxRowBytes = 64;

struct Tmm {
  int rows;  // 0: not configured
  int row_bytes;
  alignas(64) char data[kMaxRows][kMaxRowBytes];
};

static thread_local Tmm tmms[kTmms];

static inline Tmm& tmm_at(int number) {
  require(number >= 0 && number < kTmms && tmms[number].rows > 0, "tmm is not configured (#UD)");
  return tmms[number];
}

static inline void _tile_release() { std::memset(tmms, 0, sizeof tmms); }

// 64 bytes: palette, start row, 14 reserved, 16 x bytes per row (16 bits each), 16 x rows (8 bits each).
static inline void _tile_loadconfig(const void* config) {
  const unsigned char* bytes = static_cast<const unsigned char*>(config);
  require(bytes[0] <= 1, "no such palette (#GP)");
  _tile_release();
  if (bytes[0] == 0) return;
  for (int i = 2; i < 16; ++i)
    require(bytes[i] == 0, "reserved bytes of a tile configuration must be zero (#GP)");
  for (int i = 0; i < 16; ++i) {
    int row_bytes = bytes[16 + 2 * i] | bytes[17 + 2 * i] << 8, rows = bytes[48 + i];
    if (i >= kTmms) require(row_bytes == 0 && rows == 0, "palette 1 has eight tmm registers (#GP)");
    require(row_bytes <= kMaxRowBytes && rows <= kMaxRows, "a tmm has at most 16 rows of 64 bytes (#GP)");
    require((row_bytes == 0) == (rows == 0), "a tmm has rows without bytes, or the reverse (#GP)");
    if (i >= kTmms) continue;
    tmms[i].rows = rows;
    tmms[i].row_bytes = row_bytes;
  }
}

static inline void _tile_zero(int to) {
  Tmm& tmm = tmm_at(to);
  std::memset(tmm.data, 0, sizeof tmm.data);
}

static inline void _tile_loadd(int to, const void* base, int64_t stride) {
  _tile_zero(to);
  Tmm& tmm = tmm_at(to);
  for (int r = 0; r < tmm.rows; ++r)
    std::memcpy(tmm.data[r], static_cast<const char*>(base) + r * stride, static_cast<size_t>(tmm.row_bytes));
}
static inline void _tile_stream_loadd(int to, const void* base, int64_t stride) {
  _tile_loadd(to, base, stride);
}

static inline void _tile_stored(int from, void* base, int64_t stride) {
  const Tmm& tmm = tmm_at(from);
  for (int r = 0; r < tmm.rows; ++r)
    std::memcpy(static_cast<char*>(base) + r * stride, tmm.data[r], static_cast<size_t>(tmm.row_bytes));
}

// C [m, n] of 32 bits += A [m, k] times B [k, n], whose elements are pairs or quads that fill 32 bits.
struct Tmul {
  Tmm& c;
  const Tmm& a;
  const Tmm& b;

  Tmul(int to, int left, int right) : c(tmm_at(to)), a(tmm_at(left)), b(tmm_at(right)) {
    require(to != left && to != right && left != right, "a TMUL needs three different tmm registers (#UD)");
    require(c.rows == a.rows && c.row_bytes == b.row_bytes && a.row_bytes == b.rows * 4,
            "tmm shapes do not fit (#UD)");
    require(c.row_bytes % 4 == 0, "tmm rows must be whole elements (#UD)");
  }

  __m512i group(int m, int k) const {
    int32_t bits;
    std::memcpy(&bits, a.data[m] + k * 4, sizeof bits);
    return _mm512_set1_epi32(bits);
  }
  __m512i row(int k) const { return load_whole<__m512i>(b.data[k]); }
  void write(int m, const void* sums) { std::memcpy(c.data[m], sums, static_cast<size_t>(c.row_bytes)); }
};

// Even and odd products are summed separately from zero, in K order, by FMAs; then the two sums, then the
// result and C. Every operation rounds to nearest even, takes denormals as zero and flushes them. (A tiny sum
// of two floats is exact.)
static inline void _tile_dpbf16ps(int to, int left, int right) {
  Tmul p(to, left, right);
  for (int m = 0; m < p.c.rows; ++m) {
    __m512 even{}, odd{};
    for (int k = 0; k < p.b.rows; ++k) {
      __m512i x = p.group(m, k), y = p.row(k);
      even = _mm512_fma_flushed_ps({even_half(x.low), even_half(x.high)},
                                   {even_half(y.low), even_half(y.high)}, even);
      odd = _mm512_fma_flushed_ps({odd_half(x.low), odd_half(x.high)}, {odd_half(y.low), odd_half(y.high)},
                                  odd);
    }
    __m512 sum =
        flush(_mm512_add_ps(flush(load_whole<__m512>(p.c.data[m])), flush(_mm512_add_ps(even, odd))));
    p.write(m, &sum);
  }
}

template <class A, class B>
static inline void multiply_bytes(int to, int left, int right) {
  Tmul p(to, left, right);
  for (int m = 0; m < p.c.rows; ++m) {
    __m512i sum = load_whole<__m512i>(p.c.data[m]);
    for (int k = 0; k < p.b.rows; ++k) sum = dot_wrapping<A, B>(sum, p.group(m, k), p.row(k));
    p.write(m, &sum);
  }
}
static inline void _tile_dpbssd(int to, int left, int right) {
  multiply_bytes<int8_t, int8_t>(to, left, right);
}
static inline void _tile_dpbsud(int to, int left, int right) {
  multiply_bytes<int8_t, uint8_t>(to, left, right);
}
static inline void _tile_dpbusd(int to, int left, int right) {
  multiply_bytes<uint8_t, int8_t>(to, left, right);
}
static inline void _tile_dpbuud(int to, int left, int right) {
  multiply_bytes<uint8_t, uint8_t>(to, left, right);
}

}  // namespace quire::QUIRE_ISA
