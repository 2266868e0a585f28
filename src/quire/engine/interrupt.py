"""Ctrl-C between steps, never inside one: bookkeeping is not cut in half."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Holds back SIGINT until the body has ended, then delivers it to the handler that was there before.

    Does nothing outside the main thread, where Python delivers no signals, or under a handler that Python did not install.
    """
    previous = signal.getsignal(signal.SIGINT) if threading.current_thread() is threading.main_thread() else None
    if previous is None:
        yield
        return
    num_received = 0

    def remember(_number: int, _frame: FrameType | None) -> None:
        nonlocal num_received
        num_received += 1

    signal.signal(signal.SIGINT, remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
        if num_received:
            signal.raise_signal(signal.SIGINT)
