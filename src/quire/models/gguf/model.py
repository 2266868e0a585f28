"""A GGUF file as a checkpoint: its spec, and its tensors under canonical names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from quire.models.gguf.names import Placed, arrange, place
from quire.models.gguf.spec import config_of, is_derived, spec_of
from quire.models.gguf.splits import Gguf, open_gguf
from quire.models.mapped_file import DOWNLOAD_AGAIN
from quire.models.spec import ModelSpec
from quire.models.tensor_check import expected_shapes, require_none
from quire.models.weights import SourceTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufModel:
    """The contents of a GGUF file; `model_context` is the longest context that can be asked for."""

    gguf: Gguf
    spec: ModelSpec
    tensors: Mapping[str, SourceTensor]
    model_context: int


def read_gguf(path: Path, max_context: int | None = None) -> GgufModel:
    """Returns the model in a file, for serving `max_context` tokens; reads no weights. Raises what `config_of` and `spec_of`
    raise, and CheckpointError where tensors are missing, surplus or wrongly shaped.
    """
    gguf = open_gguf(path)
    config = config_of(gguf)
    spec = spec_of(gguf.name, config, max_context)
    model_context = spec.max_context if max_context is None else spec_of(gguf.name, config).max_context
    placed = place(spec, str(gguf.metadata["general.architecture"]), gguf.placement)
    _check_tensors(gguf, spec, placed)
    tensors = {canonical: arrange(gguf.read(each.source.name), each) for canonical, each in placed.items()}
    return GgufModel(gguf=gguf, spec=spec, tensors=tensors, model_context=model_context)


def _check_tensors(gguf: Gguf, spec: ModelSpec, placed: Mapping[str, Placed]) -> None:
    """Raises one CheckpointError that names everything missing, surplus or wrongly shaped."""
    expected = expected_shapes(spec, {canonical: each.source for canonical, each in placed.items()})
    findings = {
        "missing": sorted(expected.keys() - gguf.placement.keys()),
        "surplus": sorted(name for name in gguf.placement.keys() - expected.keys() if not is_derived(name)),
        "wrongly shaped": [
            f"{name} is {list(gguf.info(name).shape)} instead of {list(shape)}"
            for name, shape in expected.items()
            if name in gguf.placement and gguf.info(name).shape != shape
        ],
    }
    require_none(f"{gguf.name}: metadata and tensors do not belong together", findings, next_step=DOWNLOAD_AGAIN)
