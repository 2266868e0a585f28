"""The log of a pool that is always full, folded back: after each step the pool is exactly what its events tell."""

from __future__ import annotations

import random
from collections import Counter

from quire.config import SchedulerConfig
from quire.kv.events import KVEvent
from quire.kv.manager import KVCacheManager
from quire.kv.pool import BlockPool
from quire.request import Request, SamplingParams
from quire.sched.scheduler import Scheduler
from quire.verify.pool_mirror import PoolMirror

NUM_OPERATIONS = 100_000
NUM_BLOCKS, BLOCK_SIZE, MAX_CONTEXT = 24, 4, 60
VOCABULARY = 3
FAMILIES = [[(family * k * k + k // 5) % VOCABULARY for k in range(MAX_CONTEXT)] for family in range(6)]


class Traffic:
    """Requests that share prefixes, diverge, are preempted, aborted and run in steps that fail, in a pool too small for them."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.pool = BlockPool(NUM_BLOCKS, BLOCK_SIZE)
        manager = KVCacheManager(self.pool, fingerprint=b"model")
        self.scheduler = Scheduler(SchedulerConfig(max_num_batched_tokens=24, max_num_seqs=6), manager, max_context=MAX_CONTEXT)
        self.live: dict[str, Request] = {}
        self.num_submitted = 0

    def submit(self) -> None:
        dice, family = self.dice, self.dice.choice(FAMILIES)
        tail = [dice.randrange(VOCABULARY) for _ in range(dice.randrange(6))]
        prompt = (*family[: dice.randrange(1, 40)], *tail)
        sampling = SamplingParams(max_tokens=dice.randrange(1, 14), prompt_logprobs=0 if dice.random() < 0.1 else None)
        request = Request(
            request_id=f"r{self.num_submitted}", prompt_token_ids=prompt, sampling=sampling, priority=dice.randrange(3)
        )
        self.num_submitted += 1
        self.scheduler.submit(request)
        self.live[request.request_id] = request

    def step(self) -> None:
        plan = self.scheduler.plan_step()
        if plan is None:
            return
        if self.dice.random() < 0.05:
            self.scheduler.abandon(plan)
            return
        sampled = {each.request_id: [self.dice.randrange(VOCABULARY)] for each in plan.scheduled if each.num_sample_rows}
        for request in self.scheduler.complete_step(plan, sampled):
            del self.live[request.request_id]

    def abort(self) -> None:
        name = self.dice.choice(list(self.live))
        self.scheduler.abort(name)
        del self.live[name]


def test_log_of_a_full_pool_replays_into_its_exact_state() -> None:
    traffic, tally = Traffic(seed=21), Counter[str]()
    mirror = PoolMirror(NUM_BLOCKS)
    num_operations = 0
    while num_operations < NUM_OPERATIONS:
        while len(traffic.live) < 9:
            traffic.submit()
        traffic.step()
        if traffic.live and traffic.dice.random() < 0.02:
            traffic.abort()
        events = traffic.pool.events.take()
        mirror.fold(events)
        mirror.require_equal(traffic.pool)
        num_operations += len(events)
        tally.update(event.kind.value if isinstance(event, KVEvent) else type(event).__name__ for event in events)
        tally["steps"] += 1
        tally["empty blocks"] += traffic.pool.num_free - traffic.pool.num_cached
    assert min(tally[kind] for kind in ("allocated", "committed", "shared", "released", "evicted", "duplicate")) > 500
    assert tally["StepAbandoned"] > 300
    assert tally["empty blocks"] < 0.05 * NUM_BLOCKS * tally["steps"]  # the pool is full
