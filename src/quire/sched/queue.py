"""The requests that wait for a place: each tenant's in a line of its own, and in each line the most urgent first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush

from quire.request import Request

Order = Callable[[Request], tuple[int, int]]


def urgency(request: Request) -> tuple[int, int]:
    """Returns the order in which a tenant's requests are served: by priority, then by arrival, which is unique."""
    return request.priority, request.arrival


def age(request: Request) -> tuple[int, int]:
    """Returns the order in which requests came, whatever their priority."""
    return 0, request.arrival


class WaitingQueue:
    """A heap by `order`. A preempted request pushed again is back at its old place. All verbs are O(log n), amortized."""

    __slots__ = ("_heap", "_order", "_waiting")

    def __init__(self, order: Order = urgency) -> None:
        self._order = order
        self._heap: list[tuple[int, int, str]] = []
        self._waiting: dict[str, Request] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Request]:
        """Yields the waiting requests, as they were pushed."""
        return iter(self._waiting.values())

    def push(self, request: Request) -> None:
        """Adds a request at the place its order gives it."""
        if len(self._heap) > 2 * len(self._waiting) + 16:
            self._drop_stale()
        self._waiting[request.request_id] = request
        heappush(self._heap, (*self._order(request), request.request_id))

    def first(self) -> Request | None:
        """Returns the first request, which stays, or None when none is waiting."""
        while self._heap:
            if self._is_current(self._heap[0]):
                return self._waiting[self._heap[0][2]]
            heappop(self._heap)
        return None

    def remove(self, request_id: str) -> Request | None:
        """Takes a request out of the middle, if it is there; its heap entry goes stale and is skipped later."""
        return self._waiting.pop(request_id, None)

    def _is_current(self, entry: tuple[int, int, str]) -> bool:
        request = self._waiting.get(entry[2])
        return request is not None and self._order(request) == entry[:2]

    def _drop_stale(self) -> None:
        self._heap = [entry for entry in self._heap if self._is_current(entry)]
        heapify(self._heap)


class Line:
    """One tenant's waiting requests: all of them by urgency, the short ones among them by urgency, and all by age."""

    __slots__ = ("by_age", "by_urgency", "short")

    def __init__(self) -> None:
        self.by_urgency = WaitingQueue(urgency)
        self.short = WaitingQueue(urgency)
        self.by_age = WaitingQueue(age)


class Lines:
    """The lines of all tenants. A line that is empty is forgotten."""

    __slots__ = ("_num_waiting", "by_tenant")

    def __init__(self) -> None:
        self.by_tenant: dict[str, Line] = {}
        self._num_waiting = 0

    def __len__(self) -> int:
        return self._num_waiting

    def push(self, request: Request) -> None:
        """Adds a request to its tenant's line."""
        line = self.by_tenant.setdefault(request.tenant, Line())
        line.by_urgency.push(request)
        line.by_age.push(request)
        if request.waits_as_short:
            line.short.push(request)
        self._num_waiting += 1

    def remove(self, request: Request) -> None:
        """Takes a request out of its line."""
        line = self.by_tenant[request.tenant]
        for queue in (line.by_urgency, line.by_age, line.short):
            queue.remove(request.request_id)
        self._num_waiting -= 1
        if not line.by_urgency:
            del self.by_tenant[request.tenant]
