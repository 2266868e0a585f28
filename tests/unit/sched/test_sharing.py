"""A step is shared: who decodes advances, short prompts need not wait for long ones, and urgency decides without starving any."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from quire.request import Request, RequestStatus
from quire.sched.scheduler import Scheduler
from quire.sched.turns import PATIENCE, SHORT_PART
from quire.units import cdiv
from support.sched_world import completed, large_scheduler, planned, prompt_of, scheduler_of, step, steps_until_drawn

BUDGET = 512


def test_short_prompt_behind_a_long_one_draws_in_the_next_step() -> None:
    scheduler = large_scheduler()
    scheduler.submit(prompt_of("long", 10_000, 1))
    step(scheduler)
    scheduler.submit(prompt_of("short", 20, 2))
    assert step(scheduler) == {"long": (512, 492), "short": (0, 20)}


def test_prompts_that_are_short_get_their_part_of_a_step_and_no_more() -> None:
    scheduler = large_scheduler()
    scheduler.submit(prompt_of("long", 10_000, 1))
    for index in range(10):
        scheduler.submit(prompt_of(f"short-{index}", 300, index + 2, max_tokens=1))
    for _ in range(20):
        taken = step(scheduler)
        part = BUDGET // SHORT_PART
        assert taken.pop("long")[1] == BUDGET - part
        assert sum(num_tokens for _, num_tokens in taken.values()) == part


def test_short_part_that_is_not_needed_goes_to_the_long_prompt() -> None:
    scheduler = large_scheduler()
    for index in range(2):
        scheduler.submit(prompt_of(f"long-{index}", 2_000, index + 1, max_tokens=1))
    assert step(scheduler) == {"long-0": (0, 512)}


def test_long_prompt_that_is_cached_counts_as_short() -> None:
    scheduler = large_scheduler()
    scheduler.submit(prompt_of("turn 1", 4_000, 1, max_tokens=1))
    while scheduler.has_work:
        step(scheduler)
    scheduler.submit(prompt_of("long", 10_000, 2))
    step(scheduler)
    turn_2 = prompt_of("turn 2", 4_100, 1)
    scheduler.submit(turn_2)
    assert steps_until_drawn(scheduler, turn_2) == 1


def test_urgent_prompt_does_not_wait_for_one_that_is_begun() -> None:
    scheduler = large_scheduler()
    scheduler.submit(prompt_of("begun", 15_000, 1))
    step(scheduler)
    urgent = prompt_of("urgent", 32 * BUDGET, 2, priority=-9)
    scheduler.submit(urgent)
    num_own = 32
    assert steps_until_drawn(scheduler, urgent) == num_own + num_own // PATIENCE, "one step in so many goes to the oldest"


def test_decoding_requests_draw_in_every_step_while_a_long_prompt_enters() -> None:
    scheduler = large_scheduler()
    decoding = [prompt_of(f"d{index}", 10, index + 2, max_tokens=100) for index in range(8)]
    for request in decoding:
        scheduler.submit(request)
    step(scheduler)
    long = prompt_of("long", 10_000, 1)
    scheduler.submit(long)
    num_steps = steps_until_drawn(scheduler, long)
    assert num_steps == cdiv(10_000, BUDGET - len(decoding))
    assert {len(request.output_token_ids) for request in decoding} == {1 + num_steps}


def test_a_request_that_decodes_less_urgently_draws_as_well() -> None:
    scheduler = large_scheduler()
    patient = prompt_of("patient", 10, 1, max_tokens=100, priority=50)
    scheduler.submit(patient)
    step(scheduler)
    urgent = prompt_of("urgent", 5_000, 2, priority=-50)
    scheduler.submit(urgent)
    assert steps_until_drawn(scheduler, urgent) == len(patient.output_token_ids) - 1


def test_worst_priority_gets_tokens_under_a_flood_of_better_ones() -> None:
    scheduler = large_scheduler(budget=64)
    worst = prompt_of("worst", 60, 1, priority=100)
    number = 0

    def flood() -> None:
        nonlocal number
        number += 1
        if scheduler.num_waiting < 50:
            scheduler.submit(prompt_of(f"urgent-{number}", 64, number + 1, priority=-100, max_tokens=1))

    flood()
    scheduler.submit(worst)
    assert PATIENCE <= steps_until_drawn(scheduler, worst, flood) <= PATIENCE + 1


def test_worst_priority_keeps_going_once_it_is_begun() -> None:
    scheduler = large_scheduler(budget=64)
    worst = prompt_of("worst", 640, 1, priority=100)
    number = 0

    def flood() -> None:
        nonlocal number
        number += 1
        if scheduler.num_waiting < 50:
            scheduler.submit(prompt_of(f"urgent-{number}", 64, number + 1, priority=-100, max_tokens=1))

    flood()
    scheduler.submit(worst)
    chunk = 64 - 64 // SHORT_PART
    assert steps_until_drawn(scheduler, worst, flood) <= (PATIENCE + 1) * (cdiv(640, chunk) + 1)


def test_slot_that_becomes_free_goes_to_the_oldest_when_its_turn_is_due() -> None:
    scheduler = large_scheduler(max_num_seqs=2)
    number = 0

    def flood() -> None:
        nonlocal number
        while scheduler.num_waiting < 5:
            number += 1
            scheduler.submit(prompt_of(f"urgent-{number}", 20, number + 1, priority=-5, max_tokens=7))

    worst = prompt_of("worst", 60, 1, priority=5)
    scheduler.submit(worst)
    assert PATIENCE <= steps_until_drawn(scheduler, worst, flood) <= PATIENCE + 7


def test_several_long_prompts_on_their_way_do_not_preempt_each_other() -> None:
    scheduler = scheduler_of(num_blocks=16, budget=8, max_context=64)
    scheduler.submit(prompt_of("a", 30, 1, max_tokens=2))
    step(scheduler)
    scheduler.submit(prompt_of("urgent", 24, 2, max_tokens=2, priority=-1))
    scheduler.submit(prompt_of("third", 24, 3, max_tokens=2, priority=-2))
    while scheduler.has_work:
        plan = planned(scheduler)
        assert not plan.preempted
        completed(scheduler, plan)


# -- for any requests --------------------------------------------------------------------------

REQUESTS = st.lists(
    st.tuples(
        st.integers(1, 60),  # prompt tokens
        st.integers(1, 12),  # max_tokens
        st.sampled_from([0, 0, 0, -100, 100, 1]),  # priority
        st.sampled_from(["", "", "a", "b"]),  # tenant
        st.integers(0, 3),  # steps until the next one comes
    ),
    min_size=1,
    max_size=14,
)


def _checked_step(scheduler: Scheduler, budget: int) -> None:
    """Runs a step; what decoded before must have drawn by it, unless it was preempted."""
    decoding = [each for each in scheduler._running if each.output_token_ids and each.num_pending_tokens == 1]
    lengths = {each.request_id: len(each.output_token_ids) for each in decoding}
    plan = planned(scheduler)
    assert plan.num_tokens <= budget
    completed(scheduler, plan)
    for each in decoding:
        is_drawn = len(each.output_token_ids) == lengths[each.request_id] + 1
        assert is_drawn or each.request_id in plan.preempted


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(work=REQUESTS, budget=st.integers(4, 24), max_num_seqs=st.integers(1, 6), num_blocks=st.integers(19, 40))
def test_every_request_finishes_and_who_decodes_advances(
    work: list[tuple[int, int, int, str, int]], budget: int, max_num_seqs: int, num_blocks: int
) -> None:
    scheduler = scheduler_of(num_blocks, budget=budget, max_num_seqs=max_num_seqs, max_context=80)
    requests: list[Request] = []
    for index, (num_tokens, max_tokens, priority, tenant, num_steps) in enumerate(work):
        requests.append(prompt_of(f"r{index}", num_tokens, index, max_tokens=max_tokens, priority=priority, tenant=tenant))
        scheduler.submit(requests[-1])
        for _ in range(num_steps if scheduler.has_work else 0):
            if scheduler.has_work:
                _checked_step(scheduler, budget)
    num_left = 100 * sum(each.num_tokens + (each.sampling.max_tokens or 0) for each in requests)
    while scheduler.has_work and num_left:
        _checked_step(scheduler, budget)
        num_left -= 1
    assert all(each.status is RequestStatus.FINISHED for each in requests)
    assert all(len(each.output_token_ids) == each.sampling.max_tokens for each in requests)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(work=REQUESTS, budget=st.integers(20, 48))
def test_no_request_waits_longer_than_older_ones_and_patience_explain(
    work: list[tuple[int, int, int, str, int]], budget: int
) -> None:
    """With room for all: each older prompt needs so many chunks, and the oldest gets one in every PATIENCE + 2 steps."""
    scheduler = scheduler_of(2_000, budget=budget, max_num_seqs=14, max_context=80)
    chunk = (budget - 14) - (budget - 14) // SHORT_PART
    older, came, bounds = 0, dict[str, int](), dict[str, int]()
    waiting: dict[str, Request] = {}
    num_steps = 0

    def run() -> None:
        nonlocal num_steps
        step(scheduler)
        num_steps += 1
        for name, request in list(waiting.items()):
            if request.output_token_ids:
                del waiting[name]
            else:
                assert num_steps - came[name] <= bounds[name], name

    for index, (num_tokens, max_tokens, priority, _, pause) in enumerate(work):
        request = prompt_of(f"r{index}", num_tokens, index, max_tokens=max_tokens, priority=priority)
        older += cdiv(num_tokens, chunk)
        waiting[request.request_id], came[request.request_id] = request, num_steps
        bounds[request.request_id] = (PATIENCE + 2) * older
        scheduler.submit(request)
        for _ in range(pause):
            if scheduler.has_work:
                run()
    while scheduler.has_work:
        run()
    assert not waiting
