"""The thread below an AsyncEngine: a stop ends it whenever it comes."""

from __future__ import annotations

import time

from quire.engine.engine_thread import EngineThread
from quire.text.tokenizer import Tokenizer
from support.fake_engine import FakeExecutor, make_core


def test_stop_whose_wake_up_an_idle_step_takes_is_not_missed(tokenizer: Tokenizer) -> None:
    thread = EngineThread(make_core(FakeExecutor(), tokenizer))
    step = thread.routed.step

    def stop_before_the_inbox_is_read() -> bool:
        thread.ask_to_stop()
        return step()

    thread.routed.step = stop_before_the_inbox_is_read  # type: ignore[method-assign]
    thread.routed.inbox.wake()
    deadline = time.monotonic() + 30
    while thread.is_alive and time.monotonic() < deadline:
        time.sleep(0.005)
    has_ended = not thread.is_alive
    thread.stop()
    assert has_ended
