"""A directory that becomes a checkpoint shard by shard, and can be continued after an interruption.

    quantize-progress.json     what is being made, and the SHA-256 of every shard that is whole; removed at the end
    model-00001-of-00032.safetensors ...
    tokenizer, templates, model.safetensors.index.json; last of all config.json, without which the directory is no model

Every file is written under another name, flushed, and then moved into its place.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from quire.errors import ConfigError
from quire.files import replacing
from quire.models.strict_json import parse_json
from quire.quantize.packed_format import FileTensor, write_safetensors

PROGRESS = "quantize-progress.json"
INDEX, CONFIG = "model.safetensors.index.json", "config.json"


class OutputDirectory:
    """Shards 0 to `num_shards` of a checkpoint; `key` says what is made, and only a directory of the same key is continued.

    Raises ConfigError for a directory that holds anything else, and for one that cannot be written.
    """

    def __init__(self, path: Path, key: str, num_shards: int) -> None:
        self.path = path
        self._key = key
        self._num_shards = num_shards
        with _writing(path):
            path.mkdir(parents=True, exist_ok=True)
            self._shards = self._continued()
            self._note()

    def _continued(self) -> dict[str, Any]:
        """Returns what an earlier run noted of its shards."""
        if not any(self.path.iterdir()):
            return {}
        noted = _read_progress(self.path / PROGRESS)
        if noted is None or noted.get("key") != self._key or not isinstance(noted.get("shards"), dict):
            raise ConfigError(
                "the output directory is not empty"
                if noted is None
                else "the output directory holds the beginning of another quantization",
                given=self.path,
                next_step="Choose a directory that does not exist, or remove this one.",
            )
        return dict(noted["shards"])

    def shard_name(self, index: int) -> str:
        """Returns the file name of a shard."""
        return f"model-{index + 1:05}-of-{self._num_shards:05}.safetensors"

    def finished(self, index: int) -> dict[str, Any] | None:
        """Returns the facts noted with a shard if the file is there and whole, else None."""
        name = self.shard_name(index)
        noted, file = self._shards.get(name), self.path / name
        if not isinstance(noted, dict) or not file.is_file() or _digest(file) != noted.get("sha256"):
            return None
        facts = noted.get("facts")
        return facts if isinstance(facts, dict) else None

    def write_shard(self, index: int, tensors: Mapping[str, FileTensor], facts: Mapping[str, Any]) -> None:
        """Writes a shard and notes it as whole, with facts that a later run gets back."""
        name = self.shard_name(index)
        with self._replacing(name) as part:
            write_safetensors(part, tensors)
        self._shards[name] = {"sha256": _digest(self.path / name), "tensors": _sizes(tensors), "facts": dict(facts)}
        self._note()

    def finish(self, config: Mapping[str, Any]) -> int:
        """Writes the index and config.json; the directory is a model then. Returns the bytes of its tensors."""
        placed = {tensor: name for name in sorted(self._shards) for tensor in self._shards[name]["tensors"]}
        total = sum(size for shard in self._shards.values() for size in shard["tensors"].values())
        self.write_json(INDEX, {"metadata": {"total_size": total}, "weight_map": placed})
        self.write_json(CONFIG, config)
        with _writing(self.path):
            (self.path / PROGRESS).unlink()
        return int(total)

    def write_json(self, name: str, fields: Mapping[str, Any]) -> None:
        """Writes a JSON file into the directory."""
        with self._replacing(name) as part:
            part.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")

    def _note(self) -> None:
        self.write_json(PROGRESS, {"key": self._key, "shards": self._shards})

    @contextmanager
    def _replacing(self, name: str) -> Iterator[Path]:
        """Yields the name under which a file is written before it takes its place."""
        with _writing(self.path), replacing(self.path / name) as part:
            yield part


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            "the output directory cannot be written",
            given=f"{path}: {error.strerror or error}",
            next_step="Choose a directory with free space that you may write to; a run that stopped continues where it was.",
        ) from error


def _sizes(tensors: Mapping[str, FileTensor]) -> dict[str, int]:
    return {name: tensor.num_bytes for name, tensor in tensors.items()}


def _read_progress(path: Path) -> dict[str, Any] | None:
    try:
        noted = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return None
    return noted if isinstance(noted, dict) else None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
