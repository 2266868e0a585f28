// From rows of logits to tokens: a whole batch per call, rows distributed over a thread pool. A row's result
// depends on that row alone.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "sampling.h"
#include "threads.h"

namespace quire {

// How the token of a row is chosen, and whether its log-probability is wanted.
struct RowChoice {
  std::optional<DrawMethod> method;  // none: the token with the largest logit
  double noise = 0;
  std::vector<uint32_t> allowed;     // token i may come next if bit i % 32 of word i / 32 is set; empty: all
  std::vector<int64_t> changed_ids;  // tokens whose logits penalties or a bias change,
  std::vector<double> changed_logits;  // and the new values
  std::optional<int64_t> num_top;      // most likely tokens to name with the log-probability; none: no scores
};

// What the log-probabilities of a token and of the most likely ones are made of.
struct TokenScore {
  float best;          // the largest logit
  double exp_sum;      // see sampling.h
  int64_t num_before;  // the token's rank, from zero
  std::vector<int64_t> largest_ids;
};

struct RowResult {
  std::optional<int64_t> token_id;  // none if a logit is not finite or every token is banned
  int64_t num_not_finite = 0;
  std::optional<TokenScore> score;
};

// Rows of logits [S, V], one after the other.
struct LogitRows {
  const float* x;
  int64_t num_rows;
  int64_t vocab_size;
};

// Works on the threads of a pool, which must outlive it; one call at a time.
class BatchSampler {
 public:
  BatchSampler(const Kernels& kernels, ThreadPool& threads);

  // One choice per row. Throws std::invalid_argument for changes that leave a row without an order or without
  // a finite maximum, and for choices of another vocabulary.
  std::vector<RowResult> sample(const LogitRows& logits, const std::vector<RowChoice>& choices);
  // The scores of one given token per row.
  std::vector<RowResult> score(const LogitRows& logits, const std::vector<int64_t>& token_ids,
                               int64_t num_top);

 private:
  // Copies of rows with banned tokens and changes.
  struct Scratch {
    std::vector<float> masked;
    std::vector<double> changed;
  };

  template <class Visit>
  std::vector<RowResult> for_rows(const LogitRows& logits, Visit visit);
  RowResult sample_row(const float* x, int64_t n, const RowChoice& choice, Scratch& scratch) const;
  template <class T>
  std::optional<int64_t> choose(const LogitRow<T>& row, const RowChoice& choice) const;

  const Kernels& kernels_;
  ThreadPool& threads_;
  std::vector<Scratch> scratch_;  // per worker
};

}  // namespace quire
