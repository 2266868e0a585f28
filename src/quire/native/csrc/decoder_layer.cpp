// One layer by itself, for passes that hold a single layer of a model in memory: rows in, rows out.
#include <cstring>
#include <stdexcept>

#include "decoder.h"

namespace quire {

static void copy_rows(const float* from, int64_t from_stride, float* to, int64_t to_stride, const Step& step,
                      int64_t size) {
  for (int64_t row = 0; row < step.num_rows; ++row)
    std::memcpy(to + row * to_stride, from + row * from_stride, static_cast<size_t>(size) * sizeof(float));
}

void Decoder::run_layer(const Step& step, float* residual, const LayerInputs& inputs) {
  if (layers_.size() != 1) throw std::invalid_argument("this decoder has more than one layer");
  for (const PackedMatrix* matrix : tensors_.matrices())
    if (matrix->panels().encoding() != Encoding::kF32)
      throw std::invalid_argument("a layer runs by itself with float32 weights only");
  tensors_.require_complete();
  DefaultFloats floats;
  num_rows_ = 0;  // there is no head for these rows
  reserve(step);
  plan_attention(step);
  begin_writing(step);
  int64_t size = shape_.hidden_size, stride = stride_of(size);
  copy_rows(residual, size, residual_.as<float>(), stride, step, size);
  compute_rotations(step);
  observed_ = inputs;
  attention_block(step, 0);
  ffn_block(step, 0);
  observed_ = {};
  end_writing(step);
  copy_rows(residual_.as<float>(), stride, residual, size, step, size);
}

void Decoder::observe(const ActivationRows& a, int64_t num_rows, float* to) {
  if (to == nullptr) return;
  for (int64_t row = 0; row < num_rows; ++row)
    std::memcpy(to + row * a.k, a.row(row), static_cast<size_t>(a.k) * sizeof(float));
}

}  // namespace quire
