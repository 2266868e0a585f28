// From one row of logits to a token: what quire/sample defines in NumPy, bit for bit, without sorting the
// vocabulary.
//
// A row is float (as the model gave it) or double (after penalties; -inf where banned). Ties go to the
// smaller id everywhere.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "kernels.h"

namespace quire {

// The largest of some logits. `merge` may be called in any order: the result is that of one pass.
struct Argmax {
  float value = -std::numeric_limits<float>::infinity();
  int64_t id = std::numeric_limits<int64_t>::max();
  int64_t num_not_finite = 0;

  void merge(const Argmax& other) {
    num_not_finite += other.num_not_finite;
    if (other.value > value || (other.value == value && other.id < id)) value = other.value, id = other.id;
  }
};

// The best of x[0..n), whose first id is `first_id`. `id` means nothing where a value is not finite.
Argmax argmax(const Kernels& kernels, const float* x, int64_t n, int64_t first_id);

// How a token is drawn; see Draw in quire/sampling.py. top_k as large as the row keeps all.
struct DrawMethod {
  double sharpness;  // 1 / temperature, at most the largest double
  int64_t top_k;
  double top_p;
  double least;  // ln(min_p): drops tokens whose logit, times sharpness, is further below the best one's
};

// The token that `noise` in [0, 1) selects. Throws std::invalid_argument for a row with NaN, or whose largest
// value is infinite.
int64_t draw(const Kernels& kernels, const float* x, int64_t n, const DrawMethod& method, double noise);
int64_t draw(const Kernels& kernels, const double* x, int64_t n, const DrawMethod& method, double noise);

// The ids of the `count` largest, largest first. Throws std::invalid_argument for a row with NaN.
std::vector<int64_t> largest_ids(const Kernels& kernels, const float* x, int64_t n, int64_t count);

// The sum of e^(x - best), without what is lighter than e^-44. Throws as `draw` does.
double exp_sum(const Kernels& kernels, const float* x, int64_t n);

// How many ids come before `id` in the order of `largest_ids`. Throws std::invalid_argument for a row with
// NaN.
int64_t num_before(const float* x, int64_t n, int64_t id);

}  // namespace quire
