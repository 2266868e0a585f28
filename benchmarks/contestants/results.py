"""From readings to findings: medians, ratios to the best peer, how far the contestants computed the same tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from quire.bench.canary import Canary
from quire.bench.cost import matrix_elements, step_flops
from quire.kv.layout import KVLayout
from quire.models.spec import ModelSpec

from .protocol import Reading
from .roster import Name, Precision
from .workloads import Phase, Workload


@dataclass(slots=True)
class Results:
    """Everything that was measured. `rates` holds tokens a second, one a round; `missing` says why something is absent."""

    rates: dict[Name, dict[Workload, list[float]]] = field(default_factory=dict)
    token_ids: dict[Name, dict[Workload, list[list[int]]]] = field(default_factory=dict)
    facts: dict[Name, dict[str, str]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    canaries: list[Canary] = field(default_factory=list)

    def add(self, name: Name, workload: Workload, reading: Reading) -> None:
        """Takes one measurement."""
        step_s = median(reading.steps_s) if reading.steps_s else None
        rate = workload.tokens_per_second(reading.prefill_s, step_s)
        self.rates.setdefault(name, {}).setdefault(workload, []).append(rate)
        self.token_ids.setdefault(name, {}).setdefault(workload, reading.token_ids)

    def rate(self, name: Name, workload: Workload) -> float | None:
        """Returns the median rate, or None where nothing was measured."""
        rates = self.rates.get(name, {}).get(workload)
        return median(rates) if rates else None

    def spread(self, name: Name, workload: Workload) -> float:
        """Returns (fastest - slowest) / median over the rounds."""
        rates = self.rates[name][workload]
        return (max(rates) - min(rates)) / median(rates)

    def of(self, precision: Precision) -> list[Name]:
        """Returns who was measured in a precision, in the order they entered."""
        return [name for name in self.rates if name.precision is precision]


@dataclass(frozen=True, slots=True, kw_only=True)
class Duel:
    """Quire against the best peer of a precision in one workload."""

    precision: Precision
    workload: Workload
    ours: float
    best: Name
    theirs: float

    @property
    def ratio(self) -> float:
        return self.ours / self.theirs


def duels(results: Results, workloads: Sequence[Workload]) -> list[Duel]:
    """Returns a duel for every workload that Quire and at least one peer of the same precision were measured in."""
    found: list[Duel] = []
    for precision in Precision:
        names = results.of(precision)
        for workload in workloads:
            rates = {name: rate for name in names if (rate := results.rate(name, workload)) is not None}
            ours = max((rate for name, rate in rates.items() if name.is_ours), default=None)
            peers = {name: rate for name, rate in rates.items() if not name.is_ours}
            if ours is not None and peers:
                best = max(peers, key=lambda name: peers[name])
                found.append(Duel(precision=precision, workload=workload, ours=ours, best=best, theirs=peers[best]))
    return found


def agreement(results: Results, workload: Workload, reference: Name) -> Mapping[Name, tuple[int, int]]:
    """Returns how many leading greedy tokens of the first request equal the reference's, of how many."""
    expected = results.token_ids.get(reference, {}).get(workload)
    if expected is None:
        return {}
    return {
        name: (_num_equal(found[workload][0], expected[0]), len(expected[0]))
        for name, found in results.token_ids.items()
        if workload in found
    }


def roofline(spec: ModelSpec, layout: KVLayout, workload: Workload, precision: Precision, canary: Canary) -> float | None:
    """Returns the tokens a second no engine can beat here: bandwidth for decode, the bfloat16 peak for 16-bit prefill.

    None for prefill in fewer bits, whose peak the canary does not measure. K/V count in the layout's format.
    """
    layers, head = matrix_elements(spec)
    if workload.phase is Phase.PREFILL:
        attended = workload.depth * (workload.depth + 1) // 2
        flops = step_flops(spec, workload.depth, 1, attended)
        return workload.depth / (flops / canary.flops) if precision is Precision.BF16 else None
    context = workload.batch * (workload.depth + workload.num_new // 2)
    num_bytes = (layers + head) * precision.bytes_per_weight + layout.bytes_per_token * context
    return workload.batch / (num_bytes / canary.bandwidth)


def _num_equal(found: Sequence[int], expected: Sequence[int]) -> int:
    pairs = zip(found, expected, strict=False)
    return next((index for index, (one, other) in enumerate(pairs) if one != other), min(len(found), len(expected)))
