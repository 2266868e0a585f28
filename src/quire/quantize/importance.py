"""How much each input of each matrix matters: the mean square of what it is multiplied with, over a text.

The error of a product is sum over inputs of (error of the weight)^2 * (mean square of the input), if inputs are not correlated.
A quantizer that weighs errors so loses a third of what one that does not know the inputs loses.

    <cache>/quire/importance/<key>    SHA-256 of the rest, then safetensors: name of a matrix -> float32 [K]

The key is that of the weights, the tokens and the kernels, so an entry never has to be changed. One that is damaged or cannot
be kept costs the time to run the text again.
"""

from __future__ import annotations

from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from quire.arrays import Float64Array
from quire.environment import cache_directory
from quire.executors.native import NUMERICS_VERSION, isa_in_use
from quire.executors.options import Importance
from quire.executors.reference_math import Array, layer_norm, rms_norm
from quire.files import PART, remove_abandoned, replacing
from quire.models.checkpoint import Checkpoint
from quire.models.spec import ModelSpec, NormKind
from quire.models.weights import Progress
from quire.quantize.layer_pass import Pieces, Residual, embed, input_of, layer_tensors

FORMAT_VERSION = 1
MAX_ENTRIES = 64

_DIGEST_BYTES = 32


def find_importance(checkpoint: Checkpoint, pieces: Pieces, threads: int, on_progress: Progress | None = None) -> Importance:
    """Returns what `measure_importance` does, from the cache if it was measured before."""
    directory = cache_directory()
    if directory is None:
        return measure_importance(checkpoint, pieces, threads, on_progress)
    entry = directory / "importance" / _key(checkpoint, pieces).hex()
    found = _recall(entry, checkpoint.spec)
    if found is None:
        found = measure_importance(checkpoint, pieces, threads, on_progress)
        _remember(found, entry)
    return found


def measure_importance(checkpoint: Checkpoint, pieces: Pieces, threads: int, on_progress: Progress | None = None) -> Importance:
    """Returns the importance for all linear layers and for the head, under the embedding's name where that is the head.

    Sums run over the tokens in order and in float64: the same bits for every number of threads, on one instruction set.
    `on_progress(done, total)` counts layers.
    """
    residual, num_tokens = embed(checkpoint, pieces), sum(len(piece) for piece in pieces)
    spec = checkpoint.spec
    sums: dict[str, Float64Array] = {}
    for index in range(spec.num_layers):
        tensors = layer_tensors(checkpoint, index)
        matrices = [name for name, values in tensors.items() if values.ndim == 2]
        for inputs in residual.advanced(index, tensors, threads):
            for name in matrices:
                _add(sums, name, getattr(inputs, input_of(name)))
        if on_progress is not None:
            on_progress(index + 1, spec.num_layers)
    head = "embed.weight" if spec.is_head_tied else "head.weight"
    for rows in _final_rows(checkpoint, residual):
        _add(sums, head, rows)
    return {name: (total / num_tokens).astype(np.float32) for name, total in sums.items()}


def _add(sums: dict[str, Float64Array], name: str, inputs: Array) -> None:
    squares = np.square(inputs, dtype=np.float64).sum(axis=0)
    sums[name] = sums[name] + squares if name in sums else squares


def _final_rows(checkpoint: Checkpoint, residual: Residual) -> list[Array]:
    """Returns what the head multiplies."""
    spec, weights = checkpoint.spec, checkpoint.weights
    weight = weights["final_norm.weight"].to_float32()
    if spec.norm is NormKind.RMS:
        return [rms_norm(rows, weight, spec.norm_eps) for rows in residual.rows]
    bias = weights["final_norm.bias"].to_float32()
    return [layer_norm(rows, weight, bias, spec.norm_eps) for rows in residual.rows]


# -- kept on disk ----------------------------------------------------------------------


def _key(checkpoint: Checkpoint, pieces: Pieces) -> bytes:
    digest = sha256(f"quire importance {FORMAT_VERSION} {NUMERICS_VERSION} {isa_in_use()}".encode())
    digest.update(checkpoint.weights.fingerprint)
    for piece in pieces:
        digest.update(sha256(np.asarray(piece, "<i8").tobytes()).digest())
    return digest.digest()


def _recall(entry: Path, spec: ModelSpec) -> Importance | None:
    """Returns an entry, None if it is missing, damaged, or not about this model."""
    try:
        content = entry.read_bytes()
        if content[:_DIGEST_BYTES] != sha256(content[_DIGEST_BYTES:]).digest():
            return None
        found: Importance = load(content[_DIGEST_BYTES:])
    except (OSError, SafetensorError):
        return None
    shapes = spec.tensor_shapes()
    return found if all(name in shapes and shapes[name][1:] == values.shape for name, values in found.items()) else None


def _remember(found: Importance, entry: Path) -> None:
    """Gives an entry its place at once and whole; a directory that refuses it is no error."""
    content = save(dict(found))
    with suppress(OSError):
        entry.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with replacing(entry, is_shared=True) as part:
            part.write_bytes(sha256(content).digest() + content)
        remove_abandoned(entry.parent, f"*{PART}", entry)
        _forget_oldest(entry.parent)


def _forget_oldest(directory: Path) -> None:
    entries = sorted((path.stat().st_mtime_ns, path) for path in directory.iterdir() if path.suffix != PART)
    for _, path in entries[:-MAX_ENTRIES]:
        path.unlink(missing_ok=True)
