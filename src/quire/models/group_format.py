"""Group formats: integers of a few bits, with a scale for a group of them, stand for weights.

What a checkpoint of another library, or a GGUF file, holds is described in these words, and the native core multiplies it as
it is (`csrc/group_format.h` has the same description). Elements lie along K, the inputs of a matrix [N, K].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

from quire.arrays import Float32Array
from quire.units import cdiv

WORD = 32
"""Elements of K in which the core packs integers: a matrix is filled up to whole words."""

SECTION = 256
"""Elements of K that share a scale of the upper level, where scales have two levels."""


class ScaleType(Enum):
    """What a scale is: 16 bits, or, with two levels, a float16 per section times a signed byte per group."""

    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    TWO_LEVEL = "two levels"


class Offset(Enum):
    """What a weight is, given its scale and its unsigned code.

    CENTER: scale * (code - 2 ** (bits - 1)). ZERO_POINT: scale * (code - z), a byte z per group. MINIMUM: scale * code + minimum,
    a number like the scale per group; with two levels minus a float16 per section times an unsigned byte per 32 elements.
    """

    CENTER = "center"
    ZERO_POINT = "zero point"
    MINIMUM = "minimum"


@dataclass(frozen=True, slots=True)
class GroupFormat:
    """Codes of `bits` bits (4, 5, 6, 8), of which `group` (32, 64, 128; with two levels 16 or 32) share a scale."""

    bits: int
    group: int
    scales: ScaleType
    offset: Offset

    @property
    def center(self) -> int:
        """The code of zero in a format that is symmetric."""
        return 1 << (self.bits - 1)

    @property
    def section(self) -> int:
        """Elements of K that follow one header of scales."""
        return SECTION if self.scales is ScaleType.TWO_LEVEL else self.group

    @property
    def header_bytes(self) -> int:
        """Bytes that a section of a row takes besides its codes."""
        has_minimum = self.offset is Offset.MINIMUM
        if self.scales is ScaleType.TWO_LEVEL:
            return 2 + SECTION // self.group + (2 + SECTION // WORD if has_minimum else 0)
        return 2 + (2 if has_minimum else 0) + (1 if self.offset is Offset.ZERO_POINT else 0)

    @property
    def description(self) -> str:
        """The format as text."""
        besides = {Offset.CENTER: "", Offset.ZERO_POINT: ", zero points", Offset.MINIMUM: ", minimums"}[self.offset]
        return f"{self.bits} bits in groups of {self.group}{besides}"

    @property
    def bits_per_weight(self) -> float:
        """Bits of a weight with its share of the header."""
        return self.bits + 8 * self.header_bytes / self.section

    def row_bytes(self, num_columns: int) -> int:
        """Returns the bytes of a packed row: whole words of codes, and a header for every section begun."""
        words = cdiv(num_columns, WORD) * WORD
        return words * self.bits // 8 + cdiv(num_columns, self.section) * self.header_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupCodes:
    """Rows of a matrix as codes [N, K] with 16-bit scales [N, K / group], as their bits; formats of two levels have none.

    Of Offset.MINIMUM there are `minimums` like the scales, of Offset.ZERO_POINT `zero_points`, [N, K / group] too.
    """

    codes: npt.NDArray[np.uint8]
    scales: npt.NDArray[np.uint16]
    minimums: npt.NDArray[np.uint16] | None = None
    zero_points: npt.NDArray[np.uint8] | None = None

    @classmethod
    def joined(cls, parts: Sequence[GroupCodes]) -> GroupCodes:
        """Returns the rows of all parts, contiguous."""
        minimums = [part.minimums for part in parts if part.minimums is not None]
        zero_points = [part.zero_points for part in parts if part.zero_points is not None]
        return cls(
            codes=_joined([part.codes for part in parts]),
            scales=_joined([part.scales for part in parts]),
            minimums=_joined(minimums) if minimums else None,
            zero_points=_joined(zero_points) if zero_points else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupBlocks:
    """Rows of a matrix as a GGUF file holds them: uint8 [..., bytes per row] of the kind `number`, leading axes in order."""

    number: int
    blocks: npt.NDArray[np.uint8]


def values_of(groups: GroupCodes, group_format: GroupFormat) -> Float32Array:
    """Returns the weights float32 [N, K] that codes stand for, each rounded once."""
    num_columns = groups.codes.shape[1]
    group_of_column = np.arange(num_columns) // group_format.group

    def spread(per_group: npt.NDArray[Any]) -> Float32Array:
        return per_group.astype(np.float32)[:, group_of_column]

    values = groups.codes.astype(np.float32)
    scales = spread(widened(groups.scales, group_format.scales))
    with np.errstate(over="ignore", invalid="ignore"):
        if groups.minimums is not None:
            return values * scales + spread(widened(groups.minimums, group_format.scales))
        if groups.zero_points is not None:
            return (values - spread(groups.zero_points)) * scales
        return (values - np.float32(group_format.center)) * scales


def _joined(parts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return np.ascontiguousarray(np.concatenate(parts))


def widened(bits: npt.NDArray[Any], scales: ScaleType) -> Float32Array:
    """Returns numbers of 16 bits, float16 or bfloat16, in float32."""
    if scales is ScaleType.FLOAT16:
        return bits.view(np.float16).astype(np.float32)
    return (bits.astype(np.uint32) << 16).view(np.float32)


def bits_of(values: Float32Array, scales: ScaleType) -> npt.NDArray[np.uint16]:
    """Returns the bits of numbers that the format holds exactly."""
    if scales is ScaleType.FLOAT16:
        return values.astype(np.float16).view(np.uint16)
    return (np.ascontiguousarray(values).view(np.uint32) >> 16).astype(np.uint16)
