"""Requests that share prefixes, diverge, are preempted, aborted and run in steps that fail, in a pool too small for them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from quire.config import PrefixCache, SchedulerConfig
from quire.kv.manager import KVCacheManager
from quire.kv.pool import BlockPool
from quire.request import Request, SamplingParams
from quire.sched.plan import StepPlan
from quire.sched.scheduler import Scheduler

VOCABULARY = 3
MAX_CONTEXT = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A small engine, how many requests are in it at a time, and in what share of its steps the executor fails.

    With `tile` it has own tiles of so many tokens, `max_num_seqs` of them.
    """

    block_size: int = 4
    num_blocks: int = 24
    budget: int = 24
    max_num_seqs: int = 6
    num_live: int = 9
    prefix_cache: PrefixCache = PrefixCache.ON
    failing: float = 0.05
    tile: int = 0


@dataclass(slots=True, kw_only=True)
class Watcher:
    """What is told of each turn: a request that is submitted or has ended, a plan, and how its run ended."""

    submitted: Callable[[Request], None] = lambda _: None
    planned: Callable[[StepPlan], None] = lambda _: None
    written: Callable[[StepPlan, bool], None] = lambda _plan, _has_failed: None
    settled: Callable[[], None] = lambda: None
    ended: Callable[[Request], None] = lambda _: None


@dataclass(slots=True)
class Traffic:
    """`turn` submits, plans, runs and completes or abandons one step; now and then it aborts a request."""

    shape: Shape
    seed: int
    watcher: Watcher = field(default_factory=Watcher)
    num_submitted: int = 0
    live: dict[str, Request] = field(default_factory=dict)
    dice: random.Random = field(init=False)
    manager: KVCacheManager = field(init=False)
    scheduler: Scheduler = field(init=False)
    families: list[list[int]] = field(init=False)

    def __post_init__(self) -> None:
        shape, self.dice = self.shape, random.Random(self.seed)
        pool = BlockPool(shape.num_blocks, shape.block_size)
        num_own_tiles = shape.max_num_seqs if shape.tile else 0
        self.manager = KVCacheManager(pool, fingerprint=b"model", prefix_cache=shape.prefix_cache, num_own_tiles=num_own_tiles)
        self.manager.own_tiles.size = shape.tile or self.manager.own_tiles.size
        config = SchedulerConfig(max_num_batched_tokens=shape.budget, max_num_seqs=shape.max_num_seqs)
        self.scheduler = Scheduler(config, self.manager, max_context=min(MAX_CONTEXT, shape.num_blocks * shape.block_size))
        self.families = [[self.dice.randrange(VOCABULARY) for _ in range(MAX_CONTEXT)] for _ in range(5)]

    def turn(self) -> None:
        while len(self.live) < self.shape.num_live:
            self._submit()
        plan = self.scheduler.plan_step()
        if plan is not None:
            self._run(plan)
        if self.live and self.dice.random() < 0.02:
            self._end(self.scheduler.abort(self.dice.choice(list(self.live))))
            self.watcher.settled()

    def _submit(self) -> None:
        dice = self.dice
        longest = self.scheduler.limits.max_tokens
        prompt = dice.choice(self.families)[: dice.randrange(1, longest * 2 // 3)]
        prompt += [dice.randrange(VOCABULARY) for _ in range(dice.randrange(5))]
        is_scored = dice.random() < 0.1
        request = Request(
            request_id=f"r{self.num_submitted}",
            prompt_token_ids=tuple(prompt),
            sampling=SamplingParams(max_tokens=dice.randrange(1, 14), prompt_logprobs=0 if is_scored else None),
            priority=dice.randrange(3),
            tenant=dice.choice(["", "", "", "other"]),
            cache_salt=dice.choice(["", "", "", "salt"]),
            num_context_tokens=dice.randrange(len(prompt) + 1) if is_scored else 0,
        )
        self.num_submitted += 1
        self.scheduler.submit(request)
        self.live[request.request_id] = request
        self.watcher.submitted(request)

    def _run(self, plan: StepPlan) -> None:
        has_failed = self.dice.random() < self.shape.failing
        self.watcher.planned(plan)
        self.watcher.written(plan, has_failed)
        if has_failed:
            self.scheduler.abandon(plan)
            self.watcher.settled()
            return
        sampled = {each.request_id: [self.dice.randrange(VOCABULARY)] for each in plan.scheduled if each.num_sample_rows}
        finished = self.scheduler.complete_step(plan, sampled)
        self.watcher.settled()
        for request in finished:
            self._end(request)

    def _end(self, request: Request | None) -> None:
        if request is not None:
            del self.live[request.request_id]
            self.watcher.ended(request)
