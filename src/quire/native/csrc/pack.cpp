#include "pack.h"

#include <algorithm>
#include <stdexcept>

namespace quire {

static uint16_t rounded_bf16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

static float widened(uint16_t x) {
  uint32_t bits = static_cast<uint32_t>(x) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

static void convert(uint16_t from, uint16_t& to) { to = from; }
static void convert(uint16_t from, float& to) { to = widened(from); }
static void convert(float from, uint16_t& to) { to = rounded_bf16(from); }
static void convert(float from, float& to) { to = from; }

// Elements of K that lie together in a panel: pairs for bfloat16.
template <class To>
constexpr int64_t kTogether = sizeof(To) == 2 ? 2 : 1;

// Packs up to 64 source rows into one panel, 16 elements of K at a time so that reads and writes stay in cache.
template <class From, class To>
static void pack_panel(const SourceMatrix& source, int64_t first_row, To* panel) {
  constexpr int64_t kStep = 16;
  int64_t rows = std::min<int64_t>(kPanel, source.rows - first_row);
  const From* base = static_cast<const From*>(source.base) + first_row * source.row_stride;
  for (int64_t k0 = 0; k0 < source.columns; k0 += kStep) {
    int64_t k1 = std::min(k0 + kStep, source.columns);
    for (int64_t n = 0; n < rows; ++n) {
      const From* row = base + n * source.row_stride;
      for (int64_t k = k0; k < k1; ++k)
        convert(row[k * source.column_stride], panel[(k / kTogether<To> * kPanel + n) * kTogether<To> + k % kTogether<To>]);
    }
  }
}

template <class From>
static void pack_panel(const SourceMatrix& source, int64_t first_row, const Panels& target, int64_t panel) {
  char* base = static_cast<char*>(const_cast<void*>(target.base)) + panel * target.bytes_per_panel();
  if (target.element == Element::kF32)
    pack_panel<From, float>(source, first_row, reinterpret_cast<float*>(base));
  else
    pack_panel<From, uint16_t>(source, first_row, reinterpret_cast<uint16_t*>(base));
}

PackedMatrix::PackedMatrix(int64_t num_panels, int64_t k, Element element)
    : buffer_(static_cast<size_t>(num_panels * Panels{nullptr, element, k, 0}.bytes_per_panel())),
      element_(element),
      k_(k),
      num_panels_(num_panels) {}

void PackedMatrix::pack(const SourceMatrix& source, int64_t first_panel, int64_t panel_step, ThreadPool& threads) {
  int64_t count = (source.rows + kPanel - 1) / kPanel;
  if (source.columns != k_ || first_panel + (count - 1) * panel_step >= num_panels_)
    throw std::invalid_argument("a weight does not fit the matrix it is packed into");
  threads.run(count, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t p = begin; p < end; ++p) {
      if (source.element == Element::kF32)
        pack_panel<float>(source, p * kPanel, panels(), first_panel + p * panel_step);
      else
        pack_panel<uint16_t>(source, p * kPanel, panels(), first_panel + p * panel_step);
    }
  });
}

}  // namespace quire
