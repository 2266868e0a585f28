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
    """Returns the bits of a weight in memory, with its share of its group's bfloat16 scale, and for AMX int4 of a byte per 32."""
    integers = {"int8": 8.5, "int4": 4.5} if layout is PackLayout.VNNI else {"int8": 8.0625, "int4": 4.3125}
    return {"float32": 32, "bfloat16": 16, **integers}[weight_format.value]


def packed_bytes(shape: tuple[int, int], weight_format: WeightFormat, layout: PackLayout) -> int:
    """Returns the bytes of a packed matrix [N, K]: panels of 64 rows, of whole words of elements and the scales of each group."""
    rows, columns = shape
    word, group = _WORD_AND_GROUP[layout]
    bits = _ELEMENT_BITS[weight_format]
    scale_bytes = int((bits_per_weight(weight_format, layout) - bits) * group) * _PANEL_ROWS // 8
    panel_bytes = cdiv(columns, word) * word * bits * _PANEL_ROWS // 8 + cdiv(columns, group) * scale_bytes
    return cdiv(rows, _PANEL_ROWS) * panel_bytes
