"""What happened to blocks, in order: the log that every pool keeps, and from which its exact state can be told again.

seq 0  1  2  3 | 4  5 | 6  7     every event has the next number, so a reader sees where it missed some
    dropped      kept | not taken yet

A verb costs a fifth of a microsecond: the log holds plain tuples, and the values are made when it is read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from enum import Enum
from itertools import islice
from typing import NamedTuple

DEFAULT_MAX_EVENTS = 65_536


class KVEventKind(Enum):
    """The verbs of a block's life.

    OFFERED: its tokens can be found although it is not full. DUPLICATE: what it holds another block holds already, so it
    cannot be found. SUPERSEDED: it is free, and a held block with its content is found in its place, as the next event says; it
    holds nothing any more. COPIED: it begins with tokens of the block that the event before tells.
    """

    ALLOCATED = "allocated"
    COMMITTED = "committed"
    OFFERED = "offered"
    DUPLICATE = "duplicate"
    SUPERSEDED = "superseded"
    COPIED = "copied"
    SHARED = "shared"
    RELEASED = "released"
    EVICTED = "evicted"


class KVEvent(NamedTuple):
    """One verb applied to one block in step `step`; `hash` is the block's key where it has one.

    `request_id` is the request the verb served: for EVICTED, the request whose allocation pushed the content out.
    Of a DUPLICATE block, which stays without a key, `hash` is the key of its content; of one that is OFFERED or
    COPIED, the key of the block before it.
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
_Raw = tuple[int, KVEventKind, int, str, bytes | None] | tuple[int, type[StepAbandoned] | type[PoolReplaced]]


class EventLog:
    """Keeps the last `max_events` events of `num_recorded`. Written and read by the thread that steps."""

    __slots__ = ("_events", "_num_taken", "num_recorded", "step")

    def __init__(self, max_events: int = DEFAULT_MAX_EVENTS) -> None:
        self.step = 0
        self.num_recorded = 0
        self._num_taken = 0
        self._events: deque[_Raw] = deque(maxlen=max_events)

    def __len__(self) -> int:
        return len(self._events)

    @property
    def num_dropped(self) -> int:
        """Events that are no longer kept."""
        return self.num_recorded - len(self._events)

    def record(self, kind: KVEventKind, block_id: int, request_id: str, key: bytes | None) -> None:
        """Appends an event of the current step, dropping the oldest when full."""
        self.num_recorded += 1
        self._events.append((self.step, kind, block_id, request_id, key))

    def record_abandoned_step(self) -> None:
        """Appends that the current step was taken back."""
        self.num_recorded += 1
        self._events.append((self.step, StepAbandoned))

    def record_replaced_pool(self) -> None:
        """Appends that what follows happens to another pool."""
        self.num_recorded += 1
        self._events.append((self.step, PoolReplaced))

    def take(self) -> tuple[LogEvent, ...]:
        """Returns the events since the last call, as far as they are kept; they stay in the log for others."""
        events = self.since(self._num_taken)
        self._num_taken = self.num_recorded
        return events

    def since(self, seq: int) -> tuple[LogEvent, ...]:
        """Returns the kept events from number `seq` on, oldest first."""
        first = max(seq, self.num_dropped)
        newest_first = list(islice(reversed(self._events), max(0, self.num_recorded - first)))
        return tuple(_values(first, reversed(newest_first)))


def _values(first: int, events: Iterable[_Raw]) -> Iterable[LogEvent]:
    for seq, event in enumerate(events, first):
        if len(event) == 2:
            step, marker = event
            yield marker(seq, step)
        else:
            yield KVEvent(seq, *event)
