"""Stored responses: whose they are, how many fit, how long they stay, and that every byte is counted once."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.server.limits import Limits
from quire.server.responses.store import ResponseStore, Turn


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def turn(text: str = "", previous: Turn | None = None) -> Turn:
    return Turn(input=json.dumps([f"in {text}"]).encode(), output=json.dumps([f"out {text}"]).encode(), previous=previous)


def counted_by_hand(store: ResponseStore, kept: dict[tuple[str, str], tuple[bytes, Turn]]) -> int:
    """Returns the bytes of all responses that the store still has, and of all turns that these reach."""
    bodies, turns = 0, {}
    for (owner, response_id), (body, last) in kept.items():
        if response_id in store._shelves[owner].entries:
            bodies += len(body)
            reached: Turn | None = last
            while reached is not None:
                turns[id(reached)] = reached
                reached = reached.previous
    return bodies + sum(each.num_bytes for each in turns.values())


def test_conversation_is_every_turn_up_to_a_response() -> None:
    first = turn("1")
    second = turn("2", first)
    assert second.items() == ["in 1", "out 1", "in 2", "out 2"]
    assert second.input_items() == ["in 1", "out 1", "in 2"]
    assert second.num_conversation_bytes() == first.num_bytes + second.num_bytes


def test_response_is_there_for_its_owner_only() -> None:
    store = ResponseStore(Limits())
    store.put("me", "resp_1", b"{}", turn())
    stored = store.get("me", "resp_1")
    assert stored is not None
    assert stored.body == b"{}"
    assert store.get("you", "resp_1") is None
    assert not store.delete("you", "resp_1")
    assert store.delete("me", "resp_1")
    assert store.get("me", "resp_1") is None
    assert (store.num_bytes, store.num_responses) == (0, 0)


def test_turn_survives_its_response_while_a_later_one_needs_it() -> None:
    store = ResponseStore(Limits())
    first = turn("1")
    store.put("me", "resp_1", b"{}", first)
    store.put("me", "resp_2", b"{}", turn("2", first))
    store.delete("me", "resp_1")
    stored = store.get("me", "resp_2")
    assert stored is not None
    assert stored.turn.items() == ["in 1", "out 1", "in 2", "out 2"]
    store.delete("me", "resp_2")
    assert store.num_bytes == 0


def test_turn_of_a_response_that_went_while_the_next_was_computed_is_counted_again() -> None:
    store = ResponseStore(Limits())
    first = turn("1")
    store.put("me", "resp_1", b"", first)
    store.delete("me", "resp_1")
    second = turn("2", first)
    store.put("me", "resp_2", b"", second)
    assert store.num_bytes == first.num_bytes + second.num_bytes


def test_response_goes_some_time_after_its_last_use() -> None:
    clock = Clock()
    store = ResponseStore(Limits(stored_s=10), clock)
    store.put("me", "used", b"", turn())
    store.put("me", "unused", b"", turn())
    clock.now_s = 9.0
    assert store.get("me", "used") is not None
    clock.now_s = 10.0
    assert store.get("me", "unused") is None
    assert store.get("me", "used") is not None
    assert store.num_responses == 1


def test_least_recently_used_goes_first() -> None:
    store = ResponseStore(Limits(stored_responses=2))
    for name in ("resp_1", "resp_2"):
        store.put("me", name, b"", turn())
    store.get("me", "resp_1")
    store.put("me", "resp_3", b"", turn())
    assert [store.get("me", name) is not None for name in ("resp_1", "resp_2", "resp_3")] == [True, False, True]


@pytest.mark.parametrize("limits", [Limits(stored_bytes=1000), Limits(stored_responses=5)])
def test_owner_of_much_pushes_out_none_of_another(limits: Limits) -> None:
    store = ResponseStore(limits)
    store.put("you", "resp_yours", b"x" * 100, turn())
    for number in range(50):
        store.put("me", f"resp_{number}", b"x" * 150, turn())
    assert store.get("you", "resp_yours") is not None
    assert store.get("me", "resp_49") is not None
    assert store.num_bytes <= limits.stored_bytes
    assert store.num_responses <= limits.stored_responses


def test_response_larger_than_the_store_is_not_kept() -> None:
    store = ResponseStore(Limits(stored_bytes=100))
    store.put("me", "resp_1", b"x" * 101, turn())
    assert store.get("me", "resp_1") is None
    assert store.num_bytes == 0


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["put", "chain", "get", "delete", "wait"]), st.sampled_from("ab"), st.integers(0, 9)),
        max_size=60,
    )
)
def test_every_byte_is_counted_once(steps: list[tuple[str, str, int]]) -> None:
    clock = Clock()
    limits = Limits(stored_bytes=700, stored_responses=12, stored_s=20)
    store = ResponseStore(limits, clock)
    kept: dict[tuple[str, str], tuple[bytes, Turn]] = {}
    for number, (what, owner, which) in enumerate(steps):
        earlier = f"resp_{number - which}"
        if what == "delete":
            store.delete(owner, earlier)
        elif what == "wait":
            clock.now_s += which
        else:
            found = None if what == "put" else store.get(owner, earlier)
            if what != "get":
                body, last = b"y" * which * 10, turn("x" * which, None if found is None else found.turn)
                kept[owner, f"resp_{number}"] = (body, last)
                store.put(owner, f"resp_{number}", body, last)
        assert store.num_bytes == counted_by_hand(store, kept) <= limits.stored_bytes
        assert store.num_responses <= limits.stored_responses
