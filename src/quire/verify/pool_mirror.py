"""A pool told from its events alone: which blocks are held how often, and which content can be found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from quire.errors import IntegrityError
from quire.kv.events import KVEvent, KVEventKind, LogEvent, PoolReplaced
from quire.kv.pool import BlockPool


class PoolMirror:
    """Folds a pool's events, all of them from its beginning on, into the state that the pool must be in."""

    def __init__(self) -> None:
        self._holders: Counter[int] = Counter()
        self._keys: dict[int, bytes | None] = {}
        self._next_seq = 0

    def fold(self, events: Iterable[LogEvent]) -> None:
        """Takes the next events; raises IntegrityError where one is missing."""
        for event in events:
            if event.seq != self._next_seq:
                raise _lie(f"event {self._next_seq} is missing", event)
            self._next_seq += 1
            if isinstance(event, PoolReplaced):
                self._holders.clear()
                self._keys.clear()
            elif isinstance(event, KVEvent):
                self._apply(event)

    def require_equal(self, pool: BlockPool) -> None:
        """Raises IntegrityError unless every block is held and findable exactly as its events say."""
        for block in pool.blocks:
            told, found = (self._holders[block.id], self._keys.get(block.id)), (block.ref_count, block.hash)
            if told != found:
                raise _lie(f"the events of block {block.id} end in another state than it is in", found, told)

    def _apply(self, event: KVEvent) -> None:
        kind, block_id = event.kind, event.block_id
        if kind in (KVEventKind.ALLOCATED, KVEventKind.SHARED):
            self._holders[block_id] += 1
        elif kind is KVEventKind.RELEASED:
            self._holders[block_id] -= 1
        elif kind is KVEventKind.COMMITTED:
            self._keys[block_id] = event.hash
        elif kind is KVEventKind.EVICTED:
            self._keys[block_id] = None
        elif event.hash not in self._keys.values():
            raise _lie("a block is called a duplicate of content that no block holds", event)


def _lie(problem: str, given: object, limit: object = None) -> IntegrityError:
    return IntegrityError(problem, given=given, limit=limit, next_step="Report this as a defect.")
