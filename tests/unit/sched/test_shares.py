"""Tenants get equal shares in tokens, whatever each of them asks for."""

from __future__ import annotations

from quire.request import Request
from quire.sched.scheduler import Scheduler
from quire.sched.shares import MAX_REMEMBERED, Shares
from support.sched_world import completed, large_scheduler, planned, prompt_of, scheduler_of, step, steps_until_drawn


def given_tokens(scheduler: Scheduler, num_steps: int) -> dict[str, int]:
    """Runs steps and returns the tokens that each tenant got, by the first letter of its requests."""
    tokens: dict[str, int] = {}
    for _ in range(num_steps):
        for name, (_, num_tokens) in step(scheduler).items():
            tokens[name[0]] = tokens.get(name[0], 0) + num_tokens
    return tokens


def submit_many(scheduler: Scheduler, tenant: str, count: int, num_tokens: int, **options: object) -> list[Request]:
    requests = [
        prompt_of(f"{tenant}{index}", num_tokens, 500 * ord(tenant[0]) + index, tenant=tenant, **options)
        for index in range(count)
    ]
    for request in requests:
        scheduler.submit(request)
    return requests


def test_flood_of_one_tenant_delays_a_prompt_of_another_by_its_own_length_at_most() -> None:
    scheduler = large_scheduler(max_num_seqs=8)
    submit_many(scheduler, "flood", 100, 600, max_tokens=1)
    given_tokens(scheduler, 20)
    (single,) = submit_many(scheduler, "single", 1, 4_096)
    alone = 8
    assert steps_until_drawn(scheduler, single) <= 2 * alone + 1


def test_short_prompt_of_another_tenant_draws_in_the_next_step() -> None:
    scheduler = large_scheduler(max_num_seqs=8)
    submit_many(scheduler, "flood", 100, 600, max_tokens=1, priority=-100)
    given_tokens(scheduler, 20)
    (single,) = submit_many(scheduler, "single", 1, 200)
    assert steps_until_drawn(scheduler, single) == 1, "priorities act inside a tenant"


def test_two_floods_get_the_same_tokens() -> None:
    scheduler = large_scheduler()
    submit_many(scheduler, "a", 60, 2_000, max_tokens=1, priority=-100)
    submit_many(scheduler, "b", 400, 100, max_tokens=1)
    tokens = given_tokens(scheduler, 100)
    assert abs(tokens["a"] - tokens["b"]) <= 2 * 512
    assert tokens["a"] + tokens["b"] == 100 * 512, "nothing is left over"


def test_tenant_that_was_away_is_owed_nothing() -> None:
    scheduler = large_scheduler()
    submit_many(scheduler, "a", 60, 2_000, max_tokens=1)
    given_tokens(scheduler, 50)
    submit_many(scheduler, "b", 60, 2_000, max_tokens=1)
    tokens = given_tokens(scheduler, 50)
    assert abs(tokens["a"] - tokens["b"]) <= 512


def test_flood_that_decodes_in_every_slot_gives_one_back_to_another_tenant() -> None:
    scheduler = large_scheduler(max_num_seqs=4)
    flood = submit_many(scheduler, "flood", 10, 20, max_tokens=1_000)
    given_tokens(scheduler, 5)
    (single,) = submit_many(scheduler, "single", 1, 200, max_tokens=10)
    plan = planned(scheduler)
    assert plan.preempted == (flood[3].request_id,), "its least urgent one"
    completed(scheduler, plan)
    assert len(single.output_token_ids) == 1
    submit_many(scheduler, "second", 2, 200, max_tokens=10)
    plan = planned(scheduler)
    assert plan.preempted == (flood[2].request_id,)
    completed(scheduler, plan)
    assert not planned(scheduler).preempted, "four slots, three tenants: a fair share is one slot"


def test_more_tenants_than_slots_take_none_from_each_other() -> None:
    scheduler = large_scheduler(max_num_seqs=2)
    for tenant in "abcde":
        submit_many(scheduler, tenant, 2, 20, max_tokens=5)
    while scheduler.has_work:
        plan = planned(scheduler)
        assert not plan.preempted
        completed(scheduler, plan)


def test_flood_that_holds_all_blocks_gives_some_back_to_another_tenant() -> None:
    scheduler = scheduler_of(num_blocks=32, budget=64, max_context=128)
    flood = submit_many(scheduler, "flood", 3, 60, max_tokens=60)
    given_tokens(scheduler, 10)
    (single,) = submit_many(scheduler, "single", 1, 30, max_tokens=3)
    assert steps_until_drawn(scheduler, single) == 1
    while scheduler.has_work:
        step(scheduler)
    assert all(len(request.output_token_ids) == 60 for request in flood)


def test_one_tenant_is_never_preempted_for_its_own_requests() -> None:
    scheduler = large_scheduler(max_num_seqs=4)
    submit_many(scheduler, "only", 10, 20, max_tokens=50)
    while scheduler.has_work:
        plan = planned(scheduler)
        assert not plan.preempted
        completed(scheduler, plan)


def test_accounts_are_bounded_and_gone_when_nothing_runs() -> None:
    shares = Shares()
    shares.enter("stays", 0)
    for index in range(3 * MAX_REMEMBERED):
        shares.enter(f"t{index}", index)
        shares.leave(f"t{index}")
        assert len(shares._accounts) <= MAX_REMEMBERED + 1
    shares.leave("stays")
    assert not shares._accounts


# -- side requests -------------------------------------------------------------------------------


def test_side_requests_do_not_evict_the_chat_of_their_tenant() -> None:
    scheduler = scheduler_of(num_blocks=40, budget=64, max_context=128)
    old = prompt_of("old", 40, 1, max_tokens=1)
    chat = prompt_of("chat", 60, 2, max_tokens=4)
    for request in (old, chat):
        scheduler.submit(request)
        while scheduler.has_work:
            step(scheduler)
    for index in range(6):
        scheduler.submit(prompt_of(f"title-{index}", 10, index + 3, max_tokens=2))
        while scheduler.has_work:
            step(scheduler)
    again = prompt_of("chat, next turn", 70, 2)
    scheduler.submit(again)
    step(scheduler)
    assert again.num_cached_tokens == 60, "what is older was evicted first"


def test_side_requests_do_not_evict_a_chat_that_runs() -> None:
    scheduler = scheduler_of(num_blocks=24, budget=64, max_context=96)
    chat = prompt_of("chat", 60, 1, max_tokens=30)
    scheduler.submit(chat)
    step(scheduler)
    for index in range(12):
        scheduler.submit(prompt_of(f"title-{index}", 10, index + 2, max_tokens=1))
        step(scheduler)
    assert chat.num_preemptions == 0
    scheduler.submit(again := prompt_of("chat, again", 62, 1, max_tokens=1))
    step(scheduler)
    assert again.num_cached_tokens == 60
