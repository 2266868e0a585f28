"""What a caller waits with: a reader takes the events of its requests, and says when there is something to take."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from quire.engine.completion import RequestGroup
from quire.engine.step_events import Progress, PromptProgress, StepEvent
from quire.errors import QuireError, is_failure
from quire.request import RequestOutput


class Reader(Protocol):
    """Takes the events of requests, in the thread that steps; `is_ready` says whether its caller has something to take."""

    @property
    def is_ready(self) -> bool: ...
    def read(self, event: StepEvent) -> None: ...
    def fail(self, error: BaseException) -> None: ...


class FinalOutputs:
    """Reads the final outputs of some requests. Ready when all are there, or an error that ends the wait.

    `watch` sees each output when it is final, in whatever thread that is.
    """

    def __init__(self, request_ids: Sequence[str], watch: Callable[[RequestOutput], None] | None = None) -> None:
        self._request_ids = tuple(request_ids)
        self._watch = watch
        self._outputs: dict[str, RequestOutput] = {}
        self._error: BaseException | None = None

    @property
    def is_ready(self) -> bool:
        return self._error is not None or len(self._outputs) == len(self._request_ids)

    def read(self, event: StepEvent) -> None:
        if isinstance(event, RequestOutput):
            self._outputs[event.request_id] = event
            if self._watch is not None:
                self._watch(event)

    def fail(self, error: BaseException) -> None:
        self._error = error

    def take(self) -> list[RequestOutput]:
        """Returns the outputs in the order of their requests, or raises the error."""
        if self._error is not None:
            raise self._error
        return [self._outputs[request_id] for request_id in self._request_ids]


class Deltas:
    """Reads what each step adds to one request. Ready while there is an event that was not taken, or an error."""

    def __init__(self, group: RequestGroup) -> None:
        self.is_over = False  # whether the final output was taken
        self._group = group
        self._events: deque[Progress | RequestOutput] = deque()
        self._error: BaseException | None = None

    @property
    def is_ready(self) -> bool:
        return bool(self._events) or self._error is not None

    def read(self, event: StepEvent) -> None:
        if not isinstance(event, PromptProgress):
            self._events.append(event)

    def fail(self, error: BaseException) -> None:
        self._error = error

    def take(self) -> RequestOutput:
        """Returns the oldest event as an output that holds nothing older, or raises the error once there is no event."""
        if not self._events and self._error is not None:
            raise self._error
        event = self._events.popleft()
        if isinstance(event, RequestOutput):
            self.is_over = True
            return _last_delta(event)
        return self._group.delta(event)


def _last_delta(output: RequestOutput) -> RequestOutput:
    """Returns a final output without the text and tokens that earlier deltas brought already."""
    ends = tuple(replace(completion, text="", token_ids=(), logprobs=None) for completion in output.outputs)
    return replace(output, outputs=ends)


class EventRouter:
    """The readers of the unfinished requests, by request id. Any thread may add and drop; each verb is one dictionary access."""

    def __init__(self) -> None:
        self._readers: dict[str, Reader] = {}

    def add(self, request_id: str, reader: Reader) -> None:
        self._readers[request_id] = reader

    def drop(self, request_id: str) -> bool:
        """Forgets a reader; returns whether there was one."""
        return self._readers.pop(request_id, None) is not None

    def has(self, request_id: str) -> bool:
        return request_id in self._readers

    def deliver(self, event: StepEvent) -> bool:
        """Gives an event to its reader, the final one last; nothing where the reader has left.

        Returns False where the reader failed at it: that error is then the last that it gets.
        """
        is_final = isinstance(event, RequestOutput)
        reader = self._readers.pop(event.request_id, None) if is_final else self._readers.get(event.request_id)
        if reader is None:
            return True
        try:
            reader.read(event)
        except BaseException as error:
            if not is_failure(error):
                raise
            self._readers.pop(event.request_id, None)
            reader.fail(error)
            return False
        return True

    def fail(self, request_id: str, error: BaseException) -> None:
        """Gives an error to the reader of one request, as its last event."""
        reader = self._readers.pop(request_id, None)
        if reader is not None:
            reader.fail(error)

    def fail_all(self, make_error: Callable[[], QuireError]) -> None:
        """Gives an error of its own to every reader."""
        while self._readers:
            _, reader = self._readers.popitem()
            reader.fail(make_error())
