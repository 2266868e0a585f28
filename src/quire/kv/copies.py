"""Sharing to the token: a request that is let in copies the first tokens of another block into its own.

    source   [ the quick brown fox | ... ]        held, or cached; pinned until the step is done, so that nothing evicts it
    own      [ the quick brown     | cat .. ]     the block is copied whole, before anything is written; the rest is written over

A free block that is partly filled, and whose tokens all match, is taken as it is.
"""

from __future__ import annotations

from typing import NamedTuple

from quire.errors import defect
from quire.kv.block import Block
from quire.kv.matching import is_taken
from quire.kv.own_tiles import OwnTiles
from quire.kv.pool import BlockPool
from quire.kv.table import BlockTable, PrefixMatch


class BlockCopy(NamedTuple):
    """All layers' K/V of block, or own tile, `source` are copied to block, or own tile, `target` for a request."""

    source: int
    target: int
    request_id: str
    is_own_tile: bool = False


class Copies:
    """The copies of the step that is planned or in flight, and the blocks that are pinned for them."""

    __slots__ = ("_copies", "_own_tiles", "_pinned", "_pool")

    def __init__(self, pool: BlockPool, own_tiles: OwnTiles) -> None:
        self._pool, self._own_tiles = pool, own_tiles
        self._copies: list[BlockCopy] = []
        self._pinned: list[tuple[Block, str]] = []

    def __len__(self) -> int:
        return len(self._pinned)

    @property
    def pinned_block_ids(self) -> tuple[int, ...]:
        """Blocks that are held to be copied from, once for each copy, until the step has ended."""
        return tuple(block.id for block, _ in self._pinned)

    def num_needed(self, match: PrefixMatch) -> int:
        """Returns the free blocks that a match needs beside those that its request holds in the end."""
        return int(self.num_copied(match) > 0 and match.source is not None and match.source.ref_count == 0)

    def num_copied(self, match: PrefixMatch) -> int:
        """Returns how many tokens of a match are copied; none where their block is taken as it is."""
        source, num_tokens = match.source, match.num_tokens - match.num_blocks * self._pool.block_size
        return 0 if source is None or is_taken(source, num_tokens) else num_tokens

    def begin(self, match: PrefixMatch, count: int, table: BlockTable) -> list[Block]:
        """Returns the `count` blocks of its own that a request is let in with, the first with the tokens that it reuses."""
        source, taken, request_id = match.source, list[Block](), table.request_id
        if source is not None:
            is_own = not self.num_copied(match)
            self._pool.share(source, request_id)
            if is_own:
                taken.append(source)
            else:
                self._pinned.append((source, request_id))
        added = self._pool.allocate(count - len(taken), request_id, table.root)
        if added is None:
            raise defect(f"request {request_id} is let in but blocks that were counted are missing")
        if source is not None and not taken:
            self._copies.append(BlockCopy(source.id, added[0].id, request_id))
            self._pool.note_copy(source, added[0], request_id)
        if self._own_tiles.count:
            self._begin_tile(match, table, is_taken=bool(taken))
        return [*taken, *added]

    def _begin_tile(self, match: PrefixMatch, table: BlockTable, *, is_taken: bool) -> None:
        """Gives a request its own tile, with the tokens that it reuses in it."""
        table.own_tile = self._own_tiles.take(table, match.own_tile, is_taken=is_taken)
        if match.own_tile is not None and table.own_tile != match.own_tile:
            self._copies.append(BlockCopy(match.own_tile, table.own_tile, table.request_id, is_own_tile=True))

    def take(self) -> tuple[BlockCopy, ...]:
        """Returns the copies planned since the last call, in their order."""
        copies = tuple(self._copies)
        self._copies.clear()
        return copies

    def drop(self, request_id: str) -> None:
        """Lets go of what a request copies from, before its own blocks are released: nothing outlives what it continues."""
        if not self._pinned:
            return
        self._copies = [copy for copy in self._copies if copy.request_id != request_id]
        for block, holder in self._pinned:
            if holder == request_id:
                self._pool.release(block, request_id)
        self._pinned = [pin for pin in self._pinned if pin[1] != request_id]

    def let_go(self) -> None:
        """Releases the pinned blocks: the copies were made, or never will be."""
        for block, request_id in self._pinned:
            self._pool.release(block, request_id)
        self._pinned.clear()
        self._copies.clear()
