"""Loads a Hugging Face model directory: config -> spec, weight files -> canonical tensors, without copying.

`load_checkpoint` opens and checks everything and reads almost nothing: the tensors are views of mapped files, and the
executor's packing is what pages them in.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from quire.errors import CheckpointError
from quire.models.config_file import read_config
from quire.models.families import Family, build_spec, family_for
from quire.models.safetensors_file import SafetensorsFile
from quire.models.shards import Shards, has_weights, open_shards
from quire.models.source import TensorSource
from quire.models.spec import ModelSpec
from quire.models.strict_json import shorten
from quire.models.tied_head import find_name, read_head
from quire.models.weights import SourceDType, SourceTensor, Weights

FINGERPRINT_VERSION = 1
_WINDOWS_PER_TENSOR = 4
_WINDOW_BYTES = 4096
_MAX_NAMES_SHOWN = 8
_HEAD = "lm_head."
_HEAD_NAME = "lm_head.weight"
_log = logging.getLogger("quire")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The contents of a model directory: the model's spec, and its tensors by canonical name.

    `model_context` is the longest context that can be asked for; `spec` is built for the one that was.
    """

    directory: Path
    spec: ModelSpec
    weights: Weights
    model_context: int


def load_checkpoint(directory: Path, *, max_context: int | None = None) -> Checkpoint:
    """Returns the checkpoint in a directory, for serving `max_context` tokens (None: the model's own context).

    Raises ModelNotFoundError, ModelError or one of its kinds (CheckpointError for anything about weight files), and
    ConfigError for a `max_context` beyond the model's.
    """
    config = read_config(directory)
    described = build_spec(config, max_context)
    model_context = described.max_context if max_context is None else build_spec(config).max_context
    family = family_for(config)
    shards = open_shards(directory)
    head = read_head(family, described, shards)
    names = _find_names(family, head.sources.values(), shards)
    known = {*names.values()} if head.unread_copy is None else {*names.values(), head.unread_copy}
    _check_tensors(_expected_shapes(head.spec, head.sources), names, shards, _surplus(family, known, shards))
    if head.spec.is_head_tied is not described.is_head_tied:
        _log.warning("The weight files hold a head that differs from the embedding: it is used, against tie_word_embeddings.")
    tensors = {canonical: _read(source, names[source.name], shards) for canonical, source in head.sources.items()}
    weights = Weights(tensors, fingerprint(head.spec, shards.files))
    return Checkpoint(directory=directory, spec=head.spec, weights=weights, model_context=model_context)


def read_spec(directory: Path) -> ModelSpec:
    """Returns what `load_checkpoint` would find the model to be; without weight files, what config.json says."""
    config = read_config(directory)
    spec = build_spec(config)
    if not has_weights(directory):
        return spec
    return read_head(family_for(config), spec, open_shards(directory)).spec


def _find_names(family: Family, sources: Iterable[TensorSource], shards: Shards) -> dict[str, str]:
    """Returns source name -> name in the file, for the first of the family's prefixes that exists."""
    found = {source.name: find_name(family, source, shards) for source in sources}
    return {source: name for source, name in found.items() if name is not None}


def _surplus(family: Family, known: Set[str], shards: Shards) -> list[str]:
    """Returns the names in the files that are neither known nor derived from what is known."""
    return sorted(name for name in {*shards.strays, *shards.placement} - known if not family.is_ignored(name))


def _expected_shapes(spec: ModelSpec, sources: Mapping[str, TensorSource]) -> dict[str, tuple[int, ...]]:
    """Returns source name -> shape in the file. A fused matrix ends where the last part taken from it ends."""
    shapes: dict[str, tuple[int, ...]] = {}
    num_rows: dict[str, int] = {}
    for canonical, shape in spec.tensor_shapes().items():
        source = sources[canonical]
        stop = shape[0] if source.rows is None else source.rows[1]
        num_rows[source.name] = max(stop, num_rows.get(source.name, 0))
        whole = (num_rows[source.name], *shape[1:])
        shapes[source.name] = whole[::-1] if source.is_transposed else whole
    return shapes


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
    if any(findings.values()):
        raise CheckpointError(
            "The weight files and config.json do not belong together: "
            + "; ".join(f"{kind}: {_enumerate(found)}" for kind, found in findings.items() if found),
            limit=f"dtypes {', '.join(dtype.value for dtype in SourceDType)}" if findings["in an unusable dtype"] else None,
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


def _enumerate(findings: list[str]) -> str:
    shown = ", ".join(shorten(ascii(finding)[1:-1], 160) for finding in findings[:_MAX_NAMES_SHOWN])
    return shown if len(findings) <= _MAX_NAMES_SHOWN else f"{shown} and {len(findings) - _MAX_NAMES_SHOWN} more"


def _read(source: TensorSource, name: str, shards: Shards) -> SourceTensor:
    """Returns a tensor in our orientation: a view of the file unless an offset must be added."""
    stored = shards.placement[name].read(name)
    bits = stored.bits.T if source.is_transposed else stored.bits
    if source.rows is not None:
        bits = bits[source.rows[0] : source.rows[1]]
    tensor = SourceTensor(dtype=stored.dtype, bits=bits)
    if source.offset == 0:
        return tensor
    return SourceTensor(dtype=SourceDType.FLOAT32, bits=tensor.to_float32() + np.float32(source.offset))


def fingerprint(spec: ModelSpec, files: Iterable[SafetensorsFile]) -> bytes:
    """Returns 32 bytes that two checkpoints share only if they give the same keys and values; it names cached blocks.

    Hashing every byte would cost about a second per gigabyte before the first token. Instead it covers the whole spec and
    headers, small tensors entirely, four windows of each larger one, and every file's size and modification time. Another
    model, a fine-tune or a rewritten file changes it. The price: a *copy* of a checkpoint has another fingerprint, so
    cached blocks miss although they would fit; and an edit of a few rows that also restores the time stamp goes
    unnoticed, which matters only to cached blocks that outlive the process.
    """
    digest = sha256()
    for tag, payload in _fingerprint_fields(spec, files):
        digest.update(tag + len(payload).to_bytes(8, "little"))
        digest.update(payload)
    return digest.digest()


def _fingerprint_fields(spec: ModelSpec, files: Iterable[SafetensorsFile]) -> Iterator[tuple[bytes, bytes]]:
    yield b"V", FINGERPRINT_VERSION.to_bytes(8, "little")
    yield b"S", repr(spec).encode()
    for file in files:
        yield b"H", file.header
        yield b"Z", len(file.content).to_bytes(8, "little")
        yield b"T", file.modified_ns.to_bytes(16, "little", signed=True)
        for name in file.entries:
            for window in file.windows(name, num_windows=_WINDOWS_PER_TENSOR, window_bytes=_WINDOW_BYTES):
                yield b"D", window
