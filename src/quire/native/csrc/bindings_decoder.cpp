// Python bindings of the decoder. A wrong call raises an exception, whatever its arguments: it never crashes
// or gives a wrong answer.
#include <nanobind/stl/map.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <limits>
#include <memory>
#include <mutex>
#include <stdexcept>

#include "bindings.h"
#include "decoder.h"
#include "packed_file.h"
#include "step_check.h"

namespace quire {

// This process was forked during a call, which therefore never returns here.
struct ForkedError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

std::unique_lock<std::mutex> alone(std::mutex& one_caller, std::atomic<uint64_t>& forks_before_call,
                                   const std::string& owner) {
  std::unique_lock<std::mutex> lock(one_caller, std::try_to_lock);
  if (!lock && forks_before_call != num_forks())
    throw ForkedError("this process was forked while another call ran on the " + owner);
  if (!lock) throw BusyError("another call is running on this " + owner);
  forks_before_call = num_forks();
  return lock;
}

std::unique_lock<std::mutex> alone_with(Decoder& d) {
  return alone(d.one_caller(), d.forks_before_call(), "executor");
}

// Index arrays are copied, so that other threads cannot change what has been checked.
template <class Array>
static std::vector<int32_t> copied(const Array& array, const char* name) {
  const int32_t* elements = elements_of(array, name);
  return std::vector<int32_t>(elements, elements + array.size());
}

static void require_size(const std::vector<int32_t>& array, size_t size, const char* name) {
  if (array.size() == size) return;
  throw std::invalid_argument(std::string("the arrays of the step do not fit each other: ") + name + " has " +
                              std::to_string(array.size()) + " elements instead of " + std::to_string(size));
}

static float* logits_of(const Decoder& d, const OutMatrix& logits, size_t num_rows) {
  if (logits.shape(0) != num_rows || static_cast<int64_t>(logits.shape(1)) != d.shape().vocab_size)
    throw std::invalid_argument("logits must be [rows, V]");
  return elements_of(logits, "logits");
}

static void run(Decoder& d, Ints token_ids, Ints positions, Ints query_start, Ints context_lens,
                IntTable block_tables, Ints slots, Ints sample_rows, OutMatrix logits) {
  std::vector<int32_t> tokens = copied(token_ids, "token_ids"), places = copied(positions, "positions"),
                       starts = copied(query_start, "query_start"),
                       lens = copied(context_lens, "context_lens"),
                       tables = copied(block_tables, "block_tables"), targets = copied(slots, "slots"),
                       rows = copied(sample_rows, "sample_rows");
  if (tokens.empty() || lens.empty()) throw std::invalid_argument("the step has no rows or no requests");
  require_size(places, tokens.size(), "positions");
  require_size(targets, tokens.size(), "slots");
  require_size(starts, lens.size() + 1, "query_start");
  require_size(tables, lens.size() * block_tables.shape(1), "block_tables");
  float* out = logits_of(d, logits, rows.size());
  Step step{static_cast<int64_t>(tokens.size()),
            static_cast<int64_t>(lens.size()),
            static_cast<int64_t>(block_tables.shape(1)),
            static_cast<int64_t>(rows.size()),
            tokens.data(),
            places.data(),
            starts.data(),
            tables.data(),
            targets.data(),
            rows.data()};
  auto lock = alone_with(d);
  check_step(d, step, lens.data());
  nb::gil_scoped_release release;
  d.run(step, out);
}

static void require_rows(const Decoder& d, const std::vector<int32_t>& rows) {
  for (int32_t row : rows)
    if (row < 0 || row >= d.num_rows()) throw std::invalid_argument("a row is outside the latest step");
}

static void head(Decoder& d, Ints rows, OutMatrix logits) {
  std::vector<int32_t> wanted = copied(rows, "rows");
  float* out = logits_of(d, logits, wanted.size());
  auto lock = alone_with(d);
  require_rows(d, wanted);
  nb::gil_scoped_release release;
  d.head(wanted.data(), static_cast<int64_t>(wanted.size()), out);
}

static void argmax_of_rows(Decoder& d, Ints rows, OutInts token_ids, OutInts num_not_finite) {
  std::vector<int32_t> wanted = copied(rows, "rows");
  int32_t *ids = elements_of(token_ids, "token_ids"), *counts = elements_of(num_not_finite, "num_not_finite");
  if (token_ids.shape(0) != wanted.size() || num_not_finite.shape(0) != wanted.size())
    throw std::invalid_argument("token_ids and num_not_finite must be [rows]");
  auto lock = alone_with(d);
  require_rows(d, wanted);
  nb::gil_scoped_release release;
  std::vector<Argmax> found(wanted.size());
  d.argmax(wanted.data(), static_cast<int64_t>(wanted.size()), found.data());
  for (size_t i = 0; i < found.size(); ++i) {
    ids[i] = found[i].num_not_finite ? 0 : static_cast<int32_t>(found[i].id);
    counts[i] = static_cast<int32_t>(found[i].num_not_finite);
  }
}

static float* heads_of(const Decoder& d, const OutHeads& heads, size_t num_slots, const char* name) {
  if (heads.shape(0) != num_slots || static_cast<int64_t>(heads.shape(1)) != d.shape().num_kv_heads ||
      static_cast<int64_t>(heads.shape(2)) != d.shape().head_dim)
    throw std::invalid_argument("keys and values must be [slots, K, D]");
  return elements_of(heads, name);
}

static void read_kv(Decoder& d, int64_t layer, Ints slots, OutHeads keys, OutHeads values) {
  std::vector<int32_t> wanted = copied(slots, "slots");
  float *k = heads_of(d, keys, wanted.size(), "keys"), *v = heads_of(d, values, wanted.size(), "values");
  if (layer < 0 || layer >= static_cast<int64_t>(d.shape().layers.size()))
    throw std::invalid_argument("there is no such layer");
  auto lock = alone_with(d);
  for (int32_t slot : wanted)
    if (slot < 0 || slot / d.block_size() >= d.num_blocks())
      throw std::invalid_argument("a slot is outside the KV memory");
  d.read_kv(layer, wanted.data(), static_cast<int64_t>(wanted.size()), k, v);
}

static void require_block(const Decoder& d, int64_t block) {
  if (block < 0 || block >= d.num_blocks())
    throw std::invalid_argument("a block id is outside the KV memory");
}

static void copy_block(Decoder& d, int64_t source, int64_t target) {
  auto lock = alone_with(d);
  require_block(d, source);
  require_block(d, target);
  d.copy_block(source, target);
}

static nb::bytes export_block(Decoder& d, int64_t block) {
  auto lock = alone_with(d);
  require_block(d, block);
  std::vector<char> pages(static_cast<size_t>(d.block_bytes()));
  d.export_block(block, pages.data());
  return nb::bytes(pages.data(), pages.size());
}

static void import_block(Decoder& d, int64_t block, nb::bytes pages) {
  auto lock = alone_with(d);
  require_block(d, block);
  if (static_cast<int64_t>(pages.size()) != d.block_bytes())
    throw std::invalid_argument("the pages of a block are " + std::to_string(d.block_bytes()) +
                                " bytes, not " + std::to_string(pages.size()));
  d.import_block(block, pages.c_str());
}

static void allocate_kv(Decoder& d, int64_t num_blocks, int64_t block_size, KVFormat format,
                        int64_t bytes_per_block) {
  auto lock = alone_with(d);
  d.allocate_kv(num_blocks, block_size, format, bytes_per_block);
}

template <class Matrix, Element element>
static void set_matrix(Decoder& d, const std::string& name, Matrix weight) {
  SourceMatrix source = source_of(weight, element);
  auto lock = alone_with(d);
  nb::gil_scoped_release release;
  d.tensors().set_matrix(name, source, d.kernels(), d.threads());
}

static nb::ndarray<nb::numpy, float, nb::ndim<2>> dequantized(Decoder& d, const std::string& name,
                                                              int64_t first_row, int64_t count) {
  auto lock = alone_with(d);
  auto rows =
      std::make_unique<std::vector<float>>(d.tensors().dequantized(name, first_row, count, d.kernels()));
  size_t num_rows = static_cast<size_t>(count), k = rows->size() / num_rows;
  float* values = rows->data();
  nb::capsule owner(rows.release(), [](void* p) noexcept { delete static_cast<std::vector<float>*>(p); });
  return {values, {num_rows, k}, owner};
}

static void set_vector(Decoder& d, const std::string& name, Floats values) {
  const float* elements = elements_of(values, "values");
  auto lock = alone_with(d);
  d.tensors().set_vector(name, elements, static_cast<int64_t>(values.shape(0)));
}

static PackedMatrix& matrix_at(const Decoder& d, size_t index) {
  const std::vector<PackedMatrix*>& matrices = d.tensors().matrices();
  if (index >= matrices.size()) throw std::invalid_argument("there is no such matrix");
  return *matrices[index];
}

static std::vector<int64_t> packed_sizes(const Decoder& d) {
  std::vector<int64_t> sizes;
  for (const PackedMatrix* each : d.tensors().matrices())
    sizes.push_back(static_cast<int64_t>(each->bytes()));
  return sizes;
}

static std::vector<uint64_t> packed_checksums(Decoder& d, size_t index) {
  auto lock = alone_with(d);
  const PackedMatrix& matrix = matrix_at(d, index);
  nb::gil_scoped_release release;
  return checksums_of(matrix, d.threads());
}

static nb::ndarray<nb::numpy, const uint8_t, nb::ndim<1>> packed_bytes(nb::handle self, size_t index) {
  const PackedMatrix& matrix = matrix_at(nb::cast<Decoder&>(self), index);
  return {reinterpret_cast<const uint8_t*>(matrix.data()), {matrix.bytes()}, self};
}

static bool read_packed_matrix(Decoder& d, size_t index, int file, int64_t offset,
                               const std::vector<uint64_t>& checksums) {
  auto lock = alone_with(d);
  PackedMatrix& matrix = matrix_at(d, index);
  if (static_cast<int64_t>(checksums.size()) != pieces_of(matrix))
    throw std::invalid_argument("every piece needs a checksum");
  if (offset < 0 || offset > std::numeric_limits<int64_t>::max() - static_cast<int64_t>(matrix.bytes()))
    throw std::invalid_argument("no file has such an offset");
  nb::gil_scoped_release release;
  bool is_whole = read_packed(matrix, file, offset, checksums.data(), d.threads());
  d.tensors().mark_read(matrix, is_whole);
  return is_whole;
}

// Arrays are never converted on the way in: what is written to a converted copy would be lost.
void bind_decoder(nb::module_& m) {
  nb::exception<BusyError>(m, "BusyError", PyExc_RuntimeError);
  nb::exception<ForkedError>(m, "ForkedError", PyExc_RuntimeError);
  nb::class_<Decoder>(m, "Decoder")
      .def(nb::init<ModelShape, const PanelFormat&, const std::string&, int>(), nb::arg("shape"),
           nb::arg("weights"), nb::arg("isa"), nb::arg("threads"))
      .def("set_matrix", &set_matrix<FloatMatrix, Element::kF32>, nb::arg("name"),
           nb::arg("weight").noconvert())
      .def("set_matrix", &set_matrix<BitsMatrix, Element::kBF16>, nb::arg("name"),
           nb::arg("weight").noconvert())
      .def("dequantized", &dequantized, nb::arg("name"), nb::arg("first_row"), nb::arg("count"))
      .def("set_vector", &set_vector, nb::arg("name"), nb::arg("values").noconvert())
      .def_prop_ro("tensor_shapes", [](const Decoder& d) { return d.tensors().shapes(); })
      .def("packed_sizes", &packed_sizes)
      .def("packed_checksums", &packed_checksums, nb::arg("index"))
      .def("packed_bytes", &packed_bytes, nb::arg("index"))
      .def("read_packed", &read_packed_matrix, nb::arg("index"), nb::arg("file"), nb::arg("offset"),
           nb::arg("checksums"))
      .def("allocate_kv", &allocate_kv, nb::arg("num_blocks"), nb::arg("block_size"), nb::arg("kv_format"),
           nb::arg("bytes_per_block"))
      .def("run", &run, nb::arg("token_ids").noconvert(), nb::arg("positions").noconvert(),
           nb::arg("query_start").noconvert(), nb::arg("context_lens").noconvert(),
           nb::arg("block_tables").noconvert(), nb::arg("slots").noconvert(),
           nb::arg("sample_rows").noconvert(), nb::arg("logits").noconvert())
      .def("head", &head, nb::arg("rows").noconvert(), nb::arg("logits").noconvert())
      .def("argmax", &argmax_of_rows, nb::arg("rows").noconvert(), nb::arg("token_ids").noconvert(),
           nb::arg("num_not_finite").noconvert())
      .def("read_kv", &read_kv, nb::arg("layer"), nb::arg("slots").noconvert(), nb::arg("keys").noconvert(),
           nb::arg("values").noconvert())
      .def("copy_block", &copy_block, nb::arg("source"), nb::arg("target"))
      .def("export_block", &export_block, nb::arg("block"))
      .def("import_block", &import_block, nb::arg("block"), nb::arg("pages"))
      .def_prop_ro("isa", &Decoder::isa)
      .def_prop_ro("num_threads", &Decoder::num_threads)
      .def_prop_ro("weight_bytes", &Decoder::weight_bytes)
      .def_prop_ro("kv_bytes", &Decoder::kv_bytes);
}

}  // namespace quire
