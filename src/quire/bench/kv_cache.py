"""What the KV cache saves, counted and timed: T tokens generated with it, and again with every token recomputed in every step.

    step i       with a cache, token i alone: its products, and i keys      O(dim^2 + i dim)
                 without, tokens 1 to i again                               O(i dim^2 + i^2 dim)
    T tokens     the sums of these                                          O(T dim^2 + T^2 dim) and O(T^2 dim^2 + T^3 dim)

Multiply-adds are counted by the executor as it computes, compared with the formulas, and fitted: log(count) over log(T). Both
runs start from one token and must draw the same tokens with the same bits.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import median

import numpy as np

from quire.bench.cost import chunk_work
from quire.bench.harness import Harness, OnProgress, Room, prompt_tokens
from quire.config import KVCacheMode
from quire.engine import driving
from quire.engine.options import EngineOptions
from quire.errors import IntegrityError, defect
from quire.executors.work_counts import CountsWork, WorkCounts
from quire.models.checkpoint import Checkpoint
from quire.models.spec import ModelSpec
from quire.request import TokenLogprobs

_SHARES = (8, 4, 2, 1)
_LOGPROBS = 20  # of each token, so that bits are compared and not only choices


@dataclass(frozen=True, slots=True, kw_only=True)
class KVCacheWork:
    """The experiment: `num_tokens` tokens, `repeat` times with and without the cache in turn."""

    num_tokens: int
    repeat: int = 1

    @property
    def lengths(self) -> tuple[int, ...]:
        """The steps and the numbers of tokens that are reported."""
        return tuple(self.num_tokens // share for share in _SHARES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Multiply-adds and seconds, of one step or of all up to it."""

    counts: WorkCounts
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The same step, or the same number of tokens, with and without the cache."""

    tokens: int
    cached: Measured
    recomputed: Measured

    @property
    def times_more(self) -> float:
        """How many times the multiply-adds the recomputing run needed."""
        return self.recomputed.counts.total / self.cached.counts.total


@dataclass(frozen=True, slots=True, kw_only=True)
class Exponents:
    """By what power of T a sum over T tokens grows, fitted over the reported lengths."""

    projections: float
    attention: float
    head: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Coefficients:
    """This model's numbers in the formulas, multiply-adds: of a token in all products of layers, of a pair of a token and a key
    that it sees over all layers, and of a row of logits. `windows` are the sizes beyond which some layers see no further key."""

    token: int
    pair: int
    logits: int
    windows: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KVCacheReport:
    """`steps` are single steps, `totals` all steps up to a number of tokens."""

    bench: str
    executor: str
    threads: int
    kv_format: str
    coefficients: Coefficients
    steps: tuple[Pair, ...]
    totals: tuple[Pair, ...]
    exponents_cached: Exponents
    exponents_recomputed: Exponents
    has_equal_bits: bool
    equals_formulas: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """What was measured of each step, and what was drawn."""

    steps: tuple[Measured, ...]
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...]


def measure_kv_cache(
    checkpoint: Checkpoint, work: KVCacheWork, options: EngineOptions, on_progress: OnProgress | None = None
) -> KVCacheReport:
    """Runs the experiment; raises ConfigError where the context is too short for it, and what loading raises."""
    harness = Harness(checkpoint, options, Room(num_requests=1, num_tokens=work.num_tokens), on_progress)
    harness.warm_up()
    progress = _Progress(harness, work)
    runs: dict[KVCacheMode, list[_Run]] = {KVCacheMode.PAGED: [], KVCacheMode.OFF: []}
    for _ in range(work.repeat):
        for mode, found in runs.items():
            found.append(_generate(harness, mode, work.num_tokens, progress))
    cached, recomputed = (_median_of(found) for found in runs.values())
    return _report(harness, work, cached, recomputed)


class _Progress:
    """Counts the tokens that steps compute, which is what takes the time."""

    def __init__(self, harness: Harness, work: KVCacheWork) -> None:
        self._harness = harness
        self._total = work.repeat * (work.num_tokens + work.num_tokens * (work.num_tokens + 1) // 2)
        self._done = 0

    def add(self, mode: KVCacheMode, step: int) -> None:
        self._done += 1 if mode is KVCacheMode.PAGED else step
        what = "with the cache" if mode is KVCacheMode.PAGED else "without the cache"
        self._harness.show_progress(f"Generating {what}", self._done, self._total)


def _generate(harness: Harness, mode: KVCacheMode, num_tokens: int, progress: _Progress) -> _Run:
    """Generates tokens after a prompt of one and measures each: without a cache, a token may take several steps."""
    executor, core = harness.executor, harness.core(mode=mode)
    if not isinstance(executor, CountsWork):
        raise defect("a benchmark runs on an executor that does not count")
    prompt = prompt_tokens(harness.spec.vocab_size, 0, 1)
    group = core.submit(driving.greedy("kv-cache", prompt, num_tokens, logprobs=min(_LOGPROBS, harness.spec.vocab_size)))
    request, steps = group.states[0].request, []
    for done in range(num_tokens):
        executor.start_counting()
        start = time.perf_counter()
        while len(request.output_token_ids) == done:
            driving.step(core)
        seconds = time.perf_counter() - start
        steps.append(Measured(counts=executor.stop_counting(), seconds=seconds))
        progress.add(mode, done + 1)
    answer = group.output().outputs[0]
    driving.close(core)
    return _Run(steps=tuple(steps), token_ids=tuple(answer.token_ids), logprobs=tuple(answer.logprobs or ()))


def _median_of(runs: Sequence[_Run]) -> _Run:
    """Returns the run with the median of each step's seconds; raises IntegrityError where anything else differs."""
    first = runs[0]
    for run in runs[1:]:
        if not _draws_the_same(run, first) or [each.counts for each in run.steps] != [each.counts for each in first.steps]:
            raise IntegrityError("two equal runs computed different things", next_step="Run `quire verify` on this model.")
    steps = tuple(
        Measured(counts=together[0].counts, seconds=median(each.seconds for each in together))
        for together in zip(*(run.steps for run in runs), strict=True)
    )
    return _Run(steps=steps, token_ids=first.token_ids, logprobs=first.logprobs)


