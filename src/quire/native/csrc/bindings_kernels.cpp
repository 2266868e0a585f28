// Python bindings of single kernels: which there are, their peak throughput, and a few of them alone, for
// tests.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "bindings.h"
#include "checked.h"
#include "cpu.h"
#include "machine_peak.h"
#include "packed_matrix.h"

namespace quire {

static PackedMatrix packed(const Kernels& kernels, const PanelFormat& format, const SourceMatrix& source,
                           const std::optional<Floats>& input_factors) {
  ThreadPool alone(1);
  size_t num_panels = static_cast<size_t>(round_up(source.rows, kPanel) / kPanel);
  PackedMatrix matrix(std::vector<PanelFormat>(num_panels, format), source.columns);
  if (input_factors)
    matrix.set_input_factors(elements_of(*input_factors, "input_factors"), size_of(*input_factors));
  matrix.pack(kernels, source, 0, 1, alone);
  return matrix;
}

void multiply_rows(const Kernels& kernels, const PackedMatrix& weight, Prefetch prefetch, const OutMatrix& a,
                   const OutMatrix& out) {
  int64_t rows = static_cast<int64_t>(a.shape(0)), num_columns = static_cast<int64_t>(out.shape(1));
  Norm n{};
  n.x = elements_of(a, "a");
  n.ldx = n.size = weight.k();
  Gemm g{};
  g.weight = weight.panels();
  g.rows = rows;
  g.epilogue = Epilogue::kStore;
  g.prefetch = prefetch;
  g.out = elements_of(out, "out");
  g.ldo = g.num_columns = num_columns;
  if (static_cast<int64_t>(a.shape(1)) != n.size || static_cast<int64_t>(out.shape(0)) != rows ||
      round_up(num_columns, kPanel) != weight.num_panels() * kPanel)
    throw std::invalid_argument("out [R, N] = a [R, K] * weight [N, K] transposed");
  ActivationFormat format = kernels.activation_formats[static_cast<int>(g.weight.encoding())];
  int64_t stride = round_up(n.size, kPanel) * static_cast<int64_t>(sizeof(float));
  if (format == ActivationFormat::kInt16Split) stride = split_row_stride(n.size);
  Buffer converted(checked_bytes({rows, stride}));
  g.a = n.out = {converted.get(), stride, format, n.size, g.weight.input_factors};
  kernels.norm(n, 0, rows);
  kernels.gemm(g, 0, g.weight.num_panels);
}

void read_values(const Kernels& kernels, const PackedMatrix& weight, const OutMatrix& out) {
  int64_t rows = static_cast<int64_t>(out.shape(0));
  float* values = elements_of(out, "out");
  if (round_up(rows, kPanel) != weight.num_panels() * kPanel ||
      static_cast<int64_t>(out.shape(1)) != weight.k())
    throw std::invalid_argument("out must be [N, K] as the weight is");
  for (int64_t row = 0; row < rows; ++row)
    kernels.dequantize(weight.panels()[row / kPanel], row % kPanel, values + row * weight.k());
}

// One product on one instruction set, for the kernel tests: out = a W^T, both packed in its formats.
static void multiply(const std::string& isa, const PanelFormat& format, FloatMatrix weight, OutMatrix a,
                     OutMatrix out, const std::optional<Floats>& input_factors, Prefetch prefetch) {
  const Kernels& kernels = choose_kernels(isa);
  multiply_rows(kernels, packed(kernels, format, source_of(weight, Element::kF32), input_factors), prefetch,
                a, out);
}

// A matrix's values after packing, for the kernel tests: [N, K] float32.
static void packed_values(const std::string& isa, const PanelFormat& format, FloatMatrix weight,
                          OutMatrix out, const std::optional<Floats>& importance,
                          const std::optional<Floats>& input_factors) {
  const Kernels& kernels = choose_kernels(isa);
  read_values(
      kernels,
      packed(kernels, format, with_importance(source_of(weight, Element::kF32), importance), input_factors),
      out);
}

void bind_kernels(nb::module_& m) {
  m.def("available_isas", [] {
    std::vector<std::string> names;
    for (const Kernels* table : available_kernels()) names.emplace_back(table->name);
    return names;
  });
  m.def("has_amx", [](const std::string& isa) { return choose_kernels(isa).has_amx; }, nb::arg("isa"));
  nb::class_<ReadSpeed>(m, "ReadSpeed")
      .def_prop_ro("prefetch", [](const ReadSpeed& each) { return each.pattern.prefetch; })
      .def_prop_ro("in_streams", [](const ReadSpeed& each) { return each.pattern.in_streams; })
      .def_prop_ro("in_halves", [](const ReadSpeed& each) { return each.pattern.in_halves; })
      .def_ro("bytes_per_second", &ReadSpeed::bytes_per_second);
  m.def("measure_reads", &measure_reads, nb::arg("isa"), nb::arg("threads"), nb::arg("num_bytes"),
        nb::arg("rounds"), nb::call_guard<nb::gil_scoped_release>());
  m.def("measure_flops", &measure_flops, nb::arg("isa"), nb::arg("threads"), nb::arg("panel_format"),
        nb::arg("rounds"), nb::call_guard<nb::gil_scoped_release>());
  m.def("multiply", &multiply, nb::arg("isa"), nb::arg("panel_format"), nb::arg("weight").noconvert(),
        nb::arg("a").noconvert(), nb::arg("out").noconvert(), nb::arg("input_factors") = nb::none(),
        nb::arg("prefetch") = Prefetch::kBoth);
  m.def("packed_values", &packed_values, nb::arg("isa"), nb::arg("panel_format"),
        nb::arg("weight").noconvert(), nb::arg("out").noconvert(), nb::arg("importance") = nb::none(),
        nb::arg("input_factors") = nb::none());
  m.def(
      "activate",
      [](const std::string& isa, Activation kind, OutFloats x) {
        choose_kernels(isa).activate(kind, elements_of(x, "x"), static_cast<int64_t>(x.shape(0)));
      },
      nb::arg("isa"), nb::arg("kind"), nb::arg("x").noconvert());
  m.def(
      "softcap",
      [](const std::string& isa, OutFloats x, float cap) {
        choose_kernels(isa).softcap(elements_of(x, "x"), static_cast<int64_t>(x.shape(0)), cap);
      },
      nb::arg("isa"), nb::arg("x").noconvert(), nb::arg("cap"));
}

}  // namespace quire
