"""Tiny random models of several families, each in a shape that something in attention treats specially."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from quire.config import DType, KVFormat
from quire.executors.key_bias import exact_key_layers
from quire.executors.options import ExecutorOptions
from quire.executors.protocol import kv_layout
from quire.models.spec import ModelSpec
from quire.models.weights import SourceDType, SourceTensor, Weights
from support.configs import spec_of
from support.weights import random_weights

MAX_CONTEXT = 1500
_TINY: dict[str, Any] = {"num_hidden_layers": 2, "max_position_embeddings": MAX_CONTEXT}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2 learned positions": (
        "gpt2",
        {"n_embd": 72, "n_head": 3, "n_layer": 2, "n_positions": MAX_CONTEXT, "n_ctx": MAX_CONTEXT},
    ),
    "llama group 7 of 24": ("llama", {**_TINY, "num_attention_heads": 7, "num_key_value_heads": 1, "head_dim": 24}),
    "qwen3 group 3 of 64": ("qwen3", {**_TINY, "num_attention_heads": 6, "head_dim": 64}),
    "mistral 80 window 45": ("mistral", {**_TINY, "num_attention_heads": 4, "head_dim": 80, "sliding_window": 45}),
    "gemma3 windows 37": (
        "gemma3_text",
        {**_TINY, "num_hidden_layers": 3, "sliding_window": 37, "sliding_window_pattern": 2},
    ),
    "gemma3 windows 600": (
        "gemma3_text",
        {**_TINY, "num_hidden_layers": 3, "sliding_window": 600, "sliding_window_pattern": 2, "head_dim": 64},
    ),
    "qwen2 key biases": (
        "qwen2",
        {**_TINY, "num_hidden_layers": 3, "hidden_size": 128, "num_attention_heads": 2, "num_key_value_heads": 2},
    ),
}
_BIASED = {"qwen2 key biases": (0, 2)}
_BIAS = 500.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model and the layers whose keys stay bfloat16 in quantized formats."""

    name: str
    spec: ModelSpec
    weights: Weights
    exact_key_layers: tuple[int, ...]

    def options(self, kv_format: KVFormat, **changes: Any) -> ExecutorOptions:
        """Returns an executor's options with a cache in this format; `block_size` and `num_blocks` have to be given."""
        layers = self.exact_key_layers if kv_format.is_quantized else ()
        layout = kv_layout(self.spec, changes.pop("block_size"), kv_format, layers)
        return ExecutorOptions(layout=layout, dtype=DType.FLOAT32, **changes)


@cache
def model_of(name: str) -> Model:
    """Returns the model of a shape; the biased one has a bias of 500 in two channels of two layers' keys."""
    family, changes = SHAPES[name]
    spec = spec_of(family, **changes)
    weights = random_weights(spec, seed=list(SHAPES).index(name))
    for layer in _BIASED.get(name, ()):
        weights = _with_key_bias(weights, f"layers.{layer}.attn.k.bias")
    return Model(name=name, spec=spec, weights=weights, exact_key_layers=exact_key_layers(spec, weights))


def _with_key_bias(weights: Weights, name: str) -> Weights:
    bias = weights[name].to_float32().copy()
    bias[[3, 17]] = np.float32(_BIAS)
    return Weights({**dict(weights), name: SourceTensor(dtype=SourceDType.FLOAT32, bits=bias)}, weights.fingerprint)
