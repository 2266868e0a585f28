"""Loads a Hugging Face model directory or a GGUF file: config -> spec, weight files -> canonical tensors, without copying.

`load_checkpoint` opens and checks everything and reads almost nothing: the tensors are views of mapped files. Finding the
fingerprint of files seen for the first time, or else the executor's packing, is what pages them in.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from quire.errors import CheckpointError
from quire.models.config_file import read_config
from quire.models.content_digest import MappedFile, content_digest, num_pieces
from quire.models.families import Family, build_spec, family_for
from quire.models.gguf.container import GgufFile
from quire.models.gguf.model import read_gguf
from quire.models.gguf.splits import is_gguf
from quire.models.quantized.stored import PackedTensor
from quire.models.quantized.view import open_unpacked
from quire.models.safetensors_file import USABLE_DTYPES
from quire.models.shards import Shards, has_weights
from quire.models.source import TensorSource
from quire.models.spec import ModelSpec
from quire.models.tensor_check import expected_shapes, require_none
from quire.models.tied_head import find_name, read_head
from quire.models.weights import DECODERS_VERSION, Progress, SourceDType, SourceTensor, Weights

FINGERPRINT_VERSION = 3
_MIN_SHOWN_PIECES = 16
_HEAD = "lm_head."
_HEAD_NAME = "lm_head.weight"
_log = logging.getLogger("quire")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The contents of a model directory, or of the GGUF file at that path: the model's spec, and its tensors by canonical name.

    `model_context` is the longest context that can be asked for; `spec` is built for the one that was. `gguf` is the opened
    GGUF file, whose metadata hold the tokenizer; None for a directory.
    """

    directory: Path
    spec: ModelSpec
    weights: Weights
    model_context: int
    gguf: GgufFile | None = None


def load_checkpoint(directory: Path, *, max_context: int | None = None) -> Checkpoint:
    """Returns the checkpoint in a directory or a GGUF file, for serving `max_context` tokens (None: the model's own context).

    Raises ModelNotFoundError, ModelError or one of its kinds (CheckpointError for anything about weight files), and
    ConfigError for a `max_context` beyond the model's.
    """
    if is_gguf(directory):
        return _load_gguf(directory, max_context)
    config = read_config(directory)
    described = build_spec(config, max_context)
    model_context = described.max_context if max_context is None else build_spec(config).max_context
    family = family_for(config)
    shards = open_unpacked(directory, config).shards
    head = read_head(family, described, shards)
    names = _find_names(family, head.sources.values(), shards)
    known = {*names.values()} if head.unread_copy is None else {*names.values(), head.unread_copy}
    _check_tensors(expected_shapes(head.spec, head.sources), names, shards, _surplus(family, known, shards))
    if head.spec.is_head_tied is not described.is_head_tied:
        _log.warning("The weight files hold a head that differs from the embedding: it is used, against tie_word_embeddings.")
    tensors = {canonical: _read(source, names[source.name], shards) for canonical, source in head.sources.items()}
    weights = Weights(tensors, lambda on_progress: fingerprint(head.spec, shards.files, shards.reading, on_progress))
    return Checkpoint(directory=directory, spec=head.spec, weights=weights, model_context=model_context)


def _load_gguf(path: Path, max_context: int | None) -> Checkpoint:
    model = read_gguf(path, max_context)
    weights = Weights(model.tensors, lambda on_progress: fingerprint(model.spec, model.gguf.files, (), on_progress))
    return Checkpoint(
        directory=path, spec=model.spec, weights=weights, model_context=model.model_context, gguf=model.gguf.files[0]
    )


def read_spec(directory: Path) -> ModelSpec:
    """Returns what `load_checkpoint` would find the model to be; without weight files, what config.json says."""
    if is_gguf(directory):
        return read_gguf(directory).spec
    config = read_config(directory)
    spec = build_spec(config)
    if not has_weights(directory):
        return spec
    return read_head(family_for(config), spec, open_unpacked(directory, config).shards).spec


def _find_names(family: Family, sources: Iterable[TensorSource], shards: Shards) -> dict[str, str]:
    """Returns source name -> name in the file, for the first of the family's prefixes that exists."""
    found = {source.name: find_name(family, source, shards) for source in sources}
    return {source: name for source, name in found.items() if name is not None}


def _surplus(family: Family, known: Set[str], shards: Shards) -> list[str]:
    """Returns the names in the files that are neither known nor derived from what is known."""
    return sorted(name for name in {*shards.strays, *shards.placement} - known - shards.inert if not family.is_ignored(name))


