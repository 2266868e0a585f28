// Python bindings of the decoder. A wrong call raises an exception, whatever its arguments: it never crashes
// or gives a wrong answer.
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <mutex>
#include <numeric>
#include <stdexcept>

#include "bindings.h"
#include "decoder.h"
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
                IntTable block_tables, Ints slots, Ints sample_rows, OutMatrix logits,
                std::optional<Ints> own_tiles) {
  std::vector<int32_t> tokens = copied(token_ids, "token_ids"), places = copied(positions, "positions"),
                       starts = copied(query_start, "query_start"),
                       lens = copied(context_lens, "context_lens"),
                       tables = copied(block_tables, "block_tables"), targets = copied(slots, "slots"),
                       rows = copied(sample_rows, "sample_rows"), own;
  if (own_tiles) own = copied(*own_tiles, "own_tiles");
  if (tokens.empty() || lens.empty()) throw std::invalid_argument("the step has no rows or no requests");
  require_size(places, tokens.size(), "positions");
  require_size(targets, tokens.size(), "slots");
  require_size(starts, lens.size() + 1, "query_start");
  if (own_tiles) require_size(own, lens.size(), "own_tiles");
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
            rows.data(),
            own_tiles ? own.data() : nullptr};
  auto lock = alone_with(d);
  check_step(d, step, lens.data());
  nb::gil_scoped_release release;
  d.run(step, out);
}

static float* inputs_of(const OutMatrix& inputs, size_t num_rows, int64_t k, const char* name) {
  if (inputs.shape(0) != num_rows || static_cast<int64_t>(inputs.shape(1)) != k)
    throw std::invalid_argument("the inputs of a product must be [rows, K]");
  return elements_of(inputs, name);
}

static LayerInputs layer_inputs_of(const Decoder& d, size_t num_rows, const OutMatrix& qkv,
                                   const OutMatrix& out, const OutMatrix& up, const OutMatrix& down) {
  const ModelShape& shape = d.shape();
  return {inputs_of(qkv, num_rows, shape.hidden_size, "qkv"),
          inputs_of(out, num_rows, shape.num_heads * shape.head_dim, "out"),
          inputs_of(up, num_rows, shape.hidden_size, "up"),
          inputs_of(down, num_rows, shape.layers[0].ffn.size, "down")};
}

