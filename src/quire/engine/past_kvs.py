"""`PastKVs`: the cache of a hand-driven loop, as an immutable handle on tables of the KV cache manager.

past   = [ block 4: full | block 7: 3 of 32 ]
a = model(x, past)   ->  [ 4 | 7 ]      the first to continue writes on in block 7, behind what `past` sees
b = model(y, past)   ->  [ 4 | 9 ]      block 7 has grown since, so the second continues in a copy of it
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import count, islice, zip_longest

import numpy as np
import numpy.typing as npt

from quire.arrays import Int32Array
from quire.config import KERNEL_TILE_TOKENS, PrefixCache
from quire.engine.past_tiles import PastRow, PastTiles
from quire.engine.turns import ProcessLock
from quire.engine.uncopyable import Uncopyable
from quire.errors import CapacityError
from quire.executors.protocol import Executor, Float32Array
from quire.kv.manager import KVCacheManager
from quire.kv.pool import BlockPool
from quire.sched.limits import PoolBound


class PastKVs(Uncopyable):
    """K/V of the first `num_tokens` tokens of B rows. It never changes; its blocks are released when it is dropped.

    `past_kvs[layer]` is (K, V), each [B, K, num_tokens, D] float32, after rotation and rounding; `len()` counts layers.
    The store's lock is held while the executor reads.
    """

    __slots__ = ("__weakref__", "_executor", "_store", "num_tokens", "rows")

    def __init__(self, store: PastStore, rows: tuple[PastRow, ...], num_tokens: int) -> None:
        self._executor = store.executor
        self._store = store
        self.rows = rows
        self.num_tokens = num_tokens

    @property
    def batch_size(self) -> int:
        return len(self.rows)

    def belongs_to(self, executor: Executor) -> bool:
        """Returns whether these blocks lie in the memory of `executor`."""
        return self._executor is executor

    def __len__(self) -> int:
        return self._executor.spec.num_layers

    def __getitem__(self, layer: int) -> tuple[Float32Array, Float32Array]:
        index = range(len(self))[layer]
        with self._store.lock:
            pairs = [self._executor.read_kv(index, self._store.slots_of(row)) for row in self.rows]
        keys, values = (np.stack([pair[part].transpose(1, 0, 2) for pair in pairs]) for part in (0, 1))
        return keys, values

    def __iter__(self) -> Iterator[tuple[Float32Array, Float32Array]]:
        return (self[layer] for layer in range(len(self)))


class PastStore:
    """The handles of one model, each row a table of the manager. Dropped handles are released before the next extension.

    Callers hold `lock` around everything they do with the store and its executor.
    """

    def __init__(self, executor: Executor, bound: PoolBound = PoolBound.KV_MEMORY) -> None:
        self._lock = ProcessLock("the model")
        self._executor = executor
        self._bound = bound
        pool = BlockPool(executor.num_blocks, executor.layout.block_size)
        self._manager = KVCacheManager(pool, fingerprint=b"", prefix_cache=PrefixCache.OFF)
        self._table_numbers = count()
        self._tiles = PastTiles(executor)
        self._num_written = [0] * executor.num_blocks  # of the last block of a living row: the most tokens written to it
        self._dropped: deque[tuple[PastRow, ...]] = deque()  # appended to by finalizers, which may run at any moment

    @property
    def lock(self) -> AbstractContextManager[bool]:
        """The lock; raises ExecutorError in a process that was forked while another thread held it."""
        return self._lock.here

    @property
    def executor(self) -> Executor:
        return self._executor

    @property
    def num_free_blocks(self) -> int:
        """Blocks that no living handle holds."""
        self._release_dropped()
        return self._manager.pool.num_free

    def extend(self, past: PastKVs | None, tokens: npt.NDArray[np.int64]) -> tuple[PastRow, ...]:
        """Returns rows with room for more `tokens` [B, T]; raises CapacityError, and holds nothing, when memory is out."""
        self._release_dropped()
        batch_size, num_new = tokens.shape
        num_past = past.num_tokens if past is not None else 0
        num_tokens = num_past + num_new
        table_ids = self._open_tables(past, batch_size)
        if any(self._manager.reserve(table_id, num_tokens) is None for table_id in table_ids):
            self._close_tables(table_ids)
            raise self._out_of_memory(batch_size, num_tokens)
        tails = self._tails(past, tokens)
        rows = tuple(
            PastRow(table_id, self._manager.block_ids(table_id), num_tokens, tail)
            for table_id, tail in zip(table_ids, tails, strict=True)
        )
        if past is not None and num_past % self._manager.pool.block_size:
            for parent, row in zip(past.rows, rows, strict=True):
                self._continue_tail(parent, row, num_past, num_tokens)
        return rows

    def own_tiles(self, rows: Sequence[PastRow], parents: Sequence[PastRow]) -> list[int]:
        """Returns the own tiles [B] in which `rows` continue their parents, if any; zeros where the KV format has none."""
        if not self._executor.layout.has_own_tiles:
            return [0] * len(rows)
        return [self._tiles.begin(row, parent) for row, parent in zip_longest(rows, parents)]

    def slots_of(self, row: PastRow) -> Int32Array:
        """Returns the slots of all tokens of a row, those of its unfinished tile in an own tile that holds them."""
        block_size = self._manager.pool.block_size
        positions = np.arange(row.num_tokens - len(row.tail), dtype=np.int32)
        paged = np.array(row.block_ids, dtype=np.int32)[positions // block_size] * block_size + positions % block_size
        return np.concatenate([paged, self._tiles.slots(row)])

    def handle(self, rows: tuple[PastRow, ...], num_tokens: int) -> PastKVs:
        """Returns the handle that owns `rows`, all of whose `num_tokens` tokens are written."""
        block_size = self._manager.pool.block_size
        for row in rows:
            self._num_written[row.block_ids[-1]] = num_tokens - (num_tokens - 1) // block_size * block_size
            if not row.tail:
                self._tiles.give_up(row)
        past = PastKVs(self, rows, num_tokens)
        weakref.finalize(past, self._dropped.append, rows).atexit = False
        return past

    def release(self, rows: tuple[PastRow, ...]) -> None:
        """Gives up the blocks and own tiles of `rows`."""
        for row in rows:
            self._tiles.give_up(row)
        self._close_tables(row.table_id for row in rows)

    def check(self) -> None:
        """Raises IntegrityError unless tables and reference counts agree."""
        self._release_dropped()
        self._manager.check()

    def _tails(self, past: PastKVs | None, tokens: npt.NDArray[np.int64]) -> list[tuple[int, ...]]:
        """Returns the tokens of the tile that each row leaves unfinished; none where the KV format has no own tiles."""
        if not self._executor.layout.has_own_tiles:
            return [()] * len(tokens)
        olds = [()] * len(tokens) if past is None else [row.tail for row in past.rows]
        lasts = [(*old, *new[-KERNEL_TILE_TOKENS:].tolist()) for old, new in zip(olds, tokens, strict=True)]
        num_tail = (tokens.shape[1] + (0 if past is None else past.num_tokens)) % KERNEL_TILE_TOKENS
        return [last[len(last) - num_tail :] for last in lasts]

    def _open_tables(self, past: PastKVs | None, batch_size: int) -> list[str]:
        """Opens a table per row that shares the blocks of the past, except a tail that another continuation took."""
        table_ids = [f"row {number}" for number in islice(self._table_numbers, batch_size)]
        if past is None:
            for table_id in table_ids:
                self._manager.open(table_id)
            return table_ids
        num_in_tail = past.num_tokens % self._manager.pool.block_size
        for parent, table_id in zip(past.rows, table_ids, strict=True):
            is_tail_taken = num_in_tail > 0 and self._num_written[parent.block_ids[-1]] != num_in_tail
            self._manager.fork(parent.table_id, table_id, len(parent.block_ids) - is_tail_taken)
        return table_ids

    def _close_tables(self, table_ids: Iterable[str]) -> None:
        for table_id in table_ids:
            self._manager.close(table_id)

    def _continue_tail(self, parent: PastRow, row: PastRow, num_past: int, num_tokens: int) -> None:
        """Takes the tail that `row` shares with its parent, or copies it into the block that `row` has in its place."""
        block_size = self._manager.pool.block_size
        tail_idx = num_past // block_size
        source, target = parent.block_ids[tail_idx], row.block_ids[tail_idx]
        if source == target:
            self._num_written[target] = min(num_tokens - tail_idx * block_size, block_size)
        else:
            self._executor.copy_block(source, target)

    def _release_dropped(self) -> None:
        while self._dropped:
            self.release(self._dropped.popleft())

    def _out_of_memory(self, batch_size: int, num_tokens: int) -> CapacityError:
        pool = self._manager.pool
        return CapacityError(
            "the KV memory has no room for these tokens, because caches are still held",
            given=f"{batch_size} rows of {num_tokens} tokens",
            limit=f"{pool.num_blocks} blocks of {pool.block_size} tokens, {pool.num_free} of them free",
            next_step=f"Drop past_kvs that are no longer needed, or load the model with more {self._bound.value}.",
        )
