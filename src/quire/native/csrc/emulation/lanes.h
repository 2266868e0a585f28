// 512-bit registers as two of AVX2, and a register's lanes as an array: what emulation is built from.
//
// CMakeLists.txt includes an instruction set's header before anything else. Its names live in the kernels'
// namespace, where they hide the compiler's own types and intrinsics of the same name; a name that is not
// emulated fails to compile ("target specific option mismatch", or no conversion from this __m512).
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

// Templates drop the may_alias attribute of registers; so memory is accessed through memcpy only.
#pragma GCC diagnostic ignored "-Wignored-attributes"

namespace quire::QUIRE_ISA {

struct __m512i;
struct __m512bh;

// Casts between registers reinterpret bits, as they do between the compiler's vector types.
struct alignas(64) __m512 {
  __m256 low, high;
  explicit operator __m512i() const;
  explicit operator __m512bh() const;
};

struct alignas(64) __m512i {
  __m256i low, high;
  explicit operator __m512() const;
  explicit operator __m512bh() const;
};

struct alignas(64) __m512bh {
  __m256i low, high;
  explicit operator __m512() const;
  explicit operator __m512i() const;
};

inline __m512::operator __m512i() const { return {_mm256_castps_si256(low), _mm256_castps_si256(high)}; }
inline __m512::operator __m512bh() const { return {_mm256_castps_si256(low), _mm256_castps_si256(high)}; }
inline __m512i::operator __m512() const { return {_mm256_castsi256_ps(low), _mm256_castsi256_ps(high)}; }
inline __m512i::operator __m512bh() const { return {low, high}; }
inline __m512bh::operator __m512() const { return {_mm256_castsi256_ps(low), _mm256_castsi256_ps(high)}; }
inline __m512bh::operator __m512i() const { return {low, high}; }

// What raises an exception on hardware aborts the process.
static inline void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "emulated instruction set: %s\n", what);
  std::abort();
}

// The lanes of type T in a register of type V.
template <class T, class V>
struct Lanes {
  static constexpr int kCount = static_cast<int>(sizeof(V) / sizeof(T));
  T at[kCount];

  Lanes() = default;
  explicit Lanes(const V& x) { std::memcpy(at, &x, sizeof x); }
  V vector() const {
    V x;
    std::memcpy(&x, at, sizeof x);
    return x;
  }
};

template <int kCount>
struct MaskOf {
  using type = __mmask8;
};
template <>
struct MaskOf<16> {
  using type = __mmask16;
};
template <>
struct MaskOf<32> {
  using type = __mmask32;
};
template <>
struct MaskOf<64> {
  using type = __mmask64;
};
template <class T, class V>
using Mask = typename MaskOf<Lanes<T, V>::kCount>::type;

// Lane i of the result is op(lane i of a, lane i of each of `more`).
template <class T, class V, class Op, class... More>
static inline V each(Op op, const V& a, const More&... more) {
  return [&op](Lanes<T, V> x, const Lanes<T, More>&... y) {
    for (int i = 0; i < x.kCount; ++i) x.at[i] = static_cast<T>(op(x.at[i], y.at[i]...));
    return x.vector();
  }(Lanes<T, V>(a), Lanes<T, More>(more)...);
}

// Lane i of the result is op(lane i of x), of another type, for the smaller register's lanes; zeros above.
template <class To, class ToV, class From, class FromV, class Op>
static inline ToV convert(const FromV& x, Op op) {
  Lanes<From, FromV> in(x);
  Lanes<To, ToV> out{};
  constexpr int kCount = in.kCount < out.kCount ? in.kCount : out.kCount;
  for (int i = 0; i < kCount; ++i) out.at[i] = op(in.at[i]);
  return out.vector();
}

// Bit i of the result is op(lane i of a, lane i of b).
template <class T, class V, class Op>
static inline Mask<T, V> where(const V& a, const V& b, Op op) {
  Lanes<T, V> x(a), y(b);
  uint64_t bits = 0;
  for (int i = 0; i < x.kCount; ++i) bits |= static_cast<uint64_t>(op(x.at[i], y.at[i])) << i;
  return static_cast<Mask<T, V>>(bits);
}

