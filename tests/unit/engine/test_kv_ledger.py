"""The KV ledger: who holds which part of the pool, counted once, and when what is cached will be evicted."""

from __future__ import annotations

from fractions import Fraction

import pytest

from quire.config import KVFormat, SchedulerConfig
from quire.engine.core import EngineCore
from quire.engine.kv_ledger import kv_ledger, ledger_of
from quire.errors import IntegrityError
from quire.kv.layout import KVLayout
from quire.kv.manager import KVCacheManager
from quire.kv.pool import BlockPool
from quire.kv.prefixes import NUM_FIRST_TOKENS
from quire.request import Request, SamplingParams
from quire.sched.scheduler import Scheduler
from quire.text.tokenizer import Tokenizer
from support.fake_engine import BLOCK_SIZE, FakeExecutor, make_core, run_all, submission
from support.traffic import Shape, Traffic

PREFIX = tuple(position % 29 + 1 for position in range(2 * BLOCK_SIZE))


def _begin(core: EngineCore, *names: str, tail: int = 1) -> None:
    """Lets requests run that share two blocks and have this many tokens more."""
    for name in names:
        own = tuple((sum(map(ord, name)) + each) % 29 + 1 for each in range(tail))
        core.submit(submission(name, (*PREFIX, *own), max_tokens=60, ignore_eos=True))
        core.step()


def test_shared_block_is_a_part_of_each_holder_and_one_of_the_pool(tokenizer: Tokenizer) -> None:
    core = make_core(FakeExecutor(), tokenizer)
    _begin(core, "a", "b", "c")
    found = kv_ledger(core)
    found.check()
    assert [request.share for request in found.requests] == [Fraction(2, 3) + 1] * 3
    assert [request.num_shared_blocks for request in found.requests] == [2] * 3
    assert found.usage.num_used_blocks == 5
    (tenant,) = found.tenants
    assert (tenant.share, tenant.num_requests) == (5, 3)
    assert found.bytes_of(tenant.share) == found.usage.used_bytes
    assert found.num_held_tokens == core.scheduler.num_held_tokens


def test_request_that_was_let_in_later_reuses_and_is_younger(tokenizer: Tokenizer) -> None:
    core = make_core(FakeExecutor(), tokenizer)
    _begin(core, "a", "b")
    core.step()
    first, second = kv_ledger(core).requests
    assert (first.num_reused_tokens, second.num_reused_tokens) == (0, 2 * BLOCK_SIZE)
    assert (first.age_steps, second.age_steps) == (2, 1)
    assert first.num_tokens + first.num_empty_slots == 3 * BLOCK_SIZE


def test_prefix_that_is_left_has_a_turn_to_be_evicted(tokenizer: Tokenizer) -> None:
    core = make_core(FakeExecutor(8), tokenizer)
    run_all(core, submission("gone", (*PREFIX, 1), max_tokens=2))
    before = kv_ledger(core)
    before.check()
    (run,) = [run for run in before.prefixes if run.num_tokens >= 2 * BLOCK_SIZE]
    assert (run.start, run.num_held_blocks, run.first_tokens) == (0, 0, PREFIX[:NUM_FIRST_TOKENS])
    assert run.outlook is not None
    num_allocations = run.outlook.num_allocations
    pool = core.scheduler.manager.pool
    taken = pool.allocate(num_allocations - 1, "other") or []
    assert pool.num_cached == before.usage.num_cached_blocks
    taken += pool.allocate(1, "other") or []
    assert pool.num_cached == before.usage.num_cached_blocks - 1


def test_branches_of_a_prefix_are_runs_of_their_own(tokenizer: Tokenizer) -> None:
    core = make_core(FakeExecutor(), tokenizer)
    _begin(core, "a", "b", tail=BLOCK_SIZE + 1)
    core.step()
    core.step()
    runs = [run for run in kv_ledger(core).prefixes if run.num_tokens >= BLOCK_SIZE]
    assert sorted((run.start, run.num_holders) for run in runs) == [(0, 2), (2 * BLOCK_SIZE, 1), (2 * BLOCK_SIZE, 1)]
    assert [run.num_blocks for run in runs if not run.start] == [2]
    assert all(run.outlook is None for run in runs)


def test_waiting_request_holds_nothing(tokenizer: Tokenizer) -> None:
    core = make_core(FakeExecutor(), tokenizer, max_num_seqs=1)
    _begin(core, "a", "b")
    waiting = kv_ledger(core).requests[1]
    assert (waiting.num_blocks, waiting.num_tokens, waiting.share, waiting.age_steps) == (0, 0, 0, None)


def test_sums_that_disagree_are_noticed(tokenizer: Tokenizer) -> None:
    core = make_core(FakeExecutor(), tokenizer)
    _begin(core, "a", "b")
    core.scheduler.manager.pool.allocate(1, "nobody's")
    with pytest.raises(IntegrityError, match="requests hold 4 blocks, 5 are used"):
        kv_ledger(core).check()


def test_sums_are_conserved_after_every_step_of_a_full_pool() -> None:
    for seed, shape in enumerate((Shape(), Shape(block_size=3, num_blocks=21, budget=5, num_live=14), Shape(tile=4))):
        traffic = Traffic(shape, seed)
        layout = KVLayout(num_layers=2, num_kv_heads=1, head_dim=8, block_size=shape.block_size, format=KVFormat.BFLOAT16)
        for _ in range(600):
            traffic.turn()
            found = ledger_of(traffic.manager, traffic.live.values(), layout)
            found.check()
            assert found.num_held_tokens == traffic.scheduler.num_held_tokens
            assert all(0 <= request.num_empty_slots < shape.block_size for request in found.requests)


def test_requests_of_500_to_600_tokens_waste_at_most_three_percent() -> None:
    size, num_requests = 32, 64
    manager = KVCacheManager(BlockPool(64 * 20, size), fingerprint=b"model")
    scheduler = Scheduler(SchedulerConfig(max_num_batched_tokens=4096, max_num_seqs=num_requests), manager, max_context=2048)
    requests = [
        Request(
            request_id=f"r{number}",
            prompt_token_ids=tuple((number * 7919 + 31 * each) % 5000 for each in range(500 + number * 100 // 63)),
            sampling=SamplingParams(max_tokens=64),
        )
        for number in range(num_requests)
    ]
    for request in requests:
        scheduler.submit(request)
    while any(not request.output_token_ids for request in requests):
        plan = scheduler.plan_step()
        assert plan is not None
        scheduler.complete_step(plan, {each.request_id: [5] for each in plan.scheduled if each.num_sample_rows})
    layout = KVLayout(num_layers=2, num_kv_heads=1, head_dim=64, block_size=size, format=KVFormat.BFLOAT16)
    found = ledger_of(manager, requests, layout)
    found.check()
    assert len(found.requests) == num_requests
    assert 0 < found.waste <= 0.03
