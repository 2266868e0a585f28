"""A core that several threads may ask at once: they take turns step by step, and what they ask is computed together.

thread A   submit   step   .      step   (done)         whichever thread has the turn runs a step for all of them;
thread B   .        .      step   .      step (done)    events go to the reader of their request, in whatever thread it waits
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from quire.engine.core import EngineCore, StepEvent
from quire.engine.group import Submission, last_delta
from quire.engine.interrupt import interrupts_deferred
from quire.engine.turns import Turns
from quire.errors import ExecutorError, IntegrityError, RequestError
from quire.request import RequestOutput

_PATIENCE_S = 0.05
"""How long a thread waits for its turn before it looks for a Ctrl-C."""


class SharedCore:
    """The calls of `LLM` on its core. Every answer is the one that its caller would get alone."""

    def __init__(self, core: EngineCore) -> None:
        self._core: EngineCore | None = core
        self._turns = Turns()
        self._readers: dict[str, Callable[[StepEvent], None]] = {}  # what takes the events of each unfinished request
        self._abandoned: deque[str] = deque()  # requests without a reader, to be ended by the thread whose turn it is

    @property
    def core(self) -> EngineCore:
        """The core itself; raises RequestError once it is closed."""
        if self._core is None:
            raise RequestError("this LLM is closed", next_step="Create another one.")
        return self._core

    def run(self, submissions: Sequence[Submission], watch: Callable[[RequestOutput], None] | None = None) -> list[RequestOutput]:
        """Returns the final output of every submission; raises RequestError before anything runs if one is refused.

        `watch` sees each output when it is final, in whatever thread that is.

        Whatever ends the call early, Ctrl-C included, ends its requests and no others.
        """
        request_ids = [submission.request_id for submission in submissions]
        outputs: dict[str, RequestOutput] = {}

        def keep_final(event: StepEvent) -> None:
            if isinstance(event, RequestOutput):
                outputs[event.request_id] = event
                if watch is not None:
                    watch(event)

        try:
            with self._turn():
                for submission in submissions:
                    self.core.submit(submission)
                    self._readers[submission.request_id] = keep_final
            while len(outputs) < len(request_ids):
                self._step(lambda: len(outputs) == len(request_ids))
            return [outputs[request_id] for request_id in request_ids]
        finally:
            self._leave(request_ids)

    def follow(self, submission: Submission) -> Iterator[RequestOutput]:
        """Yields what each step adds to a submission, its final output without anything new last."""
        request_id = submission.request_id
        events: deque[StepEvent] = deque()
        try:
            with self._turn():
                group = self.core.submit(submission)
                self._readers[request_id] = events.append
            while True:
                while not events:
                    self._step(lambda: bool(events))
                event = events.popleft()
                if isinstance(event, RequestOutput):
                    yield last_delta(event)
                    return
                yield group.delta(event)
        finally:
            self._leave([request_id])

    def close(self) -> None:
        """Ends all requests, also those of other threads, whose calls raise RequestError; a second call does nothing."""
        if self._turns.is_mine or not self._turns.survive_fork():  # a signal handler makes the step that runs the last one
            self._core = None
            return
        with self._turn():
            if self._core is not None:
                self._core.close()
                self._core = None

    # -- inside ----------------------------------------------------------------------

    def _step(self, is_answered: Callable[[], bool]) -> None:
        """Runs one step and gives each event to its reader; nothing if another thread's step brought what is awaited."""
        with self._turn():
            if is_answered():
                return
            if not self.core.has_work:
                raise IntegrityError(
                    "an answer is awaited but nothing runs", next_step="Do not end requests behind the LLM's back."
                )
            for event in self.core.step():
                self._deliver(event)

    def _deliver(self, event: StepEvent) -> None:
        request_id = event.request_id
        is_final = isinstance(event, RequestOutput)
        read = self._readers.pop(request_id, None) if is_final else self._readers.get(request_id)
        if read is not None:
            read(event)

    def _leave(self, request_ids: Sequence[str]) -> None:
        """Ends those of these requests that still run, at the latest after the step that runs now.

        Never waits: a stream may be garbage-collected in any thread at any moment, also within a step.
        """
        self._abandoned.extend(request_id for request_id in request_ids if self._readers.pop(request_id, None) is not None)
        self._end_abandoned()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Gives the core to one thread at a time. Ctrl-C waits until the body has ended, but never for another thread."""
        if self._turns.is_mine:
            raise RequestError(
                "this LLM is called in the middle of its own step",
                next_step="Let a signal handler or finalizer set a flag, and call the LLM after the step.",
            )
        if not self._turns.survive_fork():
            raise ExecutorError(
                "this process was forked while another thread computed a step",
                next_step="Start processes with the spawn method, or create the LLM in each of them.",
            )
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
            while self._abandoned:
                request_id = self._abandoned.popleft()
                if self._core is not None:
                    self._core.abort(request_id)
        finally:
            self._turns.give()

    def _end_abandoned(self) -> None:
        while self._abandoned:
            with interrupts_deferred():
                if not self._turns.take_if_free():
                    return  # the thread whose turn it is comes here when it has ended it
                self._end_turn()
