// The table of kernels, one instance an instruction set, and the structs that name their arguments.
//
// Kernels are plain functions over pointers and half-open ranges of units. They allocate nothing and know no threads: the
// caller splits units, and no unit's bits depend on which other units run beside it.
//
// Letters: T rows of the step, E hidden size, H query heads, K kv heads (G = H / K), D head_dim.
#pragma once

#include <algorithm>
#include <cstdint>

namespace quire {

constexpr int kPanel = 64;       // output columns of one weight panel
constexpr int kGroup = 32;       // elements of K that are packed at once, and share a scale where vectors multiply integers
constexpr int kWideGroup = 256;  // elements of K that share a scale where matrix tiles multiply integers
constexpr int kTileBytes = 64;   // elements of K that a tile of bytes multiplies at once
constexpr int kTile = 32;        // tokens of one K/V tile
constexpr int kSplitTiles = 16;  // tiles of one attention split: 512 keys, anchored at absolute positions
constexpr int64_t kSplitKeys = kSplitTiles * kTile;

enum class Element { kF32, kBF16 };
enum class Activation { kSilu, kGelu, kGeluTanh, kRelu };
enum class NormKind { kRms, kLayer };

inline int64_t element_bytes(Element e) { return e == Element::kF32 ? 4 : 2; }
inline int64_t round_up(int64_t x, int64_t multiple) { return (x + multiple - 1) / multiple * multiple; }

// How weights lie in memory. The integer formats have one form for vectors and one for matrix tiles, with the same number of bits:
//   vectors  w = scale * (u - offset), a bfloat16 scale a group and column
//   tiles    w = scale * q (int8) or scale * t * q (int4), a scale a wide group and column, t = 0 to 15 a group and column
enum class WeightFormat { kF32, kBF16, kInt8, kInt4, kInt8Tiles, kInt4Tiles };
constexpr int kNumWeightFormats = 6;

constexpr bool is_for_tiles(WeightFormat f) { return f == WeightFormat::kInt8Tiles || f == WeightFormat::kInt4Tiles; }

constexpr int64_t bits_of(WeightFormat f) {
  switch (f) {
    case WeightFormat::kF32: return 32;
    case WeightFormat::kBF16: return 16;
    case WeightFormat::kInt8: case WeightFormat::kInt8Tiles: return 8;
    default: return 4;
  }
}

// Products of vectors take the unsigned values as they are, and take offset * sum(a) off. Forms for tiles have no such offset.
inline int32_t weight_offset(WeightFormat f) { return f == WeightFormat::kInt4 ? 8 : 128; }

// A weight matrix W [N, K] as panels of 64 output columns, in groups of elements of K. A group is rows of 64 words of 32 bits,
// one for each column:
//   float32     [N/64][K/32]              [32][64]  an element a word
//   bfloat16    [N/64][K/32]              [16][64]  a pair
//   int8        [N/64][K/32] scales [64], [8][64]   a quad
//   int4        [N/64][K/32] scales [64], [4][64]   two quads, the first in the low halves of the bytes
//   int8 tiles  [N/64][K/256] scales [64], [64][64]                  a quad of signed bytes
//   int4 tiles  [N/64][K/256] scales [64], multipliers [8][64], [32][64]   two quads of nibbles; a Multiplier for 32 elements
// Rows beyond N and elements beyond K are zero. The last wide group ends with the 64 elements that hold the last one of K.
struct Panels {
  const void* base;
  WeightFormat format;
  int64_t k;
  int64_t num_panels;