// All bits of lane i if bit i of `mask` is set, for eight lanes.
static inline __m256 spread(uint64_t mask) {
  __m256i bit = _mm256_set_epi32(128, 64, 32, 16, 8, 4, 2, 1);
  return _mm256_castsi256_ps(
      _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(static_cast<int>(mask)), bit), bit));
}

template <class T, class V>
static inline V select(uint64_t mask, const V& yes, const V& no) {
  if constexpr (sizeof(T) == 4 && sizeof(V) == sizeof(__m512)) {  // the kernels' inner loops select floats
    __m512 x = static_cast<__m512>(yes), y = static_cast<__m512>(no);
    x.low = _mm256_blendv_ps(y.low, x.low, spread(mask));
    x.high = _mm256_blendv_ps(y.high, x.high, spread(mask >> 8));
    return static_cast<V>(x);
  }
  Lanes<T, V> x(yes), y(no);
  for (int i = 0; i < x.kCount; ++i) x.at[i] = mask >> i & 1 ? x.at[i] : y.at[i];
  return x.vector();
}

template <class V>
static inline V load_whole(const void* from) {
  V x;
  std::memcpy(&x, from, sizeof x);
  return x;
}

template <class T, class V>
constexpr Mask<T, V> kEveryLane = static_cast<Mask<T, V>>(~uint64_t{0} >> (64 - Lanes<T, V>::kCount));

// Masked loads and stores do not touch the memory of lanes outside the mask.
template <class T, class V>
static inline V load_masked(const V& x, uint64_t mask, const void* from) {
  if (mask == kEveryLane<T, V>) return load_whole<V>(from);
  Lanes<T, V> lanes(x);
  for (int i = 0; i < lanes.kCount; ++i)
    if (mask >> i & 1) std::memcpy(&lanes.at[i], static_cast<const char*>(from) + i * sizeof(T), sizeof(T));
  return lanes.vector();
}

template <class T, class V>
static inline void store_masked(void* to, uint64_t mask, const V& x) {
  if (mask == kEveryLane<T, V>) {
    std::memcpy(to, &x, sizeof x);
    return;
  }
  Lanes<T, V> lanes(x);
  for (int i = 0; i < lanes.kCount; ++i)
    if (mask >> i & 1) std::memcpy(static_cast<char*>(to) + i * sizeof(T), &lanes.at[i], sizeof(T));
}

template <class V>
static inline V load_aligned(const void* from) {
  require(reinterpret_cast<uintptr_t>(from) % sizeof(V) == 0, "aligned load of an address that is not");
  return load_whole<V>(from);
}

template <class V>
static inline void store_aligned(void* to, const V& x) {
  require(reinterpret_cast<uintptr_t>(to) % sizeof(V) == 0, "aligned store to an address that is not");
  std::memcpy(to, &x, sizeof x);
}

// Instructions that apply an AVX2 instruction to each half of a register: the hardware's own arithmetic.
#define QUIRE_TWICE_1(V, name, half) \
  static inline V _mm512_##name(const V& a) { return {half(a.low), half(a.high)}; }
#define QUIRE_TWICE_2(V, name, half) \
  static inline V _mm512_##name(const V& a, const V& b) { return {half(a.low, b.low), half(a.high, b.high)}; }
#define QUIRE_TWICE_3(V, name, half)                                  \
  static inline V _mm512_##name(const V& a, const V& b, const V& c) { \
    return {half(a.low, b.low, c.low), half(a.high, b.high, c.high)}; \
  }

// The masked forms of `name` with lanes T: lanes outside the mask come from `source`, or are zero.
#define QUIRE_MASKED(prefix, V, T, name)                                                    \
  template <class... In>                                                                    \
  static inline V prefix##_mask_##name(const V& source, Mask<T, V> mask, const In&... in) { \
    return select<T>(mask, prefix##_##name(in...), source);                                 \
  }                                                                                         \
  template <class... In>                                                                    \
  static inline V prefix##_maskz_##name(Mask<T, V> mask, const In&... in) {                 \
    return select<T>(mask, prefix##_##name(in...), V{});                                    \
  }

}  // namespace quire::QUIRE_ISA
