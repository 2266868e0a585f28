"""Tensors of a GGUF file: their bytes stay in the mapped file, their values are made when an executor asks for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from quire.arrays import BitsArray, Float32Array
from quire.models.gguf.kinds import Kind
from quire.models.weights import SourceDType, SourceTensor, round_to_bfloat16

_BYTES_AT_ONCE = 1 << 15  # decoded in the processor's cache: several intermediate arrays of this many codes fit there


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockTensor(SourceTensor):
    """Rows of blocks of one kind. `bits` is uint8 [..., bytes per row]; its leading axes, in order, are the rows.

    Several leading axes describe rows that lie in another order than they count: a view, where a copy would read the file.
    """

    kind: Kind
    num_rows: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self.num_rows, self.bits.shape[-1] // self.kind.block_bytes * self.kind.num_elements

    def to_float32(self) -> Float32Array:
        """Returns what the blocks stand for, as contiguous float32."""
        values = np.empty(self.shape, np.float32)
        for start, rows in self._pieces():
            values[start : start + len(rows)] = rows
        return values

    def to_bfloat16(self) -> BitsArray:
        """Returns bfloat16 bits, rounded to nearest even; no float32 copy of the whole tensor exists meanwhile."""
        bits = np.empty(self.shape, np.uint16)
        for start, rows in self._pieces():
            bits[start : start + len(rows)] = round_to_bfloat16(rows)
        return bits

    def to_packable(self) -> Float32Array | BitsArray:
        """Returns bfloat16 bits of a tensor that is stored so, and float32 values of any other."""
        return self.to_bfloat16() if self.dtype is SourceDType.BFLOAT16 else self.to_float32()

    def _pieces(self) -> Any:
        """Yields (first row, float32 rows), a few rows at a time."""
        step = max(1, _BYTES_AT_ONCE // max(1, self.bits.shape[-1]))
        if self.bits.ndim == 2:
            for start in range(0, self.num_rows, step):
                yield start, self._decoded(self.bits[start : start + step])
            return
        start = 0
        for part in self.bits:
            rows = part.reshape(-1, part.shape[-1])
            yield start, self._decoded(rows)
            start += len(rows)

    def _decoded(self, rows: npt.NDArray[Any]) -> Float32Array:
        records = np.ascontiguousarray(rows).reshape(-1).view(self.kind.block)
        with np.errstate(invalid="ignore", over="ignore"):  # infinite scales are the file's, and become NaN or infinity
            return self.kind.decode(records).reshape(len(rows), -1)
