"""The pool: every block of KV memory, who may take it, and which content can be found again.

              allocate                commit                 release               allocate
    empty ---------------> held ----------------> held ------------------> cached -----------> held, old content evicted
      ^                     |      (findable)       ^                        |
      +------- release -----+                       +--------- share --------+

A block is free exactly when its ref_count is 0. Running out is not an error: `allocate` returns None.

The tokens of a block that is not full yet can be found after `offer`. Its one holder writes on behind them. A full block with the
content of another cannot be found, but takes its place before that one is freed: no content is lost while a request holds it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quire.errors import defect
from quire.kv.block import Block, FreeQueue
from quire.kv.events import EventLog, KVEventKind
from quire.kv.evicted import MAX_EVICTIONS, Eviction, Evictions
from quire.kv.findable import Findable
from quire.kv.siblings import Tokens


class BlockPool:
    """`num_blocks` blocks of `block_size` slots. Written to by the KV cache manager only."""

    __slots__ = ("_blocks", "_findable", "_free", "block_size", "events", "evicted", "num_cached", "num_changes")

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.block_size = block_size
        self.evicted = Evictions(min(MAX_EVICTIONS, num_blocks))
        self.num_cached = 0  # free blocks whose content can still be found
        self.num_changes = 0  # of what can be found, and of which blocks are free
        self._blocks = [Block(block_id) for block_id in range(num_blocks)]
        self._free = FreeQueue(self._blocks)
        self._findable = Findable()
        self.events = EventLog()

    @property
    def num_blocks(self) -> int:
        return len(self._blocks)

    @property
    def num_free(self) -> int:
        """Blocks that `allocate` could hand out now, cached ones included."""
        return len(self._free)

    @property
    def num_cached_tokens(self) -> int:
        """Tokens that can be found in free blocks; looks at every block."""
        return sum(len(block.token_ids) for block in self._blocks if not block.ref_count)

    @property
    def blocks(self) -> Sequence[Block]:
        """All blocks in the order of their ids, to look at."""
        return self._blocks

    def free_block_ids(self) -> tuple[int, ...]:
        """Returns the ids of the free blocks in the order in which they will be allocated."""
        return tuple(block.id for block in self._free)

    @property
    def by_key(self) -> Mapping[bytes, Block]:
        """The full blocks that can be found, by their keys, to look at."""
        return self._findable.by_key

    def find(self, key: bytes, token_ids: tuple[int, ...]) -> Block | None:
        """Returns the block committed under `key`, if it also holds exactly `token_ids`; a colliding key is a miss."""
        block = self._findable.by_key.get(key)
        return block if block is not None and block.token_ids == token_ids else None

    def most_similar(self, parent: bytes, token_ids: Sequence[int]) -> Tokens | None:
        """Returns the cached continuation of `parent`, full or not, that begins with most of `token_ids`, or None without one."""
        return self._findable.most_similar(parent, token_ids)

    def holding(self, parent: bytes, token_ids: Tokens) -> Block:
        """Returns the block of a cached continuation."""
        return self._findable.holding(parent, token_ids)

    def allocate(self, count: int, request_id: str, root: bytes = b"") -> list[Block] | None:
        """Gives `count` blocks to a request of the domain `root`, evicting cached content as needed.

        None, and nothing done, if too few are free.
        """
        if count > len(self._free):
            return None
        return [self._allocate_one(request_id, root) for _ in range(count)]

    def share(self, block: Block, request_id: str) -> None:
        """Adds a holder to a written block, whether others hold it or it is free."""
        if block.ref_count == 0:
            if not block.is_findable:
                raise defect(f"block {block.id} is shared but holds nothing")
            self._free.remove(block)
            self.num_cached -= 1
            self.num_changes += 1
        block.ref_count += 1
        block.used_step = self.events.step
        self._record(KVEventKind.SHARED, block, request_id)

    def release(self, block: Block, request_id: str) -> None:
        """Takes one holder away. Release a table from its tail to its head, so that tails are evicted before heads."""
        if block.ref_count == 0:
            raise defect(f"block {block.id} is released but has no holder")
        block.ref_count -= 1
        block.used_step = self.events.step
        self._record(KVEventKind.RELEASED, block, request_id)
        if block.ref_count:
            return
        self.num_changes += 1
        self._findable.forget_copy(block)
        heir = self._findable.heir_of(block)
        if heir is not None:
            self._replace(block, heir, request_id)
        self._free.put(block)
        self.num_cached += block.is_findable

    def commit(self, block: Block, parent: bytes, key: bytes, token_ids: tuple[int, ...], request_id: str) -> None:
        """Makes a full, written block findable. While another block that is held has the key, that one stays the findable one."""
        if block.ref_count == 0 or block.hash is not None or len(token_ids) != self.block_size:
            raise defect(f"block {block.id} cannot be committed: it is free, committed already, or not full")
        self.num_changes += 1
        if block.is_findable:
            self._findable.remove(block)
        other = self._findable.by_key.get(key)
        if other is None:
            self._findable.put(block, parent, key, token_ids)
            self._record_findable(block, request_id)
        elif other.ref_count:
            self._findable.note_copy(block, key)
            self.events.record(KVEventKind.DUPLICATE, block.id, request_id, key)
        else:
            self._replace_free(other, block, request_id)

    def offer(self, block: Block, parent: bytes, token_ids: tuple[int, ...], request_id: str) -> None:
        """Makes the written tokens of a block findable that is not full; its holder writes on behind them.

        Not where another block holds them, and perhaps more. One with exactly these tokens that is free gives up its place.
        """
        if block.ref_count == 0 or block.hash is not None or not 0 < len(token_ids) < self.block_size:
            raise defect(f"block {block.id} cannot be offered: it is free, committed already, or full")
        if block.token_ids == token_ids:
            return
        self.num_changes += 1
        was_findable = block.is_findable
        if was_findable:
            self._findable.remove(block)
        other = self._findable.beginning_with(parent, token_ids)
        if other is None:
            self._findable.put(block, parent, None, token_ids)
            self._record_findable(block, request_id)
        elif not other.ref_count and other.token_ids == token_ids:
            self._replace_free(other, block, request_id)
        elif was_findable:
            self._record(KVEventKind.DUPLICATE, block, request_id)

    def note_copy(self, source: Block, target: Block, request_id: str) -> None:
        """Notes that a block begins with tokens of another one that is findable."""
        self.events.record(KVEventKind.COPIED, target.id, request_id, source.parent)

    def take_place_of(self, other: BlockPool) -> None:
        """Goes on with the log of a pool that is given up. This one must be new."""
        self.events = other.events
        self.events.record_replaced_pool()

    def check(self) -> None:
        """Raises IntegrityError unless the pool's structures agree with each other; walks every block."""
        self._free.check()
        for block in self._blocks:
            self._check_block(block)
        num_cached = sum(block.is_findable for block in self._free)
        if num_cached != self.num_cached:
            raise defect(f"{num_cached} free blocks are cached but {self.num_cached} are counted")
        num_full = sum(block.hash is not None for block in self._blocks)
        self._findable.check_counts(num_full, sum(block.is_findable for block in self._blocks))

    def check_idle(self, blocks: range) -> None:
        """Raises IntegrityError unless nothing is held: the counts say so, and so do the given blocks, one by one."""
        if self.num_free != self.num_blocks:
            raise defect(f"{self.num_blocks - self.num_free} blocks are held while nothing runs")
        if self.num_cached != len(self._findable):
            raise defect(f"{self.num_cached} free blocks are cached but {len(self._findable)} can be found")
        for block in self._blocks[blocks.start : blocks.stop]:
            self._check_block(block)
            if block.ref_count:
                raise defect(f"block {block.id} has ref_count {block.ref_count} while nothing runs")

    def _check_block(self, block: Block) -> None:
        is_free = self._free.has(block)
        if block.ref_count < 0 or is_free != (block.ref_count == 0):
            raise defect(f"block {block.id} has ref_count {block.ref_count} but free is {is_free}")
        if is_free and not self._free.is_in_order(block):
            raise defect(f"block {block.id} waits in the wrong section of the free queue")
        if block.is_findable and (block.hash is not None) != (len(block.token_ids) == self.block_size):
            raise defect(f"block {block.id} has a key but is not full, or is full and has none")
        self._findable.check(block)

    def _allocate_one(self, request_id: str, root: bytes) -> Block:
        block = self._free.take_first()
        if block is None:
            raise defect("the free queue is shorter than its count")
        if block.parent is not None:
            self._record(KVEventKind.EVICTED, block, request_id)
            self.evicted.remember(block.parent, block.token_ids, Eviction(self.events.step, request_id, root))
            self.num_cached -= 1
            self._findable.remove(block)
        block.ref_count = 1
        self.num_changes += 1
        self._record(KVEventKind.ALLOCATED, block, request_id)
        return block

    def _replace_free(self, block: Block, heir: Block, request_id: str) -> None:
        """Lets a held block be found in the place of a free one with the same content, which is allocated next."""
        self._free.remove(block)
        self.num_cached -= 1
        self._replace(block, heir, request_id)
        self._free.put(block)

    def _replace(self, block: Block, heir: Block, request_id: str) -> None:
        self._record(KVEventKind.SUPERSEDED, block, request_id)
        self._findable.replace(block, heir)
        self._record_findable(heir, request_id)

    def _record_findable(self, block: Block, request_id: str) -> None:
        kind = KVEventKind.OFFERED if block.hash is None else KVEventKind.COMMITTED
        self.events.record(kind, block.id, request_id, block.hash or block.parent)

    def _record(self, kind: KVEventKind, block: Block, request_id: str) -> None:
        self.events.record(kind, block.id, request_id, block.hash)