  // Without a division where the format is a variable: kernels ask in their inner loops.
  int64_t group_size() const { return is_for_tiles(format) ? kWideGroup : kGroup; }
  int64_t num_groups() const { return is_for_tiles(format) ? (k + kWideGroup - 1) / kWideGroup : (k + kGroup - 1) / kGroup; }
  int64_t padded_k() const { return is_for_tiles(format) ? round_up(k, kTileBytes) : round_up(k, kGroup); }
  int64_t elements_of(int64_t group) const { return std::min(group_size(), padded_k() - group * group_size()); }
  int64_t words() const { return group_size() * bits_of(format) / 32; }  // of a column in a group
  int64_t bytes_of(int64_t elements) const { return elements * bits_of(format) * (kPanel / 8); }
  int64_t header_bytes() const {
    if (bits_of(format) > 8) return 0;
    return 2 * kPanel + (format == WeightFormat::kInt4Tiles ? kWideGroup / kGroup * kPanel : 0);
  }
  int64_t bytes_per_group() const { return header_bytes() + bytes_of(group_size()); }
  int64_t bytes_per_panel() const { return num_groups() * header_bytes() + bytes_of(padded_k()); }
  char* panel(int64_t p) const { return static_cast<char*>(const_cast<void*>(base)) + p * bytes_per_panel(); }
  // Word `word` of a panel's column within group `g`.
  uint32_t* word(int64_t p, int64_t g, int64_t column, int64_t word) const {
    return reinterpret_cast<uint32_t*>(panel(p) + g * bytes_per_group() + header_bytes()) + word * kPanel + column;
  }
  uint16_t* scales(int64_t p, int64_t g) const { return reinterpret_cast<uint16_t*>(panel(p) + g * bytes_per_group()); }
  // Of 32 elements, the `part`th of a wide group.
  uint8_t* multipliers(int64_t p, int64_t g, int64_t part) const { return reinterpret_cast<uint8_t*>(scales(p, g) + kPanel) + part * kPanel; }
};

// The byte of a multiplier: t in the low half, and whether nibbles u stand for u - 7 instead of u - 8.
struct Multiplier {
  int32_t t, offset;
  explicit Multiplier(uint8_t byte) : t(byte & 15), offset(byte & 16 ? 7 : 8) {}
};

// How rows of activations are written for a product; each instruction set has one for every weight format.
//   kF32      float
//   kRounded  float that holds a bfloat16 value, for those without bfloat16 products
//   kBF16     bfloat16
//   kInt8     int8 [K], then for each group a float scale, then for each group int32 -offset * sum(a)
//   kInt16    the same with int16 [K], four elements as 0 2 1 3, for those that multiply 16-bit pairs
//   kWide     int8 [K], then for each wide group a float scale, then for each 32 elements int32 -8 * sum(a), then -7 * sum(a)
//   kHalves   16-bit integers a = 256 * upper + lower: upper int8 [K], then a float scale for each wide group; half a stride later lower [K]
enum class RowFormat { kF32, kRounded, kBF16, kInt8, kInt16, kWide, kHalves };

// Bytes from one row of an integer format for tiles to the next. Rows of tiles, also upper and lower halves, should not share cache sets.
inline int64_t stride_for_tiles(WeightFormat meets, int64_t k) {
  int64_t lines = round_up(k, kTileBytes) / kTileBytes, scale_lines = 1 + k / (16 * kWideGroup);
  if (meets == WeightFormat::kInt4Tiles) return kTileBytes * ((lines + scale_lines + (lines + 3) / 4) | 1);
  int64_t half = lines + scale_lines;
  return 2 * kTileBytes * (half % 16 == 0 ? half + 1 : half);
}

// Rows [.., k] of activations, `stride` bytes apart; zero from k up to what K is padded to in weights.
struct Rows {
  char* base;
  int64_t stride;
  RowFormat format;
  int64_t k;
  int32_t offset;  // of the weights they will meet; integers for vectors only

  char* row(int64_t i) const { return base + i * stride; }
  int64_t num_groups() const { return (k + kGroup - 1) / kGroup; }
  int64_t values_bytes() const { return num_groups() * kGroup * (format == RowFormat::kInt8 ? 1 : 2); }
  float* scales(int64_t i) const { return reinterpret_cast<float*>(row(i) + values_bytes()); }
  int32_t* corrections(int64_t i) const { return reinterpret_cast<int32_t*>(scales(i) + num_groups()); }
  float* wide_scales(int64_t i) const { return reinterpret_cast<float*>(row(i) + round_up(k, kTileBytes)); }
  int32_t* wide_corrections(int64_t i, int64_t offset) const {
    int64_t parts = round_up(k, kTileBytes) / kGroup;
    return reinterpret_cast<int32_t*>(wide_scales(i) + (k + kWideGroup - 1) / kWideGroup) + (8 - offset) * parts;
  }
  int8_t* upper_halves(int64_t i) const { return reinterpret_cast<int8_t*>(row(i)); }
  int8_t* lower_halves(int64_t i) const { return reinterpret_cast<int8_t*>(row(i) + stride / 2); }
};

// A matrix as it lies in a checkpoint: strides in elements, so slices and transposes need no copy.
struct SourceMatrix {
  const void* base;
  Element element;
  int64_t rows;
  int64_t columns;
  int64_t row_stride;
  int64_t column_stride;
};

enum class Epilogue {
  kStore,     // out = y
  kAdd,       // out += y, the residual
  kActivate,  // hidden = act(y)
  kGate,      // panels 2u and 2u+1 are gate and up: hidden[.., u] = act(gate) * up
};

// Bytes of scratch for one thread's products with int4 weights of that K on tiles: the panels of a unit, a byte a weight; and room for the
// ring of four steps of 64 elements that products of few rows take instead.
inline int64_t gemm_scratch(int64_t k) { return 2 * round_up(k, kWideGroup) * kPanel; }

// y = a W^T + bias. A unit is a panel (kGate: a pair).
struct Gemm {
  Panels weight;
  Rows a;
  int64_t rows;
  const float* bias;  // [num_panels * 64] or null
  Epilogue epilogue;
  Activation activation;
  float* out;  // [rows, ldo]
  int64_t out_column;  // the column of y that out[0] is
  int64_t ldo;
  int64_t num_columns;  // columns of `out` that exist
  Rows hidden;
  char* scratch;  // [gemm_scratch(k)] of this thread, on a cache line's border; int4 on tiles only
};

// out = norm(x) * weight (+ bias), or x itself without a weight. A unit is a row.
struct Norm {
  NormKind kind;
  float eps;
  const float* weight;  // null: no normalisation, only the conversion to the format of `out`
  const float* bias;    // null for RMS
  const float* x;       // [rows, ldx]
  int64_t ldx;
  const int32_t* rows;  // row i of the output reads row rows[i] of x; null: row i
  int64_t size;
  Rows out;
  bool adds;  // `out` is the float32 residual, to be added to
};

// x = embedding row * scale (+ learned position). A unit is a row.
struct Embed {
  Panels table;  // the head's layout: token id = output column
  const int32_t* token_ids;
  const int32_t* positions;
  const float* position_table;  // [P, E] or null
  float scale;
  float* x;  // [T, ldx]
  int64_t ldx;
};

// One layer's K/V memory. Tile of (block b, kv head h, tile t): `tile_bytes` of K, then `tile_bytes` of V.
//   float32  K [D][32]        V [32][D]
//   bfloat16 K [D/2][32][2]   V [16][D][2]
struct KVPages {
  char* base;
  Element element;
  int64_t head_dim;
  int64_t num_kv_heads;
  int64_t tiles_per_block;

