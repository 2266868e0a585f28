// A packed weight matrix: owns the memory of its panels and packs them from checkpoint rows.
#pragma once

#include <stdexcept>

#include "buffer.h"
#include "checked.h"
#include "kernels.h"
#include "threads.h"

namespace quire {

class PackedMatrix {
 public:
  PackedMatrix() = default;
  PackedMatrix(int64_t num_panels, int64_t k, WeightFormat format)
      : buffer_(checked_bytes({num_panels, Panels{nullptr, format, k, 0}.bytes_per_panel()})),
        format_(format),
        k_(k),
        num_panels_(num_panels) {}

  Panels panels() const { return {buffer_.get(), format_, k_, num_panels_}; }
  bool is_empty() const { return num_panels_ == 0; }
  size_t bytes() const { return buffer_.size(); }
  char* data() const { return buffer_.get(); }

  // Writes source row r to panel first_panel + r / 64 * panel_step, column r % 64. Throws
  // std::invalid_argument.
  void pack(const Kernels& kernels, const SourceMatrix& source, int64_t first_panel, int64_t panel_step,
            ThreadPool& threads) {
    int64_t count = (source.rows + kPanel - 1) / kPanel;
    if (source.columns != k_ || first_panel + (count - 1) * panel_step >= num_panels_)
      throw std::invalid_argument("a weight does not fit the matrix it is packed into");
    threads.run(count, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t p = begin; p < end; ++p)
        kernels.pack(source, p * kPanel, panels(), first_panel + p * panel_step);
    });
  }

 private:
  Buffer buffer_;
  WeightFormat format_ = WeightFormat::kF32;
  int64_t k_ = 0;
  int64_t num_panels_ = 0;
};

}  // namespace quire
