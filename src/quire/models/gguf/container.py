"""Opens one GGUF file without copying: header, metadata and the table of tensors are checked here, tensors are views.

    "GGUF", version, number of tensors, number of metadata fields
    per field     name, type, value
    per tensor    name, dimensions (the length of a row first), kind, offset
    padding to general.alignment, then the tensors; offsets count from there

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

import numpy as np

from quire.errors import CheckpointError
from quire.models.gguf.kinds import KINDS, OTHER_KINDS, Kind
from quire.models.gguf.reader import Reader, Value, ValueType, refuse
from quire.models.gguf.tensors import BlockTensor
from quire.models.mapped_file import map_file
from quire.models.strict_json import shorten
from quire.models.weights import SourceDType, SourceTensor

SUFFIX = ".gguf"
ALIGNMENT = "general.alignment"
MAX_DIMENSIONS = 4
MAX_TENSORS = 65_536
MAX_FIELDS = 65_536
_VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT = 32
_MAX_ALIGNMENT = 1 << 20
_MAX_NAME_BYTES = 65_535
_LEAST_FIELD_BYTES = 8 + 4 + 1
_LEAST_TENSOR_BYTES = 8 + 4 + 8 + 4 + 8
_MAGIC = b"GGUF"


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """One row of the table of tensors. Its bytes are [start, stop) of the whole file."""

    name: str
    kind: Kind
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufFile:
    """A mapped file whose header has been checked. The mapping lives as long as any tensor of it."""

    path: Path
    metadata: Mapping[str, Value]
    tensors: Mapping[str, TensorInfo]
    status: os.stat_result
    content: mmap.mmap

    @property
    def name(self) -> str:
        return self.path.name

    def read(self, name: str) -> SourceTensor:
        """Returns a tensor as a read-only view; quantized vectors, which are short, as float32."""
        info = self.tensors[name]
        kind = info.kind
        storage = np.frombuffer(self.content, np.uint8, info.stop - info.start, info.start)
        if kind.dtype is not SourceDType.QUANTIZED:
            values = storage.view(kind.block).reshape(info.shape)
            return SourceTensor(dtype=kind.dtype, bits=values if values.flags.aligned else values.copy())
        num_columns = info.shape[-1]
        rows = storage.reshape(-1, kind.row_bytes(num_columns))
        tensor = BlockTensor(dtype=kind.dtype, bits=rows, kind=kind, num_rows=len(rows))
        if len(info.shape) == 1:
            return SourceTensor(dtype=SourceDType.FLOAT32, bits=tensor.to_float32().reshape(info.shape))
        return tensor


def open_gguf_file(path: Path) -> GgufFile:
    """Returns the mapped file; raises CheckpointError (with its name, never its path) if it is damaged or cannot be read."""
    status, content = map_file(path, len(_MAGIC))
    reader = Reader(path.name, content)
    num_tensors, num_fields = _read_header(reader, path.name, content)
    metadata = _read_metadata(reader, num_fields)
    rows = _read_tensors(reader, num_tensors)
    return GgufFile(
        path=path,
        metadata=MappingProxyType(metadata),
        tensors=MappingProxyType(_place(reader, rows, _alignment(reader, metadata))),
        status=status,
        content=content,
    )


def _read_header(reader: Reader, file_name: str, content: mmap.mmap) -> tuple[int, int]:
    """Returns the numbers of tensors and of metadata fields."""
    start = content[: len(_MAGIC)]
    if start != _MAGIC:
        given = "a Git LFS pointer: run `git lfs pull`" if start == b"vers" else repr(start)
        refuse(file_name, "the file", "does not begin as GGUF does", given, repr(_MAGIC))
    reader.position = len(_MAGIC)
    version = int(reader.number(ValueType.UINT32, "version"))
    if int.from_bytes(version.to_bytes(4, "little"), "big") in _VERSIONS:
        refuse(file_name, "version", "says that the file is big-endian, which Quire does not read", hex(version))
    if version not in _VERSIONS:
        refuse(file_name, "version", "is not one that Quire reads", version, " or ".join(map(str, _VERSIONS)))
    num_tensors = reader.count("tensor_count", _LEAST_TENSOR_BYTES, limit=MAX_TENSORS)
    return num_tensors, reader.count("metadata_kv_count", _LEAST_FIELD_BYTES, limit=MAX_FIELDS)


def _read_metadata(reader: Reader, num_fields: int) -> dict[str, Value]:
    metadata: dict[str, Value] = {}
    for index in range(num_fields):
        name = reader.text(f"name of metadata field {index}", _MAX_NAME_BYTES)
        if name in metadata:
            reader.refuse(name, "occurs twice in the metadata")
        metadata[name] = reader.value(reader.value_type(name), name)
    return metadata


def _alignment(reader: Reader, metadata: Mapping[str, Value]) -> int:
    found = metadata.get(ALIGNMENT, _DEFAULT_ALIGNMENT)
    if not isinstance(found, int) or isinstance(found, bool) or not 0 < found <= _MAX_ALIGNMENT or found & (found - 1):
        reader.refuse(ALIGNMENT, "must be a power of two", shorten(repr(found)), f"1 to {_MAX_ALIGNMENT}")
    return found


def _read_tensors(reader: Reader, num_tensors: int) -> list[TensorInfo]:
    """Returns the table of tensors, whose names must differ."""
    rows: dict[str, TensorInfo] = {}
    for _ in range(num_tensors):
        info = _read_tensor(reader)
        if info.name in rows:
            reader.refuse(f"tensor {info.name}", "occurs twice")
        rows[info.name] = info
    return list(rows.values())


def _read_tensor(reader: Reader) -> TensorInfo:
    """Returns a row of the table; its `start` still counts from the end of the table."""
    name = reader.text("name of a tensor", _MAX_NAME_BYTES)
    field = f"tensor {name}"
    num_dimensions = int(reader.number(ValueType.UINT32, field))
    if not 1 <= num_dimensions <= MAX_DIMENSIONS:
        reader.refuse(field, "has an impossible number of dimensions", num_dimensions, f"1 to {MAX_DIMENSIONS}")
    shape = tuple(int(reader.number(ValueType.UINT64, field)) for _ in range(num_dimensions))[::-1]
    kind = _kind(reader, field)
    start = int(reader.number(ValueType.UINT64, field))
    if 0 in shape:
        reader.refuse(field, "has a dimension of 0", list(shape))
    if shape[-1] % kind.num_elements:
        reader.refuse(field, f"has rows that blocks of {kind.name} do not divide", shape[-1], f"multiples of {kind.num_elements}")
    num_bytes = prod(shape[:-1]) * kind.row_bytes(shape[-1])
    return TensorInfo(name=name, kind=kind, shape=shape, start=start, stop=start + num_bytes)


def _kind(reader: Reader, field: str) -> Kind:
    number = int(reader.number(ValueType.UINT32, field))
    if number in KINDS:
        return KINDS[number]
    raise CheckpointError(
        f"{reader.file_name}: {shorten(ascii(field)[1:-1])} is in a kind that Quire does not read",
        given=OTHER_KINDS.get(number, f"kind {number}"),
        limit=", ".join(kind.name for kind in KINDS.values()),
        next_step="Use a file of this model in one of these kinds, for example Q4_K_M or Q8_0.",
    )


def _place(reader: Reader, rows: list[TensorInfo], alignment: int) -> dict[str, TensorInfo]:
    """Returns the tensors by name with their places in the file, which must be aligned, inside it and apart from each other."""
    file_bytes = reader.position + reader.num_left
    data_start = -(-reader.position // alignment) * alignment
    placed: dict[str, TensorInfo] = {}
    position = 0
    for info in sorted(rows, key=lambda info: info.start):
        field = f"tensor {info.name}"
        if info.start % alignment:
            reader.refuse(field, "has an offset that is not aligned", info.start, f"multiples of {alignment}")
        if info.start < position:
            reader.refuse(field, "overlaps the tensor before it", f"offset {info.start}", f"from {position} on")
        if data_start + info.stop > file_bytes:
            reader.refuse(field, "ends past the end of the file", f"byte {data_start + info.stop}", f"{file_bytes} bytes")
        position = info.stop
        placed[info.name] = TensorInfo(
            name=info.name, kind=info.kind, shape=info.shape, start=data_start + info.start, stop=data_start + info.stop
        )
    return placed
