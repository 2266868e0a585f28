"""The executor's kernels, one kind at a time: all layers by rows, the head by rows, attention by depth. Without a scheduler.

The compiled core exposes whole steps and the head. So a step without sampled rows times the layers, `head` times the head
alone, and attention is the difference between a step at some depth and the same step at depth 0.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

import numpy as np

from quire.bench.cost import Cost, chunk_work, context_bytes, matrix_elements
from quire.bench.harness import Harness, OnProgress, Room, chunk_step, prompt_tokens
from quire.bench.report import Report, Samples
from quire.engine.options import EngineOptions
from quire.executors.protocol import StepBatch
from quire.models.checkpoint import Checkpoint

ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
HEAD_ROWS = (1, 2, 4, 8, 16, 32)
DEPTHS = (512, 2048, 4096, 16384)
_WIDE_ROWS = 256  # the rows of a prefill chunk whose attention is timed at depth
_NOTES = (
    "layers: a step without the head; its rows are one request from position 0",
    "attention: the time of a step at that depth less the time of the same step at depth 0, over unwritten K/V",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelWork:
    """The sizes to time; those beyond the model's context are left out. Medians over `repeat` runs."""

    rows: tuple[int, ...] = ROWS
    head_rows: tuple[int, ...] = HEAD_ROWS
    depths: tuple[int, ...] = DEPTHS
    repeat: int = 5

    def within(self, max_context: int) -> KernelWork:
        """Returns the sizes that a context of `max_context` tokens holds."""
        widest = min(max_context, max(self.rows))
        return KernelWork(
            rows=tuple(rows for rows in self.rows if rows <= max_context),
            head_rows=tuple(rows for rows in self.head_rows if rows <= widest),
            depths=tuple(depth for depth in self.depths if depth + _WIDE_ROWS <= max_context),
            repeat=self.repeat,
        )


def measure_kernels(
    checkpoint: Checkpoint, asked: KernelWork, options: EngineOptions, on_progress: OnProgress | None = None
) -> Report:
    """Reports layers, head and attention with their rooflines; raises what loading raises."""
    work = asked.within(checkpoint.spec.max_context)
    num_tokens = max(*work.rows, *(depth + _WIDE_ROWS for depth in work.depths))
    harness = Harness(checkpoint, options, Room(num_requests=1, num_tokens=num_tokens), on_progress)

    def samples() -> Iterator[Samples]:
        harness.warm_up()
        yield from _layers(harness, work)
        yield from _heads(harness, work)
        yield from _attention(harness, work)

    return harness.report("kernels", samples, _NOTES)


def _layers(harness: Harness, work: KernelWork) -> Iterator[Samples]:
    for done, rows in enumerate(work.rows):
        batch = _step(harness, rows, 0)
        seconds = _times(work.repeat, partial(harness.executor.run, batch))
        cost = Cost(flops=2 * chunk_work(harness.spec, 0, rows, 0).total, num_bytes=harness.weights.layers)
        harness.show_progress("Measuring layers", done + 1, len(work.rows))
        yield Samples(name=f"layers, {rows} rows", seconds=seconds, num_tokens=rows, costs=(cost,))


def _heads(harness: Harness, work: KernelWork) -> Iterator[Samples]:
    _, head = matrix_elements(harness.spec)
    harness.executor.run(_step(harness, max(work.head_rows), 0))
    for done, rows in enumerate(work.head_rows):
        wanted = np.arange(rows, dtype=np.int32)
        seconds = _times(work.repeat, partial(harness.executor.head, wanted))
        cost = Cost(flops=2 * rows * head, num_bytes=harness.weights.head)
        harness.show_progress("Measuring the head", done + 1, len(work.head_rows))
        yield Samples(name=f"head, {rows} rows", seconds=seconds, num_tokens=rows, costs=(cost,))


def _attention(harness: Harness, work: KernelWork) -> Iterator[Samples]:
    for done, depth in enumerate(work.depths):
        for rows in (1, _WIDE_ROWS):
            deep, flat = (partial(harness.executor.run, _step(harness, rows, start)) for start in (depth, 0))
            pairs = [(_timed(deep), _timed(flat)) for _ in range(work.repeat)]
            yield difference(f"{rows} rows at depth {depth}", pairs, rows, _attention_cost(harness, rows, depth))
        harness.show_progress("Measuring attention", done + 1, len(work.depths))


def _attention_cost(harness: Harness, rows: int, depth: int) -> Cost:
    """Returns what a step computes and reads at a depth more than at depth 0."""
    deep, flat = (chunk_work(harness.spec, start, start + rows, 0).attention for start in (depth, 0))
    return Cost(flops=2 * (deep - flat), num_bytes=context_bytes(harness.spec, harness.layout, depth))


def difference(name: str, pairs: Sequence[tuple[float, float]], num_rows: int, cost: Cost) -> Samples:
    """Returns attention as the seconds at depth less those at depth 0; where noise swallows it, the step at depth, named so."""
    seconds = [at_depth - at_zero for at_depth, at_zero in pairs]
    if median(seconds) > 0:
        return Samples(name=f"attention, {name}", seconds=seconds, num_tokens=num_rows, costs=(cost,))
    return Samples(name=f"whole step, {name} (attention is lost in noise)", seconds=[at_depth for at_depth, _ in pairs])


def _step(harness: Harness, rows: int, depth: int) -> StepBatch:
    """Returns a step of one request that computes tokens [depth, depth + rows) and samples none."""
    return chunk_step(prompt_tokens(harness.spec.vocab_size, 0, rows), depth, harness.layout)


def _times(repeat: int, run: Callable[[], object]) -> Sequence[float]:
    """Returns the seconds of `repeat` runs after one that does not count."""
    run()
    return [_timed(run) for _ in range(repeat)]


def _timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
