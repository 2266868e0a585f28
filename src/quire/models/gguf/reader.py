"""Reads numbers and texts from a mapped GGUF file; no length is believed before it is compared with the bytes that are left."""

from __future__ import annotations

import mmap
import struct
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from quire.errors import CheckpointError
from quire.models.mapped_file import DOWNLOAD_AGAIN
from quire.models.strict_json import shorten

MAX_NESTING = 4
_LENGTH = struct.Struct("<Q")
_SEPARATOR = b"\0"  # rare in a vocabulary, which writes this byte in another way


class ValueType(IntEnum):
    """The type of a metadata value, as the file numbers it."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


_NUMBERS: Mapping[ValueType, np.dtype[np.generic]] = MappingProxyType(
    {
        ValueType.UINT8: np.dtype("<u1"),
        ValueType.INT8: np.dtype("<i1"),
        ValueType.UINT16: np.dtype("<u2"),
        ValueType.INT16: np.dtype("<i2"),
        ValueType.UINT32: np.dtype("<u4"),
        ValueType.INT32: np.dtype("<i4"),
        ValueType.FLOAT32: np.dtype("<f4"),
        ValueType.BOOL: np.dtype("<u1"),
        ValueType.UINT64: np.dtype("<u8"),
        ValueType.INT64: np.dtype("<i8"),
        ValueType.FLOAT64: np.dtype("<f8"),
    }
)
_LEAST_BYTES = MappingProxyType({ValueType.STRING: 8, ValueType.ARRAY: 12})


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufArray:
    """An array in the metadata, whose lengths have been checked; its items are read when they are asked for.

    `heads` are the places [count + 1] of the texts' lengths, and where the last text ends; empty where the items are no texts.
    """

    item: ValueType
    count: int
    start: int
    content: mmap.mmap
    heads: array[int]

    def numbers(self) -> npt.NDArray[np.generic]:
        """Returns a view of the items, which must be numbers."""
        dtype = _NUMBERS[self.item]
        return np.frombuffer(self.content, dtype, self.count, self.start) if self.count else np.empty(0, dtype)

    def text_lengths(self) -> npt.NDArray[np.int64]:
        """Returns the bytes of each item [count], which must be texts."""
        heads = np.frombuffer(self.heads, np.int64)
        return heads[1:] - heads[:-1] - _LENGTH.size

    def texts(self) -> list[str]:
        """Returns the items, which must be texts; raises UnicodeDecodeError. A vocabulary is one decoding and one split."""
        if not self.count:
            return []
        joined = self._joined()
        if joined.count(_SEPARATOR) != self.count:
            pairs = zip(self.heads, self.heads[1:], strict=False)
            return [self.content[head + _LENGTH.size : end].decode() for head, end in pairs]
        return joined.decode().split(_SEPARATOR.decode())[1:]

    def _joined(self) -> bytes:
        """Returns the texts, each behind a separator in place of its length."""
        heads = np.frombuffer(self.heads, np.int64) - self.start
        content = np.frombuffer(self.content, np.uint8, heads[-1], self.start).copy()
        content[heads[:-1]] = _SEPARATOR[0]
        is_text = np.ones(len(content), np.bool_)
        for byte in range(1, _LENGTH.size):
            is_text[heads[:-1] + byte] = False
        return content[is_text].tobytes()


Value = int | float | bool | str | GgufArray


class Reader:
    """A position in a mapped file. Every refusal names the field that was being read."""

    def __init__(self, file_name: str, content: mmap.mmap) -> None:
        self.file_name = file_name
        self._content = content
        self.position = 0

    @property
    def num_left(self) -> int:
        return len(self._content) - self.position

    def number(self, value_type: ValueType, field: str) -> int | float:
        """Returns one number; a float32 as the shortest decimal that means it, so that 1e-6 is what was written as 1e-6."""
        dtype = _NUMBERS[value_type]
        self.require(dtype.itemsize, field)
        value = np.frombuffer(self._content, dtype, 1, self.position)[0]
        self.position += dtype.itemsize
        found: int | float = float(str(value)) if value_type is ValueType.FLOAT32 else value.item()
        return found

    def count(self, field: str, least_bytes: int, *, limit: int | None = None) -> int:
        """Returns a number of items of at least `least_bytes` each: `limit` at most, and no more than the file still holds."""
        found = int(self.number(ValueType.UINT64, field))
        if limit is not None and found > limit:
            self.refuse(field, "announces more than Quire reads", found, limit)
        if found * least_bytes > self.num_left:
            self.refuse(field, "announces more than the file holds", found, f"{self.num_left} bytes left")
        return found

    def text(self, field: str, max_bytes: int | None = None) -> str:
        """Returns a text, which must be UTF-8."""
        length = self.count(field, 1)
        if max_bytes is not None and length > max_bytes:
            self.refuse(field, "is too long", f"{length} bytes", f"{max_bytes} bytes")
        start, self.position = self.position, self.position + length
        try:
            return self._content[start : self.position].decode()
        except UnicodeDecodeError as error:
            self.refuse(field, "is not UTF-8", f"byte {error.start}")

    def value_type(self, field: str) -> ValueType:
        """Returns the type of the value that follows."""
        found = int(self.number(ValueType.UINT32, field))
        if found not in set(ValueType):
            self.refuse(field, "has an unknown value type", found, f"0 to {max(ValueType)}")
        return ValueType(found)

    def value(self, value_type: ValueType, field: str) -> Value:
        """Returns a value of metadata."""
        if value_type is ValueType.STRING:
            return self.text(field)
        if value_type is ValueType.ARRAY:
            return self._array(field, 1)
        found = self.number(value_type, field)
        if value_type is not ValueType.BOOL:
            return found
        if found not in (0, 1):
            self.refuse(field, "is neither true nor false", found, "0 or 1")
        return bool(found)

    def _array(self, field: str, depth: int) -> GgufArray:
        if depth > MAX_NESTING:
            self.refuse(field, "nests arrays too deeply", f"{depth} levels", f"{MAX_NESTING} levels")
        item = self.value_type(field)
        dtype = _NUMBERS.get(item)
        count = self.count(field, _LEAST_BYTES[item] if dtype is None else dtype.itemsize)
        start, heads = self.position, array("q")
        if dtype is not None:
            self.position += count * dtype.itemsize
        elif item is ValueType.STRING:
            heads = self._skip_texts(field, count)
        else:
            for _ in range(count):
                self._array(field, depth + 1)
        return GgufArray(item=item, count=count, start=start, content=self._content, heads=heads)

    def _skip_texts(self, field: str, count: int) -> array[int]:
        """Walks over texts without reading them, and returns `GgufArray.heads`: vocabularies have hundreds of thousands."""
        content, position, end = self._content, self.position, len(self._content) - _LENGTH.size
        unpack, width = _LENGTH.unpack_from, _LENGTH.size
        heads = array("q")
        note = heads.append
        for _ in range(count):
            if position > end:
                self.refuse(field, "ends past the end of the file", f"byte {position}", f"{len(content)} bytes")
            note(position)
            position += width + unpack(content, position)[0]
        if position > len(content):
            self.refuse(field, "ends past the end of the file", f"byte {position}", f"{len(content)} bytes")
        note(position)
        self.position = position
        return heads

    def require(self, num_bytes: int, field: str) -> None:
        """Raises unless so many bytes are left."""
        if num_bytes > self.num_left:
            self.refuse(field, "ends past the end of the file", f"{num_bytes} bytes", f"{self.num_left} bytes left")

    def refuse(self, field: str, problem: str, given: object = None, limit: object = None) -> NoReturn:
        """Raises CheckpointError about one field of the file."""
        refuse(self.file_name, field, problem, given, limit)


def refuse(file_name: str, field: str, problem: str, given: object = None, limit: object = None) -> NoReturn:
    """Raises CheckpointError about one field of a GGUF file."""
    raise CheckpointError(
        f"{file_name}: {shorten(ascii(field)[1:-1])} {problem}", given=given, limit=limit, next_step=DOWNLOAD_AGAIN
    )
