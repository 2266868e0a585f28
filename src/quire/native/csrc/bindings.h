// What the binding files share: array types that are never converted on the way in, and access to their
// elements.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <atomic>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>

#include "kernels.h"
#include "packed_matrix.h"

namespace nb = nanobind;

namespace quire {

class Decoder;

// Another call has not returned yet.
struct BusyError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Refuses with BusyError, or ForkedError, while another call holds the mutex; `owner` names what serves one
// at a time. `forks_before_call` is how often the process had been forked when the last call began.
std::unique_lock<std::mutex> alone(std::mutex& one_caller, std::atomic<uint64_t>& forks_before_call,
                                   const std::string& owner);
std::unique_lock<std::mutex> alone_with(Decoder& d);

using Ints = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using IntTable = nb::ndarray<const int32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using FloatMatrix = nb::ndarray<const float, nb::ndim<2>, nb::device::cpu>;
using BitsMatrix = nb::ndarray<const uint16_t, nb::ndim<2>, nb::device::cpu>;
using OutFloats = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using OutInts = nb::ndarray<int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using OutMatrix = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using OutHeads = nb::ndarray<float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

template <class Array>
int64_t size_of(const Array& array) {
  return static_cast<int64_t>(array.shape(0));
}

// The elements of an array, which must lie where such elements may: a view into bytes need not.
template <class Array>
auto* elements_of(const Array& array, const char* name) {
  auto* elements = array.data();
  if (array.size() > 0 && reinterpret_cast<uintptr_t>(elements) % sizeof(*elements) != 0)
    throw std::invalid_argument(std::string(name) + " is misaligned: copy it into an array of its own");
  return elements;
}

template <class Matrix>
SourceMatrix source_of(const Matrix& m, Element element) {
  int64_t rows = static_cast<int64_t>(m.shape(0)), columns = static_cast<int64_t>(m.shape(1));
  if (rows == 0 || columns == 0) throw std::invalid_argument("a weight without elements");
  return {elements_of(m, "weight"), element, rows, columns, m.stride(0), m.stride(1)};
}

// The matrix with what a squared error at each column weighs, if that is given.
inline SourceMatrix with_importance(SourceMatrix source, const std::optional<Floats>& importance) {
  if (!importance) return source;
  if (size_of(*importance) != source.columns)
    throw std::invalid_argument("importance must have a number for each column of the weight");
  source.importance = elements_of(*importance, "importance");
  return source;
}

// out [R, N] = a [R, K] * weight [N, K] transposed, on one thread.
void multiply_rows(const Kernels& kernels, const PackedMatrix& weight, Prefetch prefetch, const OutMatrix& a,
                   const OutMatrix& out);
// out [N, K] = the weight after packing.
void read_values(const Kernels& kernels, const PackedMatrix& weight, const OutMatrix& out);

void bind_attention(nb::module_& m);
// The formats of panels, and a matrix of group formats alone.
void bind_formats(nb::module_& m);
// The decoder, and what of it concerns weights, and the counting of work.
void bind_decoder(nb::module_& m);
void bind_weights(nb::class_<Decoder>& decoder);
void bind_counts(nb::class_<Decoder>& decoder);
// Instruction sets, canaries and single kernels.
void bind_kernels(nb::module_& m);
// What works on a row of logits.
void bind_sampling(nb::module_& m);

}  // namespace quire
