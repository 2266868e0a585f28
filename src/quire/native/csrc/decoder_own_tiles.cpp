// Own tiles in a step: which one each row writes and reads, and those that become full. A request's last tile
// is kept between steps; its others of this step begin and end in it, so that they lie in scratch memory that
// the next layer uses again.
#include "decoder.h"

namespace quire {

OwnTiles Decoder::own_tiles(int64_t layer) const {
  OwnTiles own{nullptr, scratch_tiles_.get(), num_own_tiles_, shape_.head_dim, shape_.num_kv_heads, nullptr};
  if (!has_own_tiles()) return own;
  own.kept = own_kept_.get() + layer * num_own_tiles_ * own.tile_bytes();
  own.tile_of_row = tile_of_row_.data();
  return own;
}

void Decoder::begin_writing(const Step& step) {
  not_finite_ = 0;
  if (has_own_tiles()) plan_own_tiles(step);
}

void Decoder::end_writing(const Step& step) {
  if (not_finite_) throw NotFiniteError("keys or values are not finite");
  for (int32_t row : full_rows_) is_full_[static_cast<size_t>(step.slots[row] / kTile)] = true;
}

void Decoder::plan_own_tiles(const Step& step) {
  tile_of_row_.resize(static_cast<size_t>(step.num_rows));
  full_rows_.clear();
  int32_t next = static_cast<int32_t>(num_own_tiles_);
  for (int64_t b = 0; b < step.num_requests; ++b) {
    int32_t end = step.query_start[b + 1], last_tile = step.positions[end - 1] / kTile;
    for (int32_t row = step.query_start[b]; row < end; ++row) {
      bool is_kept = step.positions[row] / kTile == last_tile,
           ends = step.positions[row] % kTile == kTile - 1;
      tile_of_row_[static_cast<size_t>(row)] = is_kept ? step.own_tiles[b] : next;
      is_full_[static_cast<size_t>(step.slots[row] / kTile)] = false;
      if (ends) full_rows_.push_back(row);
      if (ends && !is_kept) ++next;
    }
  }
  size_t bytes = static_cast<size_t>((next - num_own_tiles_) * own_tiles(0).tile_bytes() + kTileOverread);
  if (bytes > scratch_tiles_.size()) scratch_tiles_ = Buffer(bytes);
}

void Decoder::fill_tiles(const Step& step, int64_t layer) {
  FillTiles fill{pages(layer), own_tiles(layer), full_rows_.data(), step.slots, &not_finite_};
  threads_.run(static_cast<int64_t>(full_rows_.size()) * shape_.num_kv_heads, 1,
               [&](int64_t begin, int64_t end, int) { kernels_.fill_tiles(fill, begin, end); });
}

}  // namespace quire
