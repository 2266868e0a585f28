// From one row of logits to a token: what quire/sample defines in NumPy, bit for bit, without sorting the
// vocabulary.
//
// A row is float (from the model) or double (after penalties; -inf for banned tokens). Ties go to the smaller
// id.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "kernels.h"

namespace quire {

// The argmax of some logits. `merge` is commutative and associative: the result is that of one pass.
struct Argmax {
  float value = -std::numeric_limits<float>::infinity();
  int64_t id = std::numeric_limits<int64_t>::max();
  int64_t num_not_finite = 0;

  void merge(const Argmax& other) {
    num_not_finite += other.num_not_finite;
    if (other.value > value || (other.value == value && other.id < id)) value = other.value, id = other.id;
  }
};

// The argmax of x[0..n), whose first id is `first_id`. If a value is not finite, `id` is meaningless.
Argmax argmax(const Kernels& kernels, const float* x, int64_t n, int64_t first_id);

// How many of x[0..n) are NaN or infinite.
int64_t count_not_finite(const Kernels& kernels, const float* x, int64_t n);

// How a token is drawn; see Draw in quire/sampling.py. top_k >= the row's size keeps all tokens.
struct DrawMethod {
  double sharpness;  // 1 / temperature, possibly the largest double
  int64_t top_k;
  double top_p;
  double least;  // ln(min_p): drops tokens whose logit, times sharpness, is further below the best one's
};

// A row of logits with the maxima of its spans; see bucket_sampler.h.
template <class T>
struct LogitRow;

// The token that `noise` in [0, 1) selects from a row of float or double. Throws std::invalid_argument for a
// row with NaN, or whose largest value is infinite.
template <class T>
int64_t draw(const Kernels& kernels, const LogitRow<T>& row, const DrawMethod& method, double noise);

// The ids of the `count` largest, largest first.
std::vector<int64_t> largest_ids(const LogitRow<float>& row, int64_t count);

// The sum of e^(x - best), without tokens lighter than e^-44. Throws like `draw`.
double exp_sum(const LogitRow<float>& row);

// How many ids come before `id` in the order of `largest_ids`.
int64_t num_before(const LogitRow<float>& row, int64_t id);

}  // namespace quire