// One request that begins at position 0, whose blocks are the first of the KV memory.
static void run_layer(Decoder& d, OutMatrix residual, OutMatrix qkv, OutMatrix out, OutMatrix up,
                      OutMatrix down) {
  size_t num_rows = residual.shape(0);
  if (num_rows == 0) throw std::invalid_argument("the step has no rows");
  float* rows = inputs_of(residual, num_rows, d.shape().hidden_size, "residual");
  LayerInputs inputs = layer_inputs_of(d, num_rows, qkv, out, up, down);
  auto lock = alone_with(d);
  int32_t count = static_cast<int32_t>(num_rows);
  int64_t num_blocks = round_up(count, d.block_size()) / d.block_size();
  std::vector<int32_t> tokens(num_rows, 0), places(num_rows), tables(static_cast<size_t>(num_blocks));
  std::iota(places.begin(), places.end(), 0);
  std::iota(tables.begin(), tables.end(), 0);
  int32_t starts[] = {0, count};
  Step step{count,         1,       num_blocks, 0, tokens.data(), places.data(), starts, tables.data(),
            places.data(), nullptr, nullptr};
  check_step(d, step, &count);
  nb::gil_scoped_release release;
  d.run_layer(step, rows, inputs);
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
    if (slot < 0 || slot >= d.num_slots()) throw std::invalid_argument("a slot is outside the KV memory");
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

static void require_own_tile(const Decoder& d, int64_t own_tile) {
  if (own_tile < 0 || own_tile >= d.num_own_tiles()) throw std::invalid_argument("there is no such own tile");
}

static void copy_own_tile(Decoder& d, int64_t source, int64_t target) {
  auto lock = alone_with(d);
  require_own_tile(d, source);
  require_own_tile(d, target);
  d.copy_own_tile(source, target);
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
                        int64_t bytes_per_block, std::vector<int64_t> exact_key_layers, int64_t num_own_tiles,
                        int64_t bytes_per_own_tile) {
  auto lock = alone_with(d);
  d.allocate_kv({num_blocks, block_size, format, bytes_per_block, std::move(exact_key_layers), num_own_tiles,
                 bytes_per_own_tile});
}

static int64_t divide_weights(Decoder& d, int64_t count, int64_t bytes) {
  auto lock = alone_with(d);
  return d.divide_weights(count, bytes);
}

static double read_seconds(Decoder& d, int64_t region, Prefetch prefetch) {
  auto lock = alone_with(d);
  nb::gil_scoped_release release;
  return d.read_seconds(region, prefetch);
}

static void set_prefetch(Decoder& d, Prefetch prefetch) {
  auto lock = alone_with(d);
  d.set_prefetch(prefetch);
}

// Arrays are never converted on the way in: what is written to a converted copy would be lost.
void bind_decoder(nb::module_& m) {
  nb::exception<BusyError>(m, "BusyError", PyExc_RuntimeError);
  nb::exception<NotFiniteError>(m, "NotFiniteError", PyExc_RuntimeError);
  nb::exception<ForkedError>(m, "ForkedError", PyExc_RuntimeError);
  nb::class_<Decoder> decoder(m, "Decoder");
  bind_weights(decoder);
  bind_counts(decoder);
  decoder
      .def(
          "__init__",
          [](Decoder* self, ModelShape shape, const PanelFormat& weights,
             std::map<std::string, PanelFormat> formats, const std::string& isa, int threads) {
            new (self) Decoder(std::move(shape), {weights, std::move(formats)}, isa, threads);
          },
          nb::arg("shape"), nb::arg("weights"), nb::arg("formats"), nb::arg("isa"), nb::arg("threads"))
      .def("allocate_kv", &allocate_kv, nb::arg("num_blocks"), nb::arg("block_size"), nb::arg("kv_format"),
           nb::arg("bytes_per_block"), nb::arg("exact_key_layers") = std::vector<int64_t>(),
           nb::arg("num_own_tiles") = 0, nb::arg("bytes_per_own_tile") = 0)
      .def("run", &run, nb::arg("token_ids").noconvert(), nb::arg("positions").noconvert(),
           nb::arg("query_start").noconvert(), nb::arg("context_lens").noconvert(),
           nb::arg("block_tables").noconvert(), nb::arg("slots").noconvert(),
           nb::arg("sample_rows").noconvert(), nb::arg("logits").noconvert(),
           nb::arg("own_tiles").noconvert().none() = nb::none())
      .def("run_layer", &run_layer, nb::arg("residual").noconvert(), nb::arg("qkv").noconvert(),
           nb::arg("out").noconvert(), nb::arg("up").noconvert(), nb::arg("down").noconvert())
      .def("head", &head, nb::arg("rows").noconvert(), nb::arg("logits").noconvert())
      .def("argmax", &argmax_of_rows, nb::arg("rows").noconvert(), nb::arg("token_ids").noconvert(),
           nb::arg("num_not_finite").noconvert())
      .def("read_kv", &read_kv, nb::arg("layer"), nb::arg("slots").noconvert(), nb::arg("keys").noconvert(),
           nb::arg("values").noconvert())
      .def("divide_weights", &divide_weights, nb::arg("count"), nb::arg("num_bytes"))
      .def("read_seconds", &read_seconds, nb::arg("region"), nb::arg("prefetch"))
      .def_prop_rw("prefetch", &Decoder::prefetch, &set_prefetch)
      .def("copy_block", &copy_block, nb::arg("source"), nb::arg("target"))
      .def("copy_own_tile", &copy_own_tile, nb::arg("source"), nb::arg("target"))
      .def("export_block", &export_block, nb::arg("block"))
      .def("import_block", &import_block, nb::arg("block"), nb::arg("pages"))
      .def_prop_ro("isa", &Decoder::isa)
      .def_prop_ro("num_threads", &Decoder::num_threads)
      .def_prop_ro("weight_bytes", &Decoder::weight_bytes)
      .def_prop_ro("kv_bytes", &Decoder::kv_bytes);
}

}  // namespace quire
