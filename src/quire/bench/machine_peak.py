"""The machine's peak at this moment: memory bandwidth and FLOP/s, measured before and after every benchmark."""

from __future__ import annotations

from dataclasses import dataclass

from quire.executors.native import load_core
from quire.executors.native_shape import panel_format
from quire.executors.packing import PanelFormat

_BANDWIDTH_BYTES = 1 << 29  # more than any cache we know holds, and read in a fraction of a second
_ROUNDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class MachinePeak:
    """Bytes and floating-point operations (multiplications and additions) per second that the measured threads reach."""

    bandwidth: float
    flops: float


def measure_peak(isa: str, threads: int, weights: PanelFormat) -> MachinePeak:
    """Measures the peak of products with weights of this format; takes about a second."""
    core = load_core()
    return MachinePeak(
        bandwidth=core.measure_bandwidth(isa, threads, _BANDWIDTH_BYTES, _ROUNDS),
        flops=core.measure_flops(isa, threads, panel_format(core, weights), _ROUNDS),
    )


def higher_peak(before: MachinePeak, after: MachinePeak) -> MachinePeak:
    """Returns the higher of two measurements in each figure, so that shares of the peak are not overstated."""
    return MachinePeak(bandwidth=max(before.bandwidth, after.bandwidth), flops=max(before.flops, after.flops))
