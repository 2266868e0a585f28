#include "group_rows.h"

#include <algorithm>
#include <stdexcept>

namespace quire {

static void require_groups(const PanelFormat& format) {
  if (format.encoding != Encoding::kGroups)
    throw std::invalid_argument("the matrix holds no group format, into which codes could be written");
}

void require_format(const CodeRows& source, const PanelFormat& format) {
  require_groups(format);
  const GroupFormat& groups = format.groups;
  if (groups.has_two_levels())
    throw std::invalid_argument("scales of two levels come in blocks, and not beside codes");
  if (groups.has_minimums() != (source.minimums != nullptr) ||
      (groups.offset == Offset::kZeroPoint) != (source.zero_points != nullptr))
    throw std::invalid_argument("minimums or zero points are missing, or the format has none");
  if (source.groups != (source.columns + groups.group - 1) / groups.group)
    throw std::invalid_argument("there must be a scale for every group that is begun");
  if (source.used_bits >> groups.bits) throw std::invalid_argument("a code has more bits than the format");
}

void require_format(const BlockRows& source, const PanelFormat& format) {
  require_groups(format);
  if (!(source.kind.format == format.groups))
    throw std::invalid_argument("the matrix was announced in another format than that of the blocks");
}

void pack_rows(const CodeRows& source, int64_t first_row, const Panel& panel) {
  GroupSection parts{};
  const int64_t size = panel.format.groups.group, num_sections = panel.num_sections();
  const int64_t count = std::min<int64_t>(kPanel, source.rows - first_row);
  for (int64_t section = 0; section < num_sections; ++section) {
    int64_t begin = section * size, length = std::min(size, source.columns - begin);
    for (int64_t n = 0; n < count; ++n) {
      int64_t row = first_row + n, at = row * num_sections + section;
      std::memcpy(parts.codes[n], source.codes + row * source.columns + begin, static_cast<size_t>(length));
      std::fill(parts.codes[n] + length, parts.codes[n] + size, uint8_t{0});
      parts.scales[n] = source.scales[at];
      if (source.minimums) parts.minimums[n] = source.minimums[at];
      if (source.zero_points) parts.zero_points[n] = source.zero_points[at];
    }
    write_section(panel, section, parts);
  }
}

void pack_rows(const BlockRows& source, int64_t first_row, const Panel& panel) {
  GroupSection parts{};
  const int64_t count = std::min<int64_t>(kPanel, num_rows(source) - first_row);
  const uint8_t* blocks[kPanel];
  std::copy_n(source.rows.begin() + first_row, count, blocks);
  for (int64_t section = 0; section < panel.num_sections(); ++section) {
    source.kind.decode(blocks, count, parts);
    write_section(panel, section, parts);
    for (int64_t n = 0; n < count; ++n) blocks[n] += source.kind.bytes;
  }
}

}  // namespace quire
