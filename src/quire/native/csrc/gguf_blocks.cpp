#include "gguf_blocks.h"

#include <algorithm>
#include <iterator>

namespace quire {

namespace {

// One column of a section, to be written from a block.
struct Column {
  GroupSection& section;
  int64_t n;

  uint8_t* codes() const { return section.codes[n]; }
  void set_scale(const uint8_t* half) const { std::memcpy(&section.scales[n], half, 2); }
  void set_minimum(const uint8_t* half) const { std::memcpy(&section.minimums[n], half, 2); }
  void set_multiplier(int64_t group, int value) const {
    section.multipliers[group][n] = static_cast<int8_t>(value);
  }
  void set_minimum_multiplier(int64_t group, int value) const {
    section.minimum_multipliers[group][n] = static_cast<uint8_t>(value);
  }
};

// Eight codes at a time, a byte each, in one word.
uint64_t load_codes(const uint8_t* from) {
  uint64_t codes;
  std::memcpy(&codes, from, sizeof codes);
  return codes;
}

void store_codes(uint8_t* to, uint64_t codes) { std::memcpy(to, &codes, sizeof codes); }

constexpr uint64_t in_every_byte(uint64_t byte) { return byte * 0x0101010101010101; }

// The low halves of `width` bytes, then the high ones.
template <int width>
void split_nibbles(const uint8_t* from, uint8_t* to) {
  for (int i = 0; i < width; i += 8) {
    uint64_t bytes = load_codes(from + i);
    store_codes(to + i, bytes & in_every_byte(15));
    store_codes(to + width + i, bytes >> 4 & in_every_byte(15));
  }
}

// Adds to 32 codes, from bit 4 on, the bits `mask` of 32 bytes that were shifted right.
void add_high_bits(const uint8_t* high, int shift, uint64_t mask, uint8_t* codes) {
  for (int i = 0; i < 32; i += 8)
    store_codes(codes + i, load_codes(codes + i) | (load_codes(high + i) >> shift & in_every_byte(mask))
                                                       << 4);
}

// Bit i of a byte becomes bit 4 of byte i, in the order of memory.
struct FifthBits {
  uint8_t bytes[256][8];
  constexpr FifthBits() : bytes() {
    for (int byte = 0; byte < 256; ++byte)
      for (int i = 0; i < 8; ++i) bytes[byte][i] = static_cast<uint8_t>((byte >> i & 1) << 4);
  }
};
constexpr FifthBits kFifthBits;

void add_fifth_bits(const uint8_t* high, uint8_t* codes) {
  for (int i = 0; i < 4; ++i)
    store_codes(codes + 8 * i, load_codes(codes + 8 * i) | load_codes(kFifthBits.bytes[high[i]]));
}

// Q4_0: d, q[16]
void decode_q4_0(const uint8_t* block, const Column& column) {
  column.set_scale(block);
  split_nibbles<16>(block + 2, column.codes());
}

// Q4_1: d, m, q[16]
void decode_q4_1(const uint8_t* block, const Column& column) {
  column.set_scale(block);
  column.set_minimum(block + 2);
  split_nibbles<16>(block + 4, column.codes());
}

// Q5_0: d, high[4], q[16]
void decode_q5_0(const uint8_t* block, const Column& column) {
  column.set_scale(block);
  split_nibbles<16>(block + 6, column.codes());
  add_fifth_bits(block + 2, column.codes());
}

// Q5_1: d, m, high[4], q[16]
void decode_q5_1(const uint8_t* block, const Column& column) {
  column.set_scale(block);
  column.set_minimum(block + 2);
  split_nibbles<16>(block + 8, column.codes());
  add_fifth_bits(block + 4, column.codes());
}

// Q8_0: d, q[32], signed
void decode_q8_0(const uint8_t* block, const Column& column) {
  column.set_scale(block);
  for (int i = 0; i < 32; i += 8)
    store_codes(column.codes() + i, load_codes(block + 2 + i) ^ in_every_byte(128));
}

// Q3_K: high[32], q[64], scales[12], d. The third bit of a code lies apart; less 4, it is the integer.
void decode_q3_k(const uint8_t* block, const Column& column) {
  const uint8_t *high = block, *q = block + 32, *scales = block + 96;
  column.set_scale(block + 108);
  for (int group = 0; group < 16; ++group) {
    int low = group < 8 ? scales[group] & 15 : scales[group - 8] >> 4;
    int rest = scales[8 + group % 4] >> (group / 4 * 2) & 3;
    column.set_multiplier(group, (low | rest << 4) - 32);
  }
  for (int half = 0; half < 2; ++half)
    for (int pair = 0; pair < 4; ++pair)
      for (int i = 0; i < 32; i += 8) {
        uint64_t low = load_codes(q + 32 * half + i) >> (2 * pair) & in_every_byte(3);
        uint64_t third = load_codes(high + i) >> (4 * half + pair) & in_every_byte(1);
        store_codes(column.codes() + 128 * half + 32 * pair + i, low + (third << 2) + in_every_byte(4));
      }
}

// Eight scales and minimums of 6 bits in 12 bytes, as Q4_K and Q5_K have them.
void decode_six_bits(const uint8_t* scales, const Column& column) {
  for (int group = 0; group < 4; ++group) {
    int first = scales[group], second = scales[4 + group], rest = scales[8 + group];
    column.set_multiplier(group, first & 63);
    column.set_minimum_multiplier(group, second & 63);
    column.set_multiplier(4 + group, (rest & 15) | (first >> 2 & 48));
    column.set_minimum_multiplier(4 + group, rest >> 4 | (second >> 2 & 48));
  }
}

// Q4_K: d, dmin, scales[12], q[128]
void decode_q4_k(const uint8_t* block, const Column& column) {
  column.set_scale(block);
  column.set_minimum(block + 2);
  decode_six_bits(block + 4, column);
  for (int i = 0; i < 4; ++i) split_nibbles<32>(block + 16 + 32 * i, column.codes() + 64 * i);
}

// Q5_K: d, dmin, scales[12], high[32], q[128]
void decode_q5_k(const uint8_t* block, const Column& column) {
  const uint8_t* high = block + 16;
  column.set_scale(block);
  column.set_minimum(block + 2);
  decode_six_bits(block + 4, column);
  for (int i = 0; i < 4; ++i) split_nibbles<32>(block + 48 + 32 * i, column.codes() + 64 * i);
  for (int group = 0; group < 8; ++group) add_high_bits(high, group, 1, column.codes() + 32 * group);
}

// Q6_K: q[128], high[64], scales[16], d
void decode_q6_k(const uint8_t* block, const Column& column) {
  const uint8_t *high = block + 128, *scales = block + 192;
  column.set_scale(block + 208);
  for (int group = 0; group < 16; ++group) column.set_multiplier(group, static_cast<int8_t>(scales[group]));
  for (int half = 0; half < 2; ++half) {
    split_nibbles<64>(block + 64 * half, column.codes() + 128 * half);
    for (int pair = 0; pair < 4; ++pair)
      add_high_bits(high + 32 * half, 2 * pair, 3, column.codes() + 128 * half + 32 * pair);
  }
}

// Codes of 4 bits that stand for other values, plus what makes them unsigned: the two codes of each byte.
struct CodePairs {
  uint8_t low[256], high[256];
  constexpr CodePairs(const int (&values)[16], int center) : low(), high() {
    for (int byte = 0; byte < 256; ++byte) {
      low[byte] = static_cast<uint8_t>(values[byte & 15] + center);
      high[byte] = static_cast<uint8_t>(values[byte >> 4] + center);
    }
  }
  void decode(const uint8_t* q, uint8_t* codes) const {
    for (int i = 0; i < 16; ++i) {
      codes[i] = low[q[i]];
      codes[16 + i] = high[q[i]];
    }
  }
};
constexpr int kNonlinear[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
constexpr int kDoubledE2M1[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
constexpr CodePairs kNonlinearPairs(kNonlinear, 128);
constexpr CodePairs kE2M1Pairs(kDoubledE2M1, 16);

// IQ4_NL: d, q[16]
void decode_iq4_nl(const uint8_t* block, const Column& column) {
  column.set_scale(block);
  kNonlinearPairs.decode(block + 2, column.codes());
}

// IQ4_XS: d, high, scales[4], q[128]
void decode_iq4_xs(const uint8_t* block, const Column& column) {
  int high = block[2] | block[3] << 8;
  column.set_scale(block);
  for (int group = 0; group < 8; ++group) {
    int low = block[4 + group / 2] >> (group % 2 * 4) & 15;
    column.set_multiplier(group, (low | (high >> (2 * group) & 3) << 4) - 32);
    kNonlinearPairs.decode(block + 8 + 16 * group, column.codes() + 32 * group);
  }
}

// MXFP4: e, q[16]. The scale is 2^(e - 128), for the integers are doubled values; e < 2 makes it subnormal.
void decode_mxfp4(const uint8_t* block, const Column& column) {
  int e = block[0];
  column.section.scales[column.n] = static_cast<uint16_t>(e < 2 ? 32 << e : (e - 1) << 7);
  kE2M1Pairs.decode(block + 1, column.codes());
}

template <void (*decode_block)(const uint8_t*, const Column&)>
void decode(const uint8_t* const* blocks, int64_t count, GroupSection& section) {
  for (int64_t n = 0; n < count; ++n) decode_block(blocks[n], {section, n});
}

constexpr ScaleType kHalf = ScaleType::kF16, kTwo = ScaleType::kTwoLevel;
constexpr Offset kCenter = Offset::kCenter, kMinimum = Offset::kMinimum;

const BlockKind kKinds[] = {
    {2, 32, 18, {4, 32, kHalf, kCenter}, decode<decode_q4_0>},
    {3, 32, 20, {4, 32, kHalf, kMinimum}, decode<decode_q4_1>},
    {6, 32, 22, {5, 32, kHalf, kCenter}, decode<decode_q5_0>},
    {7, 32, 24, {5, 32, kHalf, kMinimum}, decode<decode_q5_1>},
    {8, 32, 34, {8, 32, kHalf, kCenter}, decode<decode_q8_0>},
    {11, 256, 110, {4, 16, kTwo, kCenter}, decode<decode_q3_k>},
    {12, 256, 144, {4, 32, kTwo, kMinimum}, decode<decode_q4_k>},
    {13, 256, 176, {5, 32, kTwo, kMinimum}, decode<decode_q5_k>},
    {14, 256, 210, {6, 16, kTwo, kCenter}, decode<decode_q6_k>},
    {20, 32, 18, {8, 32, kHalf, kCenter}, decode<decode_iq4_nl>},
    {23, 256, 136, {8, 32, kTwo, kCenter}, decode<decode_iq4_xs>},
    {39, 32, 17, {5, 32, ScaleType::kBF16, kCenter}, decode<decode_mxfp4>},
};

}  // namespace

const BlockKind* block_kind(int number) {
  auto found = std::find_if(std::begin(kKinds), std::end(kKinds),
                            [number](const BlockKind& kind) { return kind.number == number; });
  return found == std::end(kKinds) ? nullptr : found;
}

}  // namespace quire
