"""Random weights for any spec, without files and without torch."""

from __future__ import annotations

import numpy as np

from quire.models.spec import ModelSpec
from quire.models.weights import SourceDType, SourceTensor, Weights


def random_weights(spec: ModelSpec, seed: int = 0) -> Weights:
    """Returns float32 weights under which activations stay near one: norms near 1, matrices scaled by their inputs."""
    generator = np.random.default_rng(seed)
    tensors = {}
    for name, shape in spec.tensor_shapes().items():
        noise = generator.standard_normal(shape).astype(np.float32)
        if name.endswith("norm.weight"):
            values = np.float32(1.0) + np.float32(0.3) * noise
        elif len(shape) == 1:
            values = np.float32(0.3) * noise
        else:
            values = noise * np.float32(1.2 / shape[1] ** 0.5 if name not in ("embed.weight", "position.weight") else 0.7)
        tensors[name] = SourceTensor(dtype=SourceDType.FLOAT32, bits=values)
    return Weights(tensors, fingerprint=bytes([seed]) * 32)
