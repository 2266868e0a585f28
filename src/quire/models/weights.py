"""Weights as stored in a checkpoint: canonical names, raw bits, converted only where they are used."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from math import prod
from typing import cast

import numpy as np
import numpy.typing as npt

from quire.arrays import BitsArray, Float32Array
from quire.models.group_format import GroupBlocks, GroupCodes, GroupFormat

Progress = Callable[[int, int], None]

DECODERS_VERSION = 1
"""Raised whenever a quantized tensor, of safetensors or of GGUF, decodes to other values than before."""


class SourceDType(Enum):
    """Number formats a checkpoint may use."""

    FLOAT32 = "F32"
    FLOAT16 = "F16"
    BFLOAT16 = "BF16"
    QUANTIZED = "quantized blocks"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTensor:
    """One tensor, usually a view of a memory-mapped file.

    `bits` is float32 for F32, float16 for F16, and uint16 (the upper half of a float32) for BF16; it may be a
    non-contiguous view (a slice or a transpose). What QUANTIZED holds, a subclass says.
    """

    dtype: SourceDType
    bits: npt.NDArray[np.float32] | npt.NDArray[np.float16] | npt.NDArray[np.uint16] | npt.NDArray[np.uint8]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.bits.shape

    def to_float32(self) -> Float32Array:
        """Returns the exact values as contiguous float32."""
        if self.dtype is SourceDType.BFLOAT16:
            return (self.bits.astype(np.uint32, order="C") << 16).view(np.float32)
        return np.ascontiguousarray(self.bits, dtype=np.float32)

    def to_bfloat16(self) -> BitsArray:
        """Returns bfloat16 bits, contiguous, rounded to nearest even where the source is wider."""
        if self.dtype is SourceDType.BFLOAT16:
            return np.ascontiguousarray(self.bits, dtype=np.uint16)
        return round_to_bfloat16(self.to_float32())

    def select_rows(self, rows: npt.NDArray[np.integer]) -> Float32Array:
        """Returns some rows of a matrix, float32 [len(rows), K]."""
        return SourceTensor(dtype=self.dtype, bits=self.bits[rows]).to_float32()

    def to_packable(self) -> Float32Array | BitsArray:
        """Returns exact float32 values or bfloat16 bits: a view, with its strides, of a tensor that is stored as one of them."""
        return self.to_float32() if self.dtype is SourceDType.FLOAT16 else cast("Float32Array | BitsArray", self.bits)

    @property
    def group_format(self) -> GroupFormat | None:
        """The group format that holds a quantized matrix exactly; None if it is not quantized, or none does."""
        return None

    def to_groups(self) -> GroupCodes | GroupBlocks | None:
        """Returns what the file holds of a matrix that has a `group_format`, None of any other."""
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedTensor(SourceTensor, ABC):
    """A matrix whose values are computed from `bits` each time they are asked for, some rows after the others."""

    @property
    @abstractmethod
    def value_dtype(self) -> SourceDType:
        """A format that holds every value."""

    @abstractmethod
    def pieces(self) -> Iterator[SourceTensor]:
        """Returns consecutive rows with their values, all rows in the end; `shape` is that of the whole."""

    def to_float32(self) -> Float32Array:
        """Returns the values as contiguous float32."""
        values, start = np.empty(self.shape, np.float32), 0
        for piece in self.pieces():
            values[start : start + len(piece.bits)] = piece.to_float32()
            start += len(piece.bits)
        return values

    def to_bfloat16(self) -> BitsArray:
        """Returns bfloat16 bits, rounded to nearest even; no float32 copy of the whole matrix exists meanwhile."""
        bits, start = np.empty(self.shape, np.uint16), 0
        for piece in self.pieces():
            bits[start : start + len(piece.bits)] = piece.to_bfloat16()
            start += len(piece.bits)
        return bits

    def select_rows(self, rows: npt.NDArray[np.integer]) -> Float32Array:
        """Returns some rows, float32 [len(rows), K]; all are decoded for it, a piece at a time."""
        selected, start = np.empty((len(rows), self.shape[1]), np.float32), 0
        for piece in self.pieces():
            stop = start + len(piece.bits)
            is_here = (rows >= start) & (rows < stop)
            if is_here.any():
                selected[is_here] = piece.to_float32()[rows[is_here] - start]
            start = stop
        return selected

    def to_packable(self) -> Float32Array | BitsArray:
        """Returns bfloat16 bits where they hold every value, and exact float32 values elsewhere."""
        return self.to_bfloat16() if self.value_dtype is SourceDType.BFLOAT16 else self.to_float32()


class Weights(Mapping[str, SourceTensor]):
    """All tensors of a model by canonical name (see `ModelSpec.tensor_shapes`).

    `fingerprint` is 32 bytes that two models share only if they compute the same, or a function that finds them by reading
    the files: it is called once, when they are first asked for.
    """

    def __init__(self, tensors: Mapping[str, SourceTensor], fingerprint: bytes | Callable[[Progress | None], bytes]) -> None:
        self._tensors = dict(tensors)
        self._fingerprint = fingerprint
        self._group_formats: dict[str, GroupFormat | None] = {}

    def group_format(self, name: str) -> GroupFormat | None:
        """Returns the group format of a matrix, which is found by reading its scales: once."""
        if name not in self._group_formats:
            self._group_formats[name] = self[name].group_format
        return self._group_formats[name]

    @property
    def fingerprint(self) -> bytes:
        """The bytes that name these weights: they key the KV cache and the packed weights on disk."""
        return self.identify()

    def identify(self, on_progress: Progress | None = None) -> bytes:
        """Returns the fingerprint; `on_progress(done, total)` counts the pieces of files if many must be read for it."""
        if not isinstance(self._fingerprint, bytes):
            self._fingerprint = self._fingerprint(on_progress)
        return self._fingerprint

    def __getitem__(self, name: str) -> SourceTensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    @property
    def dtype(self) -> SourceDType:
        """QUANTIZED if any tensor is, else the format of the largest one: it decides what `--dtype auto` means."""
        tensors = self._tensors.values()
        if any(tensor.dtype is SourceDType.QUANTIZED for tensor in tensors):
            return SourceDType.QUANTIZED
        return max(tensors, key=lambda tensor: prod(tensor.shape)).dtype


def round_to_bfloat16(values: Float32Array) -> BitsArray:
    """Returns the nearest bfloat16 bits, ties to even; NaN stays NaN."""
    contiguous = np.ascontiguousarray(values, dtype=np.float32)
    bits = contiguous.view(np.uint32)
    halves = (bits >> 16) & 1
    halves += 0x7FFF
    halves += bits
    halves >>= 16
    rounded = halves.astype(np.uint16)
    is_nan = np.isnan(contiguous)
    if is_nan.any():
        rounded[is_nan] = (bits[is_nan] >> 16) | 0x40
    return rounded
