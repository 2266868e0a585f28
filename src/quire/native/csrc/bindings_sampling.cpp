// Python bindings of sampling: rows of logits in, ids and sums out.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <stdexcept>

#include "bindings.h"
#include "cpu.h"
#include "decoder.h"
#include "noise.h"
#include "sample_rows.h"

namespace quire {

using FloatRows = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using MaskWords = nb::ndarray<const uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Ids = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Doubles = nb::ndarray<const double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

static void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(what);
}

// NaN fails every comparison.
static DrawMethod draw_method(double sharpness, std::optional<int64_t> top_k, double top_p, double least) {
  DrawMethod method{sharpness, top_k.value_or(std::numeric_limits<int64_t>::max()), top_p, least};
  require(method.sharpness > 0 && std::isfinite(method.sharpness),
          "sharpness to draw with must be positive and finite");
  require(method.top_k >= 1, "top_k must be positive: there is nothing to draw from");
  require(method.top_p > 0 && method.top_p <= 1, "top_p to draw with must be in (0, 1]");
  require(method.least <= 0, "least to draw with must be ln(min_p), 0 or below");
  return method;
}

static int64_t checked_num_top(int64_t num_top) {
  require(num_top >= 0, "the number of top tokens of a row is negative");
  return num_top;
}

static RowChoice row_choice(std::optional<DrawMethod> method, double noise, std::optional<int64_t> num_top) {
  require(noise >= 0 && noise < 1, "noise to draw with must be in [0, 1)");
  if (num_top) checked_num_top(*num_top);
  return {method, noise, {}, {}, {}, num_top};
}

// Rows with at least one logit: an empty row has no maximum and no sum. Ids are int32 elsewhere.
static LogitRows rows_of(const FloatRows& logits) {
  LogitRows rows{elements_of(logits, "logits"), static_cast<int64_t>(logits.shape(0)),
                 static_cast<int64_t>(logits.shape(1))};
  if (rows.vocab_size == 0) throw std::invalid_argument("a row without logits");
  if (rows.vocab_size > std::numeric_limits<int32_t>::max())
    throw std::invalid_argument("a row of more logits than int32 can number");
  return rows;
}

static void allow(RowChoice& choice, MaskWords words) {
  const uint32_t* elements = elements_of(words, "a mask");
  require(words.size() > 0, "a mask without a word");
  choice.allowed.assign(elements, elements + words.size());
}

static void change(RowChoice& choice, Ids ids, Doubles logits) {
  require(ids.size() == logits.size(), "changes to a row need one logit per id");
  const int64_t* elements = elements_of(ids, "ids");
  const double* values = elements_of(logits, "logits");
  choice.changed_ids.assign(elements, elements + ids.size());
  choice.changed_logits.assign(values, values + logits.size());
}

// Samples on the threads of a decoder, as one of the decoder's calls, or on threads of its own.
class BoundSampler {
 public:
  explicit BoundSampler(Decoder& decoder)
      : decoder_(&decoder), sampler_(decoder.kernels(), decoder.threads()) {}
  BoundSampler(const std::string& isa, int threads)
      : own_threads_(std::make_unique<ThreadPool>(threads)), sampler_(choose_kernels(isa), *own_threads_) {}

  std::vector<RowResult> sample(FloatRows logits, const std::vector<RowChoice>& choices) {
    LogitRows rows = rows_of(logits);
    auto lock = alone_here();
    nb::gil_scoped_release release;
    return sampler_.sample(rows, choices);
  }

  std::vector<RowResult> score(FloatRows logits, const std::vector<int64_t>& token_ids, int64_t num_top) {
    LogitRows rows = rows_of(logits);
    checked_num_top(num_top);
    auto lock = alone_here();
    nb::gil_scoped_release release;
    return sampler_.score(rows, token_ids, num_top);
  }

 private:
  std::unique_lock<std::mutex> alone_here() {
    return decoder_ ? alone_with(*decoder_) : alone(one_caller_, forks_before_call_, "sampler");
  }

  Decoder* decoder_ = nullptr;
  std::mutex one_caller_;
  std::atomic<uint64_t> forks_before_call_{0};
  std::unique_ptr<ThreadPool> own_threads_;
  BatchSampler sampler_;
};

static void bind_choices(nb::module_& m) {
  nb::class_<DrawMethod>(m, "DrawMethod")
      .def(nb::new_(&draw_method), nb::arg("sharpness"), nb::arg("top_k").none(), nb::arg("top_p"),
           nb::arg("least"));
  nb::class_<RowChoice>(m, "RowChoice")
      .def(nb::new_(&row_choice), nb::arg("method").none(), nb::arg("noise"), nb::arg("num_top").none())
      .def("allow", &allow, nb::arg("words").noconvert())
      .def("change", &change, nb::arg("ids").noconvert(), nb::arg("logits").noconvert());
  nb::class_<TokenScore>(m, "TokenScore")
      .def_ro("best", &TokenScore::best)
      .def_ro("exp_sum", &TokenScore::exp_sum)
      .def_ro("num_before", &TokenScore::num_before)
      .def_ro("largest_ids", &TokenScore::largest_ids);
  nb::class_<RowResult>(m, "RowResult")
      .def_ro("token_id", &RowResult::token_id)
      .def_ro("num_not_finite", &RowResult::num_not_finite)
      .def_ro("score", &RowResult::score);
}

void bind_sampling(nb::module_& m) {
  bind_choices(m);
  m.def("uniform", &uniform, nb::arg("seed"), nb::arg("position"));
  nb::class_<BoundSampler>(m, "BatchSampler")
      .def(nb::init<Decoder&>(), nb::arg("decoder"), nb::keep_alive<1, 2>())
      .def(nb::init<const std::string&, int>(), nb::arg("isa"), nb::arg("threads"))
      .def("sample", &BoundSampler::sample, nb::arg("logits").noconvert(), nb::arg("choices"))
      .def("score", &BoundSampler::score, nb::arg("logits").noconvert(), nb::arg("token_ids"),
           nb::arg("num_top"));
}

}  // namespace quire
