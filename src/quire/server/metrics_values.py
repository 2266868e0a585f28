"""Numbers that only grow, kept as plain integers where they are counted and turned into Prometheus' families when they are read.

Adding costs a dictionary access or a bisection, without a lock: every value has one writer, a thread of its own.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import accumulate, product

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

OTHER = "other"
"""The value of a label that stands for every one that is not known."""

FAST_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Bounds in seconds for what a step or a token takes."""

SLOW_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Bounds in seconds for what a request takes."""

LONG_S = (0.1, 1.0, 10.0, 60.0, 300.0, 1800.0, 3600.0, 6 * 3600.0, 24 * 3600.0)
"""Bounds in seconds for how long content stays in the cache."""

POWERS_OF_TWO = tuple(float(2**exponent) for exponent in range(14))


class Tally:
    """Counts by labels. All values of a label are known from the start, so that what clients send adds no series."""

    __slots__ = ("_counts", "_known", "_labels")

    def __init__(self, **values_of: Sequence[str]) -> None:
        self._labels = tuple(values_of)
        self._known = [frozenset(values) for values in values_of.values()]
        self._counts: dict[tuple[str, ...], float] = dict.fromkeys(product(*values_of.values()), 0)

    def add(self, *values: str, count: float = 1) -> None:
        """Counts under the values of the labels, in their order; one that is not known counts as OTHER."""
        if values not in self._counts:
            values = tuple(value if value in known else OTHER for value, known in zip(values, self._known, strict=True))
        self._counts[values] += count

    def family(self, name: str, meaning: str) -> CounterMetricFamily:
        """Returns the counter as Prometheus reads it; `_total` is added to the name."""
        family = CounterMetricFamily(name, meaning, labels=self._labels)
        for values, count in list(self._counts.items()):
            family.add_metric(values, count)
        return family


class Spread:
    """A histogram: how many values are at most each bound, and their sum."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)  # the last one: beyond all bounds
        self._sum = 0.0

    @property
    def count(self) -> int:
        return sum(self._counts)

    def add(self, value: float, count: int = 1) -> None:
        """Counts a value, `count` times."""
        self._counts[bisect_left(self._bounds, value)] += count
        self._sum += value * count

    def family(self, name: str, meaning: str) -> HistogramMetricFamily:
        """Returns the histogram as Prometheus reads it."""
        bounds = [*(f"{bound:g}" for bound in self._bounds), "+Inf"]
        buckets = list(zip(bounds, map(float, accumulate(list(self._counts))), strict=True))
        return HistogramMetricFamily(name, meaning, buckets=buckets, sum_value=self._sum)


def counter(name: str, meaning: str, value: float) -> CounterMetricFamily:
    """Returns a counter without labels; `_total` is added to its name."""
    return CounterMetricFamily(name, meaning, value=value)


def gauge(name: str, meaning: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    """Returns a gauge with one label."""
    family = GaugeMetricFamily(name, meaning, labels=(label,))
    for value, number in values.items():
        family.add_metric((value,), number)
    return family