def _draws_the_same(run: _Run, other: _Run) -> bool:
    return run.token_ids == other.token_ids and run.logprobs == other.logprobs


def _report(harness: Harness, work: KVCacheWork, cached: _Run, recomputed: _Run) -> KVCacheReport:
    spec = harness.spec
    totals = _paired(list(accumulate(cached.steps, _sum)), list(accumulate(recomputed.steps, _sum)), work.lengths)
    return KVCacheReport(
        bench="kv-cache",
        executor=harness.executor.name,
        threads=harness.threads,
        kv_format=harness.layout.format.value,
        coefficients=coefficients_of(spec),
        steps=_paired(cached.steps, recomputed.steps, work.lengths),
        totals=totals,
        exponents_cached=_exponents({pair.tokens: pair.cached for pair in totals}),
        exponents_recomputed=_exponents({pair.tokens: pair.recomputed for pair in totals}),
        has_equal_bits=_draws_the_same(cached, recomputed),
        equals_formulas=_equals_formulas(spec, cached, recomputed),
    )


def _sum(before: Measured, step: Measured) -> Measured:
    return Measured(counts=before.counts + step.counts, seconds=before.seconds + step.seconds)


def _paired(cached: Sequence[Measured], recomputed: Sequence[Measured], lengths: Sequence[int]) -> tuple[Pair, ...]:
    return tuple(Pair(tokens=each, cached=cached[each - 1], recomputed=recomputed[each - 1]) for each in lengths)


def _exponents(totals: Mapping[int, Measured]) -> Exponents:
    return Exponents(
        projections=fitted_exponent({tokens: each.counts.projections for tokens, each in totals.items()}),
        attention=fitted_exponent({tokens: each.counts.attention for tokens, each in totals.items()}),
        head=fitted_exponent({tokens: each.counts.head for tokens, each in totals.items()}),
        seconds=fitted_exponent({tokens: each.seconds for tokens, each in totals.items()}),
    )


def fitted_exponent(values: Mapping[int, float]) -> float:
    """Returns the slope of least squares through log(value) over log(key)."""
    slope, _ = np.polyfit(np.log(list(values)), np.log(list(values.values())), 1)
    return float(slope)


def _equals_formulas(spec: ModelSpec, cached: _Run, recomputed: _Run) -> bool:
    """Whether every single step counted exactly what the formulas say."""
    return all(
        with_cache.counts == chunk_work(spec, step, step + 1, 1) and without.counts == chunk_work(spec, 0, step + 1, 1)
        for step, (with_cache, without) in enumerate(zip(cached.steps, recomputed.steps, strict=True))
    )


def coefficients_of(spec: ModelSpec) -> Coefficients:
    """Returns a model's numbers in the formulas."""
    one = chunk_work(spec, 0, 1, 1)
    windows = {layer.sliding_window for layer in spec.layers if layer.sliding_window is not None}
    return Coefficients(token=one.projections, pair=one.attention, logits=one.head, windows=tuple(sorted(windows)))
