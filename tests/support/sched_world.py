"""A scheduler over a small pool, and the shortest ways to ask it something."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from quire.config import KVCacheMode, PrefixCache, SchedulerConfig
from quire.kv.manager import KVCacheManager
from quire.kv.pool import BlockPool
from quire.request import Request, SamplingParams
from quire.sched.plan import StepPlan
from quire.sched.scheduler import Scheduler

BLOCK_SIZE = 4


def scheduler_of(
    num_blocks: int = 20,
    *,
    budget: int = 64,
    max_num_seqs: int = 8,
    max_context: int = 64,
    mode: KVCacheMode = KVCacheMode.PAGED,
    max_queued_requests: int = 1_000,
    itl_target_s: float | None = None,
) -> Scheduler:
    """Returns a scheduler with blocks of four tokens."""
    prefix_cache = PrefixCache.ON if mode is KVCacheMode.PAGED else PrefixCache.OFF
    manager = KVCacheManager(BlockPool(num_blocks, BLOCK_SIZE), fingerprint=b"model", prefix_cache=prefix_cache)
    config = SchedulerConfig(
        max_num_batched_tokens=budget,
        max_num_seqs=max_num_seqs,
        max_queued_requests=max_queued_requests,
        itl_target_s=itl_target_s,
    )
    return Scheduler(config, manager, max_context=max_context, mode=mode)


def large_scheduler(*, budget: int = 512, max_num_seqs: int = 64, itl_target_s: float | None = None) -> Scheduler:
    """Returns a scheduler with the budget of a real one, and more blocks than any test needs."""
    return scheduler_of(20_000, budget=budget, max_num_seqs=max_num_seqs, max_context=40_000, itl_target_s=itl_target_s)


def request_of(
    name: str,
    tokens: range,
    *,
    max_tokens: int | None = 4,
    priority: int = 0,
    prompt_logprobs: int | None = None,
    tenant: str = "",
) -> Request:
    """Returns a request with these prompt tokens."""
    sampling = SamplingParams(max_tokens=max_tokens, prompt_logprobs=prompt_logprobs)
    return Request(request_id=name, prompt_token_ids=tuple(tokens), sampling=sampling, priority=priority, tenant=tenant)


def prompt_of(name: str, num_tokens: int, index: int, **options: Any) -> Request:
    """Returns a request with so many prompt tokens; those of another index begin otherwise."""
    return request_of(name, range(40_000 * index, 40_000 * index + num_tokens), **options)


def steps_until_drawn(scheduler: Scheduler, request: Request, each: Callable[[], object] = lambda: None) -> int:
    """Runs steps until a request has its first token and returns how many; `each` is called before every one."""
    num_steps = 0
    while not request.output_token_ids:
        each()
        step(scheduler)
        num_steps += 1
    return num_steps


def planned(scheduler: Scheduler) -> StepPlan:
    """Returns the next plan; there must be one."""
    plan = scheduler.plan_step()
    if plan is None:
        raise AssertionError("nothing was planned")
    return plan


def completed(scheduler: Scheduler, plan: StepPlan, token_id: int = 7) -> tuple[Request, ...]:
    """Completes a step in which every chunk that samples draws `token_id`."""
    sampled = {chunk.request_id: [token_id] for chunk in plan.scheduled if chunk.num_sample_rows}
    finished = scheduler.complete_step(plan, sampled)
    if scheduler.manager.pool.num_blocks < 1000:  # it takes time
        scheduler.manager.check()
    return finished


def step(scheduler: Scheduler) -> dict[str, tuple[int, int]]:
    """Runs one step and returns {request id: (start, num_tokens)}."""
    plan = planned(scheduler)
    completed(scheduler, plan)
    return {chunk.request_id: (chunk.start, chunk.num_tokens) for chunk in plan.scheduled}
