"""How matrices lie in memory once the native executor has packed them, and how many bits and bytes they take."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType

from quire.config import WeightFormat
from quire.units import cdiv

_PANEL_ROWS = 64


class PackLayout(Enum):
    """Which instructions integers are packed for; an instruction set has one layout. Groups are of 32 columns, or 256 for AMX."""

    VNNI = "vnni"
    AMX = "amx"


_WORD_AND_GROUP: Mapping[PackLayout, tuple[int, int]] = MappingProxyType({PackLayout.VNNI: (32, 32), PackLayout.AMX: (64, 256)})
"""Columns to which a matrix is padded, and columns that share a scale."""

_ELEMENT_BITS: Mapping[WeightFormat, int] = MappingProxyType(
    {WeightFormat.FLOAT32: 32, WeightFormat.BFLOAT16: 16, WeightFormat.INT8: 8, WeightFormat.INT4: 4}
)


def bits_per_weight(weight_format: WeightFormat, layout: PackLayout) -> float:
    """Returns the bits of a weight in memory, with its share of what its group takes besides."""
    _, group = _WORD_AND_GROUP[layout]
    return _ELEMENT_BITS[weight_format] + 8 * _scale_bytes(weight_format, layout) / group


def _scale_bytes(weight_format: WeightFormat, layout: PackLayout) -> int:
    """Returns the bytes that a group of a row takes besides its elements: a bfloat16 scale, and for AMX int4 a byte per 32."""
    if weight_format not in (WeightFormat.INT8, WeightFormat.INT4):
        return 0
    is_in_parts = (weight_format, layout) == (WeightFormat.INT4, PackLayout.AMX)
    return 2 + (_WORD_AND_GROUP[layout][1] // 32 if is_in_parts else 0)


def packed_bytes(shape: tuple[int, int], weight_format: WeightFormat, layout: PackLayout) -> int:
    """Returns the bytes of a packed matrix [N, K]: panels of 64 rows, of whole words of elements and the scales of each group."""
    rows, columns = shape
    word, group = _WORD_AND_GROUP[layout]
    bits = _ELEMENT_BITS[weight_format]
    scale_bytes = _scale_bytes(weight_format, layout) * _PANEL_ROWS
    panel_bytes = cdiv(columns, word) * word * bits * _PANEL_ROWS // 8 + cdiv(columns, group) * scale_bytes
    return cdiv(rows, _PANEL_ROWS) * panel_bytes
