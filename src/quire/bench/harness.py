"""What every benchmark runs on: a model on the native executor, driven through the real scheduler, without text."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from quire.bench.cost import matrix_elements, weight_bytes
from quire.bench.machine_peak import MachinePeak, higher_peak, measure_peak
from quire.bench.report import Report, Samples, speed_of
from quire.config import ExecutorKind, KVCacheMode, PrefixCache, SchedulerConfig, WeightFormat
from quire.engine import driving
from quire.engine.core import EngineCore
from quire.engine.loading import build_executor
from quire.engine.options import EngineOptions, engine_config
from quire.engine.prompts import Submission
from quire.engine.resolve import layout_of, resolve, settled
from quire.environment import Memory, read_memory
from quire.errors import ConfigError, defect
from quire.executors.native import NativeExecutor, int_layout
from quire.executors.packing import matrix_formats, mean_bits, weights_by_format
from quire.executors.protocol import Executor, StepBatch
from quire.kv.layout import KVLayout
from quire.kv.manager import KVCacheManager
from quire.kv.pool import BlockPool
from quire.models.checkpoint import Checkpoint
from quire.sched.scheduler import Scheduler
from quire.units import format_bytes

OnProgress = Callable[[str, int, int], None]
"""Called with the name of the measurement, how many of its parts are done, and how many there are."""

_WARM_UP_TOKENS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What the KV memory must hold: `num_requests` requests of `num_tokens` tokens each."""

    num_requests: int
    num_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightBits:
    """Bits that a matrix element takes in memory, scales and padding included: over all matrices, and over those of layers."""

    everywhere: float
    layers: float


@dataclass(frozen=True, slots=True)
class RunTimes:
    """Seconds of one run: until every request has its first token, and of each step after that."""

    prefill: float
    steps: list[float]

    @property
    def total(self) -> float:
        return self.prefill + sum(self.steps)


class Harness:
    """An executor with just the KV memory it needs, and cores without text over it.

    `options` are some of `EngineOptions`: dtype, quantize, kv_format, threads. Raises ConfigError where the model's context
    is too short for the room, and what loading raises.
    """

    def __init__(self, checkpoint: Checkpoint, options: EngineOptions, room: Room, on_progress: OnProgress | None = None) -> None:
        _require_context(checkpoint, room)
        self._on_progress = on_progress
        memory = read_memory()
        self.spec = checkpoint.spec
        self.room = room
        config = engine_config(_sized(options, checkpoint, room, memory))
        config = resolve(config, checkpoint.spec, checkpoint.weights, memory)
        self.weight_format = settled(config.weight_format, "weight_format")
        formats = matrix_formats(self.spec, checkpoint.weights, self.weight_format, int_layout())
        self.weights = weight_bytes(self.spec, formats)
        self.bits_per_weight = mean_bits(self.spec, formats)
        self._main_format = next(iter(weights_by_format(self.spec, formats)))
        self.threads: int = settled(config.threads, "threads")
        self.max_batched_tokens = config.scheduler.max_num_batched_tokens
        self.executor = build_executor(checkpoint, config, self._packing)
        self.weight_bits = _bits_of(self.executor)
        self.layout = self.executor.layout

    def core(self, prefix_cache: PrefixCache = PrefixCache.OFF, mode: KVCacheMode = KVCacheMode.PAGED) -> EngineCore:
        """Returns a core over an empty cache, or over none."""
        return EngineCore(self.executor, None, lambda: self._scheduler(prefix_cache, mode), time.perf_counter)

    def _scheduler(self, prefix_cache: PrefixCache, mode: KVCacheMode) -> Scheduler:
        pool = BlockPool(self.executor.num_blocks, self.layout.block_size)
        num_own_tiles = self.executor.num_own_tiles
        manager = KVCacheManager(pool, fingerprint=b"bench", prefix_cache=prefix_cache, num_own_tiles=num_own_tiles)
        limits = SchedulerConfig(max_num_seqs=self.room.num_requests, max_num_batched_tokens=self.max_batched_tokens)
        return Scheduler(limits, manager, max_context=self.spec.max_context, mode=mode)

    def warm_up(self, batch: int = 1) -> None:
        """Runs a few small steps, so that threads run and pages are mapped before the first measured one."""
        num_prompt = min(_WARM_UP_TOKENS, self.room.num_tokens - 2)
        core = self.core()
        for index in range(batch):
            core.submit(driving.greedy(f"warm-up-{index}", prompt_tokens(self.spec.vocab_size, index, num_prompt), 2))
        driving.run(core)

    def peak(self) -> MachinePeak:
        """Measures the machine's peak now, with this executor's instruction set and threads."""
        isa = self.executor.name.removeprefix("native (").removesuffix(")")
        return measure_peak(isa, self.threads, self._main_format)

    def report(self, bench: str, measure: Callable[[], Iterable[Samples]], notes: Sequence[str] = ()) -> Report:
        """Measures the machine's peak, the samples, and the peak again; shares are of the higher peak."""
        before = self.peak()
        samples = list(measure())
        after = self.peak()
        best = higher_peak(before, after)
        return Report(
            bench=bench,
            executor=self.executor.name,
            threads=self.threads,
            weights=self._weights_text,
            kv_format=self.layout.format.value,
            before=before,
            after=after,
            speeds=tuple(speed_of(each, best) for each in samples),
            notes=tuple(notes),
            prefetch=str(self.executor.prefetch) if isinstance(self.executor, NativeExecutor) else None,
        )

    @property
    def _weights_text(self) -> str:
        is_stored = self.weight_format is WeightFormat.STORED
        return f"stored, {self.bits_per_weight:.2f} bits each" if is_stored else self.weight_format.value

    def show_progress(self, what: str, done: int, total: int) -> None:
        """Reports the progress of a measurement to the callback, if there is one."""
        if self._on_progress is not None:
            self._on_progress(what, done, total)

    def _packing(self, done: int, total: int) -> None:
        self.show_progress("Packing weights", done, total)


