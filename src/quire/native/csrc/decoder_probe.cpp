// How fast products of one row read the packed weights with one way of prefetching or another.
#include <chrono>
#include <stdexcept>

#include "decoder.h"

namespace quire {

constexpr int64_t kMaxRegions = 1 << 16;

int64_t Decoder::divide_weights(int64_t count, int64_t bytes) {
  if (count < 1 || count > kMaxRegions || bytes < 1)
    throw std::invalid_argument("there must be regions, at most 65536, and each must hold bytes");
  regions_.assign(static_cast<size_t>(count), {});
  const double share = static_cast<double>(weight_bytes()) / static_cast<double>(count);
  double offset = 0;  // of a panel among the bytes of all weights
  for (const PackedMatrix* matrix : tensors_.matrices()) {
    const Panels panels = matrix->panels();
    for (int64_t panel = 0; panel < panels.num_panels; ++panel) {
      const double panel_bytes = static_cast<double>(panels.offsets[panel + 1] - panels.offsets[panel]);
      const size_t region = static_cast<size_t>(offset / share);
      const double end = offset - static_cast<double>(region) * share + panel_bytes;  // in its region
      offset += panel_bytes;
      if (end > std::min(share, static_cast<double>(bytes))) continue;
      std::vector<PanelRange>& ranges = regions_[region];
      if (!ranges.empty() && ranges.back().matrix == matrix) ++ranges.back().end;
      else ranges.push_back({matrix, panel, panel + 1});
    }
  }
  auto is_empty = [](const std::vector<PanelRange>& ranges) { return ranges.empty(); };
  if (std::any_of(regions_.begin(), regions_.end(), is_empty)) regions_.clear();
  return static_cast<int64_t>(regions_.size());
}

double Decoder::read_seconds(int64_t region, Prefetch prefetch) {
  if (region < 0 || region >= static_cast<int64_t>(regions_.size()))
    throw std::invalid_argument("there is no such region");
  DefaultFloats floats;
  const std::vector<PanelRange>& ranges = regions_[static_cast<size_t>(region)];
  int64_t widest = 0, longest = 0;
  for (const PanelRange& range : ranges) {
    widest = std::max(widest, range.matrix->k());
    longest = std::max(longest, (range.end - range.begin) * kPanel);
  }
  Buffer row(static_cast<size_t>(stride_of(widest)) * sizeof(float));
  std::vector<float> product(static_cast<size_t>(longest));
  auto start = std::chrono::steady_clock::now();
  for (const PanelRange& range : ranges) {
    Gemm g{};
    g.weight = range.matrix->panels();
    g.a = rows_for(*range.matrix, row);
    g.rows = 1;
    g.epilogue = Epilogue::kStore;
    g.out = product.data();
    g.out_column = range.begin * kPanel;
    g.ldo = longest;
    g.num_columns = g.weight.num_panels * kPanel;
    multiply_units(g, range.begin, range.end, prefetch);
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace quire
