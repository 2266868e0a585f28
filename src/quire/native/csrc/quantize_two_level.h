// Quantizes floats to groups with a minimum in two levels: w ~ d * s * code - dmin * m.
//
// Of several step sizes each group takes the one that leaves the least squared error, weighed by importance,
// after a least-squares fit of scale and minimum; then both are rounded to the section's d and dmin, and the
// codes follow what was stored. A lane is a column, and sums are added in the order of K: all instruction
// sets store the same bits.
#pragma once

#include <memory>

#include "pack_groups.h"
#include "pack_quantize.h"

namespace quire::QUIRE_ISA {

constexpr int kStepSizes = 8;
constexpr float kMostScale = 127.0f, kMostMinimum = 255.0f;  // s and m of a group
constexpr int kSectionGroups = kSuperGroup / kGroup;

// One section of 64 columns, and what a squared error weighs at each element of K.
struct alignas(64) WeightedSection {
  float x[kSuperGroup][kPanel];
  float importance[kSuperGroup];
};

// x ~ scale * code + minimum, where the minimum is not above zero.
struct Line {
  vf scale, minimum, error;
};

// The group of kLanes columns that is being fitted, and sums over it that no code changes.
struct FittedGroup {
  const float (*x)[kPanel];
  const float* importance;
  vf most;  // the largest code
  vf w = set1(0.0f), wx = set1(0.0f), wxx = set1(0.0f);
  vf low = set1(0.0f), high;

  FittedGroup(const WeightedSection& section, int group, int column, int bits)
      : x(reinterpret_cast<const float (*)[kPanel]>(&section.x[group * kGroup][column])),
        importance(section.importance + group * kGroup),
        most(set1(static_cast<float>((1 << bits) - 1))),
        high(load(x[0])) {
    for (int i = 0; i < kGroup; ++i) {
      vf at = load(x[i]), by = set1(importance[i]);
      low = min(low, at), high = max(high, at);
      w = add(w, by);
      wx = add(wx, mul(by, at));
      wxx = add(wxx, mul(mul(by, at), at));
    }
  }

