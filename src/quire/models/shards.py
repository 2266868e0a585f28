"""Finds the weight files of a model directory and says which tensor lies in which file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Protocol

from quire.errors import CheckpointError
from quire.models.mapped_file import read_file
from quire.models.safetensors_file import SafetensorsFile, open_safetensors
from quire.models.strict_json import parse_json, shorten
from quire.models.weights import SourceTensor

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MAX_INDEX_BYTES = 100_000_000
_MAX_FILE_NAME_BYTES = 255  # of most file systems: a longer name is not found but is an error

_OTHER_FORMATS: Mapping[str, str] = MappingProxyType(
    {
        ".bin": "a pickle, which can run code when it is opened",
        ".pt": "a pickle, which can run code when it is opened",
        ".pth": "a pickle, which can run code when it is opened",
        ".ckpt": "a pickle, which can run code when it is opened",
        ".gguf": "GGUF: pass the path of the file itself",
        ".h5": "HDF5, which Quire does not read",
        ".msgpack": "msgpack, which Quire does not read",
        ".onnx": "ONNX, which Quire does not read",
    }
)


class Entry(Protocol):
    """What is known of a tensor before it is read; `dtype` is safetensors' own word."""

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def is_usable(self) -> bool: ...


class TensorFile(Protocol):
    """Where tensors are read from: a file, or a view in which the parts of quantized weights are whole weights."""

    @property
    def entries(self) -> Mapping[str, Entry]: ...

    def read(self, name: str) -> SourceTensor: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Shards:
    """The opened files. `absent`: the index promises them, their file does not hold them. `strays`: the other way round.

    `inert` names biases of quantized layers that add nothing, so that it does not matter whether the model has them.
    `reading` is what decides values besides the content of the files: which of several files a name is read from, and how
    weights are quantized.
    """

    files: tuple[SafetensorsFile, ...]
    placement: Mapping[str, TensorFile]
    absent: tuple[str, ...] = ()
    strays: tuple[str, ...] = ()
    inert: frozenset[str] = frozenset()
    reading: tuple[str, ...] = ()


def has_weights(directory: Path) -> bool:
    """Whether weight files lie in the directory that `open_shards` would open."""
    return any((directory / name).exists() for name in (SINGLE_FILE, INDEX_FILE))


def open_shards(directory: Path) -> Shards:
    """Returns `model.safetensors`, or else the files that the index names; raises CheckpointError."""
    if (directory / SINGLE_FILE).exists():
        file = open_safetensors(directory / SINGLE_FILE)
        return Shards(files=(file,), placement=MappingProxyType(dict.fromkeys(file.entries, file)))
    if not (directory / INDEX_FILE).exists():
        _refuse_without_safetensors(directory)
    return _open_indexed(directory, _read_index(directory / INDEX_FILE))


def _open_indexed(directory: Path, weight_map: Mapping[str, str]) -> Shards:
    names = sorted(set(weight_map.values()))
    missing = [name for name in names if not (directory / name).exists()]
    if missing:
        raise CheckpointError(
            f"{len(missing)} of the {len(names)} weight files named by {INDEX_FILE} are missing",
            given=", ".join(shorten(name) for name in missing[:8]),
            next_step="Download the missing files into the model directory.",
        )
    files = {name: open_safetensors(directory / name) for name in names}
    held = {(tensor, file.name) for file in files.values() for tensor in file.entries}
    strays = sorted(tensor for tensor, name in held - weight_map.items())
    return Shards(
        files=tuple(files.values()),
        placement=MappingProxyType({tensor: files[name] for tensor, name in weight_map.items() if (tensor, name) in held}),
        absent=tuple(sorted(tensor for tensor, name in weight_map.items() - held)),
        strays=tuple(strays),
        reading=tuple(f"{tensor} in file {names.index(weight_map[tensor])}" for tensor in strays if tensor in weight_map),
    )


def _read_index(path: Path) -> dict[str, str]:
    """Returns tensor name -> file name; every file name is a plain name of a safetensors file."""
    try:
        content = read_file(path, MAX_INDEX_BYTES)
        index = None if content is None else parse_json(content)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path.name} cannot be read", given=shorten(str(error.args[-1])), next_step="Download the file again."
        ) from error
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            f"{path.name} has no weight_map of tensor names to file names",
            limit=f"{MAX_INDEX_BYTES} bytes",
            next_step="Download the file again.",
        )
    for name in weight_map.values():
        if not _is_plain_name(name):
            raise CheckpointError(
                f"{path.name} names a file that cannot lie in the model directory, or that is not safetensors",
                given=shorten(ascii(name)),
                next_step="Do not use this checkpoint unless you trust its source; a correct index holds plain file names.",
            )
    return weight_map


def _is_plain_name(name: object) -> bool:
    return (
        isinstance(name, str)
        and name.isprintable()
        and len(name.encode()) <= _MAX_FILE_NAME_BYTES
        and not set(name) & set("/\\:")
        and PurePosixPath(name).suffix == ".safetensors"
    )


def _refuse_without_safetensors(directory: Path) -> None:
    others = sorted(path.name for path in directory.iterdir() if path.suffix in _OTHER_FORMATS)
    if others:
        raise CheckpointError(
            f"The only weights in the model directory are {_OTHER_FORMATS[Path(others[0]).suffix]}",
            given=", ".join(shorten(name) for name in others[:4]),
            next_step="Use a revision with safetensors files, or convert the model with `save_pretrained` of transformers.",
        )
    raise CheckpointError(
        f"The model directory holds neither {SINGLE_FILE} nor {INDEX_FILE}",
        given=", ".join(shorten(path.name) for path in sorted(directory.glob("*.safetensors"))[:4]) or None,
        next_step="Download the weights into it; adapters alone are not a model.",
    )