def timed_run(core: EngineCore, submissions: Iterable[Submission], max_steps: int | None = None) -> RunTimes:
    """Runs submissions to the end, or for `max_steps` steps after every one has its first token."""
    requests = [driving.begin(core, submission) for submission in submissions]
    first = time.perf_counter()
    while any(not request.output_token_ids for request in requests):
        driving.step(core)
    prefill = time.perf_counter() - first
    steps: list[float] = []
    while core.has_work and len(steps) != max_steps:
        start = time.perf_counter()
        driving.step(core)
        steps.append(time.perf_counter() - start)
    driving.close(core)
    return RunTimes(prefill, steps)


def prompt_tokens(vocab_size: int, index: int, num_tokens: int) -> list[int]:
    """Returns the prompt of request `index`: arbitrary, always the same, and its first token differs from its neighbors'."""
    return [(31 * index + 17 * position + 5) % vocab_size for position in range(num_tokens)]


def chunk_step(token_ids: Sequence[int], start: int, layout: KVLayout) -> StepBatch:
    """Returns a step of one request that computes `token_ids` at positions from `start` on and samples none."""
    stop = start + len(token_ids)
    positions = np.arange(start, stop, dtype=np.int32)
    return StepBatch(
        token_ids=np.array(token_ids, dtype=np.int32),
        positions=positions,
        query_start=np.array([0, len(token_ids)], dtype=np.int32),
        context_lens=np.array([stop], dtype=np.int32),
        block_tables=np.arange(layout.blocks_for_tokens(stop), dtype=np.int32)[None, :],
        slot_mapping=positions.copy(),
        sample_rows=np.empty(0, dtype=np.int32),
        own_tiles=np.zeros(1, dtype=np.int32) if layout.has_own_tiles else None,
    )


def _sized(options: EngineOptions, checkpoint: Checkpoint, room: Room, memory: Memory | None) -> EngineOptions:
    """Returns the options with KV memory for the room and one more block per request; raises ConfigError if that does not fit."""
    spec = checkpoint.spec
    layout = layout_of(resolve(engine_config(options), spec, checkpoint.weights), spec)
    kv_memory = layout.bytes_for_requests(room.num_requests, room.num_tokens + layout.block_size)
    if memory is not None and kv_memory > memory.reachable_bytes:
        raise ConfigError(
            "the workload needs more KV memory than there is",
            given=f"{room.num_requests} requests of {room.num_tokens} tokens, {format_bytes(kv_memory)}",
            limit=f"{format_bytes(memory.reachable_bytes)} available",
            next_step="Measure fewer requests together, or shorter ones.",
        )
    return {
        **options,
        "executor": ExecutorKind.NATIVE.value,
        "kv_memory": kv_memory,
        "max_num_seqs": room.num_requests,
        "max_context": min(spec.max_context, layout.blocks_for_tokens(room.num_tokens) * layout.block_size + 1),
    }


def _bits_of(executor: Executor) -> WeightBits:
    """Returns what the packed matrices take; the harness builds native executors alone."""
    if not isinstance(executor, NativeExecutor):
        raise defect("a benchmark runs on an executor that packs no weights")
    layers, head = matrix_elements(executor.spec)
    num_weights = layers + head * (1 if executor.spec.is_head_tied else 2)
    return WeightBits(everywhere=8 * executor.weight_bytes / num_weights, layers=8 * executor.layer_bytes / layers)


def _require_context(checkpoint: Checkpoint, room: Room) -> None:
    if room.num_tokens > checkpoint.spec.max_context:
        raise ConfigError(
            "the workload exceeds the model's context",
            given=f"{room.num_tokens} tokens",
            limit=f"{checkpoint.spec.max_context} tokens",
            next_step="Lower --depth.",
        )
