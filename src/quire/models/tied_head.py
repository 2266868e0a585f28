"""Whether a checkpoint has a separate head: the stored tensors decide; `tie_word_embeddings` counts only if it can be true.

config says   stored                  the model
tied          embedding               one matrix
tied          head                    one matrix: the head serves as the embedding too
tied          both, the same bits     one matrix
tied          both, different         two matrices, and a warning
untied        both                    two matrices
untied        embedding               refused: the head is missing
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from quire.models.families import Family
from quire.models.quantized.stored import PackedTensor
from quire.models.shards import Shards
from quire.models.source import TensorSource
from quire.models.spec import ModelSpec
from quire.models.weights import SourceTensor

EMBEDDING, HEAD = "embed.weight", "head.weight"
_COMPARED_AT_ONCE = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadReading:
    """The spec as the files have it, where its tensors lie, and the stored copy that is left unread, if there is one."""

    spec: ModelSpec
    sources: Mapping[str, TensorSource]
    unread_copy: str | None = None


def find_name(family: Family, source: TensorSource, shards: Shards) -> str | None:
    """Returns a source's name in the files, with the first of the family's prefixes that exists there."""
    candidates = (prefix + source.name for prefix in family.prefixes)
    return next((name for name in candidates if name in shards.placement), None)


def read_head(family: Family, spec: ModelSpec, shards: Shards) -> HeadReading:
    """Returns what the files make of the `spec` of config.json."""
    untied = replace(spec, is_head_tied=False)
    sources = dict(family.sources(untied))
    embedding, head = (find_name(family, sources[name], shards) for name in (EMBEDDING, HEAD))
    if not spec.is_head_tied:
        return HeadReading(spec=spec, sources=sources)
    if embedding is not None and head is not None and not _is_same(embedding, head, shards):
        return HeadReading(spec=untied, sources=sources)
    stored_head = sources.pop(HEAD)
    if embedding is None and head is not None:
        sources[EMBEDDING] = stored_head
    return HeadReading(spec=spec, sources=sources, unread_copy=None if embedding is None else head)


def _is_same(first: str, second: str, shards: Shards) -> bool:
    """Whether two tensors of the files hold the same bits in the same format; stops at the first difference."""
    entries = [shards.placement[name].entries[name] for name in (first, second)]
    if entries[0].shape != entries[1].shape or entries[0].dtype != entries[1].dtype or not entries[0].is_usable:
        return False
    tensors = [shards.placement[name].read(name) for name in (first, second)]
    columns = entries[0].shape[-1] if entries[0].shape else 1
    step = next((each.rows_at_once * columns for each in tensors if isinstance(each, PackedTensor)), _COMPARED_AT_ONCE)
    return all(np.array_equal(*bits) for bits in zip(*(_pieces_of(tensor, step) for tensor in tensors), strict=True))


def _pieces_of(tensor: SourceTensor, step: int) -> Iterator[npt.NDArray[Any]]:
    """Returns the bits of the values, `step` at a time, which is the length of the pieces that quantized tensors make."""
    if isinstance(tensor, PackedTensor):
        pieces: Iterable[npt.NDArray[Any]] = (piece.bits for piece in tensor.pieces())
    else:
        flat = tensor.bits.reshape(-1)
        pieces = (flat[start : start + step] for start in range(0, flat.size, step))
    for piece in pieces:
        yield piece.reshape(-1).view(np.dtype(f"u{piece.itemsize}"))
