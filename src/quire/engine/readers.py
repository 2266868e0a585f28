"""What a caller waits with: a reader takes the events of its requests, and says when there is something to take."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from quire.engine.completion import RequestGroup
from quire.engine.step_events import Progress, PromptProgress, StepEvent
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
