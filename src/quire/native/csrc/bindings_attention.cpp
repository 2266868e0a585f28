// Python binding of attention alone, for tests that write K/V tiles themselves.
#include <nanobind/stl/string.h>

#include "attention_run.h"
#include "bindings.h"
#include "buffer.h"
#include "checked.h"
#include "cpu.h"

namespace quire {

using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Queries = nb::ndarray<const uint16_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

struct AttentionCase {
  std::string isa;
  int threads = 1;
  KVElement keys = KVElement::kBF16, values = KVElement::kBF16;
  int64_t value_group = 0, num_kv_heads = 1, tiles_per_block = 1, window = 0;
  float scale = 1, softcap = 0;
};

struct AttentionArrays {
  Bytes pages, own_tiles;
  Ints own_tile_of_row;
  Queries q;
  Ints positions, query_start;
  IntTable block_tables;

  int64_t num_rows() const { return static_cast<int64_t>(q.shape(0)); }
  int64_t num_heads() const { return static_cast<int64_t>(q.shape(1)); }
  int64_t head_dim() const { return static_cast<int64_t>(q.shape(2)); }
  int64_t num_requests() const { return static_cast<int64_t>(block_tables.shape(0)); }
  int64_t blocks_per_request() const { return static_cast<int64_t>(block_tables.shape(1)); }
};

static void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(what);
}

static char* memory_of(const Bytes& bytes) {
  return const_cast<char*>(reinterpret_cast<const char*>(bytes.data()));
}

static Attention attention_of(const AttentionCase& c, const AttentionArrays& x, const OutMatrix& out) {
  Attention a{};
  a.pages = {memory_of(x.pages), c.keys,         c.values,         c.value_group,
             x.head_dim(),       c.num_kv_heads, c.tiles_per_block};
  const int32_t* own = x.own_tile_of_row.size() > 0 ? x.own_tile_of_row.data() : nullptr;
  a.own = {memory_of(x.own_tiles), nullptr, INT32_MAX, x.head_dim(), c.num_kv_heads, own};
  a.q = x.q.data();
  a.num_heads = x.num_heads();
  a.positions = x.positions.data();
  a.block_tables = x.block_tables.data();
  a.blocks_per_request = x.blocks_per_request();
  a.window = c.window;
  a.scale = c.scale;
  a.softcap = c.softcap;
  a.out = out.data();
  a.ldo = x.num_heads() * x.head_dim();
  a.out_element = Element::kF32;
  return a;
}

static void check_case(const AttentionCase& c, const AttentionArrays& x) {
  require(c.threads > 0 && c.num_kv_heads > 0 && c.tiles_per_block > 0 && c.window > 0,
          "a size is not positive");
  require(x.num_heads() > 0 && x.num_heads() % c.num_kv_heads == 0, "kv heads do not divide the heads");
  require(x.head_dim() > 0 && x.head_dim() % 8 == 0, "head_dim must be a multiple of 8");
  require(c.keys != KVElement::kF32 && c.values != KVElement::kF32, "queries are bfloat16, pages float32");
  require(c.keys != KVElement::kInt4 || c.values == KVElement::kInt4, "keys have 4 bits, values more");
  require(c.values != KVElement::kInt4 || (c.value_group > 0 && c.value_group % 32 == 0),
          "groups must be multiples of 32");
}

