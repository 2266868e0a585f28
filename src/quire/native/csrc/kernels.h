// The table of kernels, one instance an instruction set, and the structs that name their arguments.
//
// Kernels are plain functions over pointers and half-open ranges of units. They allocate nothing and know no threads: the
// caller splits units, and no unit's bits depend on which other units run beside it.
//
// Letters: T rows of the step, E hidden size, H query heads, K kv heads (G = H / K), D head_dim.
#pragma once

#include <cstdint>

namespace quire {

constexpr int kPanel = 64;     // output columns of one weight panel
constexpr int kDepth = 32;     // K elements that a bfloat16 panel is padded to
constexpr int kTile = 32;      // tokens of one K/V tile
constexpr int kSplitTiles = 16;  // tiles of one attention split: 512 keys, anchored at absolute positions

enum class Element { kF32, kBF16 };
enum class Activation { kSilu, kGelu, kGeluTanh, kRelu };
enum class NormKind { kRms, kLayer };

inline int64_t element_bytes(Element e) { return e == Element::kF32 ? 4 : 2; }
inline int64_t round_up(int64_t x, int64_t multiple) { return (x + multiple - 1) / multiple * multiple; }

// A weight matrix W [N, K] as panels of 64 output columns, K inside: float32 [N/64][K][64], bfloat16 [N/64][K/2][64][2].
// Rows beyond N are zero, and so is what rounds the K of bfloat16 up to kDepth: matrix tiles read that much at once.
struct Panels {
  const void* base;
  Element element;
  int64_t k;
  int64_t num_panels;

  int64_t bytes_per_panel() const { return (element == Element::kF32 ? k * 4 : round_up(k, kDepth) * 2) * kPanel; }
};

enum class Epilogue {
  kStore,     // out = y
  kAdd,       // out += y, the residual
  kActivate,  // hidden = act(y)
  kGate,      // panels 2u and 2u+1 are gate and up: hidden[.., u] = act(gate) * up
};

// y = a W^T + bias. A unit is a panel (kGate: a pair). `out` is float32; `hidden` has the element of `a`.
struct Gemm {
  Panels weight;
  const void* a;  // [rows, lda], elements as the weight's; bfloat16 zero beyond K up to a multiple of kDepth
  int64_t lda;
  int64_t rows;
  const float* bias;  // [num_panels * 64] or null
  Epilogue epilogue;
  Activation activation;
  float* out;  // [rows, ldo]
  int64_t out_column;  // the column of y that out[0] is
  int64_t ldo;
  int64_t num_columns;  // columns of `out` that exist
  void* hidden;         // [rows, ldh]
  int64_t ldh;
};

// out = norm(x) * weight (+ bias), or x itself without a weight. A unit is a row.
struct Norm {
  NormKind kind;
  float eps;
  const float* weight;  // null: no normalisation, only the conversion to `out_element`
  const float* bias;    // null for RMS
  const float* x;     // [rows, ldx]
  int64_t ldx;
  const int32_t* rows;  // row i of the output reads row rows[i] of x; null: row i
  int64_t size;
  void* out;  // [.., ldo] in `out_element`, or float32 residual to add to when `adds`
  int64_t ldo;
  Element out_element;
  bool adds;
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

// Normalises and rotates queries and keys, writes queries for attention and K/V into their slots. A unit is a row.
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
};

// Causal attention of query rows over paged K/V.
struct Attention {
  KVPages pages;
  const void* q;  // [T, H, D] in the pages' element
  int64_t num_heads;
  const int32_t* positions;
  const int32_t* block_tables;  // [B, M]
  int64_t blocks_per_request;
  int64_t window;  // the query at p sees keys in (p - window, p]
  float scale;
  float softcap;  // 0: none
  void* out;      // [T, ldo] in `out_element`
  int64_t ldo;
  Element out_element;
};

// Rows [row_begin, row_end) of one request against one kv head, all of its query heads together.
struct AttentionItem {
  int32_t request;
  int32_t kv_head;
  int32_t row_begin;
  int32_t row_end;
};

// Query heads and tokens worked on at once, and the floats of scratch that takes.
inline int64_t attention_rows(int64_t group) { return group > kTile ? group : kTile; }
inline int64_t attention_scratch(int64_t group, int64_t head_dim) {
  return attention_rows(group) * (2 * kTile + 2 * round_up(head_dim, kPanel) + 8);
}

constexpr int kBlock = 64;  // logits of one block: those of a panel

// The weight of x is e^d with d = (x - best) * sharpness, and nothing where d is below `least`, which is kLeast or more.
struct Weighing {
  double best;
  double sharpness;  // 1 / temperature
  double least;
};

struct Kernels {
  const char* name;
  void (*gemm)(const Gemm&, int64_t unit_begin, int64_t unit_end);
  void (*norm)(const Norm&, int64_t row_begin, int64_t row_end);
  void (*embed)(const Embed&, int64_t row_begin, int64_t row_end);
  void (*rotate_append)(const RotateAppend&, int64_t row_begin, int64_t row_end);
  void (*attend)(const Attention&, const AttentionItem&, float* scratch);
  void (*activate)(Activation, float* x, int64_t n);
  void (*softcap)(float* x, int64_t n, float cap);
  // A row of logits; see logits.h. `maxima` holds one value a block, the last one may be short.
  bool (*is_finite)(const float* x, int64_t n);
  void (*block_maxima)(const float* x, int64_t n, float* maxima);
  void (*block_maxima_wide)(const double* x, int64_t n, double* maxima);
  // Notes the bucket of each weight (see shades.h; kNumBuckets: none), and adds its shade to sums [kNumBuckets + 1, kSumLanes].
  void (*fill_buckets)(const float* x, int64_t n, const Weighing&, uint16_t* buckets, double* sums);
  void (*fill_buckets_wide)(const double* x, int64_t n, const Weighing&, uint16_t* buckets, double* sums);
  // Canaries: the most this instruction set can do, to stand beside every measurement.
  float (*spin)(Element, int64_t rounds);                  // multiply-adds in registers; a sum, so that it is not dropped
  uint64_t (*read)(const char* data, int64_t num_bytes);  // reads whole cache lines, in order
  int64_t spin_flops_f32;                                  // operations of one round
  int64_t spin_flops_bf16;
};

namespace generic { extern const Kernels kernels; }
namespace avx2 { extern const Kernels kernels; }
namespace avx512 { extern const Kernels kernels; }
namespace avx512_bf16 { extern const Kernels kernels; }
namespace amx_bf16 { extern const Kernels kernels; }

}  // namespace quire
