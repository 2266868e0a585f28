// Rows of a matrix that are integers already: codes with scales, or blocks of a GGUF file. They are written
// into panels as they are.
#pragma once

#include <vector>

#include "gguf_blocks.h"

namespace quire {

// Row-major codes [rows, columns] with a scale for every `group` of the format, [rows, groups]. Formats with
// two levels have none of this kind.
struct CodeRows {
  int64_t rows;
  int64_t columns;
  int64_t groups;  // of a row
  const uint8_t* codes;
  uint8_t used_bits;  // of all codes together
  const uint16_t* scales;
  const uint16_t* minimums;    // of kMinimum, else null
  const uint8_t* zero_points;  // of kZeroPoint, else null
};

// Rows of whole blocks, wherever they lie.
struct BlockRows {
  const BlockKind& kind;
  int64_t columns;
  std::vector<const uint8_t*> rows;
};

// Throws std::invalid_argument where rows are not in a panel's format.
void require_format(const CodeRows& source, const PanelFormat& format);
void require_format(const BlockRows& source, const PanelFormat& format);

// Writes up to 64 rows from `first_row` on into a panel of their format.
void pack_rows(const CodeRows& source, int64_t first_row, const Panel& panel);
void pack_rows(const BlockRows& source, int64_t first_row, const Panel& panel);

inline int64_t num_rows(const CodeRows& source) { return source.rows; }
inline int64_t num_rows(const BlockRows& source) { return static_cast<int64_t>(source.rows.size()); }

}  // namespace quire
