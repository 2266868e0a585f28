"""Opened weights: their values, and where a group format holds them exactly, their codes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from quire.arrays import Float32Array
from quire.models.group_format import WORD, GroupCodes, GroupFormat, Offset, ScaleType, bits_of
from quire.models.quantized.arithmetic import Scaling
from quire.models.weights import SourceDType
from quire.units import cdiv

_SCALE_TYPES = {SourceDType.FLOAT16: ScaleType.FLOAT16, SourceDType.BFLOAT16: ScaleType.BFLOAT16}
_GROUPS = (128, 64, WORD)


class WeightRows(ABC):
    """A weight [N, K] whose scales have been decoded."""

    @abstractmethod
    def values(self, start: int, stop: int) -> Float32Array:
        """Returns rows [start, stop) in float32, before they are rounded to the weight's format."""

    def group_format(self) -> GroupFormat | None:
        """Returns the group format that holds the weight exactly, or None."""
        return None

    def groups(self, group_format: GroupFormat, start: int, stop: int) -> GroupCodes:
        """Returns rows [start, stop) in the format that `group_format` returned."""
        raise NotImplementedError("this weight has no group format")


@dataclass(frozen=True, slots=True)
class ValueRows(WeightRows):
    """A weight that no group format holds."""

    read: Callable[[int, int], Float32Array]

    def values(self, start: int, stop: int) -> Float32Array:
        return self.read(start, stop)


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegerRows(WeightRows):
    """(code - zero) * scale: `read` returns codes of rows, unsigned ones of `bits` bits, or signed bytes.

    Unsigned codes have zero points; signed bytes without any have the zero point 0.
    """

    read: Callable[[int, int], npt.NDArray[Any]]
    scaling: Scaling
    bits: int
    num_columns: int
    dtype: SourceDType

    def values(self, start: int, stop: int) -> Float32Array:
        return self.scaling.apply(self.read(start, stop).astype(np.float32), start)

    def group_format(self) -> GroupFormat | None:
        scales, group = scale_type(self.dtype), shared_by(self._block_columns, self.num_columns)
        if scales is None or group is None:
            return None
        bits = max(4, self.bits)
        zeros = self._zero_points
        is_centered = self._shift(bits) is not None and zeros.min() == zeros.max()
        return GroupFormat(bits, group, scales, Offset.CENTER if is_centered else Offset.ZERO_POINT)

    def groups(self, group_format: GroupFormat, start: int, stop: int) -> GroupCodes:
        codes = self.read(start, stop)
        codes = codes.view(np.uint8) ^ np.uint8(128) if codes.dtype == np.int8 else codes
        rows = (np.arange(start, stop) // self.scaling.grid.rows)[:, None]
        blocks = blocks_of(group_format.group, self._block_columns, self.num_columns)[None, :]
        scales = bits_of(self.scaling.scales[rows, blocks], group_format.scales)
        if group_format.offset is Offset.ZERO_POINT:
            return GroupCodes(codes=codes, scales=scales, zero_points=self._zero_points[rows, blocks])
        shift = self._shift(group_format.bits) or 0
        return GroupCodes(codes=codes + np.uint8(shift) if shift else codes, scales=scales)

    @property
    def _block_columns(self) -> int | None:
        """The inputs of a block, or None where they do not lie side by side."""
        grid = self.scaling.grid
        order = grid.group_of_column
        is_in_order = order is None or np.array_equal(order, np.arange(self.num_columns) // grid.columns)
        return grid.columns if is_in_order else None

    @property
    def _zero_points(self) -> npt.NDArray[np.uint8]:
        """Zero points of the unsigned codes."""
        zeros = self.scaling.zeros
        if zeros is None:
            return np.full(self.scaling.scales.shape, 128, np.uint8)
        return zeros.view(np.uint8) ^ np.uint8(128) if zeros.dtype == np.int8 else zeros

    def _shift(self, bits: int) -> int | None:
        """Returns what, added to every code, puts the first zero point at the center of `bits` bits; None if codes do not fit."""
        shift = (1 << (bits - 1)) - int(self._zero_points.flat[0])
        return shift if 0 <= shift < (1 << bits) - (1 << self.bits) + 1 else None


def scale_type(dtype: SourceDType) -> ScaleType | None:
    """Returns what scales of this format are in a group format, or None."""
    return _SCALE_TYPES.get(dtype)


def shared_by(columns: int | None, num_columns: int) -> int | None:
    """Returns the largest group such that blocks of `columns` inputs are whole groups; None if there is none."""
    if columns is None:
        return None
    return next((group for group in _GROUPS if columns % group == 0 or columns >= num_columns), None)


def blocks_of(group: int, columns: int | None, num_columns: int) -> npt.NDArray[np.intp]:
    """Returns the block of `columns` inputs in which each group lies."""
    return np.arange(cdiv(num_columns, group)) * group // (columns or num_columns)
