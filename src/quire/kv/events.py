"""What happened to blocks, as values: the inspector, the trace and the tests read these instead of the pool's insides."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum

DEFAULT_MAX_EVENTS = 65_536


class KVEventKind(Enum):
    """The verbs of a block's life."""

    ALLOCATED = "allocated"
    COMMITTED = "committed"
    SHARED = "shared"
    RELEASED = "released"
    EVICTED = "evicted"


@dataclass(frozen=True, slots=True, kw_only=True)
class KVEvent:
    """One verb applied to one block in step `step`; `hash` is the block's key where it has one.

    `request_id` is the request the verb served: for EVICTED, the request whose allocation pushed the content out.
    """

    step: int
    kind: KVEventKind
    block_id: int
    request_id: str
    hash: bytes | None


class EventLog:
    """Keeps the last `max_events` events. A pool without a log pays one comparison per verb."""

    __slots__ = ("_events", "step")

    def __init__(self, max_events: int = DEFAULT_MAX_EVENTS) -> None:
        self._events: deque[KVEvent] = deque(maxlen=max_events)
        self.step = 0

    def record(self, kind: KVEventKind, block_id: int, request_id: str, key: bytes | None) -> None:
        """Appends an event of the current step, dropping the oldest when full."""
        self._events.append(KVEvent(step=self.step, kind=kind, block_id=block_id, request_id=request_id, hash=key))

    def __len__(self) -> int:
        return len(self._events)

    def drain(self) -> tuple[KVEvent, ...]:
        """Returns the kept events, oldest first, and forgets them."""
        events = tuple(self._events)
        self._events.clear()
        return events
