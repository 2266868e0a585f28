"""Tensors of a GGUF file: their bytes stay in the mapped file, their values are made when an executor asks for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from quire.arrays import Float32Array
from quire.models.gguf.kinds import Kind, number_of
from quire.models.group_format import GroupBlocks, GroupFormat
from quire.models.weights import DecodedTensor, SourceDType, SourceTensor

_BYTES_AT_ONCE = 1 << 15  # decoded in the processor's cache: several intermediate arrays of this many codes fit there


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockTensor(DecodedTensor):
    """Rows of blocks of one kind. `bits` is uint8 [..., bytes per row]; its leading axes, in order, are the rows.

    Several leading axes describe rows that lie in another order than they count: a view, where a copy would read the file.
    """

    kind: Kind
    num_rows: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self.num_rows, self.bits.shape[-1] // self.kind.block_bytes * self.kind.num_elements

    @property
    def value_dtype(self) -> SourceDType:
        return self.dtype

    @property
    def group_format(self) -> GroupFormat | None:
        return self.kind.groups

    def to_groups(self) -> GroupBlocks | None:
        return None if self.kind.groups is None else GroupBlocks(number=number_of(self.kind), blocks=self.bits.view(np.uint8))

    def pieces(self) -> Iterator[SourceTensor]:
        step = max(1, _BYTES_AT_ONCE // max(1, self.bits.shape[-1]))
        parts = self.bits if self.bits.ndim > 2 else (self.bits[start : start + step] for start in range(0, self.num_rows, step))
        for part in parts:
            yield SourceTensor(dtype=SourceDType.FLOAT32, bits=self._decoded(part.reshape(-1, part.shape[-1])))

    def select_rows(self, rows: npt.NDArray[np.integer]) -> Float32Array:
        """Returns some rows; no others are decoded unless the rows lie in another order than they count."""
        return self._decoded(self.bits[rows]) if self.bits.ndim == 2 else DecodedTensor.select_rows(self, rows)

    def _decoded(self, rows: npt.NDArray[Any]) -> Float32Array:
        records = np.ascontiguousarray(rows).reshape(-1).view(self.kind.block)
        with np.errstate(invalid="ignore", over="ignore"):  # infinite scales are the file's, and become NaN or infinity
            return self.kind.decode(records).reshape(len(rows), -1)
