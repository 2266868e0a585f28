"""What a benchmark reports: measured times with the roofline of the same minute, in one shape for every phase."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from quire.bench.cost import Cost
from quire.bench.machine_peak import MachinePeak


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """One measured thing; times are medians over the runs, shares are of the measured peak.

    `tokens_per_second` counts the tokens of all requests together. `ratio` compares with another row of the same report,
    as `ratio_is` says. A figure without a meaning is None.
    """

    name: str
    seconds: float
    tokens_per_second: float | None
    spread: float  # (slowest - fastest) / median
    roofline_seconds: float | None
    share_of_roofline: float | None
    share_of_bandwidth: float | None  # MBU
    share_of_flops: float | None  # MFU
    ratio: float | None = None
    ratio_is: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Speeds, and the machine's peak before and after them. `notes` say how to read the figures.

    `prefetch` says how kernels prefetched weights and who chose that; None for an executor without the choice.
    """

    bench: str
    executor: str
    threads: int
    weights: str
    kv_format: str
    before: MachinePeak
    after: MachinePeak
    speeds: tuple[Speed, ...]
    notes: tuple[str, ...] = ()
    prefetch: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """The seconds each run took for one thing, the tokens it produced, and the costs of its parts one after the other."""

    name: str
    seconds: Sequence[float]
    num_tokens: int | None = None
    costs: tuple[Cost, ...] = ()
    ratio: float | None = None
    ratio_is: str | None = None


def speed_of(samples: Samples, peak: MachinePeak) -> Speed:
    """Returns medians and shares of something measured at least once."""
    seconds = median(samples.seconds)
    roofline = sum(cost.roofline_s(peak) for cost in samples.costs) or None
    flops = sum(cost.flops for cost in samples.costs)
    num_bytes = [cost.num_bytes for cost in samples.costs if cost.num_bytes is not None]
    is_every_byte_known = bool(num_bytes) and len(num_bytes) == len(samples.costs)
    return Speed(
        name=samples.name,
        seconds=seconds,
        tokens_per_second=None if samples.num_tokens is None else samples.num_tokens / seconds,
        spread=spread(samples.seconds),
        roofline_seconds=roofline,
        share_of_roofline=None if roofline is None else roofline / seconds,
        share_of_bandwidth=sum(num_bytes) / seconds / peak.bandwidth if is_every_byte_known else None,
        share_of_flops=flops / seconds / peak.flops if flops else None,
        ratio=samples.ratio,
        ratio_is=samples.ratio_is,
    )


def spread(values: Sequence[float]) -> float:
    """Returns (slowest - fastest) / median."""
    return (max(values) - min(values)) / median(values)
