#include "sample_rows.h"

#include <algorithm>
#include <exception>
#include <limits>
#include <stdexcept>

#include "bucket_sampler.h"

namespace quire {

constexpr int64_t kLogitsPerUnit = 1 << 15;  // fewer are not worth a worker
constexpr int64_t kMaskBits = 32;

static void check(const RowChoice& choice, int64_t vocab_size) {
  auto require = [](bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(what);
  };
  int64_t num_words = (vocab_size + kMaskBits - 1) / kMaskBits;
  require(choice.allowed.empty() || static_cast<int64_t>(choice.allowed.size()) == num_words,
          "a mask must have one bit per token of the row, in whole words of 32");
  for (int64_t id : choice.changed_ids)
    require(id >= 0 && id < vocab_size, "the id of a changed logit is outside the row");
}

template <class T>
static void ban(T* x, int64_t n, const std::vector<uint32_t>& allowed) {
  for (size_t word = 0; word < allowed.size(); ++word) {
    if (allowed[word] == ~uint32_t{0}) continue;
    int64_t first = static_cast<int64_t>(word) * kMaskBits, size = std::min(kMaskBits, n - first);
    for (int64_t bit = 0; bit < size; ++bit)
      if (!(allowed[word] >> bit & 1)) x[first + bit] = -std::numeric_limits<T>::infinity();
  }
}

static TokenScore score_of(const LogitRow<float>& row, int64_t id, int64_t num_top) {
  TokenScore score{row.best(), exp_sum(row), num_before(row, id), {}};
  if (num_top > 0) score.largest_ids = largest_ids(row, num_top);
  return score;
}

// Stores how many values are not finite; false if there are any.
static bool is_finite(const Kernels& kernels, const LogitRow<float>& row, RowResult& result) {
  if (row.values != RowValues::kFinite) result.num_not_finite = count_not_finite(kernels, row.x, row.n);
  return result.num_not_finite == 0;
}

// A row to draw from as it is, without top-k and min-p, gets its approximate sum in the pass that finds its
// maxima.
static LogitRow<float> row_of(const Kernels& kernels, const float* x, int64_t n, const RowChoice& choice) {
  bool is_summed = choice.method && choice.method->top_k >= n && choice.method->least <= kMinNats &&
                   choice.changed_ids.empty() && choice.allowed.empty();
  return is_summed ? LogitRow<float>(kernels, x, n, choice.method->sharpness)
                   : LogitRow<float>(kernels, x, n);
}

BatchSampler::BatchSampler(const Kernels& kernels, ThreadPool& threads)
    : kernels_(kernels), threads_(threads), scratch_(static_cast<size_t>(threads.size())) {}

template <class T>
std::optional<int64_t> BatchSampler::choose(const LogitRow<T>& row, const RowChoice& choice) const {
  if (row.ordered().best() == -std::numeric_limits<T>::infinity()) return std::nullopt;
  return choice.method ? draw(kernels_, row, *choice.method, choice.noise) : row.best_id();
}

RowResult BatchSampler::sample_row(const float* x, int64_t n, const RowChoice& choice,
                                   Scratch& scratch) const {
  RowResult result;
  LogitRow<float> row = row_of(kernels_, x, n, choice);
  if (!is_finite(kernels_, row, result)) return result;
  if (!choice.changed_ids.empty()) {
    std::vector<double>& changed = scratch.changed;
    changed.assign(x, x + n);
    for (size_t i = 0; i < choice.changed_ids.size(); ++i)
      changed[static_cast<size_t>(choice.changed_ids[i])] = choice.changed_logits[i];
    ban(changed.data(), n, choice.allowed);
    result.token_id = choose(LogitRow<double>(kernels_, changed.data(), n), choice);
  } else if (!choice.allowed.empty()) {
    scratch.masked.assign(x, x + n);
    ban(scratch.masked.data(), n, choice.allowed);
    result.token_id = choose(LogitRow<float>(kernels_, scratch.masked.data(), n), choice);
  } else {
    result.token_id = choose(row, choice);
  }
  if (choice.num_top && result.token_id) result.score = score_of(row, *result.token_id, *choice.num_top);
  return result;
}

// Fills a result per row with visit(row, scratch).
template <class Visit>
std::vector<RowResult> BatchSampler::for_rows(const LogitRows& logits, Visit visit) {
  std::vector<RowResult> results(static_cast<size_t>(logits.num_rows));
  std::vector<std::exception_ptr> errors(results.size());
  DefaultFloats floats;
  threads_.run(logits.num_rows, std::max<int64_t>(kLogitsPerUnit / logits.vocab_size, 1),
               [&](int64_t begin, int64_t end, int worker) {
                 for (int64_t row = begin; row < end; ++row) {
                   try {
                     results[static_cast<size_t>(row)] = visit(row, scratch_[static_cast<size_t>(worker)]);
                   } catch (...) {
                     errors[static_cast<size_t>(row)] = std::current_exception();
                   }
                 }
               });
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
  return results;
}

std::vector<RowResult> BatchSampler::sample(const LogitRows& logits, const std::vector<RowChoice>& choices) {
  if (static_cast<int64_t>(choices.size()) != logits.num_rows)
    throw std::invalid_argument("a batch needs one choice per row of logits");
  for (const RowChoice& choice : choices) check(choice, logits.vocab_size);
  return for_rows(logits, [&](int64_t row, Scratch& scratch) {
    return sample_row(logits.x + row * logits.vocab_size, logits.vocab_size,
                      choices[static_cast<size_t>(row)], scratch);
  });
}

std::vector<RowResult> BatchSampler::score(const LogitRows& logits, const std::vector<int64_t>& token_ids,
                                           int64_t num_top) {
  if (static_cast<int64_t>(token_ids.size()) != logits.num_rows)
    throw std::invalid_argument("a batch needs one token per row of logits");
  for (int64_t id : token_ids)
    if (id < 0 || id >= logits.vocab_size) throw std::invalid_argument("a token id is outside the row");
  return for_rows(logits, [&](int64_t row_idx, Scratch&) {
    RowResult result;
    LogitRow<float> row(kernels_, logits.x + row_idx * logits.vocab_size, logits.vocab_size);
    if (!is_finite(kernels_, row, result)) return result;
    result.token_id = token_ids[static_cast<size_t>(row_idx)];
    result.score = score_of(row, *result.token_id, num_top);
    return result;
  });
}

}  // namespace quire
