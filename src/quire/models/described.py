"""A model before its weights are there: what a `config.json` alone says, in the shape of an opened checkpoint.

    directory with weights, GGUF file     the checkpoint itself: formats are those of its files
    config.json alone                     hollow tensors: shapes and a number format, no content and no memory

So that whatever is decided before loading (formats, blocks, whether memory suffices) is decided by the code that loads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from quire.errors import ModelNotFoundError
from quire.models.checkpoint import Checkpoint, load_checkpoint
from quire.models.config_file import Config, parse_config, read_config, read_config_bytes
from quire.models.families import build_spec
from quire.models.gguf.splits import is_gguf
from quire.models.quantized import read_quantization
from quire.models.shards import SINGLE_FILE, has_weights
from quire.models.spec import ModelSpec
from quire.models.weights import SourceDType, SourceTensor, Weights
from quire.values import shown

_DTYPES: Mapping[str, SourceDType] = MappingProxyType(
    {"float32": SourceDType.FLOAT32, "float16": SourceDType.FLOAT16, "bfloat16": SourceDType.BFLOAT16}
)
CONFIG_FILE = "config.json"
_ELEMENTS = MappingProxyType({SourceDType.FLOAT32: np.float32, SourceDType.FLOAT16: np.float16, SourceDType.BFLOAT16: np.uint16})


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """A model as far as it is there; the tensors of `checkpoint` are hollow where there are no weights.

    `missing` names the file without which it cannot run, None where it can. `unread_storage` says how the config quantizes
    weights that are not there: what holds them is unknown, and the tensors are bfloat16.
    """

    checkpoint: Checkpoint
    missing: str | None = None
    unread_storage: str | None = None


def describe(path: Path) -> Described:
    """Returns the model in a directory, in a GGUF file, or in a `config.json` at that path.

    Raises ModelNotFoundError where nothing lies, and what `load_checkpoint` raises.
    """
    if is_gguf(path) or has_weights(path):
        return Described(checkpoint=load_checkpoint(path))
    if path.is_dir():
        return _hollow(path, read_config(path))
    if path.name == CONFIG_FILE and has_weights(path.parent):
        return describe(path.parent)
    if not path.is_file():
        raise ModelNotFoundError(
            "There is no such config.json", given=shown(str(path)), next_step="Pass a model directory or its config.json."
        )
    return _hollow(path.parent, parse_config(read_config_bytes(path)))


def _hollow(directory: Path, config: Config) -> Described:
    spec = build_spec(config)
    quantization = read_quantization(config)
    dtype = SourceDType.BFLOAT16 if quantization is not None else _dtype_of(config)
    checkpoint = Checkpoint(
        directory=directory, spec=spec, weights=Weights(_tensors(spec, dtype), b""), model_context=spec.max_context
    )
    return Described(
        checkpoint=checkpoint,
        missing=SINGLE_FILE,
        unread_storage=None if quantization is None else quantization.description,
    )


def _dtype_of(config: Config) -> SourceDType:
    """Returns the number format that the file names under its new or its old name; float32, as in transformers, if neither."""
    name = config.text("dtype") or config.text("torch_dtype") or "float32"
    return _DTYPES.get(name.removeprefix("torch."), SourceDType.FLOAT32)


def _tensors(spec: ModelSpec, dtype: SourceDType) -> dict[str, SourceTensor]:
    nothing = np.zeros((), _ELEMENTS[dtype])
    return {name: SourceTensor(dtype=dtype, bits=np.broadcast_to(nothing, shape)) for name, shape in spec.tensor_shapes().items()}
