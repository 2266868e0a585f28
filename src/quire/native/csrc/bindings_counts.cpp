// Python bindings of the counting of work.
#include <nanobind/stl/tuple.h>

#include <tuple>

#include "bindings.h"
#include "decoder.h"

namespace quire {

static void start_counting(Decoder& d) {
  auto lock = alone_with(d);
  d.counts() = WorkCounts{};
}

static std::tuple<int64_t, int64_t, int64_t, int64_t> stop_counting(Decoder& d) {
  auto lock = alone_with(d);
  WorkCounts found = d.counts().value_or(WorkCounts{});
  d.counts().reset();
  return {found.projections, found.scores, found.mixing, found.head};
}

void bind_counts(nb::class_<Decoder>& decoder) {
  decoder.def("start_counting", &start_counting).def("stop_counting", &stop_counting);
}

}  // namespace quire
