"""The least that work must cost: floating-point operations and bytes, counted from the spec. The inputs of a roofline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from quire.bench.machine_peak import MachinePeak
from quire.executors.packing import PanelFormat, matrix_shapes, packed_bytes
from quire.executors.work_counts import WorkCounts
from quire.kv.layout import KVLayout
from quire.models.spec import ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The least that a piece of work computes and reads; `num_bytes` is None where reading cannot be the limit."""

    flops: int
    num_bytes: int | None = None

    def roofline_s(self, peak: MachinePeak) -> float:
        """Returns the seconds that the work needs at least on a machine with this peak."""
        return max(self.flops / peak.flops, (self.num_bytes or 0) / peak.bandwidth)


def matrix_elements(spec: ModelSpec) -> tuple[int, int]:
    """Returns how many weights multiply every token, and how many more, those of the head, multiply sampled rows only."""
    shapes = spec.tensor_shapes()
    head = shapes["embed.weight" if spec.is_head_tied else "head.weight"]
    layers = sum(prod(shape) for name, shape in shapes.items() if name.startswith("layers.") and len(shape) == 2)
    return layers, prod(head)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightBytes:
    """Bytes of packed matrices that multiply every token, and of the head, which multiplies sampled rows only."""

    layers: int
    head: int

    @property
    def total(self) -> int:
        return self.layers + self.head


def weight_bytes(spec: ModelSpec, formats: Mapping[str, PanelFormat]) -> WeightBytes:
    """Returns the bytes of the matrices that multiply, scales included."""
    sizes = {name: packed_bytes(shape, formats[name]) for name, shape in matrix_shapes(spec).items()}
    layers = sum(size for name, size in sizes.items() if name.startswith("layers."))
    return WeightBytes(layers=layers, head=sizes["embed.weight" if spec.is_head_tied else "head.weight"])


def seen_keys(spec: ModelSpec, start: int, stop: int) -> int:
    """Returns the keys that tokens [start, stop) of a request see, over all layers; in a window at most its size each."""
    windows = Counter(layer.sliding_window for layer in spec.layers)
    return sum(count * (_keys_up_to(stop, window) - _keys_up_to(start, window)) for window, count in windows.items())


def _keys_up_to(num_tokens: int, window: int | None) -> int:
    """Returns the keys that the first tokens of a request see in one layer: 1 + 2 + 3 ..., no term above the window."""
    growing = num_tokens if window is None else min(num_tokens, window)
    return growing * (growing + 1) // 2 + (num_tokens - growing) * (window or 0)


def chunk_work(spec: ModelSpec, start: int, stop: int, num_sampled: int) -> WorkCounts:
    """Returns the multiply-adds of computing tokens [start, stop) of a request, whose logits are wanted of `num_sampled`."""
    layers, head = matrix_elements(spec)
    pairs = spec.num_heads * spec.head_dim * seen_keys(spec, start, stop)
    return WorkCounts(projections=(stop - start) * layers, scores=pairs, mixing=pairs, head=num_sampled * head)


def context_bytes(spec: ModelSpec, layout: KVLayout, num_tokens: int) -> int:
    """Returns the bytes of K/V that the next token reads of `num_tokens` cached ones; the cache may hold more than a window."""
    seen = sum(min(num_tokens, layer.sliding_window or num_tokens) for layer in spec.layers)
    return layout.bytes_per_token * seen // spec.num_layers


def prefill_cost(spec: ModelSpec, num_requests: int, num_cached: int, num_new: int) -> Cost:
    """Returns the cost of computing tokens [num_cached, num_cached + num_new) of every request; arithmetic is the limit."""
    return Cost(flops=2 * num_requests * chunk_work(spec, num_cached, num_cached + num_new, 1).total)


def decode_cost(spec: ModelSpec, weights: WeightBytes, layout: KVLayout, contexts: tuple[int, ...]) -> Cost:
    """Returns the cost of one token per request; `contexts` holds the number of context tokens of each, the new one included.

    Every weight is read once, and of every request the K/V that its token sees.
    """
    flops = sum(2 * chunk_work(spec, context - 1, context, 1).total for context in contexts)
    return Cost(flops=flops, num_bytes=weights.total + sum(context_bytes(spec, layout, context) for context in contexts))
