"""From a model to the shape of its KV cache."""

from __future__ import annotations

from quire.config import KVFormat
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
