"""The machine's peak at this moment: memory bandwidth and FLOP/s, measured before and after every benchmark.

The bandwidth is that of the fastest of several ways to read one buffer, whatever way kernels read weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quire.executors.core_types import ReadSpeed
from quire.executors.native import load_core
from quire.executors.native_shape import panel_format
from quire.executors.packing import PanelFormat

_BANDWIDTH_BYTES = 1 << 29  # more than any cache we know holds, and read in a fraction of a second
_ROUNDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class MachinePeak:
    """Bytes and floating-point operations (multiplications and additions) per second that the measured threads reach.

    `reads` says how the fastest reads were made.
    """

    bandwidth: float
    flops: float
    reads: str | None = None


def measure_peak(isa: str, threads: int, weights: PanelFormat) -> MachinePeak:
    """Measures the peak of products with weights of this format; takes a second or two."""
    core = load_core()
    reads = best_read(core.measure_reads(isa, threads, _BANDWIDTH_BYTES, _ROUNDS))
    return MachinePeak(
        bandwidth=reads.bytes_per_second,
        flops=core.measure_flops(isa, threads, panel_format(core, weights), _ROUNDS),
        reads=described(reads),
    )


def best_read(speeds: Sequence[ReadSpeed]) -> ReadSpeed:
    """Returns the fastest."""
    return max(speeds, key=lambda each: each.bytes_per_second)


def described(read: ReadSpeed) -> str:
    """Returns how the buffer was read, such as "no prefetch, several streams, a part per thread"."""
    words = {"NONE": "no prefetch", "BOTH": "both prefetches", "PACED": "paced loads"}
    prefetch = words.get(read.prefetch.name, f"{read.prefetch.name.lower()} prefetch")
    streams = "several streams" if read.in_streams else "one stream"
    return f"{prefetch}, {streams}, {'a part per thread' if read.in_halves else 'slices as they come'}"


def higher_peak(before: MachinePeak, after: MachinePeak) -> MachinePeak:
    """Returns the higher of two measurements in each figure, so that shares of the peak are not overstated."""
    faster = max(before, after, key=lambda each: each.bandwidth)
    return MachinePeak(bandwidth=faster.bandwidth, flops=max(before.flops, after.flops), reads=faster.reads)