  int64_t tile_bytes() const { return kTile * head_dim * element_bytes(element); }
  char* key_tile(int64_t block, int64_t head, int64_t tile) const {
    return base + ((block * num_kv_heads + head) * tiles_per_block + tile) * 2 * tile_bytes();
  }
  char* value_tile(int64_t block, int64_t head, int64_t tile) const { return key_tile(block, head, tile) + tile_bytes(); }
};

// Normalises and rotates queries and keys, writes queries for attention and K/V into their slots. A unit is a row's head of K with the heads of
// Q that meet it, or a row: see `heads_per_unit`.
struct RotateAppend {
  float* q;  // [T, ldqkv], changed in place
  float* k;
  float* v;
  int64_t ldqkv;
  int64_t num_heads;
  const float* q_norm;  // [D] or [H * D] or null
  const float* k_norm;  // [D] or [K * D] or null
  bool norms_whole;     // one norm over all heads instead of one a head
  float norm_eps;
  const float* cos;  // [T, rotary_dim / 2] or null: no rotation
  const float* sin;
  int64_t rotary_dim;
  const int32_t* slots;  // [T]
  void* q_out;           // [T, H, D] in the pages' element
  KVPages pages;

  // Of K; a norm over all heads cannot be shared out.
  int64_t heads_per_unit() const { return norms_whole ? pages.num_kv_heads : 1; }
};

// The query at `position` sees keys in (position - window, position].
inline int64_t first_key(int64_t position, int64_t window) { return position + 1 > window ? position + 1 - window : 0; }

// The state of one row of one head after one split: values, maximum, sum.
inline int64_t partial_floats(int64_t head_dim) { return round_up(head_dim, kPanel) + 2; }

// Causal attention of query rows over paged K/V.
struct Attention {
  KVPages pages;
  const void* q;  // [T, H, D] in the pages' element
  int64_t num_heads;
  const int32_t* positions;     // [T]
  const int32_t* block_tables;  // [B, M]
  int64_t blocks_per_request;
  int64_t window;
  float scale;
  float softcap;  // 0: none
  void* out;      // [T, ldo] in `out_element`
  int64_t ldo;
  Element out_element;
  const int32_t* rows;           // rows of the step, in the order that items count them
  float* partials;               // states after single splits [.., H, partial_floats]
  const int64_t* first_partial;  // [T] where the state of a row's first visible split is, for rows that are merged

