// What the files of bindings share: the arrays that cross the border, never converted on the way in.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include "kernels.h"

namespace nb = nanobind;

namespace quire {

using Ints = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using IntTable = nb::ndarray<const int32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using FloatMatrix = nb::ndarray<const float, nb::ndim<2>, nb::device::cpu>;
using BitsMatrix = nb::ndarray<const uint16_t, nb::ndim<2>, nb::device::cpu>;
using OutFloats = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using OutInts = nb::ndarray<int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using OutMatrix = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using OutHeads = nb::ndarray<float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

inline int64_t size_of(const Ints& array) { return static_cast<int64_t>(array.shape(0)); }

template <class Matrix>
SourceMatrix source_of(const Matrix& m, Element element) {
  return {m.data(), element, static_cast<int64_t>(m.shape(0)), static_cast<int64_t>(m.shape(1)), m.stride(0), m.stride(1)};
}

// Instruction sets, canaries and single kernels.
void bind_kernels(nb::module_& m);
// What works on a row of logits.
void bind_sampling(nb::module_& m);

}  // namespace quire
