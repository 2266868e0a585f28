"""What a step must cost at least: floating-point operations and bytes, counted from the spec. The roofline's inputs."""

from __future__ import annotations

from math import prod

from quire.config import DType
from quire.kv.layout import KVLayout
from quire.models.spec import ModelSpec


def matrix_elements(spec: ModelSpec) -> tuple[int, int]:
    """Returns the weights every token is multiplied with, and those of the head, which only sampled rows meet."""
    shapes = spec.tensor_shapes()
    head = shapes["embed.weight" if spec.is_head_tied else "head.weight"]
    layers = sum(prod(shape) for name, shape in shapes.items() if name.startswith("layers.") and len(shape) == 2)
    return layers, prod(head)


def step_flops(spec: ModelSpec, num_rows: int, num_sampled: int, num_attended: int) -> int:
    """Returns the operations of a step whose rows see `num_attended` keys in all (the sum over rows)."""
    layers, head = matrix_elements(spec)
    attention = 4 * spec.num_layers * spec.num_heads * spec.head_dim * num_attended
    return 2 * (num_rows * layers + num_sampled * head) + attention


def step_bytes(spec: ModelSpec, dtype: DType, layout: KVLayout, num_context_tokens: int) -> int:
    """Returns the bytes a decode step reads: every weight once, and K/V of every token in context."""
    layers, head = matrix_elements(spec)
    return (layers + head) * (4 if dtype is DType.FLOAT32 else 2) + layout.bytes_per_token * num_context_tokens
