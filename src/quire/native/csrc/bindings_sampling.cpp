// Python bindings of sampling: a row of logits in, ids and sums out.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cmath>
#include <limits>
#include <optional>
#include <stdexcept>
#include <type_traits>

#include "bindings.h"
#include "cpu.h"
#include "sampling.h"
#include "threads.h"

namespace quire {

using Logits = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using WideLogits = nb::ndarray<const double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// A row with at least one logit: an empty row has no maximum and no sum. Ids are int32 elsewhere.
template <class Array>
struct LogitsOf {
  using Element = std::remove_pointer_t<decltype(std::declval<const Array&>().data())>;
  Element* x;
  int64_t n;

  explicit LogitsOf(const Array& logits)
      : x(elements_of(logits, "logits")), n(static_cast<int64_t>(logits.shape(0))) {
    if (n == 0) throw std::invalid_argument("a row without logits");
    if (n > std::numeric_limits<int32_t>::max())
      throw std::invalid_argument("a row of more logits than int32 can number");
  }
};

// NaN fails every comparison.
static void check(const DrawMethod& method, double noise) {
  auto require = [](bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(what);
  };
  require(method.sharpness > 0 && std::isfinite(method.sharpness),
          "sharpness to draw with must be positive and finite");
  require(method.top_k >= 1, "top_k must be positive: there is nothing to draw from");
  require(method.top_p > 0 && method.top_p <= 1, "top_p to draw with must be in (0, 1]");
  require(method.least <= 0, "least to draw with must be ln(min_p), 0 or below");
  require(noise >= 0 && noise < 1, "noise to draw with must be in [0, 1)");
}

template <class Array>
static int64_t draw_row(const std::string& isa, Array logits, double sharpness, std::optional<int64_t> top_k,
                        double top_p, double least, double noise) {
  LogitsOf<Array> row(logits);
  DrawMethod method{sharpness, top_k.value_or(row.n), top_p, least};
  check(method, noise);
  const Kernels& kernels = choose_kernels(isa);
  nb::gil_scoped_release release;
  DefaultFloats floats;
  return draw(kernels, row.x, row.n, method, noise);
}

// A row with a value that is not finite has no best token.
static std::optional<int64_t> best_id(const std::string& isa, Logits logits) {
  const Kernels& kernels = choose_kernels(isa);
  LogitsOf<Logits> row(logits);
  nb::gil_scoped_release release;
  Argmax best = argmax(kernels, row.x, row.n, 0);
  return best.num_not_finite ? std::nullopt : std::optional<int64_t>(best.id);
}

static std::vector<int64_t> largest(const std::string& isa, Logits logits, int64_t count) {
  LogitsOf<Logits> row(logits);
  if (count < 1) throw std::invalid_argument("at least one id must be asked for");
  return largest_ids(choose_kernels(isa), row.x, row.n, count);
}

static double weight_of_all(const std::string& isa, Logits logits) {
  LogitsOf<Logits> row(logits);
  const Kernels& kernels = choose_kernels(isa);
  DefaultFloats floats;
  return exp_sum(kernels, row.x, row.n);
}

static int64_t rank_of(Logits logits, int64_t token_id) {
  LogitsOf<Logits> row(logits);
  if (token_id < 0 || token_id >= row.n) throw std::invalid_argument("a token id is outside the row");
  return num_before(row.x, row.n, token_id);
}

void bind_sampling(nb::module_& m) {
  m.def("best_id", &best_id, nb::arg("isa"), nb::arg("logits").noconvert());
  m.def("draw", &draw_row<Logits>, nb::arg("isa"), nb::arg("logits").noconvert(), nb::arg("sharpness"),
        nb::arg("top_k").none(), nb::arg("top_p"), nb::arg("least"), nb::arg("noise"));
  m.def("draw", &draw_row<WideLogits>, nb::arg("isa"), nb::arg("logits").noconvert(), nb::arg("sharpness"),
        nb::arg("top_k").none(), nb::arg("top_p"), nb::arg("least"), nb::arg("noise"));
  m.def("largest_ids", &largest, nb::arg("isa"), nb::arg("logits").noconvert(), nb::arg("count"));
  m.def("exp_sum", &weight_of_all, nb::arg("isa"), nb::arg("logits").noconvert());
  m.def("num_before", &rank_of, nb::arg("logits").noconvert(), nb::arg("token_id"));
}

}  // namespace quire
