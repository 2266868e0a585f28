"""Prefill, decode and batched decode: tokens per second through the real scheduler and executor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from quire.bench.cost import decode_cost, prefill_cost
from quire.bench.harness import Harness, OnProgress, Room, RunTimes, prompt_tokens, timed_run
from quire.bench.report import Report, Samples
from quire.config import SchedulerConfig
from quire.engine.driving import greedy
from quire.engine.options import EngineOptions
from quire.models.checkpoint import Checkpoint
from quire.units import cdiv

BATCHES = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """`batch` requests, each a prompt of `num_prompt` tokens and `num_new` tokens after it; medians over `repeat` runs."""

    num_prompt: int
    num_new: int
    batch: int = 1
    repeat: int = 3

    @property
    def lead(self) -> int:
        """Tokens that the first request may be ahead when the last one has its first, so that all decode together."""
        budget = SchedulerConfig().max_num_batched_tokens - self.batch
        return 0 if self.batch == 1 else cdiv(self.batch * self.num_prompt, max(budget, 1))

    @property
    def room(self) -> Room:
        return Room(num_requests=self.batch, num_tokens=self.num_prompt + self.num_new + self.lead)


def measure(
    checkpoint: Checkpoint, work: Workload, options: EngineOptions, bench: str = "speed", on_progress: OnProgress | None = None
) -> Report:
    """Loads the model, runs the workload `repeat` times and reports prefill and, with `num_new` > 1, decode.

    Raises ConfigError for a workload beyond the model's context, and what loading raises.
    """
    harness = Harness(checkpoint, options, work.room, on_progress)

    def samples() -> Iterator[Samples]:
        runs = [_run(harness, work, index) for index in range(work.repeat)]
        yield _prefill(harness, work, runs)
        if work.num_new > 1:
            yield _decode(harness, work, [median(run.steps) for run in runs])

    return harness.report(bench, samples)


def measure_batches(
    checkpoint: Checkpoint, work: Workload, batches: Sequence[int], options: EngineOptions, on_progress: OnProgress | None = None
) -> Report:
    """Reports decode steps for every size of batch, alternated run by run, with the step time's ratio to the first size.

    Of `work`, the batch is ignored. Raises as `measure`.
    """
    works = [_with_batch(work, batch) for batch in batches]
    harness = Harness(checkpoint, options, works[batches.index(max(batches))].room, on_progress)

    def samples() -> Iterator[Samples]:
        steps: list[list[float]] = [[] for _ in works]
        for index in range(work.repeat):
            for each, found in zip(works, steps, strict=True):
                found.append(median(_run(harness, each, index).steps))
        first = median(steps[0])
        for each, found in zip(works, steps, strict=True):
            yield _decode(harness, each, found, median(found) / first, f"step time / step time of batch {batches[0]}")

    return harness.report("batch", samples)


def _with_batch(work: Workload, batch: int) -> Workload:
    return Workload(num_prompt=work.num_prompt, num_new=work.num_new, batch=batch, repeat=work.repeat)


def _run(harness: Harness, work: Workload, index: int) -> RunTimes:
    harness.warm_up(work.batch)
    submissions = [
        greedy(f"request-{request}", prompt_tokens(harness.spec.vocab_size, request, work.num_prompt), work.num_new + work.lead)
        for request in range(work.batch)
    ]
    times = timed_run(harness.core(), submissions, work.num_new - 1)
    harness.show_progress(f"Measuring batch {work.batch}", index + 1, work.repeat)
    return times


def _prefill(harness: Harness, work: Workload, runs: Sequence[RunTimes]) -> Samples:
    return Samples(
        name=f"prefill {work.num_prompt}",
        seconds=[run.prefill for run in runs],
        num_tokens=work.batch * work.num_prompt,
        costs=(prefill_cost(harness.spec, work.batch, 0, work.num_prompt),),
    )


def _decode(
    harness: Harness, work: Workload, steps: Sequence[float], ratio: float | None = None, ratio_is: str | None = None
) -> Samples:
    contexts = (work.num_prompt + (work.num_new + work.lead) // 2,) * work.batch
    return Samples(
        name=f"decode at {work.num_prompt}, batch {work.batch}",
        seconds=steps,
        num_tokens=work.batch,
        costs=(decode_cost(harness.spec, harness.weights, harness.layout, contexts),),
        ratio=ratio,
        ratio_is=ratio_is,
    )
