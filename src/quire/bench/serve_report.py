"""What `quire bench serve` reports: percentiles, rates, goodput under a stated target, what the cache saved, and errors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from quire.bench.serve_request import Outcome

NOTES = (
    "TTFT and E2E count from when a request was to be sent; ITL: gaps between pieces of text; TPOT: time per further token",
    "what the client adds is in every figure; sent late: how far it fell behind its own plan",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What makes a request good: its latency, and every gap in its stream, in seconds; None sets no limit."""

    ttft_s: float | None = None
    itl_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None

    @property
    def is_set(self) -> bool:
        """Whether anything is limited."""
        return any(getattr(self, each.name) is not None for each in fields(self))

    def is_met_by(self, outcome: Outcome) -> bool:
        """Returns whether a request was answered, and in time."""
        if outcome.error is not None:
            return False
        found = (
            (outcome.ttft_s, self.ttft_s),
            (max(outcome.gaps_s, default=None), self.itl_s),
            (outcome.tpot_s, self.tpot_s),
            (outcome.e2e_s, self.e2e_s),
        )
        return all(limit is None or value is None or value <= limit for value, limit in found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Seconds of one kind, over all requests that were answered."""

    name: str
    num: int
    mean: float
    p50: float
    p90: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeReport:
    """What became of all requests. Rates are per second from the first request to the end of the last.

    `goodput` counts requests that met the goal, None without one. `cached_share` is of the prompt tokens, None where the
    server does not tell.
    """

    bench: str
    num_requests: int
    num_answered: int
    errors: Mapping[str, int]
    duration_s: float
    requests_per_s: float
    prompt_tokens_per_s: float
    output_tokens_per_s: float
    mean_prompt_tokens: float
    mean_output_tokens: float
    cached_share: float | None
    goodput: float | None
    good_share: float | None
    latencies: tuple[Latency, ...]
    notes: tuple[str, ...]


def report_of(outcomes: Sequence[Outcome], goal: Goal) -> ServeReport:
    """Returns the report of at least one request."""
    answered = [outcome for outcome in outcomes if outcome.error is None]
    duration_s = max(outcome.ended_s for outcome in outcomes) - min(outcome.intended_s for outcome in outcomes)
    prompts = [outcome.counts.num_prompt or 0 for outcome in answered]
    outputs = [outcome.counts.num_output or len(outcome.arrivals_s) for outcome in answered]
    num_good = sum(goal.is_met_by(outcome) for outcome in outcomes)
    return ServeReport(
        bench="serve",
        num_requests=len(outcomes),
        num_answered=len(answered),
        errors=Counter(outcome.error for outcome in outcomes if outcome.error is not None),
        duration_s=duration_s,
        requests_per_s=len(answered) / duration_s,
        prompt_tokens_per_s=sum(prompts) / duration_s,
        output_tokens_per_s=sum(outputs) / duration_s,
        mean_prompt_tokens=_mean(prompts),
        mean_output_tokens=_mean(outputs),
        cached_share=_cached_share(answered),
        goodput=num_good / duration_s if goal.is_set else None,
        good_share=num_good / len(outcomes) if goal.is_set else None,
        latencies=tuple(_latencies(answered, outcomes)),
        notes=NOTES,
    )


def latency_of(name: str, seconds: Iterable[float]) -> Latency:
    """Returns the percentiles of at least one time."""
    values = np.array(list(seconds))
    p50, p90, p99 = (float(value) for value in np.percentile(values, (50, 90, 99)))
    return Latency(name=name, num=len(values), mean=float(values.mean()), p50=p50, p90=p90, p99=p99, max=float(values.max()))


def _latencies(answered: Sequence[Outcome], outcomes: Sequence[Outcome]) -> Iterable[Latency]:
    found = {
        "TTFT": [outcome.ttft_s for outcome in answered if outcome.ttft_s is not None],
        "ITL": [gap for outcome in answered for gap in outcome.gaps_s],
        "TPOT": [outcome.tpot_s for outcome in answered if outcome.tpot_s is not None],
        "E2E": [outcome.e2e_s for outcome in answered],
        "sent late": [outcome.sent_s - outcome.intended_s for outcome in outcomes],
    }
    return (latency_of(name, seconds) for name, seconds in found.items() if seconds)


def _cached_share(answered: Sequence[Outcome]) -> float | None:
    told = [outcome.counts for outcome in answered if outcome.counts.num_cached is not None and outcome.counts.num_prompt]
    if not told:
        return None
    return sum(counts.num_cached or 0 for counts in told) / sum(counts.num_prompt or 0 for counts in told)


def _mean(values: Sequence[int]) -> float:
    return sum(values) / len(values) if values else 0.0