  vf code(vf at, vf minimum, vf inverse) const {
    vf clamped = clamp(mul(sub(at, minimum), inverse), set1(0.0f), most);
    return sub(add(clamped, set1(kMagic)), set1(kMagic));
  }
};

static inline vf inverse_or_zero(vf x) { return select_less(set1(0.0f), x, div(set1(1.0f), x), set1(0.0f)); }

// The line of least squares through the codes that `from` gives.
static inline Line fit_line(const FittedGroup& g, vf minimum, vf inverse) {
  vf q = set1(0.0f), qq = q, qx = q;
  for (int i = 0; i < kGroup; ++i) {
    vf at = load(g.x[i]), code = g.code(at, minimum, inverse), weighted = mul(set1(g.importance[i]), code);
    q = add(q, weighted);
    qq = add(qq, mul(weighted, code));
    qx = add(qx, mul(weighted, at));
  }
  vf determinant = sub(mul(g.w, qq), mul(q, q));
  Line line;
  line.scale = div(sub(mul(g.w, qx), mul(g.wx, q)), determinant);
  line.minimum = div(sub(mul(qq, g.wx), mul(q, qx)), determinant);
  line.scale = select_less(set1(0.0f), line.minimum, div(qx, qq), line.scale);
  line.minimum = select_less(set1(0.0f), line.minimum, set1(0.0f), line.minimum);
  vf squares =
      add(add(g.wxx, mul(mul(line.scale, line.scale), qq)), mul(mul(line.minimum, line.minimum), g.w));
  vf products = sub(add(mul(line.scale, qx), mul(line.minimum, g.wx)), mul(mul(line.scale, line.minimum), q));
  line.error = sub(squares, mul(set1(2.0f), products));
  return line;
}

static inline void keep_better(Line& best, const Line& other) {
  vf is_better = select_less(other.error, best.error, other.scale, set1(0.0f));
  best.minimum = select_less(set1(0.0f), is_better, other.minimum, best.minimum);
  best.error = select_less(set1(0.0f), is_better, other.error, best.error);
  best.scale = select_less(set1(0.0f), is_better, other.scale, best.scale);
}

// Tries the range divided by one step less than the largest code, up to 0.75 steps more than it.
static inline Line best_line(const FittedGroup& g) {
  vf range = sub(g.high, g.low);
  Line best{div(range, g.most), g.low, set1(float_from_bits(0x7f800000))};
  for (int i = 0; i < kStepSizes; ++i) {
    vf steps = add(g.most, set1(-1.0f + 0.25f * static_cast<float>(i)));
    keep_better(best, fit_line(g, g.low, mul(steps, inverse_or_zero(range))));
  }
  return best;
}

// Scale and minimum in the section's units, and the error that they leave.
struct Stored {
  vf s, m, error;
};

// The best minimum for a scale of s units, whose codes first follow `minimum`.
static inline Stored best_minimum(const FittedGroup& g, vf s, vf minimum, vf d, vf dmin) {
  vf scale = mul(d, s), inverse = inverse_or_zero(scale), q = set1(0.0f), error = set1(0.0f);
  for (int i = 0; i < kGroup; ++i)
    q = add(q, mul(set1(g.importance[i]), g.code(load(g.x[i]), minimum, inverse)));
  vf wanted = select_less(set1(0.0f), g.w, div(sub(g.wx, mul(scale, q)), g.w), minimum);
  vf m = mul(sub(set1(0.0f), wanted), inverse_or_zero(dmin));
  m = sub(add(clamp(m, set1(0.0f), set1(kMostMinimum)), set1(kMagic)), set1(kMagic));
  minimum = sub(set1(0.0f), mul(dmin, m));
  for (int i = 0; i < kGroup; ++i) {
    vf at = load(g.x[i]), left = sub(at, add(mul(scale, g.code(at, minimum, inverse)), minimum));
    error = add(error, mul(set1(g.importance[i]), mul(left, left)));
  }
  return {s, m, error};
}

static inline Stored best_stored(const FittedGroup& g, vf scale, vf minimum, vf d, vf dmin) {
  vf nearest = clamp(mul(scale, inverse_or_zero(d)), set1(0.0f), set1(kMostScale));
  nearest = sub(add(nearest, set1(kMagic)), set1(kMagic));
  Stored best = best_minimum(g, nearest, minimum, d, dmin);
  for (float step : {-1.0f, 1.0f}) {
    vf s = clamp(add(nearest, set1(step)), set1(0.0f), set1(kMostScale));
    Stored other = best_minimum(g, s, minimum, d, dmin);
    best.s = select_less(other.error, best.error, other.s, best.s);
    best.m = select_less(other.error, best.error, other.m, best.m);
    best.error = min(other.error, best.error);
  }
  return best;
}

static inline void write_bytes(vf values, uint8_t* to, int64_t stride) {
  word_lanes words = bits_of(add(values, set1(kMagic)));
  for (int lane = 0; lane < kLanes; ++lane) to[lane * stride] = static_cast<uint8_t>(words[lane]);
}

// Stores the largest of values [8][64] as float16, such that it is the value of `most` units; NaN where a
// weight is not finite.
static inline vf store_unit(const float (*values)[kPanel], vf nan_or_zero, float most, uint16_t* to) {
  vf largest = set1(0.0f);
  for (int group = 0; group < kSectionGroups; ++group) largest = max(largest, magnitude(load(values[group])));
  float units[kLanes];
  store(units, add(mul(largest, set1(1.0f / most)), nan_or_zero));
  for (int lane = 0; lane < kLanes; ++lane) units[lane] = from_f16(to[lane] = to_f16(units[lane]));
  return load(units);
}

// Quantizes kLanes columns of a section, from `column` on.
static inline void quantize_columns(const WeightedSection& from, int bits, int column, GroupSection& to) {
  alignas(64) float scales[kSectionGroups][kPanel], minimums[kSectionGroups][kPanel];
  vf nan_or_zero = set1(0.0f);
  for (int group = 0; group < kSectionGroups; ++group) {
    FittedGroup g(from, group, column, bits);
    Line line = best_line(g);
    store(scales[group], line.scale);
    store(minimums[group], line.minimum);
    for (int i = 0; i < kGroup; ++i) nan_or_zero = add(nan_or_zero, mul(load(g.x[i]), set1(0.0f)));
  }
  vf d = store_unit(scales, nan_or_zero, kMostScale, to.scales + column),
     dmin = store_unit(minimums, nan_or_zero, kMostMinimum, to.minimums + column);
  for (int group = 0; group < kSectionGroups; ++group) {
    FittedGroup g(from, group, column, bits);
    Stored found = best_stored(g, load(scales[group]), load(minimums[group]), d, dmin);
    write_bytes(found.s, reinterpret_cast<uint8_t*>(to.multipliers[group]) + column, 1);
    write_bytes(found.m, to.minimum_multipliers[group] + column, 1);
    vf inverse = inverse_or_zero(mul(d, found.s)), minimum = sub(set1(0.0f), mul(dmin, found.m));
    for (int i = 0; i < kGroup; ++i)
      write_bytes(g.code(load(g.x[i]), minimum, inverse), &to.codes[column][group * kGroup + i], kSuperGroup);
  }
}

static inline void read_section(const SourceMatrix& source, int64_t first_row, int64_t k,
                                WeightedSection& to) {
  for (int64_t i = 0; i < kSuperGroup; i += kGroup) {
    if (k + i < source.columns) read_group(source, first_row, k + i, to.x + i);
    else std::memset(to.x[i], 0, sizeof(TransposedGroup));
  }
  for (int64_t i = 0; i < kSuperGroup; ++i)
    to.importance[i] = k + i >= source.columns ? 0.0f : source.importance ? source.importance[k + i] : 1.0f;
}

static void pack_two_level(const SourceMatrix& source, int64_t first_row, const Panel& target) {
  auto from = std::make_unique<WeightedSection>();
  auto to = std::make_unique<GroupSection>();
  for (int64_t section = 0; section < target.num_sections(); ++section) {
    read_section(source, first_row, section * kSuperGroup, *from);
    for (int column = 0; column < kPanel; column += kLanes)
      quantize_columns(*from, target.format.groups.bits, column, *to);
    write_section(target, section, *to);
  }
}

}  // namespace quire::QUIRE_ISA
