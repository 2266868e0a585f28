"""A pool told from its events alone: which blocks are held how often, which content can be found, and what is used next."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable

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
            told, found = (self._holders[block.id], self._keys.get(block.id)), (block.ref_count, block.hash)
            if told != found:
                raise _lie(f"the events of block {block.id} end in another state than it is in", found, told)
        if tuple(self._free) != pool.free_block_ids():
            raise _lie("the events tell another order of the free blocks", pool.free_block_ids(), tuple(self._free))

    def _begin(self) -> None:
        self._holders: Counter[int] = Counter()
        self._keys: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(self._num_blocks))

    def _apply(self, event: KVEvent) -> None:
        kind, block_id, key = event.kind, event.block_id, event.hash
        if kind is KVEventKind.ALLOCATED:
            if next(iter(self._free), None) != block_id:
                raise _lie("a block is allocated before its turn", event)
            self._hold(block_id)
        elif kind is KVEventKind.SHARED:
            self._hold(block_id)
        elif kind is KVEventKind.RELEASED:
            self._release(block_id)
        elif kind is KVEventKind.COMMITTED and key is not None and key not in self._block_of:
            self._keys[block_id], self._block_of[key] = key, block_id
        elif kind is KVEventKind.EVICTED and key is not None and self._keys.get(block_id) == key:
            del self._keys[block_id], self._block_of[key]
        elif kind is not KVEventKind.DUPLICATE or key not in self._block_of:
            raise _lie("a block is committed twice, evicted without content, or called a duplicate of none", event)

    def _hold(self, block_id: int) -> None:
        self._holders[block_id] += 1
        self._free.pop(block_id, None)

    def _release(self, block_id: int) -> None:
        self._holders[block_id] -= 1
        if not self._holders[block_id]:
            self._free[block_id] = None
            self._free.move_to_end(block_id, last=block_id in self._keys)


def _lie(problem: str, given: object, limit: object = None) -> IntegrityError:
    return IntegrityError(problem, given=given, limit=limit, next_step="Report this as a defect.")
