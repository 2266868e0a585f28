"""The pool: every block of KV memory, who may take it, and which content can be found again.

              allocate                commit                 release               allocate
    empty ---------------> held ----------------> held ------------------> cached -----------> held, old content evicted
      ^                     |      (findable)       ^                        |
      +------- release -----+                       +--------- share --------+

A block is free exactly when its ref_count is 0. Running out is not an error: `allocate` returns None.
"""

from __future__ import annotations

from collections.abc import Sequence

from quire.errors import defect
from quire.kv.block import Block, FreeQueue
from quire.kv.events import EventLog, KVEventKind
from quire.kv.evicted import MAX_EVICTIONS, Eviction, Evictions
from quire.kv.siblings import Siblings


class BlockPool:
    """`num_blocks` blocks of `block_size` slots. Written to by the KV cache manager only."""

    __slots__ = ("_blocks", "_by_key", "_children", "_free", "block_size", "events", "evicted", "num_cached")

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.block_size = block_size
        self.evicted = Evictions(min(MAX_EVICTIONS, num_blocks))
        self.num_cached = 0  # free blocks whose content can still be found
        self._blocks = [Block(block_id) for block_id in range(num_blocks)]
        self._free = FreeQueue(self._blocks)
        self._by_key: dict[bytes, Block] = {}
        self._children: dict[bytes, Siblings] = {}  # parent key -> committed blocks that continue it
        self.events = EventLog()

    @property
    def num_blocks(self) -> int:
        return len(self._blocks)

    @property
    def num_free(self) -> int:
        """Blocks that `allocate` could hand out now, cached ones included."""
        return len(self._free)

    @property
    def blocks(self) -> Sequence[Block]:
        """All blocks in the order of their ids, to look at."""
        return self._blocks

    def free_block_ids(self) -> tuple[int, ...]:
        """Returns the ids of the free blocks in the order in which they will be allocated."""
        return tuple(block.id for block in self._free)

    def find(self, key: bytes, token_ids: tuple[int, ...]) -> Block | None:
        """Returns the block committed under `key`, if it also holds exactly `token_ids`; a colliding key is a miss."""
        block = self._by_key.get(key)
        return block if block is not None and block.token_ids == token_ids else None

    def most_similar(self, parent: bytes, token_ids: Sequence[int]) -> tuple[int, ...] | None:
        """Returns the cached continuation of `parent` that begins with most of `token_ids`, or None without one."""
        children = self._children.get(parent)
        return None if children is None else children.most_similar(token_ids)

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
            if block.hash is None:
                raise defect(f"block {block.id} is shared but holds nothing")
            self._free.remove(block)
            self.num_cached -= 1
        block.ref_count += 1
        block.used_step = self.events.step
        self._record(KVEventKind.SHARED, block, request_id)

    def release(self, block: Block, request_id: str) -> None:
        """Takes one holder away. Release a table from its tail to its head, so that tails are evicted before heads."""
        if block.ref_count == 0:
            raise defect(f"block {block.id} is released but has no holder")
        block.ref_count -= 1
        block.used_step = self.events.step
        if block.ref_count == 0 and block.hash is not None:
            self._free.put_last(block)
            self.num_cached += 1
        elif block.ref_count == 0:
            self._free.put_first(block)
        self._record(KVEventKind.RELEASED, block, request_id)

    def commit(self, block: Block, parent: bytes, key: bytes, token_ids: tuple[int, ...], request_id: str) -> None:
        """Makes a full, written block findable. When another block already has the key, that one stays the findable one."""
        if block.ref_count == 0 or block.hash is not None or len(token_ids) != self.block_size:
            raise defect(f"block {block.id} cannot be committed: it is free, committed already, or not full")
        if key in self._by_key:
            self.events.record(KVEventKind.DUPLICATE, block.id, request_id, key)
            return
        block.hash, block.parent, block.token_ids = key, parent, token_ids
        self._by_key[key] = block
        self._children.setdefault(parent, Siblings()).add(token_ids)
        self._record(KVEventKind.COMMITTED, block, request_id)

    def take_place_of(self, other: BlockPool) -> None:
        """Goes on with the log of a pool that is given up. This one must be new."""
        self.events = other.events
        self.events.record_replaced_pool()

    def check(self) -> None:
        """Raises IntegrityError unless the pool's structures agree with each other; walks every block."""
        self._free.check()
        for block in self._blocks:
            self._check_block(block)
        num_cached = sum(block.hash is not None for block in self._free)
        if num_cached != self.num_cached:
            raise defect(f"{num_cached} free blocks are cached but {self.num_cached} are counted")
        num_hashed = sum(block.hash is not None for block in self._blocks)
        num_children = sum(len(children) for children in self._children.values())
        if not num_hashed == len(self._by_key) == num_children:
            raise defect(f"{num_hashed} blocks are committed, {len(self._by_key)} can be found, {num_children} have a parent")

    def check_idle(self, blocks: range) -> None:
        """Raises IntegrityError unless nothing is held: the counts say so, and so do the given blocks, one by one."""
        if self.num_free != self.num_blocks:
            raise defect(f"{self.num_blocks - self.num_free} blocks are held while nothing runs")
        if self.num_cached != len(self._by_key):
            raise defect(f"{self.num_cached} free blocks are cached but {len(self._by_key)} can be found")
        for block in self._blocks[blocks.start : blocks.stop]:
            self._check_block(block)
            if block.ref_count:
                raise defect(f"block {block.id} has ref_count {block.ref_count} while nothing runs")

    def _check_block(self, block: Block) -> None:
        is_free = self._free.has(block)
        if block.ref_count < 0 or is_free != (block.ref_count == 0):
            raise defect(f"block {block.id} has ref_count {block.ref_count} but free is {is_free}")
        if block.hash is None:
            if is_free and block.prev_free is not None and block.prev_free.hash is not None:
                raise defect(f"empty block {block.id} waits behind cached ones")
            return
        if self._by_key.get(block.hash) is not block or len(block.token_ids) != self.block_size:
            raise defect(f"block {block.id} has a key but is not full or not the one that is found")
        if block.parent is None or block.token_ids not in self._children.get(block.parent, ()):
            raise defect(f"block {block.id} is unknown to its parent")

    def _allocate_one(self, request_id: str, root: bytes) -> Block:
        block = self._free.take_first()
        if block is None:
            raise defect("the free queue is shorter than its count")
        if block.hash is not None:
            self._evict(block, Eviction(self.events.step, request_id, root))
        block.ref_count = 1
        self._record(KVEventKind.ALLOCATED, block, request_id)
        return block

    def _evict(self, block: Block, eviction: Eviction) -> None:
        if block.hash is None or block.parent is None:
            raise defect(f"block {block.id} is evicted but holds nothing")
        self._record(KVEventKind.EVICTED, block, eviction.request_id)
        self.evicted.remember(block.parent, block.token_ids, eviction)
        self.num_cached -= 1
        siblings = self._children[block.parent]
        del self._by_key[block.hash]
        siblings.remove(block.token_ids)
        if not siblings:
            del self._children[block.parent]
        block.hash = block.parent = None
        block.token_ids = ()

    def _record(self, kind: KVEventKind, block: Block, request_id: str) -> None:
        self.events.record(kind, block.id, request_id, block.hash)
