#include "step_check.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace quire {

static void require(bool holds, const char* what, int64_t index, int64_t given) {
  if (!holds)
    throw std::invalid_argument(std::string(what) + " (at index " + std::to_string(index) + ": " +
                                std::to_string(given) + ")");
}

static void check_rows(const Decoder& d, const Step& s) {
  for (int64_t t = 0; t < s.num_rows; ++t) {
    require(s.token_ids[t] >= 0 && s.token_ids[t] < d.shape().vocab_size,
            "a token id is outside the vocabulary", t, s.token_ids[t]);
    require(s.positions[t] >= 0 && s.positions[t] < d.shape().max_context,
            "a position is outside the context", t, s.positions[t]);
    require(s.slots[t] >= 0 && s.slots[t] / d.block_size() < d.num_blocks(),
            "a slot is outside the KV memory", t, s.slots[t]);
  }
  for (int64_t i = 0; i < s.num_samples; ++i)
    require(s.sample_rows[i] >= 0 && s.sample_rows[i] < s.num_rows, "a sample row is outside the step", i,
            s.sample_rows[i]);
}

static void check_request(const Decoder& d, const Step& s, int64_t request, int64_t context_len) {
  int64_t begin = s.query_start[request], end = s.query_start[request + 1];
  require(begin < end && end <= s.num_rows,
          "a request has no rows, or its rows are not those after the request before", request, end - begin);
  require(s.positions[end - 1] == context_len - 1, "positions and context_lens do not agree", request,
          context_len);
  int64_t num_blocks = (context_len + d.block_size() - 1) / d.block_size();
  require(num_blocks <= s.blocks_per_request, "a block table is too short for its context", request,
          context_len);
  const int32_t* blocks = s.block_tables + request * s.blocks_per_request;
  for (int64_t i = 0; i < num_blocks; ++i)
    require(blocks[i] >= 0 && blocks[i] < d.num_blocks(), "a block id is outside the KV memory", i,
            blocks[i]);
  for (int64_t t = begin; t < end; ++t) {
    require(s.positions[t] == context_len - (end - t), "positions and context_lens do not agree", t,
            s.positions[t]);
    int64_t slot = blocks[s.positions[t] / d.block_size()] * d.block_size() + s.positions[t] % d.block_size();
    require(s.slots[t] == slot, "a slot is not where the block table has its position", t, s.slots[t]);
  }
}

// A tile that a step begins inside is read from its own tile until the step ends, so the step must not go on
// to the next one, which would be written to the same memory.
static void check_own_tiles(const Decoder& d, const Step& s) {
  if (!d.has_own_tiles())
    return require(!s.own_tiles, "own tiles are named where the KV format has none", 0, s.num_requests);
  require(s.own_tiles, "the step does not say which own tiles its requests have", 0, s.num_requests);
  for (int64_t b = 0; b < s.num_requests; ++b) {
    require(s.own_tiles[b] >= 0 && s.own_tiles[b] < d.num_own_tiles(), "there is no such own tile", b,
            s.own_tiles[b]);
    int32_t first = s.positions[s.query_start[b]], last = s.positions[s.query_start[b + 1] - 1];
    require(first % kTile == 0 || first / kTile == last / kTile,
            "a request's rows begin inside a tile and do not end in it", b, last);
  }
  std::vector<int32_t> tiles(s.own_tiles, s.own_tiles + s.num_requests);
  std::sort(tiles.begin(), tiles.end());
  auto twice = std::adjacent_find(tiles.begin(), tiles.end());
  require(twice == tiles.end(), "two requests of one step have the same own tile", 0,
          twice == tiles.end() ? 0 : *twice);
}

// Two threads must not write the same slot. Requests may share blocks that they only read.
static void check_written_once(const Step& s) {
  std::vector<int32_t> slots(s.slots, s.slots + s.num_rows);
  std::sort(slots.begin(), slots.end());
  auto twice = std::adjacent_find(slots.begin(), slots.end());
  require(twice == slots.end(), "a slot is written twice in one step", 0, twice == slots.end() ? 0 : *twice);
}

void check_step(const Decoder& decoder, const Step& s, const int32_t* context_lens) {
  check_rows(decoder, s);
  require(s.query_start[0] == 0, "query_start does not begin with 0", 0, s.query_start[0]);
  int64_t last = s.num_requests;
  require(s.query_start[last] == s.num_rows, "query_start does not end with the number of rows", last,
          s.query_start[last]);
  for (int64_t b = 0; b < s.num_requests; ++b) check_request(decoder, s, b, context_lens[b]);
  check_own_tiles(decoder, s);
  check_written_once(s);
}

}  // namespace quire