def _check_tensors(expected: Mapping[str, tuple[int, ...]], names: Mapping[str, str], shards: Shards, surplus: list[str]) -> None:
    """Raises one CheckpointError that names everything missing, surplus, wrongly shaped or in an unusable dtype."""
    entries = {source: shards.placement[name].entries[name] for source, name in names.items()}
    findings = {
        "missing": [
            *(_name_in_file(source, names) for source in expected if source not in names),
            *(f"{name} (indexed)" for name in shards.absent),
        ],
        "surplus": surplus,
        "wrongly shaped": [
            f"{entry.name} is {list(entry.shape)} instead of {list(expected[source])}"
            for source, entry in entries.items()
            if entry.shape != expected[source]
        ],
        "in an unusable dtype": [f"{entry.name} is {entry.dtype}" for entry in entries.values() if not entry.is_usable],
    }
    require_none(
        "The weight files and config.json do not belong together",
        findings,
        limit=f"dtypes {', '.join(USABLE_DTYPES)}" if findings["in an unusable dtype"] else None,
        next_step=_advice([name for found in findings.values() for name in found]),
    )


def _advice(findings: list[str]) -> str:
    if findings == [_HEAD_NAME]:
        return (
            "Set tie_word_embeddings to true in config.json if the embedding is the head too; else download the checkpoint again."
        )
    return "Download the checkpoint again, complete and from one revision."


def _name_in_file(missing: str, names: Mapping[str, str]) -> str:
    """Returns the name in the file that a missing tensor would have, given the tensors that exist; a head has no prefix."""
    prefixes = Counter(name.removesuffix(source) for source, name in names.items() if not source.startswith(_HEAD))
    if not prefixes or missing.startswith(_HEAD):
        return missing
    return prefixes.most_common(1)[0][0] + missing


def _read(source: TensorSource, name: str, shards: Shards) -> SourceTensor:
    """Returns a tensor in our orientation: a view of the file unless it is quantized or an offset must be added."""
    stored = shards.placement[name].read(name)
    if not isinstance(stored, PackedTensor):
        return _oriented(source, stored)
    if source.is_transposed or source.offset:
        raise CheckpointError(
            "Quantized weights of an architecture that stores its weights transposed or with an offset are not read",
            given=name,
            next_step="Use the unquantized checkpoint of this model.",
        )
    return stored if source.rows is None else stored.rows(*source.rows)


def _oriented(source: TensorSource, stored: SourceTensor) -> SourceTensor:
    bits = stored.bits.T if source.is_transposed else stored.bits
    if source.rows is not None:
        bits = bits[source.rows[0] : source.rows[1]]
    tensor = SourceTensor(dtype=stored.dtype, bits=bits)
    if source.offset == 0:
        return tensor
    return SourceTensor(dtype=SourceDType.FLOAT32, bits=tensor.to_float32() + np.float32(source.offset))


def fingerprint(
    spec: ModelSpec, files: Sequence[MappedFile], reading: Sequence[str], on_progress: Progress | None = None
) -> bytes:
    """Returns 32 bytes that two checkpoints share only if they compute the same.

    They follow from the whole spec, every file's content, and how that content is read (see `Shards`). A copy of a checkpoint
    has the fingerprint of the original. `on_progress` is called only if the files are large.
    """
    progress = _PieceProgress(files, on_progress)
    digest = sha256(FINGERPRINT_VERSION.to_bytes(8, "little") + DECODERS_VERSION.to_bytes(8, "little"))
    for text in (repr(spec), json.dumps(reading)):
        digest.update(sha256(text.encode()).digest())
    for file in files:
        digest.update(content_digest(file, progress.note_piece))
        progress.note_end(file)
    return digest.digest()


class _PieceProgress:
    """Counts the pieces of all files, and reports those that are read; a file whose digest was remembered passes at once."""

    def __init__(self, files: Sequence[MappedFile], on_progress: Progress | None) -> None:
        self._total = sum(num_pieces(file) for file in files)
        self._num_ended = self._num_read = 0
        self._on_progress = on_progress if self._total >= _MIN_SHOWN_PIECES else None

    def note_piece(self) -> None:
        self._num_read += 1
        if self._on_progress is not None:
            self._on_progress(self._num_ended + self._num_read, self._total)

    def note_end(self, file: MappedFile) -> None:
        self._num_ended, self._num_read = self._num_ended + num_pieces(file), 0
