// The kernel table, one instance per instruction set, and the structs that hold the kernels' arguments.
//
// Kernels are plain functions over pointers and half-open ranges of units. They do not allocate and use no
// threads: the caller distributes units, and a unit's bits do not depend on which other units run with it.
//
// Letters: T rows of the step, E hidden size, H query heads, K kv heads, D head_dim. H / K query heads share
// a kv head (GQA).
#pragma once

#include "kv_layouts.h"
#include "layouts.h"

namespace quire {

constexpr int kSplitTiles = 16;  // K/V tiles per attention split: 512 keys, anchored at absolute positions
constexpr int64_t kSplitKeys = kSplitTiles * kTile;

enum class Activation { kSilu, kGelu, kGeluTanh, kRelu };
enum class NormKind { kRms, kLayer };

enum class Epilogue {
  kStore,     // out = y
  kAdd,       // out += y, the residual
  kActivate,  // hidden = act(y)
  kGate,      // panels 2u and 2u+1 are gate and up: hidden[.., u] = act(gate) * up
};

// How a product of few rows prefetches weights that stream from memory, besides what the hardware does: a
// short distance ahead into L1, far ahead into L2, or both; or not at all but at a pace that lets the
// hardware's prefetchers stay ahead. It changes no bit; the fastest differs between machines.
enum class Prefetch { kNone = 0, kNear = 1, kFar = 2, kBoth = kNear | kFar, kPaced = 4 };
constexpr Prefetch kAllPrefetches[] = {Prefetch::kNone, Prefetch::kNear, Prefetch::kFar, Prefetch::kBoth,
                                       Prefetch::kPaced};

// C = A W^T + bias, then the epilogue. A unit is a panel of W (kGate: a pair).
struct Gemm {
  Panels weight;
  ActivationRows a;
  int64_t rows;
  const float* bias;  // [num_panels * 64] or null
  Epilogue epilogue;
  Activation activation;
  float* out;          // [rows, ldo]
  int64_t out_column;  // the column of C stored at out[0]
  int64_t ldo;
  int64_t num_columns;  // columns that `out` has
  int64_t num_outputs;  // columns of C that are the matrix's; the others pad panels
  ActivationRows hidden;
  Prefetch prefetch = Prefetch::kBoth;
};

// out = norm(x) * weight (+ bias), or x itself without a weight. A unit is a row.
struct Norm {
  NormKind kind;
  float eps;
  const float* weight;  // null: convert to the format of `out` without normalizing
  const float* bias;    // null for RMS
  const float* x;       // [rows, ldx]
  int64_t ldx;
  const int32_t* rows;  // output row i reads row rows[i] of x; null: row i
  int64_t size;
  ActivationRows out;
  bool adds;  // `out` is the float32 residual, and the result is added to it
};

// x = embedding row * scale (+ learned position). A unit is a row.
struct Embed {
  Panels table;  // packed like the head: token id = output column
  const int32_t* token_ids;
  const int32_t* positions;
  const float* position_table;  // [P, E] or null
  float scale;
  float* x;  // [T, ldx]
  int64_t ldx;
};

// QK-norm and RoPE; writes queries for attention and K/V into their slots. A unit is a row, or one of its kv
// heads with the query heads that share it: see `heads_per_unit`.
struct RopeAppendKV {
  float* q;  // [T, ldqkv], changed in place
  float* k;
  float* v;
  int64_t ldqkv;
  int64_t num_heads;
  const float* q_norm;    // [D] or [H * D] or null
  const float* k_norm;    // [D] or [K * D] or null
  bool norm_spans_heads;  // one norm over all heads instead of one per head
  float norm_eps;
  const float* cos;  // [T, rotary_dim / 2] or null: no rotation
  const float* sin;
  int64_t rotary_dim;
  const int32_t* slots;  // [T]
  void* q_out;           // [T, H, D] float32 with pages of float32, else bfloat16
  KVPages pages;
  OwnTiles own;         // where K/V go instead of pages of 4 bits
  int32_t* not_finite;  // becomes 1 if K or V of a quantized format is NaN or infinite

  // kv heads; a norm over all heads needs the whole row.
  int64_t heads_per_unit() const { return norm_spans_heads ? pages.num_kv_heads : 1; }
};

// Writes own tiles that became full in this step to their pages, which are of 4 bits. A unit is one kv head
// of a row.
struct FillTiles {
  KVPages pages;
  OwnTiles own;
  const int32_t* rows;   // rows of the step that end their tiles
  const int32_t* slots;  // [T]
  int32_t* not_finite;   // as in RopeAppendKV
};

// The query at `position` sees keys in (position - window, position].
inline int64_t first_key(int64_t position, int64_t window) {
  return position + 1 > window ? position + 1 - window : 0;
}

// Floats of one partial (one row and head after one split): values, maximum or shift, sum.
inline int64_t partial_floats(int64_t head_dim) { return round_up(head_dim, kPanel) + 2; }

// Causal attention of query rows over paged K/V.
struct Attention {
  KVPages pages;
  OwnTiles own;
  const void* q;  // [T, H, D] float32 with pages of float32, else bfloat16
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
  const int32_t* rows;  // rows of the step in item order: items index this array
  float* partials;      // partials of single splits [.., H, partial_floats]
  const int64_t*
      first_partial;  // [T] index of the partial of a row's first visible split; rows of split items only

