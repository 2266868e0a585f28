"""Weights that are the same on every machine and under every NumPy, for what is stored and compared later."""

from __future__ import annotations

from math import prod

import numpy as np
import numpy.typing as npt

from quire.models.spec import ModelSpec
from quire.models.weights import SourceDType, SourceTensor, Weights

_SEED = 20261201


def fixed_weights(spec: ModelSpec) -> Weights:
    """Returns float32 weights made of a bit generator's raw words, whose stream NumPy guarantees, by one exact rounding each."""
    generator = np.random.PCG64(_SEED)
    tensors = {
        name: SourceTensor(dtype=SourceDType.FLOAT32, bits=_values(generator, name, shape))
        for name, shape in spec.tensor_shapes().items()
    }
    return Weights(tensors, fingerprint=bytes(32))


def _values(generator: np.random.PCG64, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Returns values around one for norms, around zero for the rest, so large that activations stay near one."""
    words = np.asarray(generator.random_raw(prod(shape))) >> np.uint64(41)
    noise = (words.astype(np.float64) / 2**22 - 1.0).reshape(shape)  # 23 bits in [-1, 1)
    if name.endswith("norm.weight"):
        return (1.0 + noise / 2).astype(np.float32)
    if len(shape) == 1 or name in ("embed.weight", "position.weight"):
        return (noise / 2).astype(np.float32)
    return (noise * 2 / shape[1] ** 0.5).astype(np.float32)
