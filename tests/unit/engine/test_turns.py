"""Turns: the one who has just worked goes behind those who wait."""

from __future__ import annotations

import threading

from quire.engine.turns import Turns


def test_the_last_holder_waits_behind_a_waiting_thread() -> None:
    turns, order = Turns(), []
    waiting = threading.Event()

    def work() -> None:
        waiting.set()
        while not turns.take(60.0):
            pass
        order.append("waiting")
        turns.give()

    assert turns.take(0.0)
    other = threading.Thread(target=work)
    other.start()
    waiting.wait(60.0)
    while not turns._gate.locked():
        pass
    turns.give()
    assert turns.take(60.0)
    order.append("holder")
    turns.give()
    other.join(60.0)
    assert order == ["waiting", "holder"]


def test_a_turn_is_not_taken_twice() -> None:
    turns = Turns()
    assert not turns.is_mine
    assert turns.take_if_free()
    assert turns.is_mine
    assert not turns.take_if_free()
    assert not turns.take(0.0)
    turns.give()
    assert not turns.is_mine
    assert turns.take(0.0)


def test_a_turn_of_another_thread_is_not_mine() -> None:
    turns = Turns()
    other = threading.Thread(target=turns.take_if_free)
    other.start()
    other.join(60.0)
    assert not turns.is_mine
    assert not turns.take(0.0)
