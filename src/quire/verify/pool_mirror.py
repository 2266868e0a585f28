"""A pool told from its events alone: which blocks are held how often, which content can be found, and what is used next."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from itertools import chain

from quire.errors import IntegrityError
from quire.kv.events import KVEvent, KVEventKind, LogEvent, PoolReplaced
from quire.kv.pool import BlockPool


class PoolMirror:
    """Folds the events of a pool of `num_blocks` blocks, all of them from its beginning on, into the state it must be in."""

    def __init__(self, num_blocks: int) -> None:
        self._num_blocks = num_blocks
        self._next_seq = 0
        self._begin()

    def fold(self, events: Iterable[LogEvent]) -> None:
        """Takes the next events; raises IntegrityError where one is missing, or where it cannot have happened."""
        for event in events:
            if event.seq != self._next_seq:
                raise _lie(f"event {self._next_seq} is missing", event)
            self._next_seq += 1
            if isinstance(event, PoolReplaced):
                self._begin()
            elif isinstance(event, KVEvent):
                self._apply(event)

    def require_equal(self, pool: BlockPool) -> None:
        """Raises IntegrityError unless every block is held, findable and queued exactly as its events say."""
        for block in pool.blocks:
            told = self._holders[block.id], self._keys.get(block.id), block.id in self._offered
            found = block.ref_count, block.hash, block.section == 1
            if told != found:
                raise _lie(f"the events of block {block.id} end in another state than it is in", found, told)
        if tuple(self._queued()) != pool.free_block_ids():
            raise _lie("the events tell another order of the free blocks", pool.free_block_ids(), tuple(self._queued()))

    def _begin(self) -> None:
        self._holders: Counter[int] = Counter()
        self._keys: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}
        self._offered: set[int] = set()
        self._sections = OrderedDict.fromkeys(range(self._num_blocks)), OrderedDict[int, None](), OrderedDict[int, None]()

    def _queued(self) -> Iterator[int]:
        return chain.from_iterable(self._sections)

    def _apply(self, event: KVEvent) -> None:
        kind, block_id, key = event.kind, event.block_id, event.hash
        if kind is KVEventKind.ALLOCATED:
            if next(self._queued(), None) != block_id:
                raise _lie("a block is allocated before its turn", event)
            self._hold(block_id)
        elif kind is KVEventKind.SHARED:
            self._hold(block_id)
        elif kind is KVEventKind.RELEASED:
            self._holders[block_id] -= 1
            self._queue(block_id)
        elif not self._is_possible(event):
            raise _lie("a block is committed twice, evicted without content, or called a duplicate of none", event)
        elif kind is KVEventKind.COMMITTED and key is not None:
            self._offered.discard(block_id)
            self._keys[block_id], self._block_of[key] = key, block_id
        elif kind is KVEventKind.OFFERED:
            self._offered.add(block_id)
        elif kind is not KVEventKind.COPIED:
            self._forget(block_id, is_empty=kind is KVEventKind.SUPERSEDED)

    def _is_possible(self, event: KVEvent) -> bool:
        kind, block_id, key = event.kind, event.block_id, event.hash
        if kind in (KVEventKind.EVICTED, KVEventKind.SUPERSEDED):
            return not self._holders[block_id] and (self._keys.get(block_id) == key if key else block_id in self._offered)
        if kind is KVEventKind.DUPLICATE:
            return key in self._block_of if key else block_id in self._offered
        return self._holders[block_id] > 0 and (kind is not KVEventKind.COMMITTED or key not in self._block_of)

    def _hold(self, block_id: int) -> None:
        self._holders[block_id] += 1
        for section in self._sections:
            section.pop(block_id, None)

    def _queue(self, block_id: int) -> None:
        if not self._holders[block_id]:
            section = self._sections[2 if block_id in self._keys else int(block_id in self._offered)]
            section[block_id] = None
            section.move_to_end(block_id, last=section is not self._sections[0])

    def _forget(self, block_id: int, *, is_empty: bool) -> None:
        """Takes away what is found in a block; one that is free and empty from then on is allocated next."""
        self._offered.discard(block_id)
        self._block_of.pop(self._keys.pop(block_id, b""), None)
        if is_empty:
            self._hold(block_id)
            self._holders[block_id] -= 1
            self._queue(block_id)


def _lie(problem: str, given: object, limit: object = None) -> IntegrityError:
    return IntegrityError(problem, given=given, limit=limit, next_step="Report this as a defect.")
