// What Python sees of the core: shapes in, arrays in and out, no ownership shared, the GIL released while it computes.
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <mutex>
#include <stdexcept>

#include "bindings.h"
#include "decoder.h"
#include "packed_file.h"

using namespace quire;

// Everything a step indexes memory with is checked here, once, so that the kernels need not.
static void check_step(const Decoder& d, const Step& s, const Ints& lens) {
  const ModelShape& shape = d.shape();
  auto require = [](bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(what);
  };
  for (int64_t t = 0; t < s.num_rows; ++t) {
    require(s.token_ids[t] >= 0 && s.token_ids[t] < shape.vocab_size, "a token id is outside the vocabulary");
    require(s.positions[t] >= 0 && s.positions[t] < shape.max_context, "a position is outside the context");
    require(s.slots[t] >= 0 && s.slots[t] / d.block_size() < d.num_blocks(), "a slot is outside the KV memory");
  }
  require(s.query_start[0] == 0 && s.query_start[s.num_requests] == s.num_rows, "query_start does not cover the rows");
  for (int64_t b = 0; b < s.num_requests; ++b) {
    int64_t begin = s.query_start[b], end = s.query_start[b + 1];
    require(begin < end && end <= s.num_rows, "a request has no rows");
    for (int64_t t = begin; t < end; ++t)
      require(s.positions[t] == lens.data()[b] - (end - t), "positions and context_lens do not agree");
    int64_t blocks = (lens.data()[b] + d.block_size() - 1) / d.block_size();
    require(blocks <= s.blocks_per_request, "a block table is too short for its context");
    for (int64_t i = 0; i < blocks; ++i) {
      int32_t id = s.block_tables[b * s.blocks_per_request + i];
      require(id >= 0 && id < d.num_blocks(), "a block id is outside the KV memory");
    }
  }
  for (int64_t i = 0; i < s.num_samples; ++i)
    require(s.sample_rows[i] >= 0 && s.sample_rows[i] < s.num_rows, "a sample row is outside the step");
}

// A decoder serves one caller at a time; a second one is an error, never a wrong answer.
static std::unique_lock<std::mutex> alone_with(Decoder& d) {
  std::unique_lock<std::mutex> lock(d.one_caller(), std::try_to_lock);
  if (!lock) throw std::invalid_argument("another call is running on this executor");
  return lock;
}

static void run(Decoder& d, Ints token_ids, Ints positions, Ints query_start, Ints context_lens, IntTable block_tables, Ints slots,
                Ints sample_rows, OutMatrix logits) {
  Step s{size_of(token_ids), size_of(context_lens), static_cast<int64_t>(block_tables.shape(1)), size_of(sample_rows),
         token_ids.data(), positions.data(), query_start.data(), block_tables.data(), slots.data(), sample_rows.data()};
  bool fits = size_of(positions) == s.num_rows && size_of(slots) == s.num_rows && size_of(query_start) == s.num_requests + 1 &&
              static_cast<int64_t>(block_tables.shape(0)) == s.num_requests && s.num_rows > 0 && s.num_requests > 0 &&
              static_cast<int64_t>(logits.shape(0)) == s.num_samples && static_cast<int64_t>(logits.shape(1)) == d.shape().vocab_size;
  if (!fits) throw std::invalid_argument("the arrays of the step do not fit each other");
  check_step(d, s, context_lens);
  auto lock = alone_with(d);
  nb::gil_scoped_release release;
  d.run(s, logits.data());
}

static void require_rows(const Decoder& d, const Ints& rows) {
  for (int64_t i = 0; i < size_of(rows); ++i)
    if (rows.data()[i] < 0 || rows.data()[i] >= d.num_rows()) throw std::invalid_argument("a row is outside the latest step");
}

static void head(Decoder& d, Ints rows, OutMatrix logits) {
  if (static_cast<int64_t>(logits.shape(0)) != size_of(rows) || static_cast<int64_t>(logits.shape(1)) != d.shape().vocab_size)
    throw std::invalid_argument("logits must be [rows, V]");
  auto lock = alone_with(d);
  require_rows(d, rows);
  nb::gil_scoped_release release;
  d.head(rows.data(), size_of(rows), logits.data());
}

static void best(Decoder& d, Ints rows, OutInts token_ids, OutInts num_not_finite) {
  if (token_ids.shape(0) != rows.shape(0) || num_not_finite.shape(0) != rows.shape(0))
    throw std::invalid_argument("token_ids and num_not_finite must be [rows]");
  auto lock = alone_with(d);
  require_rows(d, rows);
  nb::gil_scoped_release release;
  std::vector<Best> found(rows.shape(0));
  d.best(rows.data(), size_of(rows), found.data());
  for (size_t i = 0; i < found.size(); ++i) {
    token_ids.data()[i] = found[i].num_not_finite ? 0 : static_cast<int32_t>(found[i].id);
    num_not_finite.data()[i] = static_cast<int32_t>(found[i].num_not_finite);
  }
}