  int64_t first_split(int64_t row) const { return first_key(positions[row], window) / kSplitKeys; }
  int64_t last_split(int64_t row) const { return positions[row] / kSplitKeys; }
  float* partial(int64_t row, int64_t head, int64_t split) const {
    return partials + ((first_partial[row] + split - first_split(row)) * num_heads + head) * partial_floats(pages.head_dim);
  }
};

// Rows rows[row_begin, row_end) against one kv head, all of its query heads together. They are of one request, in order of
// position; or they meet one split, which is in the same blocks for all their requests, and `request` is one of these.
struct AttentionItem {
  int32_t request;
  int32_t kv_head;
  int32_t row_begin;
  int32_t row_end;
  int32_t split;  // of attend_split
};

// Query heads and tokens worked on at once: enough to pay for widening a tile, and their state stays in L2.
inline int64_t attention_rows(int64_t group) { return group > 96 ? group : 96 / group * group; }
// Floats from one row of scores of a split to the next: rows a multiple of 4 KB apart would share their cache sets.
constexpr int64_t kScoreStride = kSplitKeys + 16;
// Floats of scratch that takes: scores, queries, values of the split and of all splits, nine numbers a row, a widened tile.
inline int64_t attention_scratch(int64_t group, int64_t head_dim) {
  int64_t rows = round_up(attention_rows(group), kTile), width = round_up(head_dim, kPanel);
  return rows * (kScoreStride + 3 * width + 9) + kTile * width;
}

constexpr int kBlock = 64;  // logits of one block: those of a panel
constexpr double kRoughness = 6 / 16777216.0;  // what part of a rough sum it may be off by

// The weight of x is e^d with d = (x - best) * sharpness, and nothing where d is below `least`, which is kLeast or more.
struct Weighing {
  double best;
  double sharpness;  // 1 / temperature
  double least;
};

// Buckets of weights from `begin` to before `end`.
struct BucketRange {
  int64_t begin;
  int64_t end;
};

// Kernels over a row of logits, float or double; see logit_kernels.h and approx_exp_sum.h. A block is kBlock logits, the last one may be short.
template <class T>
struct LogitKernels {
  bool (*block_maxima)(const T* x, int64_t n, T* maxima);  // one value a block, of which NaN is none; returns whether one is NaN
  // Writes which of the n logits from `id` on, a block of the row x, lie from low to high, or nearly; returns how many. A block fits `ids`.
  int64_t (*select_ids)(const T* x, uint32_t id, int64_t n, double low, double high, uint32_t* ids);
  double (*rough_sum)(const T* x, int64_t n, const Weighing&);  // of all weights, off by kRoughness of it at most; NaN where not known
  // Adds the shades of n tokens of the row x (see exp_buckets.h) to sums [end - begin + 1, kSumLanes], the last for those outside the range.
  void (*add_shades)(const T* x, const uint32_t* ids, int64_t n, const Weighing&, BucketRange range, double* sums);
};

struct Kernels {
  const char* name;
  bool has_integer_tiles;                     // whether integer weights are packed for tiles
  RowFormat row_formats[kNumWeightFormats];  // what `gemm` reads for each weight format
  void (*pack)(const SourceMatrix&, int64_t first_row, const Panels&, int64_t panel);
  void (*gemm)(const Gemm&, int64_t unit_begin, int64_t unit_end);
  void (*norm)(const Norm&, int64_t row_begin, int64_t row_end);
  void (*embed)(const Embed&, int64_t row_begin, int64_t row_end);
  void (*rotate_append)(const RotateAppend&, int64_t unit_begin, int64_t unit_end);
  void (*attend)(const Attention&, const AttentionItem&, float* scratch);        // all splits, and writes the rows
  void (*attend_split)(const Attention&, const AttentionItem&, float* scratch);  // one split, and leaves its state
  void (*merge_splits)(const Attention&, int64_t row, int64_t head, float* scratch);  // merges the states and writes the row
  void (*activate)(Activation, float* x, int64_t n);
  void (*softcap)(float* x, int64_t n, float cap);
  bool (*is_finite)(const float* x, int64_t n);
  LogitKernels<float> logits;
  LogitKernels<double> wide_logits;
  // Canaries: the most this instruction set can do, to stand beside every measurement.
  int64_t (*spin)(WeightFormat, int64_t rounds, float& sink);  // multiply-adds in registers; returns how many operations
  uint64_t (*read)(const char* data, int64_t num_bytes);      // reads whole cache lines, in order
};

// The form in which these kernels multiply weights of a format.
inline WeightFormat form_of(const Kernels& kernels, WeightFormat format) {
  if (!kernels.has_integer_tiles) return format;
  return format == WeightFormat::kInt8 ? WeightFormat::kInt8Tiles : format == WeightFormat::kInt4 ? WeightFormat::kInt4Tiles : format;
}

namespace generic { extern const Kernels kernels; }
namespace avx2 { extern const Kernels kernels; }
namespace avx512 { extern const Kernels kernels; }
namespace avx512_bf16 { extern const Kernels kernels; }
namespace amx_bf16 { extern const Kernels kernels; }

}  // namespace quire
