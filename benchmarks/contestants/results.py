"""From readings to findings: medians, paired ratios to the best peer, how far the contestants computed the same tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from quire.bench.cost import matrix_elements, prefill_cost
from quire.bench.machine_peak import MachinePeak
from quire.kv.layout import KVLayout
from quire.models.spec import ModelSpec

from .protocol import Reading
from .roster import Name, Precision
from .workloads import Phase, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One contestant's measurement of one workload. `round_id` is equal for measurements of the same round.

    `step_s` is the median over the steps, None where there were none; `token_ids` are those of the first request.
    """

    name: Name
    workload: Workload
    round_id: str
    tokens_per_second: float
    prefill_s: float
    step_s: float | None
    token_ids: tuple[int, ...]


@dataclass(slots=True)
class Results:
    """Everything that was measured, in one run or in several; `missing` says why something is absent."""

    records: list[Record] = field(default_factory=list)
    facts: dict[Name, dict[str, str]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    peaks: list[MachinePeak] = field(default_factory=list)

    def add(self, name: Name, workload: Workload, round_id: str, reading: Reading) -> None:
        """Takes one measurement."""
        record = Record(
            name=name,
            workload=workload,
            round_id=round_id,
            tokens_per_second=workload.tokens_per_second(reading),
            prefill_s=reading.prefill_s,
            step_s=median(reading.steps_s) if reading.steps_s else None,
            token_ids=tuple(reading.token_ids[0]),
        )
        self.records.append(record)

    def rates(self, name: Name, workload: Workload) -> dict[str, float]:
        """Returns the tokens per second of every round."""
        return {each.round_id: each.tokens_per_second for each in self.records if each.name == name and each.workload == workload}

    def rate(self, name: Name, workload: Workload) -> float | None:
        """Returns the median rate, or None where nothing was measured."""
        rates = self.rates(name, workload)
        return median(rates.values()) if rates else None

    def spread(self, name: Name, workload: Workload) -> float:
        """Returns (fastest - slowest) / median over the rounds."""
        rates = self.rates(name, workload).values()
        return (max(rates) - min(rates)) / median(rates)

    def names(self) -> list[Name]:
        """Returns the contestants that were measured, in the order of their first measurement."""
        return list(dict.fromkeys(each.name for each in self.records))

    def of(self, precision: Precision) -> list[Name]:
        """Returns the contestants that were measured in a precision, Quire first."""
        return sorted((name for name in self.names() if name.precision is precision), key=lambda name: not name.is_ours)

    def first_tokens(self, name: Name, workload: Workload) -> tuple[int, ...] | None:
        """Returns the tokens of the first measurement."""
        return next((each.token_ids for each in self.records if each.name == name and each.workload == workload), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Duel:
    """Quire against the peer of a precision that does best against it. `ratio` is the median over `num_pairs` rounds."""

    precision: Precision
    workload: Workload
    ours: float
    best: Name
    theirs: float
    ratio: float
    num_pairs: int


def duels(results: Results, workloads: Sequence[Workload]) -> list[Duel]:
    """Returns a duel for every workload in which Quire and a peer of the same precision were measured in the same round."""
    found: list[Duel] = []
    for precision in Precision:
        names = results.of(precision)
        for workload in workloads:
            pairs = [
                duel
                for ours in names
                for peer in names
                if ours.is_ours and not peer.is_ours and (duel := _duel(results, workload, ours, peer)) is not None
            ]
            if pairs:
                found.append(min(pairs, key=lambda duel: duel.ratio))
    return found


def _duel(results: Results, workload: Workload, ours: Name, peer: Name) -> Duel | None:
    mine, theirs = results.rates(ours, workload), results.rates(peer, workload)
    ratios = [mine[each] / theirs[each] for each in mine if each in theirs]
    if not ratios:
        return None
    return Duel(
        precision=ours.precision,
        workload=workload,
        ours=median(mine.values()),
        best=peer,
        theirs=median(theirs.values()),
        ratio=median(ratios),
        num_pairs=len(ratios),
    )


def agreement(results: Results, workload: Workload, reference: Name) -> Mapping[Name, tuple[int, int]]:
    """Returns how many leading greedy tokens of the first request equal the reference's, of how many."""
    expected = results.first_tokens(reference, workload)
    if expected is None:
        return {}
    return {
        name: (_num_equal(found, expected), len(expected))
        for name in results.names()
        if (found := results.first_tokens(name, workload)) is not None
    }


def roofline(spec: ModelSpec, layout: KVLayout, workload: Workload, precision: Precision, peak: MachinePeak) -> float | None:
    """Returns the tokens per second no engine can beat here: bandwidth for decode, the bfloat16 peak for 16-bit prefill.

    None for prefill in fewer bits, whose peak is not measured, and where what is cached counts. K/V count in the
    layout's format.
    """
    layers, head = matrix_elements(spec)
    if workload.reuses:
        return None
    if workload.phase is Phase.PREFILL:
        flops = prefill_cost(spec, 1, 0, workload.depth).flops
        return workload.depth / (flops / peak.flops) if precision is Precision.BF16 else None
    context = workload.batch * (workload.depth + workload.num_new // 2)
    num_bytes = (layers + head) * precision.bytes_per_weight + layout.bytes_per_token * context
    return workload.batch / (num_bytes / peak.bandwidth)


def _num_equal(found: Sequence[int], expected: Sequence[int]) -> int:
    pairs = zip(found, expected, strict=False)
    return next((index for index, (one, other) in enumerate(pairs) if one != other), min(len(found), len(expected)))
