from __future__ import annotations

import pytest

from quire.errors import CapacityError, EmptyPromptError, IntegrityError, PromptTooLongError, RequestError
from quire.request import Request, SamplingParams
from quire.sched.limits import ContextBound, RequestLimits
from support.sched_world import planned, request_of, scheduler_of, step


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(EmptyPromptError, match="Send at least one token"):
        scheduler_of().submit(request_of("r", range(0)))


@pytest.mark.parametrize("token_id", [-1, 2**32])
def test_an_impossible_token_id_is_refused(token_id: int) -> None:
    request = Request(request_id="r", prompt_token_ids=(1, token_id), sampling=SamplingParams())
    with pytest.raises(RequestError, match="impossible token id"):
        scheduler_of().submit(request)


def test_a_prompt_must_leave_room_for_one_new_token() -> None:
    scheduler = scheduler_of(max_context=8)
    scheduler.submit(request_of("fits", range(7), max_tokens=None))
    with pytest.raises(PromptTooLongError, match=r"given: 8 tokens; limit: a context of 8 tokens"):
        scheduler.submit(request_of("long", range(8), max_tokens=None))


@pytest.mark.parametrize(
    ("bound", "advice"),
    [
        (ContextBound.MODEL, ""),
        (ContextBound.MAX_CONTEXT, ", or raise max_context"),
        (ContextBound.KV_MEMORY, ", or raise kv_memory"),
    ],
)
def test_advice_names_only_an_option_that_makes_room(bound: ContextBound, advice: str) -> None:
    limits = RequestLimits(max_context=8, num_blocks=3, block_size=4, context_bound=bound)
    with pytest.raises(PromptTooLongError) as long_prompt:
        limits.check(request_of("r", range(8)))
    assert long_prompt.value.next_step == f"Shorten the prompt{advice}."
    with pytest.raises(CapacityError) as long_answer:
        limits.check(request_of("r", range(5)))
    assert long_answer.value.next_step == f"Lower max_tokens to 3 or less{advice}."


def test_max_tokens_must_fit_the_context() -> None:
    scheduler = scheduler_of(max_context=8)
    scheduler.submit(request_of("fits", range(5), max_tokens=3))
    with pytest.raises(CapacityError, match="Lower max_tokens to 3 or less"):
        scheduler.submit(request_of("long", range(5), max_tokens=4))


def test_what_the_pool_can_never_hold_is_refused_with_the_numbers() -> None:
    scheduler = scheduler_of(num_blocks=3)
    scheduler.submit(request_of("fits", range(8), max_tokens=4))
    with pytest.raises(CapacityError, match=r"4 blocks for 13 tokens; limit: 3 blocks of 4 tokens"):
        scheduler.submit(request_of("large", range(8), max_tokens=5))
    with pytest.raises(CapacityError, match="4 blocks for 13 tokens"):
        scheduler.submit(request_of("endless", range(12), max_tokens=None))


def test_submitting_an_id_twice_is_a_defect_while_the_first_is_in_progress() -> None:
    scheduler = scheduler_of()
    scheduler.submit(request_of("r", range(3), max_tokens=1))
    with pytest.raises(IntegrityError, match="submitted twice"):
        scheduler.submit(request_of("r", range(3)))
    step(scheduler)
    scheduler.submit(request_of("r", range(3)))


def test_a_full_queue_refuses_and_forgets() -> None:
    scheduler = scheduler_of(max_queued_requests=1)
    scheduler.submit(request_of("a", range(3)))
    with pytest.raises(CapacityError, match=r"queue is full.* Try again when some have been answered"):
        scheduler.submit(request_of("b", range(3)))
    assert [chunk.request_id for chunk in planned(scheduler).scheduled] == ["a"]
    scheduler.submit(request_of("b", range(3)))


def test_what_was_refused_leaves_nothing_behind() -> None:
    scheduler = scheduler_of(max_context=8)
    for tokens in (range(0), range(9)):
        with pytest.raises(RequestError):
            scheduler.submit(request_of("r", tokens))
    assert not scheduler.has_work
    scheduler.manager.check()
    assert scheduler.manager.pool.num_free == 20
