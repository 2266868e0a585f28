from __future__ import annotations

import pytest

from quire.errors import CapacityError, DuplicateRequestError, EmptyPromptError, PromptTooLongError, RequestError
from quire.request import Request, SamplingParams
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


def test_a_duplicate_id_is_refused_while_the_first_is_in_progress() -> None:
    scheduler = scheduler_of()
    scheduler.submit(request_of("r", range(3), max_tokens=1))
    with pytest.raises(DuplicateRequestError, match="in progress"):
        scheduler.submit(request_of("r", range(3)))
    step(scheduler)
    scheduler.submit(request_of("r", range(3)))


def test_a_full_queue_refuses_and_forgets() -> None:
    scheduler = scheduler_of(max_queued_requests=1)
    scheduler.submit(request_of("a", range(3)))
    with pytest.raises(CapacityError, match="queue is full"):
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
