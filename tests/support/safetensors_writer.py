"""Writes safetensors files byte by byte, so that tests can also write wrong ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

_WORDS = {
    **{"float32": "F32", "float16": "F16", "uint16": "BF16", "int64": "I64", "uint8": "U8"},
    **{"int32": "I32", "uint32": "U32", "int8": "I8"},
}


class Typed(np.ndarray):
    """Elements of a format that NumPy lacks; `word` is what safetensors calls it."""

    word: str

    @staticmethod
    def of(elements: np.ndarray, word: str) -> Typed:
        typed = elements.view(Typed)
        typed.word = word
        return typed


def header_of(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns the header's rows; uint16 stands for bfloat16 bits."""
    rows, start = {}, 0
    for name, tensor in tensors.items():
        rows[name] = {
            "dtype": tensor.word if isinstance(tensor, Typed) else _WORDS[tensor.dtype.name],
            "shape": list(tensor.shape),
            "data_offsets": [start, start + tensor.nbytes],
        }
        start += tensor.nbytes
    return rows


def assemble(header: object, content: bytes, *, padding: int = 0) -> bytes:
    """Returns the bytes of a file with this header, whatever it says."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * padding
    return len(text).to_bytes(8, "little") + text + content


def safetensors_bytes(tensors: Mapping[str, np.ndarray]) -> bytes:
    """Returns a correct file, its tensors aligned to 8 bytes."""
    header = header_of(tensors)
    padding = -len(json.dumps(header)) % 8
    return assemble(header, b"".join(tensor.tobytes() for tensor in tensors.values()), padding=padding)


def write_sharded(directory: Path, tensors: Mapping[str, np.ndarray], num_shards: int) -> None:
    """Writes the tensors in turn to `num_shards` files, and their index."""
    names = [f"model-{shard + 1:05}-of-{num_shards:05}.safetensors" for shard in range(num_shards)]
    weight_map = {tensor: names[index % num_shards] for index, tensor in enumerate(tensors)}
    for shard in names:
        held = {tensor: tensors[tensor] for tensor, name in weight_map.items() if name == shard}
        (directory / shard).write_bytes(safetensors_bytes(held))
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
