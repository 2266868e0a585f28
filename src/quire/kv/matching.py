"""How much of a waiting request is cached, found anew in a few lookups however long it is.

    [ whole blocks found ........ | tokens of one more block, to be copied | to be computed ........ ]
    0                num_blocks * size                                  num_tokens

Blocks are evicted tails first, so of a request's blocks those that can be found are its first ones: where the last of them
still is, all are, and where they end is found by halving.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

from quire.kv.block import Block
from quire.kv.own_tiles import OwnTiles
from quire.kv.pending import PendingBlocks
from quire.kv.pool import BlockPool
from quire.kv.siblings import num_common
from quire.kv.table import BlockTable, PrefixMatch, block_tokens
from quire.request import Request
from quire.units import cdiv


class Matcher:
    """Finds the longest cached prefix of a request. It never covers a token whose logits are still wanted."""

    __slots__ = ("_own_tiles", "_pending", "_pool", "_size")

    def __init__(self, pool: BlockPool, pending: PendingBlocks, own_tiles: OwnTiles) -> None:
        self._pool, self._pending, self._own_tiles, self._size = pool, pending, own_tiles, pool.block_size

    def match(self, request: Request, table: BlockTable) -> PrefixMatch:
        """Returns the match, and remembers in the table how far it goes; nothing is looked up where nothing has changed since."""
        step = self._pool.events.step if self._own_tiles.count else 0  # a step writes on in own tiles
        state = self._pool.num_changes, self._pending.num_changes, self._own_tiles.num_changes, request.num_tokens, step
        if table.match is None or table.match[0] != state:
            table.match = state, self._find(request, table)
        return table.match[1]

    def _find(self, request: Request, table: BlockTable) -> PrefixMatch:
        size = self._size
        num_most = request.first_logits_at // size
        table.hash_blocks(request, request.num_tokens // size, size)
        num_blocks = self._num_found(table, num_most)
        if num_blocks < num_most:
            writer = self._pending.writer_of(num_blocks, table.parent(num_blocks), table.keys[num_blocks])
            if writer is not None:
                return PrefixMatch(num_blocks, num_blocks * size, None, writer.request_id)
        return self._to_the_token(request, table, self._compare(request, table, num_blocks))

    def num_revived(self, table: BlockTable, num_blocks: int) -> int:
        """Returns how many of the first blocks are free: the last ones, as a block is held as long as what follows it."""
        by_key, keys = self._pool.by_key, table.keys
        return num_blocks - bisect_left(range(num_blocks), True, key=lambda idx: by_key[keys[idx]].ref_count == 0)

    def _num_found(self, table: BlockTable, num_most: int) -> int:
        """Returns how many of a request's first blocks can be found, `num_most` at most."""
        by_key, keys = self._pool.by_key, table.keys
        num_found = min(table.num_found, num_most)
        if num_found and keys[num_found - 1] not in by_key:
            num_found = _first_missing(table, by_key, 0, num_found - 1)
        stride = 1
        while num_found < num_most:
            reach = min(num_found + stride, num_most)
            if keys[reach - 1] not in by_key:
                num_found = _first_missing(table, by_key, num_found, reach - 1)
                break
            num_found, stride = reach, 2 * stride
        table.num_found = num_found
        table.num_compared = min(table.num_compared, num_found)
        return num_found

    def _compare(self, request: Request, table: BlockTable, num_blocks: int) -> int:
        """Returns how many of the blocks found hold the request's tokens: all, unless two keys collide."""
        by_key, keys, size, start = self._pool.by_key, table.keys, self._size, table.num_compared
        token_ids = tuple(request.token_ids(start * size, num_blocks * size))
        for block_idx in range(start, num_blocks):
            place = (block_idx - start) * size
            if by_key[keys[block_idx]].token_ids != token_ids[place : place + size]:
                return block_idx
            table.num_compared = block_idx + 1
        return num_blocks

    def _to_the_token(self, request: Request, table: BlockTable, num_blocks: int) -> PrefixMatch:
        """Returns a match of so many whole blocks and of the tokens after them that another block begins with."""
        num_tokens, parent = num_blocks * self._size, table.parent(num_blocks)
        wanted = block_tokens(request, num_blocks, self._size, request.first_logits_at)
        cached = self._pool.most_similar(parent, wanted) if wanted else None
        source = None if cached is None else self._pool.holding(parent, cached)
        num_equal, own_tile = (0, None) if source is None else self._usable(source, num_common(cached or (), wanted))
        source = source if num_equal else None
        writer = self._pending.worth_waiting(num_blocks, parent, wanted, num_equal) if wanted else None
        if source is not None and not is_taken(source, num_equal) and not self._has_room(source, request, table, num_blocks):
            source, num_equal, own_tile = None, 0, None
        waits_for = None if writer is None else writer.request_id
        return PrefixMatch(num_blocks, num_tokens + num_equal, source, waits_for, own_tile)

    def _usable(self, source: Block, num_equal: int) -> tuple[int, int | None]:
        """Returns how many of the first tokens of a block can be copied, and the own tile that has the last of them.

        A page has whole tiles. Where the own tile with the rest is gone, that is computed again.
        """
        rest = num_equal % self._own_tiles.size if self._own_tiles.count else 0
        if not rest:
            return num_equal, None
        own_tile = self._own_tiles.living(source, num_equal // self._own_tiles.size, self._size)
        return (num_equal - rest, None) if own_tile is None else (num_equal, own_tile)

    def _has_room(self, source: Block, request: Request, table: BlockTable, num_blocks: int) -> bool:
        """Whether a block to be copied, which must not be evicted before that, fits into the pool beside the request."""
        num_own = cdiv(request.num_tokens, self._size) - num_blocks
        return source.ref_count > 0 or num_own + self.num_revived(table, num_blocks) < self._pool.num_free


def _first_missing(table: BlockTable, by_key: Mapping[bytes, Block], low: int, high: int) -> int:
    """Returns the first of blocks [low, high] that cannot be found; the last of them cannot."""
    return bisect_left(range(high), True, lo=low, key=lambda idx: table.keys[idx] not in by_key)


def is_taken(source: Block, num_equal: int) -> bool:
    """Whether a request takes a block as its own instead of copying from it: a free one, all of whose tokens it goes on from."""
    return source.ref_count == 0 and source.hash is None and num_equal == len(source.token_ids)
