"""What running requests are computing: whoever shares it waits instead of computing it again.

request    tokens [ ... committed ... | block, block, ... , rest )      until the rest is computed as well
                                        ^ found by the key of the block before it
"""

from __future__ import annotations

from collections import Counter

from quire.errors import defect
from quire.kv.siblings import num_common
from quire.kv.table import BlockTable, block_tokens
from quire.units import cdiv

MIN_WORTH_WAITING = 8
"""Tokens that a copy must save for a request to wait for it: a step is not free. After whole blocks all that is left will do."""


class PendingBlocks:
    """The tables whose blocks are being computed, by the key of the block before each; the last block may be a part."""

    __slots__ = ("_first", "_following", "_size", "num_changes")

    def __init__(self, block_size: int) -> None:
        self._size = block_size
        self.num_changes = 0
        self._following: dict[bytes, list[BlockTable]] = {}
        self._first: dict[BlockTable, int] = {}  # the first block of each table that is not computed

    def __len__(self) -> int:
        return len(self._first)

    def add(self, table: BlockTable) -> None:
        """Notes that the blocks after the committed ones are computed from now on, up to `num_target`."""
        self._first[table] = table.num_committed
        self.num_changes += 1
        for block_idx in range(table.num_committed, cdiv(table.num_target, self._size)):
            self._following.setdefault(table.parent(block_idx), []).append(table)

    def drop(self, table: BlockTable, num_blocks: int | None = None) -> None:
        """Notes that the first `num_blocks` blocks are computed, or (None) that the rest is, or never will be."""
        first = self._first.pop(table, None)
        if first is None:
            return
        self.num_changes += 1
        num_pending = cdiv(table.num_target, self._size)
        stop = num_pending if num_blocks is None else max(first, min(num_blocks, num_pending))
        for block_idx in range(first, stop):
            parent = table.parent(block_idx)
            tables = self._following[parent]
            tables.remove(table)
            if not tables:
                del self._following[parent]
        if stop < num_pending:
            self._first[table] = stop

    def writer_of(self, block_idx: int, parent: bytes, key: bytes) -> BlockTable | None:
        """Returns a table whose block `block_idx`, which follows `parent`, will be committed under `key`."""
        for table in self._following.get(parent, ()):
            if table.keys[block_idx : block_idx + 1] == [key]:
                return table
        return None

    def worth_waiting(self, block_idx: int, parent: bytes, wanted: tuple[int, ...], num_cached: int) -> BlockTable | None:
        """Returns a table that will have more of the tokens `wanted` after `parent` than the `num_cached` that are cached.

        So many more that it is worth a step, or all that the request could reuse after whole blocks.
        """
        for table in self._following.get(parent, ()):
            if table.request is None:
                raise defect(f"blocks of {table.request_id} are pending but no request computes them")
            token_ids = block_tokens(table.request, block_idx, self._size, table.num_target)
            num_equal = num_common(token_ids, wanted)
            is_rest = block_idx > 0 and num_equal == len(wanted) and num_equal > num_cached
            if is_rest or num_equal - num_cached >= MIN_WORTH_WAITING:
                return table
        return None

    def check(self) -> None:
        """Raises IntegrityError unless every table that computes is known at all its blocks from the first uncommitted one on."""
        counts: Counter[bytes] = Counter()
        for table, first in self._first.items():
            if first != table.num_committed or not table.blocks:
                raise defect(f"blocks of request {table.request_id} are pending from another one on than its first uncommitted")
            stop = cdiv(table.num_target, self._size)
            counts.update(table.parent(block_idx) for block_idx in range(table.num_committed, stop))
        if counts != {parent: len(tables) for parent, tables in self._following.items()}:
            raise defect("pending blocks differ from those of the requests being computed")
