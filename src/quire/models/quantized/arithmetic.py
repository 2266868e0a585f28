"""What all formats compute with: codes out of packed words, and (code - zero) * scale, rounded once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from quire.arrays import Float32Array
from quire.models.weights import SourceDType, SourceTensor, round_to_bfloat16
from quire.units import cdiv


def unpack_codes(words: npt.NDArray[Any], bits: int, count: int) -> npt.NDArray[np.uint8]:
    """Returns codes [R, count] of `bits` bits from rows of little-endian words [R, W]: a stream, the lowest bits first.

    The caller has checked that the words hold `count` codes. `words` may be the transpose of a stored matrix.
    """
    stream = np.ascontiguousarray(words).view(np.uint8)
    if bits == 8:
        return stream[:, :count]
    if 8 % bits == 0:
        per_byte, mask = 8 // bits, np.uint8((1 << bits) - 1)
        codes = np.empty((len(stream), stream.shape[1] * per_byte), np.uint8)
        for place in range(per_byte):
            codes[:, place::per_byte] = (stream >> np.uint8(place * bits)) & mask
        return codes[:, :count]
    first_bit = np.arange(count) * bits
    padded = np.pad(stream, ((0, 0), (0, 1))).astype(np.uint16)
    pairs = padded[:, first_bit // 8] | (padded[:, first_bit // 8 + 1] << np.uint16(8))
    return ((pairs >> (first_bit % 8).astype(np.uint16)) & np.uint16((1 << bits) - 1)).astype(np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """How a matrix [N, K] shares its scales: one per block of `rows` x `columns`, or as `group_of_column` says."""

    rows: int
    columns: int
    group_of_column: npt.NDArray[np.int32] | None = None

    def shape_for(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Returns the number of blocks in each direction, the last of which may be narrower."""
        return cdiv(shape[0], self.rows), cdiv(shape[1], self.columns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """What turns codes into values: scales, and perhaps zero points, of the grid's shape."""

    grid: Grid
    scales: Float32Array
    zeros: npt.NDArray[Any] | None = None

    def apply(self, codes: Float32Array, first_row: int) -> Float32Array:
        """Changes contiguous `codes` [R, K], rows from `first_row` on, in place to (codes - zeros) * scales; returns them.

        Exact in float32 wherever scales have 16 bits and codes 8.
        """
        num_columns = codes.shape[1]
        groups = self.grid.group_of_column
        if groups is None and num_columns % self.grid.columns:
            groups = np.arange(num_columns, dtype=np.int32) // self.grid.columns
        rows = np.arange(first_row, first_row + len(codes)) // self.grid.rows
        target = codes if groups is not None else codes.reshape(len(codes), -1, self.grid.columns)

        def spread(per_block: npt.NDArray[Any]) -> npt.NDArray[Any]:
            return per_block[rows][:, :, None] if groups is None else per_block[rows][:, groups]

        with np.errstate(over="ignore", invalid="ignore"):
            if self.zeros is not None:
                target -= spread(self.zeros)
            target *= spread(self.scales)
        return codes


def rounded(values: Float32Array, dtype: SourceDType) -> SourceTensor:
    """Returns float32 values rounded once, to nearest even, into a format; what is too large becomes infinite."""
    if dtype is SourceDType.FLOAT32:
        return SourceTensor(dtype=dtype, bits=values)
    if dtype is SourceDType.BFLOAT16:
        return SourceTensor(dtype=dtype, bits=round_to_bfloat16(values))
    with np.errstate(over="ignore", invalid="ignore"):
        return SourceTensor(dtype=dtype, bits=values.astype(np.float16))
