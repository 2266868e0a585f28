#include "tensor_table.h"

#include <stdexcept>
#include <utility>

#include "checked.h"

namespace quire {

void TensorTable::add_vector(const std::string& name, std::vector<float>& vector, const TensorShape& shape) {
  int64_t size = 1;
  for (int64_t length : shape) size = checked_mul({size, length});
  vector.resize(static_cast<size_t>(size));
  places_[name] = {shape, nullptr, &vector, false};
}

void TensorTable::add_panels(Linear& linear, std::vector<PanelFormat> formats, int64_t k, bool has_bias) {
  linear.weight = PackedMatrix(std::move(formats), k);
  if (has_bias) linear.bias.resize(static_cast<size_t>(linear.weight.num_panels() * kPanel));
  matrices_.push_back(&linear.weight);
}

void TensorTable::add_linear(const std::string& name, Linear& linear, int64_t num_rows, int64_t first_panel,
                             int64_t panel_step) {
  TensorShape shape{num_rows, linear.weight.k()};
  linear.num_outputs += num_rows;
  places_[name + ".weight"] = {shape, &linear.weight, nullptr, true, first_panel, panel_step};
  if (linear.bias.empty()) return;
  places_[name + ".bias"] = {{num_rows}, nullptr, &linear.bias, true, first_panel, panel_step};
}

TensorTable::Place& TensorTable::place_of(const std::string& name, bool is_matrix) {
  auto found = places_.find(name);
  if (found == places_.end() || is_matrix != (found->second.matrix != nullptr))
    throw std::invalid_argument(std::string("no ") + (is_matrix ? "matrix" : "vector") +
                                " of this model is called '" + name + "'");
  return found->second;
}

TensorTable::Place& TensorTable::matrix_of(const std::string& name, int64_t rows, int64_t columns) {
  Place& place = place_of(name, true);
  if (place.shape != TensorShape{rows, columns})
    throw std::invalid_argument("'" + name + "' has the wrong shape");
  return place;
}

bool TensorTable::has_matrix(const std::string& name) const {
  auto found = places_.find(name);
  return found != places_.end() && found->second.matrix != nullptr;
}

void TensorTable::set_matrix(const std::string& name, const SourceMatrix& source, const Kernels& kernels,
                             ThreadPool& threads) {
  Place& place = matrix_of(name, source.rows, source.columns);
  place.matrix->pack(kernels, source, place.first_panel, place.panel_step, threads);
  place.is_set = true;
}

void TensorTable::set_input_factors(const std::string& name, const float* factors, int64_t count) {
  place_of(name, true).matrix->set_input_factors(factors, count);
}

std::vector<float> TensorTable::dequantized(const std::string& name, int64_t first_row, int64_t count,
                                            const Kernels& kernels) {
  const Place& place = place_of(name, true);
  if (!place.is_set) throw std::invalid_argument("the weight '" + name + "' was never set");
  if (first_row < 0 || count < 1 || first_row > place.shape[0] - count)
    throw std::invalid_argument("'" + name + "' has no such rows");
  std::vector<float> rows(checked_bytes({count, place.shape[1]}));
  for (int64_t i = 0; i < count; ++i) {
    int64_t row = first_row + i;
    kernels.dequantize(place.matrix->panels()[place.first_panel + row / kPanel * place.panel_step],
                       row % kPanel, rows.data() + i * place.shape[1]);
  }
  return rows;
}

void TensorTable::set_vector(const std::string& name, const float* values, int64_t size) {
  Place& place = place_of(name, false);
  int64_t wanted = 1;
  for (int64_t length : place.shape) wanted *= length;
  if (size != wanted) throw std::invalid_argument("'" + name + "' has the wrong size");
  for (int64_t r = 0; r < size; ++r) {
    int64_t at = place.is_laid_in_panels
                     ? (place.first_panel + r / kPanel * place.panel_step) * kPanel + r % kPanel
                     : r;
    (*place.vector)[static_cast<size_t>(at)] = values[r];
  }
  place.is_set = true;
}

void TensorTable::mark_read(const PackedMatrix& matrix, bool is_whole) {
  is_complete_ = false;
  for (auto& [name, place] : places_)
    if (place.matrix == &matrix) place.is_set = is_whole;
}

void TensorTable::require_complete() {
  if (is_complete_) return;
  for (const auto& [name, place] : places_)
    if (!place.is_set) throw std::invalid_argument("the weight '" + name + "' was never set");
  is_complete_ = true;
}

std::map<std::string, TensorShape> TensorTable::shapes() const {
  std::map<std::string, TensorShape> shapes;
  for (const auto& [name, place] : places_) shapes[name] = place.shape;
  return shapes;
}

}  // namespace quire