static void check_arrays(const Attention& a, const AttentionArrays& x, const OutMatrix& out) {
  size_t rows = x.q.shape(0), block_bytes = static_cast<size_t>(a.pages.block_bytes());
  require(out.shape(0) == rows && static_cast<int64_t>(out.shape(1)) == a.ldo && x.positions.size() == rows &&
              (!a.own.tile_of_row || x.own_tile_of_row.size() == rows),
          "there must be as many rows of each array");
  require(x.query_start.size() == x.block_tables.shape(0) + 1, "query_start must be [B + 1]");
  const int32_t* starts = x.query_start.data();
  require(starts[0] == 0 && starts[x.num_requests()] == x.num_rows(), "query_start must cover all rows");
  for (size_t i = 0; i < x.block_tables.size(); ++i)
    require(a.block_tables[i] >= 0 && static_cast<size_t>(a.block_tables[i]) < x.pages.size() / block_bytes,
            "a block id is outside the pages");
  for (int64_t b = 0; b < x.num_requests(); ++b) {
    require(starts[b] < starts[b + 1] && starts[b + 1] <= x.num_rows(), "a request has no rows");
    for (int64_t row = starts[b]; row < starts[b + 1]; ++row)
      require(a.positions[row] >= 0 && a.positions[row] - a.positions[starts[b]] == row - starts[b] &&
                  a.positions[row] / kTile / a.pages.tiles_per_block < a.blocks_per_request,
              "positions must count up and have blocks");
  }
  // The last own tile is followed by what a strip of values may be wider than head_dim.
  size_t own_bytes = static_cast<size_t>(a.own.tile_bytes());
  for (size_t row = 0; a.own.tile_of_row && row < rows; ++row)
    require(a.own.tile_of_row[row] >= 0 &&
                static_cast<size_t>(a.own.tile_of_row[row]) + 1 < x.own_tiles.size() / own_bytes,
            "an own tile is outside of their memory");
}

// out [T, H * D]
static void attend(const AttentionCase& c, const AttentionArrays& x, const OutMatrix& out) {
  check_case(c, x);
  const Attention a = attention_of(c, x, out);
  check_arrays(a, x, out);
  AttentionWork work{
      x.num_requests(),  a.positions, x.query_start.data(), a.block_tables, a.blocks_per_request,
      c.tiles_per_block, a.num_heads, c.num_kv_heads,       c.window,       c.threads};
  DefaultFloats floats;
  AttentionPlan plan = plan_attention(work);
  ThreadPool threads(c.threads);
  Buffer scratch(
      checked_bytes({c.threads, attention_scratch(a.num_heads / c.num_kv_heads, x.head_dim()), 4}));
  Buffer partials(checked_bytes({plan.num_partials * a.num_heads, partial_floats(x.head_dim()), 4}));
  run_attention({choose_kernels(c.isa), plan, threads, scratch.as<float>(), 1}, a, partials.as<float>());
}

void bind_attention(nb::module_& m) {
  nb::enum_<KVElement>(m, "KVElement")
      .value("F32", KVElement::kF32)
      .value("BF16", KVElement::kBF16)
      .value("INT8", KVElement::kInt8)
      .value("INT4", KVElement::kInt4);
  nb::class_<AttentionCase>(m, "AttentionCase")
      .def(nb::init<>())
      .def_rw("isa", &AttentionCase::isa)
      .def_rw("threads", &AttentionCase::threads)
      .def_rw("keys", &AttentionCase::keys)
      .def_rw("values", &AttentionCase::values)
      .def_rw("value_group", &AttentionCase::value_group)
      .def_rw("num_kv_heads", &AttentionCase::num_kv_heads)
      .def_rw("tiles_per_block", &AttentionCase::tiles_per_block)
      .def_rw("window", &AttentionCase::window)
      .def_rw("scale", &AttentionCase::scale)
      .def_rw("softcap", &AttentionCase::softcap);
  m.def(
      "attend",
      [](const AttentionCase& c, Bytes pages, Bytes own_tiles, Ints own_tile_of_row, Queries q,
         Ints positions, Ints query_start, IntTable block_tables, OutMatrix out) {
        attend(c, {pages, own_tiles, own_tile_of_row, q, positions, query_start, block_tables}, out);
      },
      nb::arg("case"), nb::arg("pages").noconvert(), nb::arg("own_tiles").noconvert(),
      nb::arg("own_tile_of_row").noconvert(), nb::arg("q").noconvert(), nb::arg("positions").noconvert(),
      nb::arg("query_start").noconvert(), nb::arg("block_tables").noconvert(), nb::arg("out").noconvert());
}

}  // namespace quire
