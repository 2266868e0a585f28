// Where each tensor of a model is stored, by canonical name: the names and shapes of
// ModelSpec.tensor_shapes().
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "linear.h"

namespace quire {

using TensorShape = std::vector<int64_t>;

// The formats of a model's matrices: of some by name, and of the rest.
struct MatrixFormats {
  PanelFormat rest;
  std::map<std::string, PanelFormat> by_name;

  const PanelFormat& of(const std::string& name) const {
    auto found = by_name.find(name);
    return found == by_name.end() ? rest : found->second;
  }
};

class TensorTable {
 public:
  // Tensors stored unchanged.
  void add_vector(const std::string& name, std::vector<float>& vector, const TensorShape& shape);

  // Makes room for a weight of panels of these formats and K elements, and for a bias if there is one; then
  // add_linear places the rows of each of its tensors.
  void add_panels(Linear& linear, std::vector<PanelFormat> formats, int64_t k, bool has_bias);
  // `name`.weight [num_rows, K], and `name`.bias if the linear layer has one: rows of 64 from `first_panel`
  // on, in every `panel_step`-th panel.
  void add_linear(const std::string& name, Linear& linear, int64_t num_rows, int64_t first_panel = 0,
                  int64_t panel_step = 1);

  // Packs or copies one tensor. Throws std::invalid_argument for a name that the model does not have, another
  // shape or another format; vectors are given flat.
  void set_matrix(const std::string& name, const SourceMatrix& source, const Kernels& kernels,
                  ThreadPool& threads);
  // See PackedMatrix; matrices that are multiplied together share their factors.
  void set_input_factors(const std::string& name, const float* factors, int64_t count);
  // What products multiply with: [count, K] of a matrix's rows from `first_row` on. Throws
  // std::invalid_argument for a name or rows that the model does not have, and for a matrix that was never
  // set.
  std::vector<float> dequantized(const std::string& name, int64_t first_row, int64_t count,
                                 const Kernels& kernels);
  template <class Rows>
  void set_rows(const std::string& name, const Rows& source, ThreadPool& threads) {
    Place& place = matrix_of(name, num_rows(source), source.columns);
    place.matrix->pack(source, place.first_panel, place.panel_step, threads);
    place.is_set = true;
  }
  void set_vector(const std::string& name, const float* values, int64_t size);
  // A whole matrix was read from a file: all of its weights are set, or none.
  void mark_read(const PackedMatrix& matrix, bool is_whole);
  // Throws std::invalid_argument with the name of a tensor that was never set.
  void require_complete();

  const std::vector<PackedMatrix*>& matrices() const { return matrices_; }
  std::map<std::string, TensorShape> shapes() const;
  bool has_matrix(const std::string& name) const;

 private:
  struct Place {
    TensorShape shape;
    PackedMatrix* matrix;        // null: the tensor is a vector
    std::vector<float>* vector;  // null: the tensor is a matrix
    bool is_laid_in_panels;      // from `first_panel` on, in every `panel_step`-th; else unchanged
    int64_t first_panel = 0, panel_step = 1;
    bool is_set = false;
  };

  Place& place_of(const std::string& name, bool is_matrix);
  Place& matrix_of(const std::string& name, int64_t rows, int64_t columns);

  std::map<std::string, Place> places_;
  std::vector<PackedMatrix*> matrices_;  // in the order in which they were added
  bool is_complete_ = false;
};

}  // namespace quire
