"""The memory that training needs, computed before anything is allocated: a lower bound, because steps differ.

parameters   weights, gradients and the optimizer's moments, all float32
a batch      what the backward pass needs of every layer, for every token
arrays       token ids, positions and targets of the batches of one step
logits       those that exist at once, and their gradients
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from types import MappingProxyType

from quire.config import DType
from quire.environment import Memory
from quire.errors import ConfigError
from quire.models.spec import ModelSpec
from quire.train.recipe import OptimizerKind, Recipe
from quire.units import format_bytes

HEAD_ELEMENTS = 1 << 25
"""Logits that exist at once."""

_FLOAT_BYTES = 4
_COPIES: Mapping[OptimizerKind, int] = MappingProxyType({OptimizerKind.ADAMW: 4, OptimizerKind.MUON: 3})
_ARRAY_BYTES = 3 * 8


def require_training_memory(spec: ModelSpec, recipe: Recipe, memory: Memory | None) -> None:
    """Raises ConfigError, with the numbers and what would fit, if training needs more memory than is available.

    Nothing is compared if the memory is unknown or the device is not the CPU.
    """
    if memory is None or recipe.device != "cpu":
        return
    parameters = _FLOAT_BYTES * _COPIES[recipe.optimizer] * sum(map(prod, spec.tensor_shapes().values()))
    logits = 2 * _FLOAT_BYTES * min(recipe.batch_tokens * spec.vocab_size, HEAD_ELEMENTS)
    arrays, activations = _ARRAY_BYTES * recipe.accumulate, _activation_bytes(spec, recipe.precision)
    left = memory.reachable_bytes - parameters - logits
    batch = recipe.batch_tokens * (activations + arrays)
    if batch <= left:
        return
    raise ConfigError(
        "training needs more memory than is available",
        given=f"{format_bytes(parameters + logits + batch)}: parameters with gradients and moments {format_bytes(parameters)}, "
        f"batches of {recipe.batch_tokens} tokens {format_bytes(batch)}, logits {format_bytes(logits)}",
        limit=f"{format_bytes(memory.reachable_bytes)} available",
        next_step=_what_fits(recipe, left, arrays, activations),
    )


def _what_fits(recipe: Recipe, left: int, arrays: int, activations: int) -> str:
    """Returns the advice: fewer batches per step, smaller batches, or a smaller model; `left` bytes are available for batches."""
    num_batches = (left // recipe.batch_tokens - activations) // _ARRAY_BYTES
    if num_batches > 0:
        return f"Pass --accumulate {num_batches} or less."
    if left >= activations + arrays:
        return f"Pass --batch-tokens {left // (activations + arrays)} or less."
    return "Train a smaller shape: fewer or narrower layers, or a smaller vocabulary."


def _activation_bytes(spec: ModelSpec, precision: DType) -> int:
    """Returns the bytes that one token keeps for the backward pass: residuals, queries, keys, values, and the feed-forward."""
    query, kv = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    attention = 2 * spec.hidden_size + 2 * query + 2 * kv
    elements = sum(attention + 3 * layer.ffn.size for layer in spec.layers)
    return elements * (2 if precision is DType.BFLOAT16 else _FLOAT_BYTES)
