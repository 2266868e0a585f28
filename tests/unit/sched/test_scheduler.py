from __future__ import annotations

import pytest

from quire.config import KVCacheMode, PrefixCache, SchedulerConfig
from quire.errors import ConfigError, IntegrityError
from quire.kv.manager import KVCacheManager
from quire.kv.pool import BlockPool
from quire.request import FinishReason, RequestStatus
from quire.sched.scheduler import Scheduler
from support.sched_world import completed, planned, request_of, scheduler_of, step

# -- catching up -----------------------------------------------------------------------


def test_a_long_prompt_is_computed_in_chunks_and_samples_only_at_its_end() -> None:
    scheduler = scheduler_of(budget=6)
    scheduler.submit(request_of("r", range(14)))
    samples = []
    for expected in ((0, 6), (6, 6), (12, 2), (14, 1)):
        plan = planned(scheduler)
        (chunk,) = plan.scheduled
        assert (chunk.start, chunk.num_tokens) == expected
        samples.append(chunk.num_sample_rows == 1)
        completed(scheduler, plan)
    assert samples == [False, False, True, True]


def test_running_requests_are_served_before_waiting_ones() -> None:
    scheduler = scheduler_of(budget=5)
    scheduler.submit(request_of("first", range(4)))
    step(scheduler)
    scheduler.submit(request_of("second", range(100, 110)))
    assert step(scheduler) == {"first": (4, 1), "second": (0, 4)}


def test_nothing_to_do_is_no_plan() -> None:
    scheduler = scheduler_of()
    assert scheduler.plan_step() is None
    assert not scheduler.has_work


def test_sequence_slots_are_a_limit() -> None:
    scheduler = scheduler_of(max_num_seqs=2)
    for index in range(3):
        scheduler.submit(request_of(f"r{index}", range(index * 10, index * 10 + 3)))
    assert set(step(scheduler)) == {"r0", "r1"}
    assert (scheduler.num_running, scheduler.num_waiting) == (2, 1)


def test_smaller_priority_is_admitted_first() -> None:
    scheduler = scheduler_of(max_num_seqs=1)
    scheduler.submit(request_of("patient", range(3), priority=5))
    scheduler.submit(request_of("urgent", range(10, 13)))
    assert set(step(scheduler)) == {"urgent"}


# -- finishing -------------------------------------------------------------------------


def test_max_tokens_ends_with_length() -> None:
    scheduler = scheduler_of()
    request = request_of("r", range(3), max_tokens=2)
    scheduler.submit(request)
    step(scheduler)
    assert completed(scheduler, planned(scheduler)) == (request,)
    assert (request.finish_reason, request.status) == (FinishReason.LENGTH, RequestStatus.FINISHED)
    assert request.output_token_ids == [7, 7]
    assert scheduler.manager.pool.num_free == 20


def test_the_samplers_reason_goes_before_length() -> None:
    scheduler = scheduler_of()
    request = request_of("r", range(3), max_tokens=1)
    scheduler.submit(request)
    scheduler.complete_step(planned(scheduler), {"r": [1]}, {"r": FinishReason.STOP})
    assert request.finish_reason is FinishReason.STOP


def test_a_step_may_bring_several_tokens_up_to_the_one_that_ends_the_request() -> None:
    scheduler = scheduler_of()
    request = request_of("r", range(3), max_tokens=5)
    scheduler.submit(request)
    assert scheduler.complete_step(planned(scheduler), {"r": [1, 2]}) == ()
    plan = planned(scheduler)
    assert [(chunk.start, chunk.num_tokens, chunk.num_sample_rows) for chunk in plan.scheduled] == [(3, 2, 1)]
    assert scheduler.complete_step(plan, {"r": [3, 4]}, {"r": FinishReason.STOP}) == (request,)
    assert (request.output_token_ids, request.finish_reason) == ([1, 2, 3, 4], FinishReason.STOP)
    longer = request_of("longer", range(3), max_tokens=1)
    scheduler.submit(longer)
    assert scheduler.complete_step(planned(scheduler), {"longer": [1, 2]}, {"longer": FinishReason.STOP}) == (longer,)
    assert (longer.output_token_ids, longer.finish_reason) == ([1], FinishReason.LENGTH)


@pytest.mark.parametrize(("max_context", "num_blocks", "num_tokens"), [(9, 20, 9), (64, 3, 12)])
def test_without_max_tokens_a_request_runs_until_context_or_pool_are_full(
    max_context: int, num_blocks: int, num_tokens: int
) -> None:
    scheduler = scheduler_of(num_blocks, max_context=max_context)
    request = request_of("r", range(3), max_tokens=None)
    scheduler.submit(request)
    while scheduler.has_work:
        step(scheduler)
    assert request.num_tokens == num_tokens
    assert request.finish_reason is FinishReason.LENGTH


# -- the prefix cache --------------------------------------------------------------------


