"""Prefill and decode speed through the real scheduler and executor, without text."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median

from quire.bench.canary import Canary, measure_canary
from quire.bench.cost import step_bytes, step_flops
from quire.config import DType, KVFormat, PrefixCache, SchedulerConfig
from quire.engine.token_loop import TokenLoop
from quire.errors import ConfigError
from quire.executors.native import NativeExecutor
from quire.executors.protocol import kv_layout
from quire.kv.manager import KVCacheManager
from quire.kv.pool import BlockPool
from quire.models.checkpoint import Checkpoint
from quire.sched.scheduler import Scheduler
from quire.units import cdiv

BLOCK_SIZE = 32
_WARM_UP_TOKENS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """`batch` requests, each a prompt of `num_prompt` tokens and `num_new` tokens after it; medians over `repeat` runs."""

    num_prompt: int
    num_new: int
    batch: int = 1
    repeat: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """One measured phase. `per_second` tokens of all requests together; shares of what the canary measured."""

    name: str
    tokens_per_second: float
    spread: float  # (slowest - fastest) / median
    share_of_bandwidth: float | None  # MBU; decode
    share_of_flops: float  # MFU


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Speeds with the canaries around them."""

    executor: str
    threads: int
    dtype: str
    before: Canary
    after: Canary
    speeds: tuple[Speed, ...]


def measure(
    checkpoint: Checkpoint, work: Workload, dtype: DType, threads: int, on_run: Callable[[int, int], None] | None = None
) -> Report:
    """Loads the model, runs the workload `repeat` times and reports prefill and decode.

    Raises ConfigError for a workload beyond the model's context, and what loading raises.
    """
    _require_context(checkpoint, work)
    bench = _Bench(checkpoint, work, dtype, threads)
    before = bench.canary()
    runs: list[tuple[float, list[float]]] = []
    for done in range(work.repeat):
        runs.append(bench.run())
        if on_run is not None:
            on_run(done + 1, work.repeat)
    after = bench.canary()
    best = Canary(bandwidth=max(before.bandwidth, after.bandwidth), flops=max(before.flops, after.flops))
    speeds = tuple(bench.speeds(runs, best))
    return Report(executor=bench.executor.name, threads=threads, dtype=dtype.value, before=before, after=after, speeds=speeds)


def _require_context(checkpoint: Checkpoint, work: Workload) -> None:
    if work.num_prompt + work.num_new > checkpoint.spec.max_context:
        raise ConfigError(
            "the workload exceeds the model's context",
            given=f"{work.num_prompt} + {work.num_new} tokens",
            limit=f"{checkpoint.spec.max_context} tokens",
            next_step="Lower --depth.",
        )


class _Bench:
    """An executor and the runs over it."""

    def __init__(self, checkpoint: Checkpoint, work: Workload, dtype: DType, threads: int) -> None:
        self.spec = checkpoint.spec
        self.work = work
        self.dtype = dtype
        self.threads = threads
        self.layout = kv_layout(self.spec, BLOCK_SIZE, KVFormat(dtype.value))
        self.num_blocks = work.batch * cdiv(work.num_prompt + work.num_new, BLOCK_SIZE) + 1
        self.executor = NativeExecutor(
            self.spec, checkpoint.weights, layout=self.layout, num_blocks=self.num_blocks, dtype=dtype, threads=threads
        )

    def canary(self) -> Canary:
        isa = self.executor.name.removeprefix("native (").removesuffix(")")
        return measure_canary(isa, self.threads, self.dtype)

    def run(self) -> tuple[float, list[float]]:
        """Returns the seconds of prefill (all prompts, up to their first tokens) and of each decode step."""
        self._loop(_WARM_UP_TOKENS, 2).run()
        loop = self._loop(self.work.num_prompt, self.work.num_new)
        start = time.perf_counter()
        while any(not request.output_token_ids for request in loop.requests.values()):
            loop.step()
        prefill = time.perf_counter() - start
        steps: list[float] = []
        while loop.requests:
            start = time.perf_counter()
            loop.step()
            steps.append(time.perf_counter() - start)
        return prefill, steps

    def speeds(self, runs: list[tuple[float, list[float]]], canary: Canary) -> Iterator[Speed]:
        work, batch = self.work, self.work.batch
        prefills = [prefill for prefill, _ in runs]
        attended = batch * work.num_prompt * (work.num_prompt + 1) // 2
        flops = step_flops(self.spec, batch * work.num_prompt, batch, attended)
        yield Speed(
            name=f"prefill {work.num_prompt}",
            tokens_per_second=batch * work.num_prompt / median(prefills),
            spread=_spread(prefills),
            share_of_bandwidth=None,
            share_of_flops=flops / median(prefills) / canary.flops,
        )
        if work.num_new < 2:
            return
        steps = [median(each) for _, each in runs]
        context = batch * (work.num_prompt + work.num_new // 2)
        yield Speed(
            name=f"decode at {work.num_prompt}, batch {batch}",
            tokens_per_second=batch / median(steps),
            spread=_spread(steps),
            share_of_bandwidth=step_bytes(self.spec, self.dtype, self.layout, context) / median(steps) / canary.bandwidth,
            share_of_flops=step_flops(self.spec, batch, batch, context) / median(steps) / canary.flops,
        )

    def _loop(self, num_prompt: int, num_new: int) -> TokenLoop:
        manager = KVCacheManager(BlockPool(self.num_blocks, BLOCK_SIZE), fingerprint=b"bench", prefix_cache=PrefixCache.OFF)
        config = SchedulerConfig(max_num_seqs=self.work.batch)
        loop = TokenLoop(self.executor, Scheduler(config, manager, max_context=self.spec.max_context))
        for index in range(self.work.batch):
            prompt = [(31 * index + 17 * position + 5) % self.spec.vocab_size for position in range(num_prompt)]
            loop.submit(f"request-{index}", prompt, num_new)
        return loop


def _spread(values: list[float]) -> float:
    return (max(values) - min(values)) / median(values)
