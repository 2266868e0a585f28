"""The machine's limits at this moment: memory bandwidth and arithmetic, measured before and after every benchmark."""

from __future__ import annotations

from dataclasses import dataclass

from quire.config import WeightFormat
from quire.executors.native import load_core, packed_as

_BANDWIDTH_BYTES = 1 << 29  # beyond any cache's reach on the machines we know, and read in a fraction of a second
_ROUNDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """Bytes and operations (multiplications and additions) a second that `threads` threads reach."""

    bandwidth: float
    flops: float


def measure_canary(isa: str, threads: int, weight_format: WeightFormat) -> Canary:
    """Measures now what products with such weights could reach; takes about a second."""
    core = load_core()
    return Canary(
        bandwidth=core.measure_bandwidth(isa, threads, _BANDWIDTH_BYTES, _ROUNDS),
        flops=core.measure_flops(isa, threads, packed_as(core, weight_format), _ROUNDS),
    )


def best_of(before: Canary, after: Canary) -> Canary:
    """Returns the limits to measure against: what the machine reached at its better moment, so that no share flatters."""
    return Canary(bandwidth=max(before.bandwidth, after.bandwidth), flops=max(before.flops, after.flops))
