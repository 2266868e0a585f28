// What Python sees of sampling: a row of logits in, ids and sums out.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <stdexcept>

#include "bindings.h"
#include "cpu.h"
#include "sampling.h"
#include "threads.h"

namespace quire {

using Logits = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using WideLogits = nb::ndarray<const double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// The number of logits: there is no best one, and no sum, of none.
template <class Row>
static int64_t num_logits(const Row& logits) {
  if (logits.shape(0) == 0) throw std::invalid_argument("a row without logits");
  return static_cast<int64_t>(logits.shape(0));
}

template <class Row>
static int64_t draw_row(const std::string& isa, Row logits, double sharpness, std::optional<int64_t> top_k, double top_p, double least,
                        double noise) {
  int64_t n = num_logits(logits);
  if (top_k.value_or(1) < 1) throw std::invalid_argument("there is nothing to draw from");
  const Kernels& kernels = choose_kernels(isa);
  nb::gil_scoped_release release;
  DefaultFloats floats;
  return draw(kernels, logits.data(), n, {sharpness, top_k.value_or(n), top_p, least}, noise);
}

// A row that is not finite has no best token.
static std::optional<int64_t> best_id(const std::string& isa, Logits logits) {
  const Kernels& kernels = choose_kernels(isa);
  int64_t n = num_logits(logits);
  nb::gil_scoped_release release;
  Best best = best_of(kernels, logits.data(), n, 0);
  return best.num_not_finite ? std::nullopt : std::optional<int64_t>(best.id);
}

static std::vector<int64_t> largest(const std::string& isa, Logits logits, int64_t count) {
  int64_t n = num_logits(logits);
  if (count < 1) throw std::invalid_argument("at least one id must be asked for");
  return largest_ids(choose_kernels(isa), logits.data(), n, count);
}

static double weight_of_all(const std::string& isa, Logits logits) {
  DefaultFloats floats;
  return exp_sum(choose_kernels(isa), logits.data(), num_logits(logits));
}

static int64_t rank_of(Logits logits, int64_t token_id) {
  int64_t n = num_logits(logits);
  if (token_id < 0 || token_id >= n) throw std::invalid_argument("a token id is outside the row");
  return num_before(logits.data(), n, token_id);
}

void bind_sampling(nb::module_& m) {
  m.def("best_id", &best_id, nb::arg("isa"), nb::arg("logits").noconvert());
  m.def("draw", &draw_row<Logits>, nb::arg("isa"), nb::arg("logits").noconvert(), nb::arg("sharpness"), nb::arg("top_k").none(),
        nb::arg("top_p"), nb::arg("least"), nb::arg("noise"));
  m.def("draw", &draw_row<WideLogits>, nb::arg("isa"), nb::arg("logits").noconvert(), nb::arg("sharpness"), nb::arg("top_k").none(),
        nb::arg("top_p"), nb::arg("least"), nb::arg("noise"));
  m.def("largest_ids", &largest, nb::arg("isa"), nb::arg("logits").noconvert(), nb::arg("count"));
  m.def("exp_sum", &weight_of_all, nb::arg("isa"), nb::arg("logits").noconvert());
  m.def("num_before", &rank_of, nb::arg("logits").noconvert(), nb::arg("token_id"));
}

}  // namespace quire
