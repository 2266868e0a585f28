"""A model in one GGUF file, or in several: NAME-00001-of-00003.gguf and so on, of which the first holds the metadata."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from quire.errors import CheckpointError
from quire.models.gguf.container import SUFFIX, GgufFile, TensorInfo, open_gguf_file
from quire.models.gguf.reader import Value, refuse
from quire.models.mapped_file import DOWNLOAD_AGAIN
from quire.models.strict_json import shorten
from quire.models.weights import SourceTensor

_NUMBER, _COUNT, _NUM_TENSORS = "split.no", "split.count", "split.tensors.count"
_SPLIT_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gguf:
    """The opened files of one model: the metadata of the first, the tensors of all."""

    files: tuple[GgufFile, ...]
    placement: Mapping[str, GgufFile]

    @property
    def name(self) -> str:
        return self.files[0].name

    @property
    def metadata(self) -> Mapping[str, Value]:
        return self.files[0].metadata

    def info(self, name: str) -> TensorInfo:
        """Returns the row of a tensor in its file's table."""
        return self.placement[name].tensors[name]

    def read(self, name: str) -> SourceTensor:
        """Returns a tensor as a view of its file."""
        return self.placement[name].read(name)


def is_gguf(path: Path) -> bool:
    """Whether a path names a GGUF file rather than a model directory."""
    return path.suffix == SUFFIX and not path.is_dir()


def first_files(directory: Path) -> list[Path]:
    """Returns the GGUF files in a directory that a model begins with: not the later parts of split ones."""
    names = sorted(directory.glob(f"*{SUFFIX}"))
    return [path for path in names if (part := _SPLIT_NAME.fullmatch(path.name)) is None or int(part["number"]) == 1]


def open_gguf(path: Path) -> Gguf:
    """Returns the model that begins with the file at `path`; raises CheckpointError."""
    first = open_gguf_file(path)
    count = _split_field(first, _COUNT, 1)
    files = (first, *(open_gguf_file(part) for part in _other_parts(first, count))) if count > 1 else (first,)
    placement: dict[str, GgufFile] = {}
    for number, file in enumerate(files):
        if len(files) > 1 and (_split_field(file, _NUMBER, 0), _split_field(file, _COUNT, 1)) != (number, count):
            refuse(file.name, _NUMBER, "does not fit the file's name", _split_field(file, _NUMBER, 0), f"{number} of {count}")
        for name in file.tensors:
            if name in placement:
                refuse(file.name, f"tensor {name}", "lies in another part too", placement[name].name)
            placement[name] = file
    _require_all(first, len(placement))
    return Gguf(files=files, placement=MappingProxyType(placement))


def _other_parts(first: GgufFile, count: int) -> list[Path]:
    """Returns the paths of the second and later parts, all of which must exist."""
    name = _SPLIT_NAME.fullmatch(first.name)
    if name is None or int(name["count"]) != count:
        refuse(first.name, _COUNT, "does not fit the file's name", count, "NAME-00001-of-0000N.gguf")
    if int(name["number"]) != 1:
        raise CheckpointError(
            "A model in several GGUF files is named by its first one",
            given=first.name,
            next_step=f"Pass {name['stem']}-00001-of-{name['count']}.gguf.",
        )
    parts = [first.path.with_name(f"{name['stem']}-{number:05}-of-{name['count']}.gguf") for number in range(2, count + 1)]
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise CheckpointError(
            f"{len(missing)} of the {count} GGUF files of this model are missing",
            given=", ".join(shorten(part) for part in missing[:4]),
            next_step="Download the missing files into the same directory.",
        )
    return parts


def _split_field(file: GgufFile, name: str, default: int) -> int:
    value = file.metadata.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 100_000:
        refuse(file.name, name, "is not a number of files", shorten(repr(value)), "0 to 99999")
    return value


def _require_all(first: GgufFile, num_found: int) -> None:
    promised = first.metadata.get(_NUM_TENSORS, num_found)
    if promised != num_found:
        raise CheckpointError(
            f"{first.name}: {_NUM_TENSORS} promises another number of tensors",
            given=f"{num_found} found",
            limit=shorten(repr(promised)),
            next_step=DOWNLOAD_AGAIN,
        )
