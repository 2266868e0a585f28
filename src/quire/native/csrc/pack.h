// Packed weights: checkpoint rows become panels, converted to the element the kernels read.
#pragma once

#include "buffer.h"
#include "kernels.h"
#include "threads.h"

namespace quire {

// A matrix as it lies in a checkpoint: strides in elements, so slices and transposes need no copy.
struct SourceMatrix {
  const void* base;
  Element element;
  int64_t rows;
  int64_t columns;
  int64_t row_stride;
  int64_t column_stride;
};

class PackedMatrix {
 public:
  PackedMatrix() = default;
  PackedMatrix(int64_t num_panels, int64_t k, Element element);

  Panels panels() const { return {buffer_.get(), element_, k_, num_panels_}; }
  bool is_empty() const { return num_panels_ == 0; }
  size_t bytes() const { return buffer_.size(); }

  // Writes source row r to panel first_panel + r / 64 * panel_step, column r % 64. Throws std::invalid_argument.
  void pack(const SourceMatrix& source, int64_t first_panel, int64_t panel_step, ThreadPool& threads);

 private:
  Buffer buffer_;
  Element element_ = Element::kF32;
  int64_t k_ = 0;
  int64_t num_panels_ = 0;
};

}  // namespace quire
