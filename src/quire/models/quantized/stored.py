"""The parts of quantized weights as the files hold them, checked before use, and the whole weights that they make."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy.typing as npt

from quire.errors import CheckpointError
from quire.models.group_format import GroupCodes, GroupFormat
from quire.models.quantized.arithmetic import rounded
from quire.models.quantized.rows import WeightRows
from quire.models.safetensors_file import USABLE_DTYPES, SafetensorsFile, TensorEntry
from quire.models.strict_json import shorten
from quire.models.weights import DecodedTensor, SourceDType, SourceTensor

FLOATS = USABLE_DTYPES
MAX_DIMENSION = 2**31 - 1

_CODES_AT_ONCE = 1 << 18  # widened in the processor's cache: several arrays of so many codes fit there
_ROWS_AT_ONCE = 32  # or a multiple: a whole number of words, however many bits a code has


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedWeight:
    """A weight [N, K] that the stored tensors `parts`, the codes first, make; `open` decodes scales and returns the rows.

    `dtype` is the format to which the method itself rounds.
    """

    name: str
    num_rows: int
    num_columns: int
    dtype: SourceDType
    parts: tuple[TensorEntry, ...]
    open: Callable[[], WeightRows]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.num_rows, self.num_columns

    @property
    def num_bytes(self) -> int:
        """Bytes of the parts in the files."""
        return sum(part.stop - part.start for part in self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedTensor(DecodedTensor):
    """Rows [start, stop) of a quantized weight: widened each time their values are asked for, and kept nowhere.

    `bits` are the codes of the whole weight as the file holds them.
    """

    weight: PackedWeight
    start: int
    stop: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stop - self.start, self.weight.num_columns

    @property
    def value_dtype(self) -> SourceDType:
        return self.weight.dtype

    def rows(self, start: int, stop: int) -> PackedTensor:
        """Returns some of the rows, of which alone the codes will be read."""
        return replace(self, start=self.start + start, stop=self.start + stop)

    @property
    def rows_at_once(self) -> int:
        """The rows of a piece; the last one may have fewer."""
        return max(1, _CODES_AT_ONCE // self.weight.num_columns // _ROWS_AT_ONCE) * _ROWS_AT_ONCE

    def pieces(self) -> Iterator[SourceTensor]:
        rows = self.weight.open()
        for start, stop in self._spans():
            yield rounded(rows.values(start, stop), self.weight.dtype)

    @property
    def group_format(self) -> GroupFormat | None:
        return self.weight.open().group_format()

    def to_groups(self) -> GroupCodes | None:
        rows = self.weight.open()
        group_format = rows.group_format()
        if group_format is None:
            return None
        return GroupCodes.joined([rows.groups(group_format, start, stop) for start, stop in self._spans()])

    def _spans(self) -> Iterator[tuple[int, int]]:
        """Yields the rows of every piece as [start, stop) of the weight."""
        step = self.rows_at_once
        return ((start, min(start + step, self.stop)) for start in range(self.start, self.stop, step))


class StoredTensors:
    """All tensors of the files by name."""

    def __init__(self, placement: Mapping[str, SafetensorsFile]) -> None:
        self._placement = placement

    def __contains__(self, name: str) -> bool:
        return name in self._placement

    def __iter__(self) -> Iterator[str]:
        return iter(self._placement)

    def modules(self, leaf: str) -> Iterator[str]:
        """Returns the modules that hold a tensor of this name."""
        return (name.removesuffix(f".{leaf}") for name in self._placement if name.endswith(f".{leaf}"))

    def entry(self, name: str) -> TensorEntry:
        """Returns the row of the header."""
        return self._placement[name].entries[name]

    def part(self, name: str, dtypes: tuple[str, ...], shape: tuple[int, ...] | None = None) -> TensorEntry:
        """Returns a part that must be there, in one of these formats and, unless None, in this shape."""
        if name not in self:
            refuse(name, "is missing, though other parts of the same quantized weight are there")
        entry = self.entry(name)
        if entry.dtype not in dtypes:
            refuse(name, "is a part of a quantized weight in an unusable dtype", entry.dtype, ", ".join(dtypes))
        if shape is not None and entry.shape != shape:
            refuse(name, "is a part of a quantized weight in the wrong shape", list(entry.shape), list(shape))
        return entry

    def matrix(self, name: str, dtypes: tuple[str, ...]) -> TensorEntry:
        """Returns a part that must be there with two dimensions, neither of them empty."""
        entry = self.part(name, dtypes)
        if len(entry.shape) != 2 or 0 in entry.shape:
            refuse(name, "is a part of a quantized weight in the wrong shape", list(entry.shape), "a matrix that is not empty")
        return entry

    def array(self, entry: TensorEntry) -> npt.NDArray[Any]:
        """Returns the elements of a part whose format was checked."""
        elements = self._placement[entry.name].read_raw(entry.name)
        if elements is None:
            refuse(entry.name, "is a part of a quantized weight in an unusable dtype", entry.dtype)
        return elements

    def floats(self, entry: TensorEntry) -> SourceTensor:
        """Returns a part in a floating-point format of 16 or 32 bits."""
        return self._placement[entry.name].read(entry.name)


@dataclass(frozen=True, slots=True)
class _WholeEntry:
    """A packed weight in the words of safetensors."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    is_usable: bool = True


class PackedView:
    """A file as the loader sees it, whose tensors are computed when their values are asked for."""

    def __init__(self, weights: Mapping[str, PackedWeight], stored: StoredTensors) -> None:
        self._weights = weights
        self._stored = stored
        self.entries: Mapping[str, _WholeEntry] = {
            name: _WholeEntry(name, weight.dtype.value, weight.shape) for name, weight in weights.items()
        }

    def read(self, name: str) -> SourceTensor:
        """Returns a weight whose parts are read each time its values are asked for."""
        weight = self._weights[name]
        bits = self._stored.array(weight.parts[0])
        return PackedTensor(dtype=SourceDType.QUANTIZED, bits=bits, weight=weight, start=0, stop=weight.num_rows)


def size_of(count: int, unit: int, entry: TensorEntry) -> int:
    """Returns count / unit; raises CheckpointError about a part whose size it is if that is no whole number."""
    if count % unit or count // unit > MAX_DIMENSION:
        refuse(entry.name, "has a size that its bits or groups do not divide", list(entry.shape), f"multiples of {unit}")
    return count // unit


def order_part(stored: StoredTensors, name: str, num_in: int, num_groups: int) -> TensorEntry | None:
    """Returns the part that holds the group of each input, None if there is none; refuses groups that do not exist."""
    if name not in stored:
        return None
    entry = stored.part(name, ("I32",), (num_in,))
    groups = stored.array(entry)
    if groups.min() < 0 or groups.max() >= num_groups:
        refuse(name, "names a group that has no scale", f"{groups.min()} to {groups.max()}", f"0 to {num_groups - 1}")
    return entry


def refuse(name: str, problem: str, given: object = None, limit: object = None) -> NoReturn:
    """Raises CheckpointError about one stored tensor."""
    raise CheckpointError(
        f"{shorten(ascii(name)[1:-1], 160)} {problem}",
        given=given,
        limit=limit,
        next_step="Download the checkpoint again; if it is complete, its quantization_config belongs to another one.",
    )
