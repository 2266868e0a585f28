"""Writes GGUF files byte by byte, so that tests can also write wrong ones."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gguf
import numpy as np

_NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<B", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One tensor as the file holds it: kind by ggml's number, shape with the row length last, bytes; `offset` None: in order."""

    kind: int
    shape: tuple[int, ...]
    content: bytes
    offset: int | None = None


@dataclass(frozen=True, slots=True)
class Typed:
    """A metadata value of a chosen type, by its number in the file."""

    value_type: int
    value: Any


def stored(values: np.ndarray, kind: str = "F32") -> Stored:
    """Returns float32 values in a kind that the gguf package can make."""
    number = gguf.GGMLQuantizationType[kind]
    content = gguf.quants.quantize(np.ascontiguousarray(values, np.float32), number)
    return Stored(kind=int(number), shape=values.shape, content=content.tobytes())


def text(value: str | bytes) -> bytes:
    content = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(content)) + content


def typed(value: Any) -> Typed:
    """Returns a value in the type that converters use for it."""
    if isinstance(value, Typed):
        return value
    value_types = {bool: 7, int: 4, float: 6, str: _STRING, bytes: _STRING, list: _ARRAY}
    return Typed(value_types[type(value)], value)


def encoded(value: Typed) -> bytes:
    if value.value_type == _STRING:
        return text(value.value)
    if value.value_type != _ARRAY:
        return struct.pack(_NUMBERS[value.value_type], value.value)
    items = [typed(item) for item in value.value]
    value_type = items[0].value_type if items else 4
    return struct.pack("<IQ", value_type, len(items)) + b"".join(map(encoded, items))


def metadata_bytes(metadata: Mapping[str, Any]) -> bytes:
    fields = ((name, typed(value)) for name, value in metadata.items())
    return b"".join(text(name) + struct.pack("<I", value.value_type) + encoded(value) for name, value in fields)


def gguf_bytes(metadata: Mapping[str, Any], tensors: Mapping[str, Stored], *, alignment: int = 32, version: int = 3) -> bytes:
    """Returns a file: correct, unless the tensors or the metadata are not."""
    table, data = b"", b""
    for name, tensor in tensors.items():
        offset = len(data) if tensor.offset is None else tensor.offset
        dims = tensor.shape[::-1]
        table += text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, tensor.kind, offset)
        data += tensor.content + bytes(-len(tensor.content) % alignment)
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata)) + metadata_bytes(metadata) + table
    return head + bytes(-len(head) % alignment) + data
