"""Own tiles: where each running request keeps the tile that it writes, until it is full and goes to its page in fewer bits.

    taken      one for each request that holds blocks
    kept       given back with the tokens of a block that is not full: who goes on there copies the tile, or takes it
    empty      given back without

A tile is what it holds tokens of, so a kept one is found by these, wherever its block lies now. The tile of a running request
counts as long as it is not full: a full one is overwritten by the next step, even by one that fails.
"""

from __future__ import annotations

from collections.abc import Mapping

from quire.config import KERNEL_TILE_TOKENS
from quire.errors import defect
from quire.kv.block import Block
from quire.kv.siblings import Tokens
from quire.kv.table import BlockTable

Content = tuple[bytes, Tokens]
"""The key of the block before, and the tokens of the block in whose last tile an own tile stands."""


class OwnTiles:
    """`count` own tiles, 0 where the KV format has none. They hold `size` tokens each."""

    __slots__ = ("_content", "_empty", "_kept", "_taken", "count", "num_changes", "size")

    def __init__(self, count: int, size: int = KERNEL_TILE_TOKENS) -> None:
        self.count, self.size = count, size
        self.num_changes = 0
        self._empty = list(range(count - 1, -1, -1))  # the last one is taken next
        self._kept: dict[Content, int] = {}  # least recently given back first
        self._taken: dict[int, BlockTable] = {}

    @property
    def num_taken(self) -> int:
        """Own tiles that requests hold."""
        return len(self._taken)

    @property
    def kept(self) -> Mapping[Content, int]:
        """Own tiles that were given back with tokens, to look at; the one given back first is taken first."""
        return self._kept

    def living(self, block: Block, tile_idx: int, block_size: int) -> int | None:
        """Returns the own tile with the tokens of tile `tile_idx` of a block; None where it is full, or gone."""
        for own_tile, table in self._taken.items():
            num_written = 0 if table.request is None else table.request.num_computed_tokens
            block_idx, place = divmod(num_written, block_size)
            is_there = num_written % self.size and place // self.size == tile_idx and block_idx < len(table.blocks)
            if is_there and table.blocks[block_idx] is block:
                return own_tile
        is_last = len(block.token_ids) // self.size == tile_idx
        return None if block.parent is None or not is_last else self._kept.get((block.parent, block.token_ids))

    def take(self, table: BlockTable, source: int | None = None, *, is_taken: bool = False) -> int:
        """Gives an own tile to a table, another one than `source`, from which it is copied, unless that one is the last left.

        With `is_taken` it is `source` itself.
        """
        self.num_changes += 1
        kept = {own_tile: content for content, own_tile in self._kept.items()}
        own_tile = source if is_taken else None
        if own_tile is None and self._empty:
            own_tile = self._empty.pop()
        elif own_tile is None and kept:
            own_tile = next((each for each in kept if each != source), source)
        if own_tile is None or own_tile in self._taken:
            raise defect(f"request {table.request_id} is let in but {self.count} own tiles are taken")
        if own_tile in kept:
            del self._kept[kept[own_tile]]
        self._taken[own_tile] = table
        return own_tile

    def give_back(self, own_tile: int, content: Content | None) -> None:
        """Takes an own tile back, with the tokens that can be found in it."""
        self.num_changes += 1
        if self._taken.pop(own_tile, None) is None:
            raise defect(f"own tile {own_tile} is given back but no request holds it")
        if content is None or content in self._kept:
            self._empty.append(own_tile)
        else:
            self._kept[content] = own_tile

    def check(self) -> None:
        """Raises IntegrityError unless every own tile is in one place."""
        found = sorted((*self._empty, *self._kept.values(), *self._taken))
        if found != list(range(self.count)):
            raise defect(f"own tiles {found} of {self.count} are known")
        for own_tile, table in self._taken.items():
            if table.own_tile != own_tile:
                raise defect(f"request {table.request_id} holds own tile {table.own_tile}, not {own_tile}")


def content_of(table: BlockTable, block_size: int, tile_size: int) -> Content | None:
    """Returns what can be found in the own tile of a request that gives it back: the end of its block that is not full."""
    block_idx = 0 if table.request is None else table.request.num_computed_tokens // block_size
    block = table.blocks[block_idx] if block_idx < len(table.blocks) else None
    if block is None or block.parent is None or block.hash is not None or not len(block.token_ids) % tile_size:
        return None
    return block.parent, block.token_ids
