"""What happened to blocks, as values: the log that `quire verify` folds back into a pool, and that tests read.

seq 0  1  2  3 | 4  5        every event has the next number, so a reader sees where it missed some
    dropped      kept
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import NamedTuple

DEFAULT_MAX_EVENTS = 65_536


class KVEventKind(Enum):
    """The verbs of a block's life. DUPLICATE: it was full and written, but another block holds its content already."""

    ALLOCATED = "allocated"
    COMMITTED = "committed"
    DUPLICATE = "duplicate"
    SHARED = "shared"
    RELEASED = "released"
    EVICTED = "evicted"


class KVEvent(NamedTuple):
    """One verb applied to one block in step `step`; `hash` is the block's key where it has one.

    `request_id` is the request the verb served: for EVICTED, the request whose allocation pushed the content out.
    Of a DUPLICATE block, which stays without a key, `hash` is the key of its content.
    """

    seq: int
    step: int
    kind: KVEventKind
    block_id: int
    request_id: str
    hash: bytes | None


class StepAbandoned(NamedTuple):
    """The plan of step `step` was taken back, after the events that gave its blocks back; the next plan has the same number."""

    seq: int
    step: int


class PoolReplaced(NamedTuple):
    """A new pool, all of it free and empty, took the place of one whose books were wrong. Steps count from 0 again."""

    seq: int
    step: int


LogEvent = KVEvent | StepAbandoned | PoolReplaced


class EventLog:
    """Keeps the last `max_events` events; `num_dropped` older ones went unread."""

    __slots__ = ("_events", "_max_events", "_next_seq", "num_dropped", "step")

    def __init__(self, max_events: int = DEFAULT_MAX_EVENTS) -> None:
        self.step = 0
        self.num_dropped = 0
        self._events: deque[LogEvent] = deque()
        self._max_events = max_events
        self._next_seq = 0

    def record(self, kind: KVEventKind, block_id: int, request_id: str, key: bytes | None) -> None:
        """Appends an event of the current step, dropping the oldest when full."""
        self._append(KVEvent(self._next_seq, self.step, kind, block_id, request_id, key))

    def record_abandoned_step(self) -> None:
        """Appends that the current step was taken back."""
        self._append(StepAbandoned(self._next_seq, self.step))

    def record_replaced_pool(self) -> None:
        """Appends that what follows happens to another pool."""
        self._append(PoolReplaced(self._next_seq, self.step))

    def __len__(self) -> int:
        return len(self._events)

    def drain(self) -> tuple[LogEvent, ...]:
        """Returns the kept events, oldest first, and forgets them."""
        events = tuple(self._events)
        self._events.clear()
        return events

    def _append(self, event: LogEvent) -> None:
        if len(self._events) == self._max_events:
            self._events.popleft()
            self.num_dropped += 1
        self._events.append(event)
        self._next_seq += 1
