"""One request computed in many ways, its logits kept: how promise 1 is checked, by the suite and by `quire verify`.

A scenario fixes everything that must not matter. `replay` drives the engine's core through it, as every answer is computed,
and returns the logits from which each new token was chosen:

    neighbors   ====decode====================>     more urgent, one token a step each
    rival        ==decode===|needs a block|====>     takes the last block, so the subject is preempted
    subject          [chunk][chunk]x       [chunk][chunk]d d d d>
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import islice, product

import numpy as np

from quire.config import KVCacheMode, PrefixCache, SchedulerConfig
from quire.engine import driving
from quire.engine.core import EngineCore
from quire.engine.kv_ledger import kv_ledger
from quire.engine.watch import StepRecord
from quire.errors import IntegrityError
from quire.executors.host import FinishedStep
from quire.executors.protocol import ArgmaxTokens, Executor, Float32Array, Int32Array, StepBatch
from quire.kv.manager import KVCacheManager
from quire.kv.pool import BlockPool
from quire.request import Request, RequestStatus
from quire.sample.definition import RowToken
from quire.sample.filters import SampleRow
from quire.sched.scheduler import Scheduler
from quire.units import cdiv
from quire.verify.pool_mirror import PoolMirror

NUM_NEIGHBORS = 5
_NEIGHBOR_PROMPT = 9
_RIVAL_ROOM = 6  # tokens until the rival needs its second block
_SUBJECT = "subject"


class Prefix(Enum):
    """State of the prefix cache when the subject arrives: disabled, enabled but empty, or holding its prompt."""

    OFF = "off"
    COLD = "cold"
    WARM = "warm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Circumstances of one replay. `chunk` None computes the prompt in one step."""

    mode: KVCacheMode = KVCacheMode.PAGED
    chunk: int | None = None
    prefix: Prefix = Prefix.COLD
    num_neighbors: int = 0
    is_preempted: bool = False

    def __str__(self) -> str:
        if self.mode is KVCacheMode.OFF:
            words = ["cache off"]
        else:
            words = [f"chunk {self.chunk or 'whole'}", f"prefix {self.prefix.value}"]
        words += [f"{self.num_neighbors} neighbors"] if self.num_neighbors else []
        return ", ".join(words + (["preempted"] if self.is_preempted else []))


ORACLE = Scenario(mode=KVCacheMode.OFF)
"""Every token recomputed in every step, alone: what all other scenarios must equal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """`logits` [num_new, V] of the subject's new tokens, and what happened on the way."""

    logits: Float32Array
    num_cached_tokens: int
    num_preemptions: int
    num_computed_tokens: int  # rows the subject was given in all steps together


def took_place(found: Replay, scenario: Scenario) -> bool:
    """Returns whether the circumstances came about: a preempted subject was preempted, a warm one reused something."""
    if (found.num_preemptions > 0) != scenario.is_preempted:
        return False
    return scenario.is_preempted or (found.num_cached_tokens > 0) == (scenario.prefix is Prefix.WARM)


def grid(chunks: Sequence[int | None] = (1, 7, 64, None)) -> Iterator[Scenario]:
    """Yields chunk size x prefix cache x neighbors x preemption, and the cache switched off with neighbors."""
    yield Scenario(mode=KVCacheMode.OFF, num_neighbors=NUM_NEIGHBORS)
    for chunk, prefix, neighbors, is_preempted in product(chunks, Prefix, (0, NUM_NEIGHBORS), (False, True)):
        yield Scenario(chunk=chunk, prefix=prefix, num_neighbors=neighbors, is_preempted=is_preempted)


def replay(executor: Executor, scenario: Scenario, prompt: Sequence[int], num_new: int) -> Replay:
    """Computes `num_new` greedy tokens after `prompt` under a scenario, with blocks of the executor's first ids.

    Raises ExecutorError when a logit is not finite or the executor has too few blocks for the scenario.
    """
    return _Stage(executor, scenario, tuple(prompt), num_new).play()


def blocks_needed(num_tokens: int, block_size: int) -> int:
    """Returns the blocks an executor needs for every scenario with a subject of `num_tokens` tokens in the end."""
    return 2 * cdiv(num_tokens, block_size) + 2 * (NUM_NEIGHBORS + 2) + cdiv(num_tokens, block_size) * NUM_NEIGHBORS


def longest_company(num_tokens: int, block_size: int) -> int:
    """Returns the tokens of the longest request in any scenario with a subject of `num_tokens` tokens in the end."""
    return num_tokens + max(_NEIGHBOR_PROMPT, block_size - _RIVAL_ROOM)


