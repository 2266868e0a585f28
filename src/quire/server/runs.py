"""Requests while the engine computes them: how their events reach the one coroutine that answers, and what may wake it besides.

engine thread   read, read ... --> EventReader --+
the loop        heartbeat, disconnect, shutdown -+--> Run.events()
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

from quire.engine.async_engine import AsyncEngine
from quire.engine.engine_thread import LoopReader
from quire.engine.step_events import StepEvent
from quire.errors import RequestError
from quire.request import FinishReason, RequestOutput
from quire.server.admission import Admission
from quire.server.errors import SHUTTING_DOWN, ApiError, Refusal
from quire.server.generation import Generation

_log = logging.getLogger("quire.server")


class EventReader:
    """A reader of the engine's. Ready when there is anything to take, or only when all is done (`waits_for_end`)."""

    def __init__(self, num_groups: int, *, waits_for_end: bool) -> None:
        self.is_woken = False  # written in the event loop
        self._num_open = num_groups
        self._waits_for_end = waits_for_end
        self._events: deque[StepEvent] = deque()
        self._error: BaseException | None = None

    @property
    def is_ready(self) -> bool:
        has_events = self._num_open == 0 if self._waits_for_end else bool(self._events)
        return has_events or self.is_woken or self._error is not None

    def read(self, event: StepEvent) -> None:
        if isinstance(event, RequestOutput):
            self._events.append(event)
            self._num_open -= 1  # behind the event: where nothing is open, all events are there
        elif not self._waits_for_end:
            self._events.append(event)

    def fail(self, error: BaseException) -> None:
        self._error = error

    def take(self) -> list[StepEvent]:
        """Returns what has piled up, or raises the error."""
        self.is_woken = False
        if self._error is not None:
            raise self._error
        return [self._events.popleft() for _ in range(len(self._events))]


class Run:
    """A generation in progress, as a context manager: entering it begins, leaving it ends what still runs, with that step.

    Entering raises ApiError (429) where too much is open.
    """

    def __init__(self, generation: Generation, engine: AsyncEngine, runs: Runs, *, is_streamed: bool) -> None:
        self.generation = generation
        self.is_gone = False  # whether the client has disconnected
        self.error: BaseException | None = None  # what `events` raised
        self.last_sent_s = time.monotonic()
        self.outputs: list[RequestOutput] = []
        self._engine, self._runs = engine, runs
        self._reader = EventReader(len(generation.groups), waits_for_end=not is_streamed)
        self._waiting: LoopReader[EventReader] | None = None

    @property
    def is_over(self) -> bool:
        """Whether every final output was taken."""
        return len(self.outputs) == len(self.generation.groups)

    async def events(self) -> list[StepEvent]:
        """Waits for events and returns them, none where something else woke the caller.

        Raises what ended the requests: an ApiError, or an error of the engine's. Final outputs are kept in `outputs` too, at
        the end in the order of their groups.
        """
        try:
            if self._waiting is not None:
                await self._waiting.until_ready()
            events = self._reader.take()
            ended = [event for event in events if isinstance(event, RequestOutput)]
            if ended:
                self._note_ends(ended)
        except RequestError as error:  # it was checked before: what is refused now is everything
            self.error = shutting_down()
            raise self.error from error
        except Exception as error:
            self.error = error
            raise
        return events

    def wake(self) -> None:
        """Lets the caller of `events` look around. Only for the event loop of that caller."""
        self._reader.is_woken = True
        if self._waiting is not None:
            self._waiting.wake()

    def leave(self) -> None:
        """Notes that the client has disconnected."""
        self.is_gone = True
        self.wake()

    def fail(self, error: ApiError) -> None:
        """Ends the run with an error, in the event loop of its caller."""
        self._reader.fail(error)
        if self._waiting is not None:
            self._waiting.wake()

    def __enter__(self) -> Self:
        self._runs.add(self)
        try:
            self._waiting = self._engine.follow(self.generation.groups, self._reader)
        except BaseException:
            self._runs.remove(self)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._engine.leave(self.generation.groups)
        self._runs.remove(self)

    def _note_ends(self, ended: list[RequestOutput]) -> None:
        for output in ended:
            if any(completion.finish_reason is FinishReason.ERROR for completion in output.outputs):
                raise _failed(output)
            if any(completion.finish_reason is FinishReason.ABORT for completion in output.outputs):
                raise shutting_down()
        order = self.generation.numbers
        self.outputs = sorted([*self.outputs, *ended], key=lambda output: order[output.request_id])


class Runs:
    """All runs of a server: counted by admission, woken when their stream was silent, ended on shutdown."""

    def __init__(self, admission: Admission, clock: Callable[[], float] = time.monotonic) -> None:
        self.admission = admission
        self._clock = clock
        self._open: set[Run] = set()

    @property
    def num_open(self) -> int:
        return len(self._open)

    def add(self, run: Run) -> None:
        """Counts a run; raises ApiError (429) where there are too many."""
        self.admission.admit(run.generation.load, self._clock())
        self._open.add(run)

    def remove(self, run: Run) -> None:
        """Counts a run as done."""
        if run in self._open:
            self._open.remove(run)
            self.admission.release(run.generation.load, self._clock())

    def wake_silent(self, silence_s: float) -> None:
        """Wakes the runs whose streams have sent nothing for so long."""
        since = self._clock() - silence_s
        for run in self._open:
            if run.last_sent_s <= since:
                run.wake()

    def end_all(self) -> None:
        """Ends every run with an error that says why."""
        for run in tuple(self._open):
            run.fail(shutting_down())


def shutting_down() -> ApiError:
    """Returns the error for what a server that ends does not do any more."""
    return ApiError(
        "the server is shutting down",
        next_step="Ask again when it is back.",
        refusal=Refusal(status=503, code=SHUTTING_DOWN, headers={"retry-after": "5", "retry-after-ms": "5000"}),
    )


def _failed(output: RequestOutput) -> ApiError:
    """Returns the error for a request that the engine failed at; what failed is written into the log."""
    message = next(completion.error for completion in output.outputs if completion.error is not None)
    _log.error("%s failed: %r", output.request_id, message)
    return ApiError(
        "the engine could not compute this request",
        next_step="Try again; if it stays, see the server's log.",
        refusal=Refusal(status=500, code="engine_error"),
    )
