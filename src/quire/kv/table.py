"""One request's side of the cache: its block table and the keys of its tokens."""

from __future__ import annotations

from dataclasses import dataclass

from quire.kv.block import Block
from quire.kv.hashing import block_key
from quire.request import Request


class BlockTable:
    """The blocks of one request, and the key of each of its full blocks, computed once and kept over preemptions.

    blocks         [M] held now; block i holds tokens [i * block_size, (i + 1) * block_size)
    block_ids      the same as ids; one tuple until a block is added
    capacity       tokens the blocks hold
    num_committed  blocks [0, num_committed) were written and offered to the pool
    num_announced  blocks [num_committed, num_announced) are being computed, and others may wait for them
    """

    __slots__ = ("block_ids", "blocks", "capacity", "keys", "num_announced", "num_committed", "root")

    def __init__(self, root: bytes) -> None:
        self.root = root
        self.keys: list[bytes] = []
        self.blocks: list[Block] = []
        self.block_ids: tuple[int, ...] = ()
        self.capacity = 0
        self.num_committed = 0
        self.num_announced = 0

    def parent(self, block_idx: int) -> bytes:
        """Returns the key of the block before `block_idx`, or the domain's root."""
        return self.keys[block_idx - 1] if block_idx else self.root

    def set_blocks(self, blocks: list[Block], block_size: int) -> None:
        """Replaces the held blocks; the ids and the capacity follow."""
        self.blocks = blocks
        self.block_ids = tuple([block.id for block in blocks])
        self.capacity = len(blocks) * block_size

    def hash_blocks(self, request: Request, num_blocks: int, block_size: int) -> None:
        """Extends `keys` to the first `num_blocks` blocks of the request."""
        for block_idx in range(len(self.keys), num_blocks):
            self.keys.append(block_key(self.parent(block_idx), block_tokens(request, block_idx, block_size)))


def block_tokens(request: Request, block_idx: int, block_size: int) -> tuple[int, ...]:
    """Returns the tokens of a full block of a request."""
    return tuple(request.token_ids(block_idx * block_size, (block_idx + 1) * block_size))


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixMatch:
    """The blocks of a request's prefix found in the cache: tokens [0, num_tokens). Finding changes nothing.

    `missing_key` is the key of the first block that was looked for and not found; None when there was no such block.
    """

    blocks: tuple[Block, ...] = ()
    num_tokens: int = 0
    missing_key: bytes | None = None
