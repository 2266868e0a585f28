"""A block of KV memory, and the queue of blocks that no request holds.

    first -> [ no content | partly filled, least recently released ... | full, least recently released ... most recently ] <- last

The queue is threaded through the blocks themselves, so a cached block that is wanted again leaves the middle in O(1).
Blocks without findable content are always used before a cached one is evicted, and partly filled ones before full ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, pairwise

from quire.errors import defect


class Block:
    """`block_size` slots of KV memory. `hash` is None until the block is full, written and committed.

    `parent` and `token_ids` are what `hash` was made of; a free block keeps all three until it is evicted. A partial block has
    no `hash`, and `token_ids` are those that others may find in it. `copy_of` is the key of a full block that cannot be found,
    as another one has the same content.
    """

    __slots__ = ("copy_of", "hash", "id", "next_free", "parent", "prev_free", "ref_count", "token_ids", "used_step")

    def __init__(self, block_id: int) -> None:
        self.id = block_id
        self.ref_count = 0
        self.hash: bytes | None = None
        self.parent: bytes | None = None
        self.token_ids: tuple[int, ...] = ()
        self.used_step = 0
        self.copy_of: bytes | None = None
        self.prev_free: Block | None = None
        self.next_free: Block | None = None

    @property
    def is_findable(self) -> bool:
        return self.parent is not None

    @property
    def section(self) -> int:
        """Which part of the free queue it belongs to: 0 no content, 1 partly filled, 2 full."""
        return 2 if self.hash is not None else int(self.is_findable)

    def __repr__(self) -> str:
        key = self.hash.hex()[:6] if self.hash is not None else "-"
        return f"Block(id={self.id}, ref_count={self.ref_count}, hash={key})"


class FreeQueue:
    """The blocks with ref_count 0, in the order in which they will be allocated."""

    __slots__ = ("_border", "_first", "_last", "_length")

    def __init__(self, blocks: list[Block]) -> None:
        self._first = Block(len(blocks))  # two ends that are never allocated; they spare every operation its edge cases
        self._border = Block(len(blocks) + 1)  # before the full blocks; never allocated either
        self._last = Block(len(blocks) + 2)
        self._first.next_free = self._last.prev_free = self._border
        self._border.prev_free, self._border.next_free = self._first, self._last
        self._length = 0
        for block in blocks:
            self._link(self._border.prev_free, block, self._border)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Block]:
        return (block for block in self._links() if block is not self._border)

    def put(self, block: Block) -> None:
        """Queues a block: without content it is allocated next, else after all that are queued now and as full as it is."""
        if block.section == 2:
            self._link(self._last.prev_free, block, self._last)
        elif block.section == 1:
            self._link(self._border.prev_free, block, self._border)
        else:
            self._link(self._first, block, self._first.next_free)

    def take_first(self) -> Block | None:
        """Returns the block to allocate next, or None when none is free."""
        block = self._first.next_free
        if block is self._border:
            block = self._border.next_free
        if block is None or block is self._last:
            return None
        self.remove(block)
        return block

    def remove(self, block: Block) -> None:
        """Takes a queued block out of the middle."""
        before, after = block.prev_free, block.next_free
        if before is None or after is None:
            raise defect(f"block {block.id} is taken from the free queue but is not in it")
        before.next_free, after.prev_free = after, before
        block.prev_free = block.next_free = None
        self._length -= 1

    def has(self, block: Block) -> bool:
        """Returns whether a block is queued; raises IntegrityError where its neighbors do not link back to it."""
        before, after = block.prev_free, block.next_free
        if before is None and after is None:
            return False
        if before is None or after is None or before.next_free is not block or after.prev_free is not block:
            raise defect(f"block {block.id} is linked into the free queue on one side only")
        return True

    def is_in_order(self, block: Block) -> bool:
        """Returns whether a queued block stands in its section, and behind none of a later one."""
        before = block.prev_free
        if before is None or before is self._border:
            return block.section == 2
        if before is self._first:
            return block.section < 2
        return before.section == block.section if block.section == 2 else before.section <= block.section

    def check(self) -> None:
        """Raises IntegrityError unless links agree in both directions and with the count."""
        blocks = [self._first, *islice(self._links(), self._length + 2), self._last]  # a circle must not hang the check
        if len(blocks) != self._length + 3:
            raise defect(f"the free queue links {len(blocks) - 3} blocks and counts {self._length}")
        for before, after in pairwise(blocks):
            if before.next_free is not after or after.prev_free is not before:
                raise defect(f"free queue links between blocks {before.id} and {after.id} disagree")

    def _links(self) -> Iterator[Block]:
        """Yields the queued blocks and the border."""
        block = self._first.next_free
        while block is not None and block is not self._last:
            yield block
            block = block.next_free

    def _link(self, before: Block | None, block: Block, after: Block | None) -> None:
        if before is None or after is None or block.next_free is not None:
            raise defect(f"block {block.id} is put into the free queue twice")
        block.prev_free, block.next_free = before, after
        before.next_free = after.prev_free = block
        self._length += 1
