// Packed weights: memory for the panels of a matrix, filled from checkpoint rows.
#pragma once

#include "buffer.h"
#include "kernels.h"
#include "threads.h"

namespace quire {

class PackedMatrix {
 public:
  PackedMatrix() = default;
  PackedMatrix(int64_t num_panels, int64_t k, WeightFormat format);

  Panels panels() const { return {buffer_.get(), format_, k_, num_panels_}; }
  bool is_empty() const { return num_panels_ == 0; }
  size_t bytes() const { return buffer_.size(); }
  char* data() const { return buffer_.get(); }

  // Writes source row r to panel first_panel + r / 64 * panel_step, column r % 64. Throws std::invalid_argument.
  void pack(const Kernels& kernels, const SourceMatrix& source, int64_t first_panel, int64_t panel_step, ThreadPool& threads);

 private:
  Buffer buffer_;
  WeightFormat format_ = WeightFormat::kF32;
  int64_t k_ = 0;
  int64_t num_panels_ = 0;
};

}  // namespace quire
