"""From a model to the shape of its KV cache."""

from __future__ import annotations

from quire.config import QUANTIZED_HEAD_DIM_STEP, ExecutorKind, KVFormat
from quire.kv.layout import KVLayout
from quire.models.spec import ModelSpec


def kv_layout(spec: ModelSpec, block_size: int, kv_format: KVFormat, exact_key_layers: tuple[int, ...] = ()) -> KVLayout:
    """Returns the cache layout of a model; keys of `exact_key_layers` stay bfloat16."""
    return KVLayout(
        num_layers=spec.num_layers,
        num_kv_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        block_size=block_size,
        format=kv_format,
        exact_key_layers=exact_key_layers,
    )


def kv_formats_of(spec: ModelSpec, executor: ExecutorKind) -> tuple[KVFormat, ...]:
    """Returns the formats in which an executor can hold keys and values of a model: quantized ones hold channels in eights."""
    is_held = spec.head_dim % QUANTIZED_HEAD_DIM_STEP == 0
    return tuple(each for each in executor.kv_formats if is_held or not each.is_quantized)
