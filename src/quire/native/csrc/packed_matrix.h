// A packed weight matrix: owns the memory of its panels and packs them from checkpoint rows.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <stdexcept>
#include <utility>
#include <vector>

#include "buffer.h"
#include "checked.h"
#include "group_rows.h"
#include "kernels.h"
#include "threads.h"

namespace quire {

inline int64_t panels_of(int64_t rows) { return (rows + kPanel - 1) / kPanel; }

class PackedMatrix {
 public:
  PackedMatrix() = default;
  // A panel of each of these formats, which may differ in their groups. Throws std::invalid_argument for
  // formats that the kernels do not have or that are multiplied by different activations.
  PackedMatrix(std::vector<PanelFormat> formats, int64_t k) : formats_(std::move(formats)), k_(k) {
    offsets_.reserve(formats_.size() + 1);
    offsets_.push_back(0);
    for (const PanelFormat& format : formats_) {
      if (format.encoding != formats_[0].encoding)
        throw std::invalid_argument("the panels of a matrix must have one encoding");
      if (format.has_groups() && !is_supported(format.groups))
        throw std::invalid_argument(
            "no kernel multiplies this group format: see GroupFormat in weight_format.h");
      offsets_.push_back(checked_add(offsets_.back(), format.panel_bytes(k)));
    }
    buffer_ = Buffer(static_cast<size_t>(offsets_.back()));
    if (!formats_.empty() && formats_[0].encoding == Encoding::kRotated)
      input_factors_.assign(static_cast<size_t>(round_up(k, kGroup)), 1.0f);
  }

  Panels panels() const {
    return {buffer_.get(), formats_.data(), offsets_.data(), k_, num_panels(), input_factors_.data()};
  }
  int64_t k() const { return k_; }
  int64_t num_panels() const { return static_cast<int64_t>(formats_.size()); }
  bool is_empty() const { return formats_.empty(); }
  size_t bytes() const { return buffer_.size(); }
  char* data() const { return buffer_.get(); }

  // What inputs are multiplied by before they are rotated, powers of two: 1 until this is called, which must
  // be before the weights are packed. Throws std::invalid_argument.
  void set_input_factors(const float* factors, int64_t count) {
    if (input_factors_.empty()) throw std::invalid_argument("the inputs of this matrix are not rotated");
    if (count != k_) throw std::invalid_argument("every column of a matrix needs an input factor");
    for (int64_t i = 0; i < count; ++i) {
      int exponent;
      if (!(factors[i] > 0) || std::frexp(factors[i], &exponent) != 0.5f ||
          std::abs(exponent) > kMostExponent)
        throw std::invalid_argument("an input factor is not a power of two between 2^-32 and 2^32");
    }
    std::copy(factors, factors + count, input_factors_.begin());
  }

  // Writes source row r to panel first + r / 64 * step, column r % 64. Throws std::invalid_argument.
  void pack(const Kernels& kernels, const SourceMatrix& source, int64_t first, int64_t step,
            ThreadPool& threads) {
    require_room(source.rows, source.columns, first, step);
    for (int64_t p = 0; p < panels_of(source.rows); ++p)
      if (!is_packed_from_floats(formats_[static_cast<size_t>(first + p * step)], kernels))
        throw std::invalid_argument("floats are not quantized to this format here");
    each_panel(source.rows, first, step, threads,
               [&](int64_t first_row, const Panel& panel) { kernels.pack(source, first_row, panel); });
  }

  // The same with rows that are integers of the panels' format already: CodeRows or BlockRows.
  template <class Rows>
  void pack(const Rows& source, int64_t first, int64_t step, ThreadPool& threads) {
    require_room(num_rows(source), source.columns, first, step);
    for (int64_t p = 0; p < panels_of(num_rows(source)); ++p)
      require_format(source, formats_[static_cast<size_t>(first + p * step)]);
    each_panel(num_rows(source), first, step, threads,
               [&](int64_t first_row, const Panel& panel) { pack_rows(source, first_row, panel); });
  }

 private:
  static constexpr int kMostExponent = 33;

  void require_room(int64_t rows, int64_t columns, int64_t first, int64_t step) const {
    if (columns != k_ || first + (panels_of(rows) - 1) * step >= num_panels())
      throw std::invalid_argument("a weight does not fit the matrix it is packed into");
  }

  template <class Write>
  void each_panel(int64_t rows, int64_t first, int64_t step, ThreadPool& threads, const Write& write) {
    threads.run(panels_of(rows), 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t p = begin; p < end; ++p) write(p * kPanel, panels()[first + p * step]);
    });
  }

  static bool is_packed_from_floats(const PanelFormat& format, const Kernels& kernels) {
    if (format.encoding == Encoding::kInt8Amx) return kernels.has_amx;
    if (format.encoding == Encoding::kRotated) return format.groups == GroupFormat{8};
    if (format.encoding != Encoding::kGroups) return true;
    if (format.groups.has_two_levels()) return format.groups.has_minimums();
    return format.groups == GroupFormat{8};
  }

  Buffer buffer_;
  std::vector<PanelFormat> formats_;
  std::vector<int64_t> offsets_;  // one more than formats
  int64_t k_ = 0;
  std::vector<float> input_factors_;  // of kRotated
};

}  // namespace quire