def test_a_known_prefix_is_not_computed_again() -> None:
    scheduler = scheduler_of()
    scheduler.submit(request_of("first", range(10), max_tokens=1))
    step(scheduler)
    second = request_of("second", range(10))
    scheduler.submit(second)
    assert step(scheduler) == {"second": (9, 1)}
    assert second.num_cached_tokens == 9


def test_equal_prompts_are_computed_once() -> None:
    scheduler = scheduler_of(budget=8)
    for name in ("a", "b", "c"):
        scheduler.submit(request_of(name, range(14)))
    assert step(scheduler) == {"a": (0, 8)}
    assert step(scheduler) == {"a": (8, 6)}
    assert step(scheduler) == {"a": (14, 1), "b": (13, 1), "c": (13, 1)}


def test_a_request_that_waits_for_a_prefix_lets_others_pass() -> None:
    scheduler = scheduler_of()
    for name, tokens in (("a", range(9)), ("same", range(9)), ("other", range(50, 55))):
        scheduler.submit(request_of(name, tokens))
    assert step(scheduler) == {"a": (0, 9), "other": (0, 5)}


@pytest.mark.parametrize("verb", ["abort", "fail"])
def test_a_request_that_waits_for_a_prefix_goes_on_when_its_computer_ends(verb: str) -> None:
    scheduler = scheduler_of(budget=4)
    scheduler.submit(request_of("a", range(9)))
    scheduler.submit(request_of("b", range(9)))
    step(scheduler)
    getattr(scheduler, verb)("a")
    assert step(scheduler) == {"b": (4, 4)}


def test_prompt_logprobs_compute_every_token_and_ask_for_all_rows() -> None:
    scheduler = scheduler_of()
    scheduler.submit(request_of("first", range(10), max_tokens=1))
    step(scheduler)
    scored = request_of("scored", range(10), prompt_logprobs=1)
    scheduler.submit(scored)
    plan = planned(scheduler)
    (chunk,) = plan.scheduled
    assert (chunk.start, chunk.num_tokens, chunk.num_scored_rows) == (0, 10, 9)
    assert scored.num_cached_tokens == 0
    completed(scheduler, plan)
    assert not planned(scheduler).scheduled[0].num_scored_rows


# -- running out of blocks -----------------------------------------------------------------


def test_the_newest_request_is_preempted_and_resumes_with_its_output() -> None:
    scheduler = scheduler_of(num_blocks=5)
    old, new = request_of("old", range(7), max_tokens=6), request_of("new", range(20, 27), max_tokens=6)
    scheduler.submit(old)
    scheduler.submit(new)
    step(scheduler)
    step(scheduler)
    plan = planned(scheduler)
    assert plan.preempted == ("new",)
    assert [chunk.request_id for chunk in plan.scheduled] == ["old"]
    assert (new.status, new.num_preemptions, new.output_token_ids) == (RequestStatus.WAITING, 1, [7, 7])
    assert new.num_computed_tokens == 0
    completed(scheduler, plan)
    while old.status is RequestStatus.RUNNING:
        step(scheduler)
    assert step(scheduler) == {"new": (8, 1)}
    assert new.num_cached_tokens == 0
    while scheduler.has_work:
        step(scheduler)
    assert new.output_token_ids == [7] * 6


def test_a_less_urgent_request_is_preempted_even_if_it_came_first() -> None:
    scheduler = scheduler_of(num_blocks=5)
    scheduler.submit(request_of("patient", range(7), max_tokens=6, priority=1))
    scheduler.submit(request_of("urgent", range(20, 27), max_tokens=6))
    step(scheduler)
    step(scheduler)
    assert planned(scheduler).preempted == ("patient",)


def test_a_request_is_let_in_only_when_all_its_tokens_fit() -> None:
    scheduler = scheduler_of(num_blocks=5, budget=4)
    scheduler.submit(request_of("first", range(11), max_tokens=1))
    step(scheduler)
    step(scheduler)
    scheduler.submit(request_of("second", range(50, 62), max_tokens=1))
    assert step(scheduler) == {"first": (8, 3)}
    assert step(scheduler) == {"second": (0, 4)}


# -- leaving early ---------------------------------------------------------------------------


def test_abort_frees_the_blocks_and_keeps_the_computed_prefix() -> None:
    scheduler = scheduler_of()
    request = request_of("r", range(9))
    scheduler.submit(request)
    step(scheduler)
    assert scheduler.abort("r") is request
    assert request.finish_reason is FinishReason.ABORT
    assert scheduler.manager.pool.num_free == 20
    assert scheduler.manager.pool.num_cached == 3
    assert not scheduler.has_work
    assert scheduler.abort("r") is None


def test_abort_of_a_waiting_request_leaves_no_trace() -> None:
    scheduler = scheduler_of()
    scheduler.submit(request_of("r", range(9)))
    scheduler.abort("r")
    assert scheduler.plan_step() is None
    scheduler.submit(request_of("r", range(9)))
    assert scheduler.num_waiting == 1