static void read_kv(Decoder& d, int64_t layer, Ints slots, OutHeads keys, OutHeads values) {
  size_t count = slots.shape(0) * static_cast<size_t>(d.shape().num_kv_heads * d.shape().head_dim);
  if (keys.size() != count || values.size() != count || layer < 0 || layer >= static_cast<int64_t>(d.shape().layers.size()))
    throw std::invalid_argument("keys and values must be [slots, K, D] of an existing layer");
  for (int64_t i = 0; i < size_of(slots); ++i)
    if (slots.data()[i] < 0 || slots.data()[i] / d.block_size() >= d.num_blocks()) throw std::invalid_argument("a slot is outside the KV memory");
  auto lock = alone_with(d);
  d.read_kv(layer, slots.data(), size_of(slots), keys.data(), values.data());
}

static void copy_block(Decoder& d, int64_t source, int64_t target) {
  if (source < 0 || target < 0 || source >= d.num_blocks() || target >= d.num_blocks())
    throw std::invalid_argument("a block id is outside the KV memory");
  auto lock = alone_with(d);
  d.copy_block(source, target);
}

template <class Matrix, Element element>
static void set_matrix(Decoder& d, const std::string& name, Matrix weight) {
  SourceMatrix source = source_of(weight, element);
  auto lock = alone_with(d);
  nb::gil_scoped_release release;
  d.set_matrix(name, source);
}

static void set_vector(Decoder& d, const std::string& name, Floats values) {
  auto lock = alone_with(d);
  d.set_vector(name, values.data(), static_cast<int64_t>(values.shape(0)));
}

static PackedMatrix& matrix_at(Decoder& d, size_t index) {
  std::vector<Decoder::NamedMatrix> matrices = d.matrices();
  if (index >= matrices.size()) throw std::invalid_argument("there is no such matrix");
  return *matrices[index].matrix;
}

static std::vector<int64_t> packed_sizes(Decoder& d) {
  std::vector<int64_t> sizes;
  for (const Decoder::NamedMatrix& each : d.matrices()) sizes.push_back(static_cast<int64_t>(each.matrix->bytes()));
  return sizes;
}

static std::vector<uint64_t> packed_checksums(Decoder& d, size_t index) {
  auto lock = alone_with(d);
  nb::gil_scoped_release release;
  return checksums_of(matrix_at(d, index), d.threads());
}

static nb::ndarray<nb::numpy, const uint8_t, nb::ndim<1>> packed_bytes(nb::handle self, size_t index) {
  PackedMatrix& matrix = matrix_at(nb::cast<Decoder&>(self), index);
  return {reinterpret_cast<const uint8_t*>(matrix.data()), {matrix.bytes()}, self};
}

static bool read_packed_matrix(Decoder& d, size_t index, int file, int64_t offset, const std::vector<uint64_t>& checksums) {
  auto lock = alone_with(d);
  PackedMatrix& matrix = matrix_at(d, index);
  if (static_cast<int64_t>(checksums.size()) != pieces_of(matrix)) throw std::invalid_argument("every piece needs a checksum");
  nb::gil_scoped_release release;
  return read_packed(matrix, file, offset, checksums.data(), d.threads());
}

