"""The key-bias rule: where keys carry biases that would leave nothing of the other channels in 8 or 4 bits.

Qwen2 and Qwen2.5 add biases of several hundred to a few channels of their first and last layers. A scale that reaches such a
channel is far too coarse for all others, and a rotation spreads the bias over all of them. The rule reads the weights alone,
so it is the same for every prompt: what a layer's projection makes of normed inputs is about as large as its rows times the
norm's weight, and a bias of many times that keeps the layer's keys in bfloat16.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from quire.models.spec import ModelSpec, QKNorm
from quire.models.weights import SourceTensor

MAX_BIAS = 6.0
"""The largest bias of a channel that quantized keys bear, in units of what the projection gives without it.

Measured on the bundled model, two channels of two layers: at 4 int8 loses 2.3e-4 nats per token, at 8 4.4e-4, without 1.9e-4."""


def exact_key_layers(spec: ModelSpec, weights: Mapping[str, SourceTensor]) -> tuple[int, ...]:
    """Returns the layers whose keys stay bfloat16 in a quantized KV format; none where keys are normed after the bias."""
    if not spec.has_qkv_bias or spec.qk_norm is not QKNorm.NONE:
        return ()
    return tuple(layer for layer in range(spec.num_layers) if largest_bias(spec, weights, layer) > MAX_BIAS)


def largest_bias(spec: ModelSpec, weights: Mapping[str, SourceTensor], layer: int) -> float:
    """Returns the largest key bias of a layer, in units of the root mean square that its head's projection gives."""
    bias = weights[f"layers.{layer}.attn.k.bias"]
    if not bias.bits.any():
        return 0.0
    rows = weights[f"layers.{layer}.attn.k.weight"].to_float32()
    norm = weights.get(f"layers.{layer}.attn_norm.weight")
    if norm is not None:
        rows = rows * norm.to_float32()
    sizes = np.sqrt(np.square(rows).sum(axis=1).reshape(spec.num_kv_heads, -1).mean(axis=1))
    biases = np.abs(bias.to_float32()).reshape(spec.num_kv_heads, -1).max(axis=1)
    return float((biases / np.maximum(sizes, np.finfo(np.float32).tiny)).max())
