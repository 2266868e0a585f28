"""The requests that wait for a place, most urgent first."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush

from quire.request import Request


def urgency(request: Request) -> tuple[int, int]:
    """Returns the order in which requests are served: by priority, then by arrival, which is unique."""
    return request.priority, request.arrival


class WaitingQueue:
    """A heap by urgency. A preempted request pushed again is back at its old place. All verbs are O(log n), amortized."""

    __slots__ = ("_heap", "_waiting")

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, str]] = []
        self._waiting: dict[str, Request] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._waiting

    def __iter__(self) -> Iterator[Request]:
        """Yields the waiting requests in the order of their urgency; O(n log n), to look at."""
        return iter(sorted(self._waiting.values(), key=urgency))

    def push(self, request: Request) -> None:
        """Adds a request at the place its urgency gives it."""
        if len(self._heap) > 2 * len(self._waiting) + 16:
            self._drop_stale()
        self._waiting[request.request_id] = request
        heappush(self._heap, (*urgency(request), request.request_id))

    def pop(self) -> Request | None:
        """Takes the most urgent request, or returns None when none is waiting."""
        while self._heap:
            entry = heappop(self._heap)
            if self._is_current(entry):
                return self._waiting.pop(entry[2])
        return None

    def remove(self, request_id: str) -> Request:
        """Takes a request out of the middle; its heap entry goes stale and is skipped later."""
        return self._waiting.pop(request_id)

    def _is_current(self, entry: tuple[int, int, str]) -> bool:
        request = self._waiting.get(entry[2])
        return request is not None and urgency(request) == entry[:2]

    def _drop_stale(self) -> None:
        self._heap = [entry for entry in self._heap if self._is_current(entry)]
        heapify(self._heap)
