"""A model of a real shape with random weights, from a `config.json` alone: speed needs no download."""

from __future__ import annotations

from hashlib import sha256
from math import prod
from pathlib import Path

import numpy as np

from quire.arrays import BitsArray
from quire.environment import Memory, read_memory
from quire.errors import ConfigError
from quire.models.checkpoint import Checkpoint
from quire.models.config_file import parse_config, read_config_bytes
from quire.models.families import build_spec
from quire.models.spec import ModelSpec
from quire.models.weights import SourceDType, SourceTensor, Weights, round_to_bfloat16
from quire.units import format_bytes

_POOL_ELEMENTS = 1 << 24
_BYTES = 2  # of a bfloat16 value
_SCALE = 0.02  # the usual initialization: logits stay finite at any depth


def random_checkpoint(config_file: Path, *, max_context: int | None = None) -> Checkpoint:
    """Returns a bfloat16 checkpoint; tensors repeat one pool of random values, norm weights are near 1.

    Raises ModelError, or ConfigError, also if the tensors larger than the pool do not fit into memory.
    """
    if not config_file.is_file():
        raise ConfigError("the config file cannot be read", given=config_file.name, next_step="Name a config.json.")
    text = read_config_bytes(config_file)
    config = parse_config(text)
    spec = build_spec(config, max_context)
    _require_memory(spec, read_memory())
    num_values = min(_POOL_ELEMENTS, max(prod(shape) for shape in spec.tensor_shapes().values()))
    pool = np.random.default_rng(0).standard_normal(num_values, dtype=np.float32) * np.float32(_SCALE)
    plain, around_one = round_to_bfloat16(pool), round_to_bfloat16(np.float32(1) + pool[: 1 << 18])
    tensors = {
        name: _tensor(around_one if name.endswith("norm.weight") else plain, shape)
        for name, shape in spec.tensor_shapes().items()
    }
    return Checkpoint(
        directory=config_file.parent,
        spec=spec,
        weights=Weights(tensors, sha256(text).digest()),
        model_context=build_spec(config).max_context,
    )


def _require_memory(spec: ModelSpec, memory: Memory | None) -> None:
    sizes = [prod(shape) for shape in spec.tensor_shapes().values()]
    num_bytes = _BYTES * sum(size for size in sizes if size > _POOL_ELEMENTS)
    if memory is not None and num_bytes > memory.reachable_bytes:
        raise ConfigError(
            "random weights of this shape need more memory than there is",
            given=f"{format_bytes(num_bytes)} of {format_bytes(_BYTES * sum(sizes))} in bfloat16",
            limit=f"{format_bytes(memory.reachable_bytes)} available",
            next_step="Name the config.json of a smaller model.",
        )


def _tensor(pool: BitsArray, shape: tuple[int, ...]) -> SourceTensor:
    size = prod(shape)
    bits = pool[:size] if size <= pool.size else np.resize(pool, size)  # np.resize copies the whole pool at least once
    return SourceTensor(dtype=SourceDType.BFLOAT16, bits=bits.reshape(shape))
