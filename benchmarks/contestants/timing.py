"""From an engine that can do one step to a reading: the same clock for every contestant that schedules by itself."""

from __future__ import annotations

import time
from collections.abc import Callable

from .protocol import Reading

TokensSoFar = list[list[int]]


def timed_steps(step: Callable[[], TokensSoFar], num_new: int) -> Reading:
    """Calls `step`, which returns the tokens of every request so far, until each has `num_new`.

    A step counts from the end of the one before that brought a token, so that work in between is not lost.
    """
    first = last = time.perf_counter()
    prefill_s: float | None = None
    steps: list[float] = []
    num_known = 0
    while True:
        tokens = step()
        now = time.perf_counter()
        num_tokens = sum(map(len, tokens))
        if prefill_s is None and all(tokens):
            prefill_s, last = now - first, now
        elif prefill_s is not None and num_tokens > num_known:
            steps.append(now - last)
            last = now
        num_known = num_tokens
        if prefill_s is not None and all(len(each) >= num_new for each in tokens):
            return Reading(prefill_s=prefill_s, steps_s=steps, token_ids=[list(each) for each in tokens])
