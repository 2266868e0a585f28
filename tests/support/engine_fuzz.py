"""The whole engine under random load, every completion compared with the same completion alone, computed without a cache.

world      a model, a KV format, a block size, a pool of one request's need plus 0 to 8 blocks, a budget, threads
load       submissions that share prefixes, aborts, executor faults that leave garbage in a step's slots
compared   tokens, log-probabilities as floats, scores of the prompt; of what was aborted or failed, what it has
checked    the manager after every step; at the end no block held, no wrong books, exactly one final output each
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from quire.config import CacheConfig, EngineConfig, KVCacheMode, KVFormat, PrefixCache, SchedulerConfig
from quire.engine.core import EngineCore
from quire.engine.kv_ledger import kv_ledger
from quire.engine.loading import Origin, build_core
from quire.engine.prompts import Submission
from quire.executors.native import NativeExecutor
from quire.executors.protocol import Executor
from quire.request import CompletionOutput, FinishReason, RequestOutput, SamplingParams
from quire.sample.noise import child_seed
from quire.units import MIB, cdiv
from support.faults import Faults
from support.faulty_executor import FaultyExecutor
from support.fuzz_models import MAX_CONTEXT, SHAPES, Model, model_of
from support.fuzz_requests import Requests

FORMATS = tuple(KVFormat)
_UNDISTURBED = (FinishReason.STOP, FinishReason.LENGTH)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What is drawn once for a number of requests."""

    model: str
    kv_format: KVFormat
    block_size: int
    max_tokens: int
    num_spare_blocks: int
    budget: int
    max_num_seqs: int
    num_own_tiles: int
    threads: int
    has_prefix_cache: bool
    failing: float

    @classmethod
    def of(cls, seed: int, *, is_long: bool = False) -> World:
        """Returns the world of a seed; all KV formats and models take turns."""
        dice = random.Random(f"world {seed}")
        max_num_seqs = dice.choice((1, 2, 4, 8, 16))
        return cls(
            model=tuple(SHAPES)[seed % len(SHAPES)],
            kv_format=FORMATS[seed // len(SHAPES) % len(FORMATS)],
            block_size=dice.choice((32, 32, 64)),
            max_tokens=dice.randint(1100, 1400) if is_long else dice.randint(70, 200),
            num_spare_blocks=dice.randint(0, 8),
            budget=dice.choice((48, 200, 512)) if is_long else dice.choice((1, 5, 32, 33, 64, 200, 512)),
            max_num_seqs=max_num_seqs,
            num_own_tiles=dice.randint(1, max_num_seqs),
            threads=dice.choice((1, 2)),
            has_prefix_cache=dice.random() < 0.9,
            failing=dice.choice((0.0, 0.01) if is_long else (0.0, 0.02, 0.1)),
        )

    def __str__(self) -> str:
        return f"{self.model}, {self.kv_format.value}, {self.block_size} tokens a block"


class Alone:
    """Computes completions one by one, every token again in every step, on one thread."""

    def __init__(self, world: World, model: Model) -> None:
        blocks = cdiv(MAX_CONTEXT, world.block_size)
        own_tiles = int(world.kv_format.has_own_tiles)
        options = model.options(world.kv_format, block_size=world.block_size, num_blocks=blocks, num_own_tiles=own_tiles)
        self._core = _core_of(NativeExecutor(model.spec, model.weights, options), world, KVCacheMode.OFF)
        self._known: dict[tuple[tuple[int, ...], int, SamplingParams], RequestOutput] = {}

    def output(self, submission: Submission, index: int) -> RequestOutput:
        """Returns what completion `index` of a submission is by itself."""
        sampling = submission.sampling
        scored = sampling.prompt_logprobs if index == 0 else None
        sampling = replace(sampling, n=1, seed=child_seed(sampling.seed or 0, index), prompt_logprobs=scored)
        prompt = submission.prompt
        key = prompt.token_ids, prompt.num_context_tokens, sampling
        if key not in self._known:
            self._known[key] = self._compute(Submission(request_id="alone", prompt=prompt, sampling=sampling))
        return self._known[key]

    def _compute(self, submission: Submission) -> RequestOutput:
        self._core.submit(submission)
        events = [event for _ in iter(lambda: self._core.has_work, False) for event in self._core.step()]
        (output,) = (event for event in events if isinstance(event, RequestOutput))
        return output


class Fuzz:
    """One world and its load. `tally` counts what came of it."""

    def __init__(self, seed: int, tally: Counter[str], *, is_long: bool = False) -> None:
        self.world = world = World.of(seed, is_long=is_long)
        self.dice, self.tally = random.Random(f"load {seed}"), tally
        model = model_of(world.model)
        self.alone = Alone(world, model)
        self.faults = Faults(random.Random(f"faults {seed}"), world.failing)
        options = model.options(
            world.kv_format,
            block_size=world.block_size,
            num_blocks=cdiv(world.max_tokens, world.block_size) + world.num_spare_blocks,
            num_own_tiles=world.num_own_tiles if world.kv_format.has_own_tiles else 0,
            threads=world.threads,
        )
        self.core = _core_of(FaultyExecutor(model, options, self.faults), world, KVCacheMode.PAGED)
        lengths = (1, 2, 5) if is_long else (1, 2, 5, 12, 40, 70)
        self.requests = Requests(self.dice, model.spec.vocab_size, world.max_tokens, lengths)
        self.open: dict[str, Submission] = {}

    def run(self, num_requests: int) -> None:
        """Submits this many requests over time, steps until all have ended, and checks what is left."""
        while self.core.has_work or self.requests.num_drawn < num_requests:
            while self.requests.num_drawn < num_requests and len(self.open) < 12 and self.dice.random() < 0.6:
                submission = self.requests.draw()
                self.core.submit(submission)
                self.open[submission.request_id] = submission
            if self.open and self.dice.random() < 0.03:
                output = self.core.abort(self.dice.choice(list(self.open)))
                _require(output is not None, "a request that runs is not known")
                self._end(output)
            self._step()
        _require(not self.open, f"no final output of {list(self.open)}")
        self.tally["requests"] += num_requests
        self.tally["faults"] += self.faults.num_made
        self._check_the_end()

    def _step(self) -> None:
        for event in self.core.step():
            if isinstance(event, RequestOutput):
                self._end(event)
        self.tally["steps"] += 1
        manager = self.core.scheduler.manager
        manager.check()
        kv_ledger(self.core).check()
        _require(not self.core.integrity_errors, f"the books were wrong: {self.core.integrity_errors}")

    def _check_the_end(self) -> None:
        self.core.close()
        _require(not self.core.integrity_errors, f"the books are wrong: {self.core.integrity_errors}")
        pool = self.core.scheduler.manager.pool
        _require(pool.num_free == pool.num_blocks, f"{pool.num_blocks - pool.num_free} blocks are held by nothing")

    def _end(self, output: RequestOutput | None) -> None:
        assert output is not None
        submission = self.open.pop(output.request_id)
        self.tally["cached tokens"] += output.num_cached_tokens
        self.tally["preemptions"] += output.metrics.num_preemptions
        for completion in output.outputs:
            self._compare(submission, output, completion)
        if all(completion.error is None for completion in output.outputs):
            self.requests.note(output)

    def _compare(self, submission: Submission, output: RequestOutput, found: CompletionOutput) -> None:
        alone = self.alone.output(submission, found.index)
        expected = alone.outputs[0]
        where = f"{self.world}, {submission.request_id}/{found.index}"
        count = len(found.token_ids)
        _require(found.token_ids == expected.token_ids[:count], f"{where}: tokens differ")
        if found.logprobs is not None:
            _require(found.logprobs == (expected.logprobs or ())[:count], f"{where}: log-probabilities differ")
        is_whole = found.finish_reason in _UNDISTURBED
        self.tally["compared whole" if is_whole else f"ended by {found.finish_reason}"] += 1
        self.tally["tokens"] += count
        if not is_whole:
            return
        ends = [(each.finish_reason, each.stop_reason, each.cumulative_logprob) for each in (found, expected)]
        _require(count == len(expected.token_ids) and ends[0] == ends[1], f"{where}: {ends[0]} instead of {ends[1]}")
        if found.index == 0:
            _require(output.prompt_logprobs == alone.prompt_logprobs, f"{where}: scores of the prompt differ")


def _core_of(executor: Executor, world: World, mode: KVCacheMode) -> EngineCore:
    has_prefix_cache = mode is KVCacheMode.PAGED and world.has_prefix_cache
    max_context = min(executor.spec.max_context, executor.num_blocks * world.block_size)
    config = EngineConfig(
        cache=CacheConfig(
            mode=mode,
            prefix_cache=PrefixCache.ON if has_prefix_cache else PrefixCache.OFF,
            block_size=world.block_size,
            memory_bytes=MIB,
            format=world.kv_format,
        ),
        scheduler=SchedulerConfig(max_num_batched_tokens=world.budget, max_num_seqs=world.max_num_seqs),
        max_context=max_context,
    )
    origin = Origin(weights_fingerprint=world.model.encode(), model_context=max_context)
    return build_core(executor, None, config, origin)


def _require(fact: bool, message: str) -> None:
    if not fact:
        raise AssertionError(message)


def fuzz(seeds: Sequence[int], num_requests: int, *, is_long: bool = False) -> Counter[str]:
    """Runs the worlds of some seeds, so many requests each; raises AssertionError at the first difference, with its seed."""
    tally: Counter[str] = Counter()
    for seed in seeds:
        try:
            Fuzz(seed, tally, is_long=is_long).run(num_requests)
        except Exception as error:
            error.add_note(f"seed {seed}{' long' if is_long else ''}: {World.of(seed, is_long=is_long)}")
            raise
    return tally
