"""Reads one safetensors file without copying: the header is parsed here, the tensors are views of the mapped file.

    bytes [0, 8)        length of the header, little-endian
    bytes [8, 8 + n)    JSON: name -> {"dtype", "shape", "data_offsets": [start, stop)}, and "__metadata__"
    bytes [8 + n, end)  the tensors, without gaps; offsets count from 8 + n

The file is not trusted: every length is compared with the bytes that are there before anything is allocated.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from quire.errors import CheckpointError
from quire.models.mapped_file import DOWNLOAD_AGAIN, map_file
from quire.models.strict_json import parse_json, shorten
from quire.models.weights import SourceDType, SourceTensor

MAX_HEADER_BYTES = 100_000_000  # the format's own limit
MAX_DIMENSIONS = 8
MAX_NAME_CHARS = 1024
_LENGTH_BYTES = 8
_GIT_LFS_START = b"version https://git-lfs"

_DTYPE_BITS: Mapping[str, int] = MappingProxyType(
    {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}
    | dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8)
    | dict.fromkeys(("U16", "I16", "F16", "BF16"), 16)
    | dict.fromkeys(("U32", "I32", "F32"), 32)
    | dict.fromkeys(("U64", "I64", "F64", "C64"), 64)
)
_STORAGE: Mapping[SourceDType, np.dtype[Any]] = MappingProxyType(
    {
        SourceDType.FLOAT32: np.dtype("<f4"),
        SourceDType.FLOAT16: np.dtype("<f2"),
        SourceDType.BFLOAT16: np.dtype("<u2"),
    }
)
USABLE_DTYPES = tuple(dtype.value for dtype in _STORAGE)
_RAW: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {
        **dict.fromkeys(("U8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), np.dtype("u1")),
        "I8": np.dtype("i1"),
        "U32": np.dtype("<u4"),
        "I32": np.dtype("<i4"),
        "I64": np.dtype("<i8"),
    }
)
"""Elements of the formats that parts of quantized weights have; 8-bit floating point is bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    """One row of the header. Its bytes are [start, stop) of the whole file; `dtype` is the format's own word."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def is_usable(self) -> bool:
        """Whether Quire can compute with this number format."""
        return self.dtype in USABLE_DTYPES


@dataclass(frozen=True, slots=True, kw_only=True)
class SafetensorsFile:
    """A mapped file whose header has been checked. The mapping lives as long as any tensor of it.

    Replacing or deleting the file meanwhile is harmless; rewriting it in place changes the tensors, as any mapping would.
    """

    path: Path
    entries: Mapping[str, TensorEntry]
    status: os.stat_result
    content: mmap.mmap

    @property
    def name(self) -> str:
        return self.path.name

    def read(self, name: str) -> SourceTensor:
        """Returns a usable tensor as a read-only view; a copy only where the file aligned it badly."""
        dtype = SourceDType(self.entries[name].dtype)
        return SourceTensor(dtype=dtype, bits=self._elements(self.entries[name], _STORAGE[dtype]))

    def read_raw(self, name: str) -> npt.NDArray[Any] | None:
        """Returns the elements of a part of a quantized weight, a view as in `read`; None for a format that no such part has."""
        storage = _RAW.get(self.entries[name].dtype)
        return None if storage is None else self._elements(self.entries[name], storage)

    def _elements(self, entry: TensorEntry, storage: np.dtype[Any]) -> npt.NDArray[Any]:
        count = prod(entry.shape)
        elements = np.frombuffer(self.content, dtype=storage, count=count, offset=entry.start) if count else np.empty(0, storage)
        return (elements if elements.flags.aligned else elements.copy()).reshape(entry.shape)


def open_safetensors(path: Path) -> SafetensorsFile:
    """Returns the mapped file; raises CheckpointError (with its name, never its path) if it is damaged."""
    status, content = map_file(path, _LENGTH_BYTES)
    header = _read_header(path.name, content)
    entries = _check_entries(path.name, _parse_header(path.name, header), _LENGTH_BYTES + len(header), len(content))
    return SafetensorsFile(path=path, entries=MappingProxyType(entries), status=status, content=content)


def _read_header(file_name: str, content: mmap.mmap) -> bytes:
    if content[: len(_GIT_LFS_START)] == _GIT_LFS_START:
        _refuse(file_name, "is a Git LFS pointer, not the weights themselves", next_step="Run `git lfs pull` in the checkpoint.")
    length = int.from_bytes(content[:_LENGTH_BYTES], "little")
    if length > MAX_HEADER_BYTES:
        _refuse(file_name, "announces a header longer than the format allows", given=length, limit=MAX_HEADER_BYTES)
    if length > len(content) - _LENGTH_BYTES:
        _refuse(
            file_name, "announces a header longer than the file", given=length, limit=f"{len(content) - _LENGTH_BYTES} bytes left"
        )
    return content[_LENGTH_BYTES : _LENGTH_BYTES + length]


def _parse_header(file_name: str, header: bytes) -> dict[str, Any]:
    """Returns the rows of the header, without the metadata."""
    try:
        fields = parse_json(header)
    except ValueError as error:
        raise CheckpointError(
            f"{file_name} has a header that is not valid JSON", given=shorten(str(error)), next_step=DOWNLOAD_AGAIN
        ) from error
    if not isinstance(fields, dict):
        _refuse(file_name, "has a header that is not a JSON object", given=type(fields).__name__)
    metadata = fields.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        _refuse(file_name, "has metadata that is not a map from text to text")
    return fields


def _check_entries(file_name: str, rows: dict[str, Any], data_start: int, file_bytes: int) -> dict[str, TensorEntry]:
    """Returns the entries in the order of their bytes, which must tile the rest of the file."""
    entries = [_check_entry(file_name, name, row, data_start) for name, row in rows.items()]
    entries.sort(key=lambda entry: (entry.start, entry.stop))
    position = data_start
    for entry in entries:
        if entry.start != position:
            kind = "overlaps the tensor before it" if entry.start < position else "leaves a gap before it"
            _refuse(file_name, f"holds a tensor that {kind}", given=shorten(ascii(entry.name)))
        position = entry.stop
        if position > file_bytes:
            _refuse(
                file_name,
                f"is truncated: tensor {shorten(ascii(entry.name))} ends past the end of the file",
                given=f"byte {position}",
                limit=f"{file_bytes} bytes",
            )
    if position != file_bytes:
        _refuse(file_name, "holds bytes that belong to no tensor", given=f"{file_bytes - position} bytes at the end")
    return {entry.name: entry for entry in entries}


def _check_entry(file_name: str, name: str, row: object, data_start: int) -> TensorEntry:
    label = f"describes tensor {shorten(ascii(name))}"
    if len(name) > MAX_NAME_CHARS:
        _refuse(file_name, f"{label} with a name that is too long", given=f"{len(name)} characters", limit=MAX_NAME_CHARS)
    if not isinstance(row, dict) or row.keys() != {"dtype", "shape", "data_offsets"}:
        _refuse(file_name, f"{label} without exactly dtype, shape and data_offsets")
    dtype, shape, offsets = row["dtype"], row["shape"], row["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPE_BITS:
        _refuse(file_name, f"{label} with an unknown dtype", given=shorten(ascii(dtype)), limit=", ".join(_DTYPE_BITS))
    if not _are_counts(shape) or len(shape) > MAX_DIMENSIONS:
        _refuse(file_name, f"{label} with an impossible shape", given=shorten(ascii(shape)), limit=f"{MAX_DIMENSIONS} dimensions")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        _refuse(file_name, f"{label} with impossible data_offsets", given=shorten(ascii(offsets)))
    num_bits = prod(shape) * _DTYPE_BITS[dtype]
    if num_bits != 8 * (offsets[1] - offsets[0]):
        _refuse(
            file_name,
            f"{label} with data_offsets that do not match its dtype and shape",
            given=f"{offsets[1] - offsets[0]} bytes",
            limit=f"{dtype} {list(shape)}",
        )
    return TensorEntry(name=name, dtype=dtype, shape=tuple(shape), start=data_start + offsets[0], stop=data_start + offsets[1])


def _are_counts(values: object) -> bool:
    return isinstance(values, list) and all(
        isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63 for value in values
    )


def _refuse(
    file_name: str, problem: str, *, given: object = None, limit: object = None, next_step: str = DOWNLOAD_AGAIN
) -> NoReturn:
    raise CheckpointError(f"{file_name} {problem}", given=given, limit=limit, next_step=next_step)
