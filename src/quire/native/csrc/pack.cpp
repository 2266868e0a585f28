#include "pack.h"

#include <stdexcept>

#include "checked.h"

namespace quire {

PackedMatrix::PackedMatrix(int64_t num_panels, int64_t k, WeightFormat format)
    : buffer_(checked_bytes({num_panels, Panels{nullptr, format, k, 0}.bytes_per_panel()})), format_(format), k_(k), num_panels_(num_panels) {}

void PackedMatrix::pack(const Kernels& kernels, const SourceMatrix& source, int64_t first_panel, int64_t panel_step, ThreadPool& threads) {
  int64_t count = (source.rows + kPanel - 1) / kPanel;
  if (source.columns != k_ || first_panel + (count - 1) * panel_step >= num_panels_)
    throw std::invalid_argument("a weight does not fit the matrix it is packed into");
  threads.run(count, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t p = begin; p < end; ++p) kernels.pack(source, p * kPanel, panels(), first_panel + p * panel_step);
  });
}

}  // namespace quire