// Arrays are never converted on the way in: what is written to a converted copy would be lost.
static void bind_shapes(nb::module_& m) {
  nb::enum_<Element>(m, "Element").value("F32", Element::kF32).value("BF16", Element::kBF16);
  nb::enum_<WeightFormat>(m, "WeightFormat")
      .value("F32", WeightFormat::kF32)
      .value("BF16", WeightFormat::kBF16)
      .value("INT8", WeightFormat::kInt8)
      .value("INT4", WeightFormat::kInt4);
  nb::enum_<NormKind>(m, "NormKind").value("RMS", NormKind::kRms).value("LAYER", NormKind::kLayer);
  nb::enum_<NormPlacement>(m, "NormPlacement")
      .value("PRE", NormPlacement::kPre)
      .value("POST", NormPlacement::kPost)
      .value("SANDWICH", NormPlacement::kSandwich);
  nb::enum_<Activation>(m, "Activation")
      .value("SILU", Activation::kSilu)
      .value("GELU", Activation::kGelu)
      .value("GELU_TANH", Activation::kGeluTanh)
      .value("RELU", Activation::kRelu);

  nb::class_<Rope>(m, "Rope").def(nb::init<>()).def_rw("inv_freq", &Rope::inv_freq).def_rw("attention_factor", &Rope::attention_factor);
  nb::class_<LayerShape>(m, "LayerShape").def(nb::init<>()).def_rw("rope", &LayerShape::rope).def_rw("window", &LayerShape::window);
  nb::class_<ModelShape>(m, "ModelShape")
      .def(nb::init<>())
      .def_rw("hidden_size", &ModelShape::hidden_size)
      .def_rw("num_heads", &ModelShape::num_heads)
      .def_rw("num_kv_heads", &ModelShape::num_kv_heads)
      .def_rw("head_dim", &ModelShape::head_dim)
      .def_rw("ffn_size", &ModelShape::ffn_size)
      .def_rw("vocab_size", &ModelShape::vocab_size)
      .def_rw("max_context", &ModelShape::max_context)
      .def_rw("norm", &ModelShape::norm)
      .def_rw("norm_eps", &ModelShape::norm_eps)
      .def_rw("norm_placement", &ModelShape::norm_placement)
      .def_rw("qk_norm_whole", &ModelShape::qk_norm_whole)
      .def_rw("is_ffn_gated", &ModelShape::is_ffn_gated)
      .def_rw("is_head_tied", &ModelShape::is_head_tied)
      .def_rw("has_learned_positions", &ModelShape::has_learned_positions)
      .def_rw("activation", &ModelShape::activation)
      .def_rw("attention_scale", &ModelShape::attention_scale)
      .def_rw("embedding_scale", &ModelShape::embedding_scale)
      .def_rw("attention_softcap", &ModelShape::attention_softcap)
      .def_rw("logit_softcap", &ModelShape::logit_softcap)
      .def_rw("ropes", &ModelShape::ropes)
      .def_rw("layers", &ModelShape::layers);
}

static void bind_decoder(nb::module_& m) {
  nb::class_<Decoder>(m, "Decoder")
      .def(nb::init<ModelShape, WeightFormat, const std::string&, int>(), nb::arg("shape"), nb::arg("weights"), nb::arg("isa"), nb::arg("threads"))
      .def("set_matrix", &set_matrix<FloatMatrix, Element::kF32>, nb::arg("name"), nb::arg("weight").noconvert())
      .def("set_matrix", &set_matrix<BitsMatrix, Element::kBF16>, nb::arg("name"), nb::arg("weight").noconvert())
      .def("set_vector", &set_vector, nb::arg("name"), nb::arg("values").noconvert())
      .def("packed_sizes", &packed_sizes)
      .def("packed_checksums", &packed_checksums, nb::arg("index"))
      .def("packed_bytes", &packed_bytes, nb::arg("index"))
      .def("read_packed", &read_packed_matrix, nb::arg("index"), nb::arg("file"), nb::arg("offset"), nb::arg("checksums"))
      .def("allocate_kv", &Decoder::allocate_kv, nb::arg("num_blocks"), nb::arg("block_size"), nb::arg("element"))
      .def("run", &run, nb::arg("token_ids").noconvert(), nb::arg("positions").noconvert(), nb::arg("query_start").noconvert(),
           nb::arg("context_lens").noconvert(), nb::arg("block_tables").noconvert(), nb::arg("slots").noconvert(),
           nb::arg("sample_rows").noconvert(), nb::arg("logits").noconvert())
      .def("head", &head, nb::arg("rows").noconvert(), nb::arg("logits").noconvert())
      .def("best", &best, nb::arg("rows").noconvert(), nb::arg("token_ids").noconvert(), nb::arg("num_not_finite").noconvert())
      .def("read_kv", &read_kv, nb::arg("layer"), nb::arg("slots").noconvert(), nb::arg("keys").noconvert(), nb::arg("values").noconvert())
      .def("copy_block", &copy_block, nb::arg("source"), nb::arg("target"))
      .def_prop_ro("isa", &Decoder::isa)
      .def_prop_ro("num_threads", &Decoder::num_threads)
      .def_prop_ro("weight_bytes", &Decoder::weight_bytes)
      .def_prop_ro("kv_bytes", &Decoder::kv_bytes);
}

NB_MODULE(_core, m) {
  m.doc() = "Quire's native core: kernels for several instruction sets and the decoder that runs on them.";
  bind_shapes(m);
  bind_decoder(m);
  m.attr("PANEL") = kPanel;
  m.attr("GROUP") = kGroup;
  m.attr("PIECE_BYTES") = kPiece;
  bind_kernels(m);
  bind_sampling(m);
}
