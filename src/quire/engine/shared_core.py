"""A core that several threads may ask at once: they take turns step by step, and what they ask is computed together.

thread A   submit   step   .      step   (done)         whichever thread has the turn runs a step for all of them;
thread B   .        .      step   .      step (done)    events go to the reader of their request, in whatever thread it waits
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from quire.engine.completion import RequestGroup
from quire.engine.core import EngineCore
from quire.engine.interrupt import interrupts_deferred
from quire.engine.prompts import Submission
from quire.engine.readers import Reader
from quire.engine.routing import RoutedCore
from quire.engine.turns import Turns, forked_in_a_step
from quire.errors import IntegrityError, RequestError
from quire.kv.explain import CacheExplanation, Unexplained

FoundT = TypeVar("FoundT")

_PATIENCE_S = 0.05
"""How long a thread waits for its turn before it looks for a Ctrl-C."""


class SharedCore:
    """The core of an `LLM`. Every answer is the one that its caller would get alone."""

    def __init__(self, core: EngineCore) -> None:
        self._routed = RoutedCore(core, "LLM")
        self._turns = Turns()

    @property
    def core(self) -> EngineCore:
        """The core itself; raises RequestError once it is closed."""
        return self._routed.core

    def check(self, submissions: Sequence[Submission]) -> list[RequestGroup]:
        """Returns the groups of submissions, to `submit`; raises RequestError if any of them can never be answered."""
        return self._routed.check(submissions)

    def submit(self, groups: Sequence[RequestGroup], reader: Reader) -> None:
        """Queues checked groups for the next step, and their events for a reader. Raises where the thread can get no turn."""
        self._require_turns()
        self._routed.submit(groups, reader)

    def step(self, reader: Reader) -> None:
        """Runs one step for the readers of all threads; nothing if another thread's step brought what this one awaits."""
        with self._turn():
            if not reader.is_ready and not self._routed.step() and not reader.is_ready:
                raise IntegrityError(
                    "an answer is awaited but nothing runs", next_step="Do not end requests behind the LLM's back."
                )

    def leave(self, request_ids: Sequence[str]) -> None:
        """Ends those of these requests that still run, at the latest after the step that runs now.

        Never waits: a stream may be garbage-collected in any thread at any moment, also within a step.
        """
        self._routed.leave(request_ids)
        self._end_abandoned()

    def explain(self, request_id: str) -> CacheExplanation | Unexplained:
        """Returns what the cache did for a request, or the first completion of one, or why that is not known."""
        return self._routed.explain(request_id)

    def look(self, look: Callable[[EngineCore], FoundT]) -> FoundT:
        """Returns what a function finds in the core between two steps."""
        with self._turn():
            return look(self._routed.core)

    def close(self) -> None:
        """Ends all requests, also those of other threads, whose calls raise RequestError; a second call does nothing."""
        if self._turns.is_mine or not self._turns.survive_fork():  # a signal handler makes the step that runs the last one
            self._routed.refuse()
            return
        with self._turn():
            self._routed.end()

    # -- inside ----------------------------------------------------------------------

    def _require_turns(self) -> None:
        """Raises the error for which the calling thread can never get a turn."""
        if self._turns.is_mine:
            raise RequestError(
                "this LLM is called in the middle of its own step",
                next_step="Let a signal handler or finalizer set a flag, and call the LLM after the step.",
            )
        if not self._turns.survive_fork():
            raise forked_in_a_step("the LLM")

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Gives the core to one thread at a time. Ctrl-C waits until the body has ended, but never for another thread."""
        self._require_turns()
        try:
            while True:
                with interrupts_deferred():  # one that comes while waiting is delivered before the next try
                    if self._turns.take(_PATIENCE_S):
                        try:
                            yield
                        finally:
                            self._end_turn()
                        return
        finally:
            self._end_abandoned()

    def _end_turn(self) -> None:
        try:
            self._routed.drain()
        finally:
            self._turns.give()

    def _end_abandoned(self) -> None:
        """Has the inbox emptied, by this thread or by the one whose turn it is, which comes here when it has ended it."""
        while not self._routed.inbox.is_empty:
            with interrupts_deferred():
                if not self._turns.take_if_free():
                    return
                self._end_turn()
