"""Own tiles of a hand-driven loop: the unfinished tile of a row, kept while there is room, computed again where it is not.

A KV format with own tiles (see docs/kv-cache.md) keeps the last tokens of a row, up to 31, outside its blocks:

    past       [ 0 ... 32) in a block, [32 ... 40) in own tile 2
    a, b       continue it: each in an own tile of its own, into which tile 2 is copied
    later      own tile 2 went to another row: whatever continues `past` computes [32, 40) again
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quire.arrays import Int32Array
from quire.config import KERNEL_TILE_TOKENS
from quire.engine.batch import build_batch
from quire.executors.protocol import Executor
from quire.sched.plan import ScheduledChunk

_ROW = "row"


@dataclass(frozen=True, slots=True)
class PastRow:
    """A row's table in the manager. It never grows: what continues the row has a table of its own.

    Of its `num_tokens` tokens, `tail` are those of its unfinished tile, where the KV format has own tiles.
    """

    table_id: str
    block_ids: tuple[int, ...]
    num_tokens: int
    tail: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenSpan:
    """Some tokens of a row, found by their absolute position."""

    start: int
    tokens: Sequence[int]

    def token_ids(self, start: int, stop: int) -> Sequence[int]:
        return self.tokens[start - self.start : stop - self.start]

    def token_at(self, position: int) -> int:
        return self.tokens[position - self.start]


class PastTiles:
    """The own tiles of an executor, each with the row whose unfinished tile it holds; the one unused for longest goes first."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._holders: OrderedDict[int, str | None] = OrderedDict.fromkeys(range(executor.num_own_tiles))

    def begin(self, row: PastRow, parent: PastRow | None) -> int:
        """Returns an own tile for `row`, which holds the unfinished tile of its parent."""
        source = self._of(parent)
        target = self._take(row)
        if parent is not None and parent.tail:
            if source is None:
                self._compute(parent, target)
            elif source != target:
                self._executor.copy_own_tile(source, target)
        return target

    def give_up(self, row: PastRow) -> None:
        """Lets the own tile of `row`, if it has one, go to the next that needs one."""
        own_tile = self._of(row)
        if own_tile is not None:
            self._holders[own_tile] = None
            self._holders.move_to_end(own_tile, last=False)

    def slots(self, row: PastRow) -> Int32Array:
        """Returns the slots of the unfinished tile of `row`, in the executor's own tiles."""
        num_paged = self._executor.num_blocks * self._executor.layout.block_size
        first = num_paged + self._restored(row) * KERNEL_TILE_TOKENS if row.tail else 0
        return np.arange(first, first + len(row.tail), dtype=np.int32)

    def _restored(self, row: PastRow) -> int:
        """Returns the own tile that holds the unfinished tile of `row`, computed again if need be."""
        own_tile = self._of(row)
        if own_tile is None:
            own_tile = self._take(row)
            self._compute(row, own_tile)
        return own_tile

    def _of(self, row: PastRow | None) -> int | None:
        return next((tile for tile, holder in self._holders.items() if row is not None and holder == row.table_id), None)

    def _take(self, row: PastRow) -> int:
        own_tile, _ = self._holders.popitem(last=False)
        self._holders[own_tile] = row.table_id
        return own_tile

    def _compute(self, row: PastRow, own_tile: int) -> None:
        """Computes the unfinished tile of a row again; its blocks are read, and not written: no tile gets full."""
        start = row.num_tokens - len(row.tail)
        chunk = ScheduledChunk(_ROW, start, len(row.tail), row.block_ids, num_sample_rows=0, own_tile=own_tile)
        self._executor.run(build_batch([chunk], {_ROW: TokenSpan(start, row.tail)}, self._executor.layout))
