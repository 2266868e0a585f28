"""Responses that are kept, so that a next turn may name them. In memory, bounded in bytes, entries and time.

shelf of one owner   resp_a ----> Turn(own input, own output)
                     resp_b ----> Turn(...) -> previous        a conversation is a chain of turns
                     resp_c ----> Turn(...) -> previous        two may share one, which is counted once

A turn stays as long as a response or a later turn holds it. Where there is too much, the owner of most loses what was used
least recently, so that one owner cannot push out what others keep.
"""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Lock
from typing import Any

from quire.server.limits import Limits

RESPONSE_PREFIX = "resp_"

Item = dict[str, Any]
"""An item of a conversation, as the API writes it."""


@dataclass(slots=True, eq=False)
class Turn:
    """What one response added to its conversation: items as JSON lists, and the turn before it."""

    input: bytes
    output: bytes
    previous: Turn | None
    num_holders: int = 0

    @property
    def num_bytes(self) -> int:
        return len(self.input) + len(self.output)

    def input_items(self) -> list[Item]:
        """Returns everything that the turn was given: all of the turns before it, then its own input."""
        before = [] if self.previous is None else self.previous.items()
        return [*before, *json.loads(self.input)]

    def items(self) -> list[Item]:
        """Returns the conversation up to the end of this turn."""
        return [item for turn in self._from_the_first() for part in (turn.input, turn.output) for item in json.loads(part)]

    def num_conversation_bytes(self) -> int:
        """Returns the size of that conversation."""
        return sum(turn.num_bytes for turn in self._from_the_first())

    def _from_the_first(self) -> Iterator[Turn]:
        turns = [self]
        while turns[-1].previous is not None:
            turns.append(turns[-1].previous)
        return reversed(turns)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResponse:
    """A response as it was sent, and the end of its conversation."""

    body: bytes
    turn: Turn
    used_s: float


class _Shelf:
    """What one owner keeps, the least recently used first. A turn is counted while anything holds it."""

    def __init__(self) -> None:
        self.entries: OrderedDict[str, StoredResponse] = OrderedDict()
        self.num_bytes = 0

    def put(self, response_id: str, stored: StoredResponse) -> None:
        self.entries[response_id] = stored
        self.num_bytes += len(stored.body)
        self._hold(stored.turn)

    def drop(self, response_id: str) -> None:
        stored = self.entries.pop(response_id)
        self.num_bytes -= len(stored.body)
        self._release(stored.turn)

    def drop_oldest(self) -> None:
        self.drop(next(iter(self.entries)))

    def _hold(self, turn: Turn | None) -> None:
        while turn is not None:
            turn.num_holders += 1
            if turn.num_holders > 1:
                return
            self.num_bytes += turn.num_bytes
            turn = turn.previous

    def _release(self, turn: Turn | None) -> None:
        while turn is not None:
            turn.num_holders -= 1
            if turn.num_holders > 0:
                return
            self.num_bytes -= turn.num_bytes
            turn = turn.previous


class ResponseStore:
    """Keeps responses by owner and id. Safe to use from several threads."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._shelves: dict[str, _Shelf] = {}
        self._lock = Lock()

    @property
    def num_bytes(self) -> int:
        """The bytes that are kept."""
        return sum(shelf.num_bytes for shelf in self._shelves.values())

    @property
    def num_responses(self) -> int:
        """The responses that are kept."""
        return sum(len(shelf.entries) for shelf in self._shelves.values())

    def put(self, owner: str, response_id: str, body: bytes, turn: Turn) -> None:
        """Keeps a response that is new, and makes room for it."""
        with self._lock:
            shelf = self._shelves.setdefault(owner, _Shelf())
            shelf.put(response_id, StoredResponse(body=body, turn=turn, used_s=self._clock()))
            self._drop_expired()
            self._make_room()

    def get(self, owner: str, response_id: str) -> StoredResponse | None:
        """Returns a response of an owner, None for one that is not there, or not any more. Its time starts again."""
        with self._lock:
            self._drop_expired()
            shelf = self._shelves.get(owner)
            stored = None if shelf is None else shelf.entries.pop(response_id, None)
            if shelf is None or stored is None:
                return None
            shelf.entries[response_id] = StoredResponse(body=stored.body, turn=stored.turn, used_s=self._clock())
            return stored

    def holder_of(self, owner: str, item_id: str) -> StoredResponse | None:
        """Returns the response that has an item in its output: both are called alike behind their first words."""
        return self.get(owner, RESPONSE_PREFIX + item_id.partition("_")[2])

    def item(self, owner: str, item_id: str) -> Item | None:
        """Returns an item that the model wrote, None where it is not kept for this owner."""
        holder = self.holder_of(owner, item_id)
        output: list[Item] = [] if holder is None else json.loads(holder.turn.output)
        return next((item for item in output if item["id"] == item_id), None)

    def delete(self, owner: str, response_id: str) -> bool:
        """Forgets a response; returns whether it was there. Later turns keep what they were given."""
        with self._lock:
            self._drop_expired()
            shelf = self._shelves.get(owner)
            if shelf is None or response_id not in shelf.entries:
                return False
            shelf.drop(response_id)
            return True

    def _drop_expired(self) -> None:
        since = self._clock() - self._limits.stored_s
        for shelf in self._shelves.values():
            while shelf.entries and next(iter(shelf.entries.values())).used_s <= since:
                shelf.drop_oldest()

    def _make_room(self) -> None:
        while self.num_bytes > self._limits.stored_bytes:
            max(self._shelves.values(), key=lambda shelf: shelf.num_bytes).drop_oldest()
        while self.num_responses > self._limits.stored_responses:
            max(self._shelves.values(), key=lambda shelf: len(shelf.entries)).drop_oldest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a response goes when it is done: whose it is, what it was given, and the turn that it continues."""

    store: ResponseStore
    owner: str
    input: bytes
    previous: Turn | None

    def keep(self, response_id: str, body: bytes, output: bytes) -> None:
        """Keeps a response with its output items as a JSON list."""
        self.store.put(self.owner, response_id, body, Turn(input=self.input, output=output, previous=self.previous))
