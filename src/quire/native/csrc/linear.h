// A linear layer and a norm of the model, as the decoder keeps them.
#pragma once

#include <vector>

#include "packed_matrix.h"

namespace quire {

inline const float* pointer_or_null(const std::vector<float>& values) {
  return values.empty() ? nullptr : values.data();
}

// y = W x + b. W is one tensor, or several side by side: q, k, v; gate, up.
struct Linear {
  PackedMatrix weight;
  std::vector<float> bias;  // laid out like the panels; empty: none
  int64_t num_outputs = 0;  // without the padding of panels

  // The product with `count` rows of activations; where its epilogue writes is still to be set.
  Gemm product(const ActivationRows& a, int64_t count) const {
    Gemm g{};
    g.weight = weight.panels();
    g.a = a;
    g.rows = count;
    g.bias = pointer_or_null(bias);
    g.num_outputs = num_outputs;
    return g;
  }
};

// x / rms(x) * w, or (x - mean) / std * w + b. Without a weight the layer has no norm at this place.
struct NormWeights {
  std::vector<float> weight, bias;
};

}  // namespace quire
