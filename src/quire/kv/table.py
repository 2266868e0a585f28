"""The blocks of one request, and what is known of them."""

from __future__ import annotations

from typing import NamedTuple

from quire.errors import defect
from quire.kv.block import Block
from quire.kv.hashing import block_key
from quire.request import Request


class PrefixMatch(NamedTuple):
    """What a request would reuse: tokens [0, num_tokens), of which those after `num_blocks` whole blocks are in `source`.

    `waits_for` is the id of a running request that computes more of them; `own_tile` has the last of them where they end inside a
    tile.
    """

    num_blocks: int = 0
    num_tokens: int = 0
    source: Block | None = None
    waits_for: str | None = None
    own_tile: int | None = None


class BlockTable:
    """The blocks of one request, and the key of each of its full blocks, computed once and kept over preemptions.

    blocks         [M] held now; block i holds tokens [i * block_size, (i + 1) * block_size)
    block_ids      the same as ids; one tuple until a block is added
    capacity       tokens the blocks hold
    num_committed  blocks [0, num_committed) were written and offered to the pool
    request        the request that holds blocks, from its admission on; None in a row of `past_kvs`
    own_tile       where it writes the tile that is not full, in a format that has such
    num_target     tokens of the request when it was admitted; until they are computed, others may wait for them
    is_written     whether a step has been completed since the admission
    match          what a waiting request was last found to reuse, and the state of pool and request in which that is so
    num_found      blocks [0, num_found) could be found when the request was last matched
    num_compared   blocks [0, num_compared) of these were compared token by token
    """

    __slots__ = (
        "block_ids",
        "blocks",
        "capacity",
        "is_written",
        "keys",
        "match",
        "num_committed",
        "num_compared",
        "num_found",
        "num_target",
        "own_tile",
        "request",
        "request_id",
        "root",
    )

    def __init__(self, request_id: str, root: bytes) -> None:
        self.request_id = request_id
        self.root = root
        self.keys: list[bytes] = []
        self.blocks: list[Block] = []
        self.block_ids: tuple[int, ...] = ()
        self.capacity = self.num_committed = self.num_target = self.num_found = self.num_compared = 0
        self.own_tile: int | None = None
        self.match: tuple[tuple[int, ...], PrefixMatch] | None = None
        self.request: Request | None = None
        self.is_written = False

    def parent(self, block_idx: int) -> bytes:
        """Returns the key of the block before `block_idx`, or the domain's root."""
        return self.keys[block_idx - 1] if block_idx else self.root

    def begin(self, request: Request, blocks: list[Block], num_shared: int, block_size: int) -> None:
        """Takes the blocks of a request that is admitted; the first `num_shared` are written already."""
        self.request, self.num_target = request, request.num_tokens
        self.num_committed, self.is_written = num_shared, False
        self.set_blocks(blocks, block_size)

    def set_blocks(self, blocks: list[Block], block_size: int) -> None:
        """Replaces the held blocks; the ids and the capacity follow."""
        self.blocks = blocks
        self.block_ids = tuple([block.id for block in blocks])
        self.capacity = len(blocks) * block_size

    def hash_blocks(self, request: Request, num_blocks: int, block_size: int) -> None:
        """Extends `keys` to the first `num_blocks` blocks of the request."""
        for block_idx in range(len(self.keys), num_blocks):
            self.keys.append(block_key(self.parent(block_idx), block_tokens(request, block_idx, block_size)))

    def check(self) -> None:
        """Raises IntegrityError unless the table agrees with its blocks."""
        if self.block_ids != tuple(block.id for block in self.blocks) or self.num_committed > len(self.blocks):
            raise defect(f"the table of request {self.request_id} contradicts its blocks")
        for block, key in zip(self.blocks[: self.num_committed], self.keys, strict=False):
            if key not in (block.hash, block.copy_of):
                raise defect(f"block {block.id} of request {self.request_id} was committed under another key")
        for block_idx, block in enumerate(self.blocks[self.num_committed :], self.num_committed):
            if block.hash is not None:
                raise defect(f"request {self.request_id} holds a committed block that it would write to")
            if block.parent not in (None, self.parent(min(block_idx, len(self.keys)))):
                raise defect(f"block {block.id} of request {self.request_id} was offered after another one")


def block_tokens(request: Request, block_idx: int, block_size: int, limit: int | None = None) -> tuple[int, ...]:
    """Returns the tokens of a block of a request, those before position `limit` if there is one."""
    stop = (block_idx + 1) * block_size
    return tuple(request.token_ids(block_idx * block_size, stop if limit is None else min(stop, limit)))