class _RecordingExecutor:
    """Runs steps on another executor; `rows` are the logits of the latest step, one array [V] for each row."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.name, self.spec, self.layout = executor.name, executor.spec, executor.layout
        self.num_blocks, self.num_own_tiles = executor.num_blocks, executor.num_own_tiles
        self.kv_bytes, self.numerics = executor.kv_bytes, executor.numerics
        self.rows: list[Float32Array] = []

    def run(self, batch: StepBatch) -> Float32Array:
        logits = self._executor.run(batch)
        self.rows = list(logits)
        return logits

    def submit(self, batch: StepBatch) -> FinishedStep:
        return FinishedStep(self.run(batch))

    def head(self, rows: Int32Array) -> Float32Array:
        logits = self._executor.head(rows)
        self.rows += logits
        return logits

    def argmax(self, rows: Int32Array) -> ArgmaxTokens:
        return self._executor.argmax(rows)

    def sample(self, logits: Float32Array, rows: Sequence[SampleRow]) -> list[RowToken]:
        return self._executor.sample(logits, rows)

    def score(self, logits: Float32Array, token_ids: Sequence[int], num_top: int) -> list[RowToken]:
        return self._executor.score(logits, token_ids, num_top)

    def read_kv(self, layer: int, slots: Int32Array) -> tuple[Float32Array, Float32Array]:
        return self._executor.read_kv(layer, slots)

    def copy_block(self, source: int, target: int) -> None:
        self._executor.copy_block(source, target)

    def copy_own_tile(self, source: int, target: int) -> None:
        self._executor.copy_own_tile(source, target)

    def export_block(self, block: int) -> bytes:
        return self._executor.export_block(block)

    def import_block(self, block: int, data: bytes) -> None:
        self._executor.import_block(block, data)


class _Stage:
    """Scheduler, pool and cast of one replay."""

    def __init__(self, executor: Executor, scenario: Scenario, prompt: tuple[int, ...], num_new: int) -> None:
        self.executor = _RecordingExecutor(executor)
        self.scenario = scenario
        self.prompt = prompt
        self.num_new = num_new
        self.block_size = executor.layout.block_size
        self.rows: list[Float32Array] = []
        self.num_computed_tokens = 0
        self.records: list[StepRecord] = []
        self.core = EngineCore(self.executor, None, self._make_scheduler, time.perf_counter)
        self.core.watcher = self.records.append

    def play(self) -> Replay:
        if self.scenario.prefix is Prefix.WARM:
            self.core.submit(driving.greedy("warm-up", self.prompt, self.num_new))
            driving.run(self.core)
        self._start_company()
        subject = driving.begin(self.core, driving.greedy(_SUBJECT, self.prompt, self.num_new, priority=1, logprobs=0))
        while subject.status is not RequestStatus.FINISHED:
            driving.step(self.core)
            kv_ledger(self.core).check()
            self._note_step(subject)
        driving.close(self.core)
        self._check_events()
        return self._replay(subject)

    def _check_events(self) -> None:
        """Raises IntegrityError unless the events of all steps tell what became of every block."""
        pool = self.core.scheduler.manager.pool
        mirror = PoolMirror(pool.num_blocks)
        for record in self.records:
            mirror.fold(record.events)
        mirror.fold(pool.events.take())
        mirror.require_equal(pool)

    def _replay(self, subject: Request) -> Replay:
        return Replay(
            logits=np.stack(self.rows),
            num_cached_tokens=subject.num_cached_tokens,
            num_preemptions=subject.num_preemptions,
            num_computed_tokens=self.num_computed_tokens,
        )

    def _make_scheduler(self) -> Scheduler:
        scenario = self.scenario
        has_prefix_cache = scenario.mode is KVCacheMode.PAGED and scenario.prefix is not Prefix.OFF
        manager = KVCacheManager(
            BlockPool(self._num_blocks(), self.block_size),
            fingerprint=b"replay",
            prefix_cache=PrefixCache.ON if has_prefix_cache else PrefixCache.OFF,
            num_own_tiles=self.executor.num_own_tiles,
        )
        total = len(self.prompt) + self.num_new
        company = scenario.num_neighbors + scenario.is_preempted
        config = SchedulerConfig(max_num_batched_tokens=(scenario.chunk or total) + company, max_num_seqs=company + 1)
        capacity = manager.pool.num_blocks * self.block_size
        max_context = min(self.executor.spec.max_context, capacity)
        return Scheduler(config, manager, max_context=max_context, mode=scenario.mode)

    def _num_blocks(self) -> int:
        """A subject to be preempted gets a pool that holds all of it and one block of each other request: they will want more."""
        subject = cdiv(len(self.prompt) + self.num_new, self.block_size)
        if self.scenario.is_preempted:
            return subject + self.scenario.num_neighbors + 1
        return min(self.executor.num_blocks, blocks_needed(len(self.prompt) + self.num_new, self.block_size))

    def _start_company(self) -> None:
        """Brings neighbors and the rival to the point where each needs one token per step, for longer than the subject lives."""
        num_new = len(self.prompt) + self.num_new
        vocab_size = self.executor.spec.vocab_size
        prompts: dict[str, list[int]] = {}
        for index in range(self.scenario.num_neighbors):
            prompts[f"neighbor-{index}"] = [(7 * index + 3 * offset + 1) % vocab_size for offset in range(_NEIGHBOR_PROMPT)]
        if self.scenario.is_preempted:
            prompts["rival"] = [(5 * offset + 2) % vocab_size for offset in range(self.block_size - _RIVAL_ROOM)]
        company = [driving.begin(self.core, driving.greedy(name, prompt, num_new)) for name, prompt in prompts.items()]
        while any(not request.output_token_ids for request in company):
            driving.step(self.core)

    def _note_step(self, subject: Request) -> None:
        """Counts the subject's rows in the step that has just run, and keeps the logits of the token that it drew."""
        rows = iter(self.executor.rows)
        for chunk in self.records[-1].plan.scheduled:
            logits = list(islice(rows, chunk.num_logit_rows))
            if chunk.request_id == _SUBJECT:
                self.num_computed_tokens += chunk.num_tokens
                self.rows += [_require_argmax(row, subject.output_token_ids[-1]) for row in logits]


def _require_argmax(logits: Float32Array, token_id: int) -> Float32Array:
    """Returns the logits of a greedy token; raises IntegrityError where they are another token's."""
    if int(logits.argmax()) != token_id:
        raise IntegrityError(
            "a greedy token is not the largest of its logits",
            given=token_id,
            limit=int(logits.argmax()),
            next_step="Report this as a defect.",
        )
    return logits
