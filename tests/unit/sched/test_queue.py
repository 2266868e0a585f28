from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from quire.request import Request, SamplingParams
from quire.sched.queue import WaitingQueue


def request(arrival: int, priority: int = 0) -> Request:
    name = f"r{arrival}"
    return Request(request_id=name, prompt_token_ids=(1,), sampling=SamplingParams(), priority=priority, arrival=arrival)


def taken(queue: WaitingQueue) -> Iterator[Request]:
    """Takes one request after another, in their order."""
    while (first := queue.first()) is not None:
        queue.remove(first.request_id)
        yield first


def test_smaller_priority_first_then_earlier_arrival() -> None:
    queue = WaitingQueue()
    for waiting in (request(2), request(0, priority=1), request(1), request(3, priority=-1)):
        queue.push(waiting)
    assert [waiting.arrival for waiting in queue] == [2, 0, 1, 3], "to look at, as they were pushed"
    assert queue.first() is not None
    assert [waiting.arrival for waiting in taken(queue)] == [3, 1, 2, 0]


def test_a_request_that_comes_back_is_at_its_old_place() -> None:
    queue = WaitingQueue()
    first = request(0)
    queue.push(first)
    queue.push(request(1))
    assert next(taken(queue)) is first
    queue.push(first)
    assert next(taken(queue)) is first


def test_a_removed_request_is_never_popped() -> None:
    queue = WaitingQueue()
    for arrival in range(3):
        queue.push(request(arrival))
    removed = queue.remove("r1")
    assert removed is not None
    assert removed.arrival == 1
    assert queue.remove("r1") is None
    assert len(queue) == 2
    assert [waiting.arrival for waiting in taken(queue)] == [0, 2]


def test_an_id_that_is_reused_takes_the_place_of_its_new_request() -> None:
    queue = WaitingQueue()
    queue.push(request(0))
    queue.push(request(1))
    queue.remove("r0")
    again = Request(request_id="r0", prompt_token_ids=(1,), sampling=SamplingParams(), arrival=2)
    queue.push(again)
    assert [waiting.arrival for waiting in taken(queue)] == [1, 2]


@given(st.lists(st.tuples(st.sampled_from("+-p"), st.integers(0, 30)), max_size=120))
def test_behaves_like_a_sorted_list(verbs: list[tuple[str, int]]) -> None:
    queue, model = WaitingQueue(), dict[str, Request]()
    for arrival, (verb, number) in enumerate(verbs):
        if verb == "+":
            waiting = request(arrival, priority=number % 3)
            queue.push(waiting)
            model[waiting.request_id] = waiting
        elif verb == "-" and model:
            name = list(model)[number % len(model)]
            assert queue.remove(name) is model.pop(name)
        else:
            first = min(model.values(), key=lambda waiting: (waiting.priority, waiting.arrival), default=None)
            assert next(taken(queue), None) is first
            if first is not None:
                del model[first.request_id]
        assert len(queue) == len(model)