  int64_t first_split(int64_t row) const { return first_key(positions[row], window) / kSplitKeys; }
  int64_t last_split(int64_t row) const { return positions[row] / kSplitKeys; }
  float* partial(int64_t row, int64_t head, int64_t split) const {
    return partials + ((first_partial[row] + split - first_split(row)) * num_heads + head) *
                          partial_floats(pages.head_dim);
  }
};

// Rows rows[row_begin, row_end) against one kv head, with all of its query heads (GQA packing). The rows
// belong to one request, in order of position; or they read one split that lies in the same blocks for all
// their requests, and `request` is one of these.
struct AttentionItem {
  int32_t request;
  int32_t kv_head;
  int32_t row_begin;
  int32_t row_end;
  int32_t split;  // attend_split only
};

// (token, query head) rows per item: enough to pay for widening a tile, and their state stays in L2.
inline int64_t attention_rows(int64_t gqa) { return gqa > 96 ? gqa : 96 / gqa * gqa; }
// Floats between rows of a split's scores: rows a multiple of 4 KB apart would share L1 sets.
constexpr int64_t kScoreStride = kSplitKeys + 16;
// Floats of scratch per thread: scores, queries, values of the split and merged values, queries as bytes,
// eleven numbers per row, one widened tile.
inline int64_t attention_scratch(int64_t gqa, int64_t head_dim) {
  int64_t rows = round_up(attention_rows(gqa), kTile), width = round_up(head_dim, kPanel);
  return rows * (kScoreStride + 3 * width + width / 2 + 11) + kTile * width;
}

constexpr int kLogitSpan = 64;                      // logits per maximum: the columns of a panel
constexpr double kApproxSumError = 6 / 16777216.0;  // relative error bound of approx_exp_sum

// Token x has weight e^d, d = (x - best) * sharpness, and weight 0 where d < least. least >= kMinNats.
struct SoftmaxParams {
  double best;
  double sharpness;  // 1 / temperature
  double least;
};

// Buckets [begin, end) of exp_buckets.h.
struct BucketRange {
  int64_t begin;
  int64_t end;
};

// What a pass over a row finds out about its values: all are finite; none is NaN, but some may be infinite;
// some are NaN.
enum class RowValues { kFinite, kOrdered, kNan };

// Kernels over a row of logits, float or double; see logit_kernels.h. The last span may be short.
template <class T>
struct LogitKernels {
  // Stores the largest value of each span.
  RowValues (*span_maxima)(const T* x, int64_t n, T* maxima);
  // Writes the ids in [id, id + n) of row x, and their logits, where these lie in [low, high] up to rounding;
  // returns their number. `id` begins a span; spans whose maximum is below `low` are skipped. Both outputs
  // hold n, rounded up to whole spans.
  int64_t (*select)(const T* x, uint32_t id, int64_t n, const T* maxima, double low, double high,
                    uint32_t* ids, T* logits);
  // The sum of all weights with a relative error of at most kApproxSumError, or NaN.
  double (*approx_exp_sum)(const T* x, int64_t n, const SoftmaxParams&);
  // Adds the residuals of n logits and their ids (see exp_buckets.h) to sums [end - begin + 1, kSumLanes];
  // the last entry takes the tokens outside the range.
  void (*add_residuals)(const T* x, const uint32_t* ids, int64_t n, const SoftmaxParams&, BucketRange range,
                        double* sums);
};

constexpr int kReadStreams = 4;

struct Kernels {
  const char* name;
  bool has_amx;                                        // it multiplies Encoding::kInt8Amx
  ActivationFormat activation_formats[kNumEncodings];  // what `gemm` reads, per encoding of weights
  // Packs rows [first_row, first_row + 64) of floats; group formats with 4 or 8 bits, groups of 32, bfloat16
  // scales and kCenter are quantized.
  void (*pack)(const SourceMatrix&, int64_t first_row, const Panel&);
  void (*dequantize)(const Panel&, int64_t column, float* x);  // x [K] = the values of one output column
  void (*gemm)(const Gemm&, int64_t unit_begin, int64_t unit_end);
  void (*norm)(const Norm&, int64_t row_begin, int64_t row_end);
  void (*embed)(const Embed&, int64_t row_begin, int64_t row_end);
  void (*rope_append_kv)(const RopeAppendKV&, int64_t unit_begin, int64_t unit_end);
  void (*fill_tiles)(const FillTiles&, int64_t unit_begin, int64_t unit_end);
  // All splits of the item's rows; writes the output rows.
  void (*attend)(const Attention&, const AttentionItem&, float* scratch);
  // One split; stores a partial per row and head.
  void (*attend_split)(const Attention&, const AttentionItem&, float* scratch);
  // Merges the partials of one row and head, and writes the output.
  void (*merge_splits)(const Attention&, int64_t row, int64_t head, float* scratch);
  void (*activate)(Activation, float* x, int64_t n);
  void (*softcap)(float* x, int64_t n, float cap);
  bool (*is_finite)(const float* x, int64_t n);
  LogitKernels<float> logits;
  LogitKernels<double> double_logits;
  // The peaks of a roofline: multiply-adds in registers (returns their number of operations), and reading
  // memory, in order or as kReadStreams parts side by side; `num_bytes` is a multiple of 4 KB.
  int64_t (*peak_flops)(const PanelFormat&, int64_t rounds, float& sink);
  uint64_t (*read)(const char* data, int64_t num_bytes, Prefetch, bool in_streams);
};

namespace generic {
extern const Kernels kernels;
}
namespace avx2 {
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
}
namespace avx512_bf16 {
extern const Kernels kernels;
}
namespace amx_bf16 {
extern const Kernels kernels;
}

}  // namespace quire
