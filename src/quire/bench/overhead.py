"""The engine's own overhead: a step of steady decode over a model that computes nothing, and one row per sampling method.

tokens      plan -> batch -> best tokens -> complete       a core without text
engine      the same, and text, stops and events           a core with a tokenizer

Time is taken over whole runs of steps, so that the cost of filling blocks is included. It is CPU time of the thread: nothing here
waits, so only the time of other programs is left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

import numpy as np

from quire.bench.harness import OnProgress, prompt_tokens
from quire.bench.null_executor import NullExecutor
from quire.bench.report import spread
from quire.config import CacheConfig, SchedulerConfig
from quire.engine.core import EngineCore
from quire.engine.driving import greedy
from quire.errors import ConfigError
from quire.executors.native import available_isas, native_sampler
from quire.executors.protocol import Float32Array
from quire.kv.manager import KVCacheManager
from quire.kv.pool import BlockPool
from quire.models.spec import ModelSpec
from quire.sample.definition import NumPySampler
from quire.sample.sampler import RowSampler, SampleRow, TokenCounts, sample
from quire.sampling import SamplingParams
from quire.sched.scheduler import Scheduler
from quire.text.tokenizer import Tokenizer
from quire.units import cdiv

BATCHES = (1, 8, 32)
MAX_STEPS = 100_000  # every request of a batch keeps its blocks to the end of the run
VOCAB_SIZE = 151_936  # Qwen3's
METHODS = (
    ("greedy", SamplingParams(temperature=0)),
    ("top-k 50", SamplingParams(top_k=50)),
    ("top-p 0.9", SamplingParams(top_p=0.9)),
    ("min-p 0.05", SamplingParams(min_p=0.05)),
    ("penalties", SamplingParams(temperature=0, repetition_penalty=1.1, presence_penalty=0.5, frequency_penalty=0.5)),
)
_PROMPT_TOKENS, _OUTPUT_TOKENS = 16, 64
_LEAD = 4  # tokens a request may get before the last one has its first
_LOGIT_DEVIATION = 3.0
_ROWS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class OverheadWork:
    """Every figure comes from `repeat` runs, of `num_steps` steps or of a few rows of a `vocab_size` vocabulary."""

    num_steps: int = 32
    repeat: int = 200
    batches: tuple[int, ...] = BATCHES
    vocab_size: int = VOCAB_SIZE


@dataclass(frozen=True, slots=True, kw_only=True)
class Overhead:
    """CPU seconds of one step, or of sampling one row: the median and the fastest of the runs."""

    name: str
    seconds: float
    fastest_seconds: float
    spread: float  # (slowest - fastest) / median


@dataclass(frozen=True, slots=True, kw_only=True)
class OverheadReport:
    """What was measured, all of it on one thread. `notes` say how to read the figures."""

    bench: str
    overheads: tuple[Overhead, ...]
    notes: tuple[str, ...]


_NOTES = (
    "tokens: a greedy decode step of the engine without text, over a model that computes nothing",
    "engine: the same with text; sample: one row of logits, normal with deviation 3",
    "times are CPU times of the thread",
)


def measure_overhead(
    spec: ModelSpec, tokenizer: Tokenizer, work: OverheadWork, on_progress: OnProgress | None = None
) -> OverheadReport:
    """Reports steps of both kinds for every size of batch, and rows of every method of sampling.

    Tokens are those of `spec` and get the text of `tokenizer`; nothing else of the model matters. Raises ConfigError for more
    than `MAX_STEPS` steps in a run.
    """
    if work.num_steps > MAX_STEPS:
        raise ConfigError("a run has too many steps", given=work.num_steps, limit=MAX_STEPS, next_step="Lower --steps.")
    overheads: list[Overhead] = []
    parts = [*_steps(spec, tokenizer, work), *_rows(work)]
    for done, (name, run) in enumerate(parts):
        run()
        seconds = [run() for _ in range(work.repeat)]
        overheads.append(Overhead(name=name, seconds=median(seconds), fastest_seconds=min(seconds), spread=spread(seconds)))
        if on_progress is not None:
            on_progress("Measuring overhead", done + 1, len(parts))
    return OverheadReport(bench="overhead", overheads=tuple(overheads), notes=_NOTES)


_Run = Callable[[], float]
"""Measures once and returns the seconds of one step or row."""


def _steps(spec: ModelSpec, tokenizer: Tokenizer, work: OverheadWork) -> Iterator[tuple[str, _Run]]:
    for kind, texts in (("tokens", None), ("engine", tokenizer)):
        for batch in work.batches:
            yield f"{kind}, batch {batch}", partial(_engine_steps, texts, _Stage(spec, batch, work.num_steps))


class _Stage:
    """A null executor with room for `batch` requests, and their prompts."""

    def __init__(self, spec: ModelSpec, batch: int, num_steps: int) -> None:
        self.num_steps = num_steps
        self.num_new = _LEAD + num_steps
        num_tokens = _PROMPT_TOKENS + self.num_new
        block_size = CacheConfig().block_size
        self.prompts = [prompt_tokens(spec.vocab_size, index, _PROMPT_TOKENS) for index in range(batch)]
        self.executor = NullExecutor(replace(spec, max_context=num_tokens + 1), block_size, batch * cdiv(num_tokens, block_size))
        self._config = SchedulerConfig(max_num_seqs=batch, max_num_batched_tokens=max(512, batch * _PROMPT_TOKENS))

    def scheduler(self) -> Scheduler:
        pool = BlockPool(self.executor.num_blocks, self.executor.layout.block_size)
        manager = KVCacheManager(pool, fingerprint=b"overhead")
        return Scheduler(self._config, manager, max_context=self.executor.spec.max_context)

    def timed(self, step: Callable[[], object]) -> float:
        """Returns the seconds of a step, once all requests decode."""
        step()
        start = time.thread_time()
        for _ in range(self.num_steps):
            step()
        return (time.thread_time() - start) / self.num_steps


def _engine_steps(tokenizer: Tokenizer | None, stage: _Stage) -> float:
    core = EngineCore(stage.executor, tokenizer, stage.scheduler, time.perf_counter)
    for index, prompt in enumerate(stage.prompts):
        core.submit(greedy(f"request-{index}", prompt, stage.num_new))
    return stage.timed(core.step)


def _rows(work: OverheadWork) -> Iterator[tuple[str, _Run]]:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, _LOGIT_DEVIATION, (_ROWS, work.vocab_size)).astype(np.float32)
    tokens: Sequence[int] = rng.integers(work.vocab_size, size=_PROMPT_TOKENS + _OUTPUT_TOKENS).tolist()
    prompt, output = tokens[:_PROMPT_TOKENS], tokens[_PROMPT_TOKENS:]
    sampler = native_sampler(threads=1) if available_isas() else NumPySampler()
    for name, params in METHODS:
        rows = [
            SampleRow(
                params=params,
                seed=seed,
                prompt_token_ids=prompt,
                output_token_ids=output,
                eos_token_ids=frozenset(),
                counts=TokenCounts(prompt),
            )
            for seed in range(_ROWS)
        ]
        yield f"sample, {name}", partial(_timed_rows, sampler, logits, rows)


def _timed_rows(sampler: RowSampler, logits: Float32Array, rows: Sequence[SampleRow]) -> float:
    start = time.thread_time()
    sample(sampler, logits, rows)
    return (time.thread_time() - start) / len(rows)
