// Python bindings of the decoder's weights: setting them, reading them back, and their bytes in a file.
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <limits>
#include <memory>

#include "bindings.h"
#include "decoder.h"
#include "packed_file.h"

namespace quire {

using CodeMatrix = nb::ndarray<const uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using HalfMatrix = nb::ndarray<const uint16_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using BlockArray = nb::ndarray<const uint8_t, nb::device::cpu>;

template <class Matrix, Element element>
static void set_matrix(Decoder& d, const std::string& name, Matrix weight,
                       const std::optional<Floats>& importance) {
  SourceMatrix source = with_importance(source_of(weight, element), importance);
  auto lock = alone_with(d);
  nb::gil_scoped_release release;
  d.tensors().set_matrix(name, source, d.kernels(), d.threads());
}

// Codes may come as a slice of rows, but not of columns.
template <class Matrix>
static auto* rows_of(const Matrix& m, const CodeMatrix& codes, size_t columns, const char* name) {
  if (m.shape(0) != codes.shape(0) || m.shape(1) != columns)
    throw std::invalid_argument(std::string(name) + " must have a row for each row of codes");
  return elements_of(m, name);
}

static void set_groups(Decoder& d, const std::string& name, CodeMatrix codes, HalfMatrix scales,
                       std::optional<HalfMatrix> minimums, std::optional<CodeMatrix> zero_points) {
  size_t groups = scales.shape(1);
  CodeRows source{static_cast<int64_t>(codes.shape(0)),
                  static_cast<int64_t>(codes.shape(1)),
                  static_cast<int64_t>(groups),
                  codes.data(),
                  0,
                  rows_of(scales, codes, groups, "scales"),
                  minimums ? rows_of(*minimums, codes, groups, "minimums") : nullptr,
                  zero_points ? rows_of(*zero_points, codes, groups, "zero_points") : nullptr};
  auto lock = alone_with(d);
  nb::gil_scoped_release release;
  for (int64_t i = 0; i < source.rows * source.columns; ++i) source.used_bits |= source.codes[i];
  d.tensors().set_rows(name, source, d.threads());
}

// The address of every row of bytes, counted by the leading axes in order.
static std::vector<const uint8_t*> addresses_of(const BlockArray& blocks) {
  std::vector<const uint8_t*> rows{blocks.data()};
  for (size_t axis = 0; axis + 1 < blocks.ndim(); ++axis) {
    std::vector<const uint8_t*> next;
    next.reserve(rows.size() * blocks.shape(axis));
    for (const uint8_t* row : rows)
      for (size_t i = 0; i < blocks.shape(axis); ++i)
        next.push_back(row + static_cast<int64_t>(i) * blocks.stride(axis));
    rows.swap(next);
  }
  return rows;
}

static void set_blocks(Decoder& d, const std::string& name, int kind_number, BlockArray blocks) {
  const BlockKind* kind = block_kind(kind_number);
  if (kind == nullptr) throw std::invalid_argument("no group format holds blocks of this kind");
  if (blocks.ndim() < 2 || blocks.size() == 0) throw std::invalid_argument("blocks must be [..., bytes]");
  size_t last = blocks.ndim() - 1;
  int64_t row_bytes = static_cast<int64_t>(blocks.shape(last));
  if (row_bytes % kind->bytes != 0 || (row_bytes > 1 && blocks.stride(last) != 1))
    throw std::invalid_argument("a row must be whole blocks, side by side");
  BlockRows source{*kind, row_bytes / kind->bytes * kind->elements, addresses_of(blocks)};
  auto lock = alone_with(d);
  nb::gil_scoped_release release;
  d.tensors().set_rows(name, source, d.threads());
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

static void set_input_factors(Decoder& d, const std::string& name, Floats factors) {
  const float* elements = elements_of(factors, "factors");
  auto lock = alone_with(d);
  d.tensors().set_input_factors(name, elements, size_of(factors));
}

void bind_weights(nb::class_<Decoder>& decoder) {
  decoder
      .def("set_matrix", &set_matrix<FloatMatrix, Element::kF32>, nb::arg("name"),
           nb::arg("weight").noconvert(), nb::arg("importance").noconvert() = nb::none())
      .def("set_matrix", &set_matrix<BitsMatrix, Element::kBF16>, nb::arg("name"),
           nb::arg("weight").noconvert(), nb::arg("importance").noconvert() = nb::none())
      .def("set_input_factors", &set_input_factors, nb::arg("name"), nb::arg("factors").noconvert())
      .def("set_groups", &set_groups, nb::arg("name"), nb::arg("codes").noconvert(),
           nb::arg("scales").noconvert(), nb::arg("minimums").noconvert().none(),
           nb::arg("zero_points").noconvert().none())
      .def("set_blocks", &set_blocks, nb::arg("name"), nb::arg("kind"), nb::arg("blocks").noconvert())
      .def("dequantized", &dequantized, nb::arg("name"), nb::arg("first_row"), nb::arg("count"))
      .def("set_vector", &set_vector, nb::arg("name"), nb::arg("values").noconvert())
      .def_prop_ro("tensor_shapes", [](const Decoder& d) { return d.tensors().shapes(); })
      .def("packed_sizes", &packed_sizes)
      .def("packed_checksums", &packed_checksums, nb::arg("index"))
      .def("packed_bytes", &packed_bytes, nb::arg("index"))
      .def("read_packed", &read_packed_matrix, nb::arg("index"), nb::arg("file"), nb::arg("offset"),
           nb::arg("checksums"));
}

}  // namespace quire
