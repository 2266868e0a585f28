"""How matrices lie in memory once the native executor has packed them, and how many bits and bytes they take."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType

from quire.config import WeightFormat
from quire.units import cdiv

_PANEL_ROWS = 64


class PackLayout(Enum):
    """Which instructions int8 is packed for; an instruction set has one layout. Groups are of 32 columns, or 256 for AMX.

    int4 has one layout, that of groups of 32.
    """

    VNNI = "vnni"
    AMX = "amx"


_ELEMENT_BITS: Mapping[WeightFormat, int] = MappingProxyType(
    {WeightFormat.FLOAT32: 32, WeightFormat.BFLOAT16: 16, WeightFormat.INT8: 8, WeightFormat.INT4: 4}
)


def bits_per_weight(weight_format: WeightFormat, layout: PackLayout) -> float:
    """Returns the bits of a weight in memory, with its share of what its group takes besides."""
    _, group = _word_and_group(weight_format, layout)
    return _ELEMENT_BITS[weight_format] + 8 * _scale_bytes(weight_format) / group


def _word_and_group(weight_format: WeightFormat, layout: PackLayout) -> tuple[int, int]:
    """Returns the columns to which a matrix is padded, and the columns that share a scale."""
    return (64, 256) if (weight_format, layout) == (WeightFormat.INT8, PackLayout.AMX) else (32, 32)


def _scale_bytes(weight_format: WeightFormat) -> int:
    """Returns the bytes that a group of a row takes besides its elements: a bfloat16 scale."""
    return 2 if weight_format in (WeightFormat.INT8, WeightFormat.INT4) else 0


def packed_bytes(shape: tuple[int, int], weight_format: WeightFormat, layout: PackLayout) -> int:
    """Returns the bytes of a packed matrix [N, K]: panels of 64 rows, of whole words of elements and the scales of each group."""
    rows, columns = shape
    word, group = _word_and_group(weight_format, layout)
    bits = _ELEMENT_BITS[weight_format]
    scale_bytes = _scale_bytes(weight_format) * _PANEL_ROWS
    panel_bytes = cdiv(columns, word) * word * bits * _PANEL_ROWS // 8 + cdiv(columns, group) * scale_bytes
    return cdiv(rows, _PANEL_ROWS) * panel_bytes