def test_a_request_that_cannot_be_queued_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = scheduler_of(budget=8)
    with monkeypatch.context() as patched:
        patched.setattr(KVCacheManager, "match", lambda *_: {}["injected"])
        with pytest.raises(KeyError):
            scheduler.submit(request_of("a", range(9)))
    assert not scheduler.has_work
    scheduler.manager.check_idle(range(0))
    scheduler.submit(request_of("a", range(9)))
    assert step(scheduler) == {"a": (0, 8)}


def test_a_request_that_ends_in_flight_is_skipped_on_completion() -> None:
    scheduler = scheduler_of()
    failed, other = request_of("failed", range(5)), request_of("other", range(20, 25))
    scheduler.submit(failed)
    scheduler.submit(other)
    plan = planned(scheduler)
    assert scheduler.fail("failed") is failed
    assert scheduler.complete_step(plan, {"other": [3]}) == ()
    assert (failed.finish_reason, failed.output_token_ids) == (FinishReason.ERROR, [])
    assert other.output_token_ids == [3]
    scheduler.manager.check()


# -- taking a plan back ------------------------------------------------------------------------


def test_after_abandon_the_same_plan_is_made_again() -> None:
    scheduler = scheduler_of(budget=12)
    scheduler.submit(request_of("first", range(4)))
    step(scheduler)
    waiting = request_of("second", range(30, 50))
    scheduler.submit(waiting)
    free = scheduler.manager.pool.free_block_ids()
    plan = planned(scheduler)
    scheduler.abandon(plan)
    assert scheduler.manager.pool.free_block_ids() == free
    assert (waiting.status, waiting.num_computed_tokens) == (RequestStatus.WAITING, 0)
    assert planned(scheduler) == plan


def test_an_abandoned_hit_is_not_counted_as_saving() -> None:
    scheduler = scheduler_of()
    scheduler.submit(request_of("first", range(9), max_tokens=1))
    step(scheduler)
    second = request_of("second", range(9))
    scheduler.submit(second)
    scheduler.abandon(planned(scheduler))
    assert second.num_cached_tokens == 0


def test_steps_out_of_order_are_reported() -> None:
    scheduler = scheduler_of()
    scheduler.submit(request_of("r", range(5)))
    plan = planned(scheduler)
    with pytest.raises(IntegrityError, match="another is in flight"):
        scheduler.plan_step()
    with pytest.raises(IntegrityError, match="no token was sampled"):
        scheduler.complete_step(plan, {})
    completed(scheduler, plan)
    with pytest.raises(IntegrityError, match="not in flight"):
        scheduler.abandon(plan)


# -- without a cache -----------------------------------------------------------------------------


def test_without_a_cache_every_step_computes_every_token() -> None:
    scheduler = scheduler_of(mode=KVCacheMode.OFF)
    request = request_of("r", range(5), max_tokens=3)
    scheduler.submit(request)
    assert [step(scheduler) for _ in range(3)] == [{"r": (0, 5)}, {"r": (0, 6)}, {"r": (0, 7)}]
    assert request.num_computed_tokens == 0
    assert scheduler.manager.pool.num_free == 20


def test_without_a_cache_a_sequence_is_never_split_and_one_always_fits() -> None:
    scheduler = scheduler_of(mode=KVCacheMode.OFF, budget=6)
    scheduler.submit(request_of("long", range(9), max_tokens=2))
    scheduler.submit(request_of("short", range(20, 23), max_tokens=1))
    assert [step(scheduler) for _ in range(3)] == [{"long": (0, 9)}, {"long": (0, 10)}, {"short": (0, 3)}]


def test_without_a_cache_memory_limits_how_many_share_a_step() -> None:
    scheduler = scheduler_of(num_blocks=3, mode=KVCacheMode.OFF)
    scheduler.submit(request_of("a", range(7), max_tokens=3))
    scheduler.submit(request_of("b", range(20, 23), max_tokens=1))
    scheduler.submit(request_of("c", range(30, 33), max_tokens=1))
    assert set(step(scheduler)) == {"a", "b"}
    assert set(step(scheduler)) == {"a", "c"}


def test_a_prefix_cache_without_a_cache_is_refused() -> None:
    manager = KVCacheManager(BlockPool(4, 4), fingerprint=b"model", prefix_cache=PrefixCache.ON)
    with pytest.raises(ConfigError, match="needs a KV cache"):
        Scheduler(SchedulerConfig(), manager, max_context=16, mode=KVCacheMode.OFF)


def test_held_tokens_count_a_shared_block_once() -> None:
    scheduler = scheduler_of()
    assert scheduler.num_held_tokens == 0
    scheduler.submit(request_of("a", range(10)))
    step(scheduler)
    assert scheduler.num_held_tokens == 10
    scheduler.submit(request_of("b", range(10)))  # shares the first two blocks, computes tokens 8 and 9
    step(scheduler)
    assert scheduler.num_held_tokens == 11 + 2
    scheduler.abort("a")
    assert scheduler.num_held_tokens == 10
