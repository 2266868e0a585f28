"""The FLOPs of a training step, counted, and the machine's peak, measured; their ratio is the MFU."""

from __future__ import annotations

import time

import torch

from quire.config import DType
from quire.models.spec import FfnKind, ModelSpec
from quire.train.packing import PackedBatch

_FORWARD_AND_BACKWARD = 3  # the gradient of a product is two products
_PEAK_SIZE = {"cpu": 1024, "cuda": 8192}
_PEAK_RUNS = 5


def training_flops(spec: ModelSpec, batch: PackedBatch) -> float:
    """Returns the floating-point operations of learning from `batch`: matrices on every token, attention on the pairs of a
    query and a key that it sees, and the head on the learned tokens. A multiplication with its addition counts two.
    """
    num_tokens = sum(batch.lengths)
    num_pairs = sum(_num_pairs(length, layer.sliding_window) for length in batch.lengths for layer in spec.layers)
    query, kv = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    ffn_units = sum((3 if layer.ffn.kind is FfnKind.GATED else 2) * layer.ffn.size for layer in spec.layers)
    matrices = spec.hidden_size * (spec.num_layers * (2 * query + 2 * kv) + ffn_units)
    layers = 2 * num_tokens * matrices + 4 * num_pairs * query
    head = 2 * batch.num_learned * spec.hidden_size * spec.vocab_size
    return float(_FORWARD_AND_BACKWARD * (layers + head))


def _num_pairs(length: int, window: int | None) -> int:
    reach = min(length, window or length)
    return reach * (reach + 1) // 2 + (length - reach) * reach


def measure_peak(device: str, precision: DType) -> float:
    """Returns the FLOP/s of a large square product, the fastest of a few runs."""
    size = _PEAK_SIZE.get(torch.device(device).type, 1024)
    dtype = torch.bfloat16 if precision is DType.BFLOAT16 else torch.float32
    matrix = torch.ones(size, size, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(_PEAK_RUNS):
        started = time.perf_counter()
        float((matrix @ matrix)[0, 0])  # reading an element waits for the device
        best = min(best, time.perf_counter() - started)
    return float(2 * size**3 / best)
