// Python bindings of single kernels: which there are, their peak throughput, and a few of them alone, for
// tests.
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <numeric>
#include <stdexcept>

#include "bindings.h"
#include "checked.h"
#include "machine_peak.h"
#include "cpu.h"
#include "packed_matrix.h"

namespace quire {

// One product on one instruction set, for the kernel tests: out = a W^T, both packed in the instruction set's
// formats.
static void multiply(const std::string& isa, WeightFormat format, FloatMatrix weight, OutMatrix a,
                     OutMatrix out, Prefetch prefetch) {
  const Kernels& kernels = choose_kernels(isa);
  ThreadPool alone(1);
  SourceMatrix source = source_of(weight, Element::kF32);
  int64_t rows = static_cast<int64_t>(a.shape(0));
  const float* rows_in = elements_of(a, "a");
  float* product = elements_of(out, "out");
  if (static_cast<int64_t>(a.shape(1)) != source.columns || static_cast<int64_t>(out.shape(0)) != rows ||
      static_cast<int64_t>(out.shape(1)) != source.rows)
    throw std::invalid_argument("out [R, N] = a [R, K] * weight [N, K] transposed");
  format = packed_format(kernels, format);
  PackedMatrix packed(round_up(source.rows, kPanel) / kPanel, source.columns, format);
  packed.pack(kernels, source, 0, 1, alone);
  int64_t stride = round_up(source.columns, kPanel) * static_cast<int64_t>(sizeof(float));
  if (is_amx_format(format)) stride = amx_row_stride(format, source.columns);
  Buffer converted(checked_bytes({rows, stride}));
  Norm n{};
  n.x = rows_in;
  n.ldx = n.size = source.columns;
  n.out = {converted.get(), stride, kernels.activation_formats[static_cast<int>(format)], source.columns,
           zero_point_of(format)};
  kernels.norm(n, 0, rows);
  Gemm g{};
  g.weight = packed.panels();
  g.a = n.out;
  g.rows = rows;
  g.epilogue = Epilogue::kStore;
  g.out = product;
  g.ldo = g.num_columns = source.rows;
  Buffer scratch(static_cast<size_t>(gemm_scratch(source.columns)));
  g.scratch = scratch.get();
  g.prefetch = prefetch;
  kernels.gemm(g, 0, g.weight.num_panels);
}

// A matrix's values after packing, for the kernel tests: [N, K] float32.
static void packed_values(const std::string& isa, WeightFormat format, FloatMatrix weight, OutMatrix out) {
  const Kernels& kernels = choose_kernels(isa);
  ThreadPool alone(1);
  SourceMatrix source = source_of(weight, Element::kF32);
  if (static_cast<int64_t>(out.shape(0)) != source.rows ||
      static_cast<int64_t>(out.shape(1)) != source.columns)
    throw std::invalid_argument("out must be [N, K] as the weight is");
  float* values = elements_of(out, "out");
  PackedMatrix packed(round_up(source.rows, kPanel) / kPanel, source.columns, packed_format(kernels, format));
  packed.pack(kernels, source, 0, 1, alone);
  std::vector<int32_t> rows(static_cast<size_t>(source.rows));
  std::iota(rows.begin(), rows.end(), 0);
  kernels.embed({packed.panels(), rows.data(), nullptr, nullptr, 1.0f, values, source.columns}, 0,
                source.rows);
}

void bind_kernels(nb::module_& m) {
  m.def("available_isas", [] {
    std::vector<std::string> names;
    for (const Kernels* table : available_kernels()) names.emplace_back(table->name);
    return names;
  });
  m.def("int_layout", [](const std::string& isa) { return choose_kernels(isa).int_layout; }, nb::arg("isa"));
  m.def("measure_bandwidth", &measure_bandwidth, nb::arg("isa"), nb::arg("threads"), nb::arg("num_bytes"),
        nb::arg("rounds"), nb::call_guard<nb::gil_scoped_release>());
  m.def("measure_flops", &measure_flops, nb::arg("isa"), nb::arg("threads"), nb::arg("weight_format"),
        nb::arg("rounds"), nb::call_guard<nb::gil_scoped_release>());
  m.def("multiply", &multiply, nb::arg("isa"), nb::arg("weight_format"), nb::arg("weight").noconvert(),
        nb::arg("a").noconvert(), nb::arg("out").noconvert(), nb::arg("prefetch") = Prefetch::kBoth);
  m.def("packed_values", &packed_values, nb::arg("isa"), nb::arg("weight_format"),
        nb::arg("weight").noconvert(), nb::arg("out").noconvert());
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
