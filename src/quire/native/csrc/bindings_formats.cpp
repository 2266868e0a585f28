// Python bindings of panel formats, and of a matrix of group formats alone: what the tests of kernels write
// into.
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bindings.h"
#include "cpu.h"
#include "pack_groups.h"

namespace quire {

using Codes = nb::ndarray<const uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Halves = nb::ndarray<const uint16_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Multipliers = nb::ndarray<const int8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

// The parts of a section as arrays; those that a format lacks are empty.
struct SectionArrays {
  Codes codes;                // [64, elements]
  Halves scales, minimums;    // [64]
  Bytes zero_points;          // [64]
  Multipliers multipliers;    // [256 / group, 64]
  Codes minimum_multipliers;  // [8, 64]
};

template <class Array, class Part>
static void copy_part(const Array& from, Part& to, const char* name) {
  size_t bytes = from.size() * sizeof(*from.data());
  if (bytes > sizeof to) throw std::invalid_argument(std::string("too many ") + name);
  std::memcpy(&to, elements_of(from, name), bytes);
}

struct GroupMatrix {
  const Kernels& kernels;
  PackedMatrix matrix;

  GroupMatrix(const std::string& isa, const std::vector<GroupFormat>& formats, int64_t k)
      : kernels(choose_kernels(isa)) {
    constexpr int64_t kMostK = int64_t{1} << 24;
    if (formats.empty() || k < 1 || k > kMostK)
      throw std::invalid_argument("K is not in [1, 2^24], or there is no panel");
    std::vector<PanelFormat> panels;
    for (const GroupFormat& format : formats) panels.push_back({Encoding::kGroups, format});
    matrix = PackedMatrix(panels, k);
  }

  void set_section(int64_t panel, int64_t section, const SectionArrays& arrays) {
    if (panel < 0 || panel >= matrix.num_panels()) throw std::invalid_argument("there is no such panel");
    const Panel target = matrix.panels()[panel];
    if (section < 0 || section >= target.num_sections())
      throw std::invalid_argument("there is no such section");
    GroupSection parts{};
    if (static_cast<int64_t>(arrays.codes.shape(0)) != kPanel ||
        static_cast<int64_t>(arrays.codes.shape(1)) != target.elements_of(section))
      throw std::invalid_argument("codes must be [64, elements of the section]");
    for (size_t n = 0; n < kPanel; ++n)
      std::memcpy(parts.codes[n], elements_of(arrays.codes, "codes") + n * arrays.codes.shape(1),
                  arrays.codes.shape(1));
    copy_part(arrays.scales, parts.scales, "scales");
    copy_part(arrays.minimums, parts.minimums, "minimums");
    copy_part(arrays.zero_points, parts.zero_points, "zero_points");
    copy_part(arrays.multipliers, parts.multipliers, "multipliers");
    copy_part(arrays.minimum_multipliers, parts.minimum_multipliers, "minimum_multipliers");
    write_section(target, section, parts);
  }
};

static void bind_group_matrix(nb::module_& m) {
  nb::class_<GroupMatrix>(m, "GroupMatrix")
      .def(nb::init<const std::string&, const std::vector<GroupFormat>&, int64_t>(), nb::arg("isa"),
           nb::arg("formats"), nb::arg("k"))
      .def(
          "set_section",
          [](GroupMatrix& self, int64_t panel, int64_t section, Codes codes, Halves scales, Halves minimums,
             Bytes zero_points, Multipliers multipliers, Codes minimum_multipliers) {
            self.set_section(panel, section,
                             {codes, scales, minimums, zero_points, multipliers, minimum_multipliers});
          },
          nb::arg("panel"), nb::arg("section"), nb::arg("codes").noconvert(), nb::arg("scales").noconvert(),
          nb::arg("minimums").noconvert(), nb::arg("zero_points").noconvert(),
          nb::arg("multipliers").noconvert(), nb::arg("minimum_multipliers").noconvert())
      .def(
          "multiply",
          [](const GroupMatrix& self, OutMatrix a, OutMatrix out, Prefetch prefetch) {
            multiply_rows(self.kernels, self.matrix, prefetch, a, out);
          },
          nb::arg("a").noconvert(), nb::arg("out").noconvert(), nb::arg("prefetch") = Prefetch::kBoth)
      .def(
          "values",
          [](const GroupMatrix& self, OutMatrix out) { read_values(self.kernels, self.matrix, out); },
          nb::arg("out").noconvert());
}

void bind_formats(nb::module_& m) {
  nb::enum_<Encoding>(m, "Encoding")
      .value("F32", Encoding::kF32)
      .value("BF16", Encoding::kBF16)
      .value("GROUPS", Encoding::kGroups)
      .value("ROTATED", Encoding::kRotated)
      .value("INT8_AMX", Encoding::kInt8Amx);
  nb::enum_<ScaleType>(m, "ScaleType")
      .value("F16", ScaleType::kF16)
      .value("BF16", ScaleType::kBF16)
      .value("TWO_LEVEL", ScaleType::kTwoLevel);
  nb::enum_<Offset>(m, "Offset")
      .value("CENTER", Offset::kCenter)
      .value("ZERO_POINT", Offset::kZeroPoint)
      .value("MINIMUM", Offset::kMinimum);
  nb::class_<GroupFormat>(m, "GroupFormat")
      .def(
          "__init__",
          [](GroupFormat* self, int bits, int group, ScaleType scales, Offset offset) {
            new (self) GroupFormat{bits, group, scales, offset};
            if (!is_supported(*self)) throw std::invalid_argument("there is no such group format");
          },
          nb::arg("bits"), nb::arg("group") = kGroup, nb::arg("scales") = ScaleType::kBF16,
          nb::arg("offset") = Offset::kCenter);
  nb::class_<PanelFormat>(m, "PanelFormat")
      .def(nb::init<>())
      .def(
          "__init__",
          [](PanelFormat* self, Encoding encoding, const GroupFormat& groups) {
            new (self) PanelFormat{encoding, groups};
          },
          nb::arg("encoding"), nb::arg("groups") = GroupFormat{});
  bind_group_matrix(m);
}

}  // namespace quire
