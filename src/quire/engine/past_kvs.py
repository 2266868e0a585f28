"""`PastKVs`: the cache of a hand-driven loop, as an immutable handle on block tables.

past   = [ block 4: full | block 7: 3 of 32 ]
a = model(x, past)   ->  [ 4 | 7 ]      the first to continue writes on in block 7, behind what `past` sees
b = model(y, past)   ->  [ 4 | 9 ]      block 7 has grown since, so the second continues in a copy of it
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np

from quire.engine.turns import ProcessLock
from quire.engine.uncopyable import Uncopyable
from quire.errors import CapacityError
from quire.executors.protocol import Executor, Float32Array
from quire.kv.block import Block
from quire.kv.pool import BlockPool
from quire.sched.limits import PoolBound

_HOLDER = "load_model"

BlockTable = tuple[Block, ...]


class PastKVs(Uncopyable):
    """K/V of the first `num_tokens` tokens of B rows. It never changes; its blocks are released when it is dropped.

    `past_kvs[layer]` is (K, V), each [B, K, num_tokens, D] float32, after rotation and rounding; `len()` counts layers.
    `lock` is held while the executor reads.
    """

    __slots__ = ("__weakref__", "_executor", "_lock", "num_tokens", "tables")

    def __init__(self, executor: Executor, lock: ProcessLock, tables: tuple[BlockTable, ...], num_tokens: int) -> None:
        self._executor = executor
        self._lock = lock
        self.tables = tables
        self.num_tokens = num_tokens

    @property
    def batch_size(self) -> int:
        return len(self.tables)

    def belongs_to(self, executor: Executor) -> bool:
        """Returns whether these blocks lie in the memory of `executor`."""
        return self._executor is executor

    def __len__(self) -> int:
        return self._executor.spec.num_layers

    def __getitem__(self, layer: int) -> tuple[Float32Array, Float32Array]:
        index = range(len(self))[layer]
        with self._lock.here:
            rows = [self._executor.read_kv(index, self._slots(table)) for table in self.tables]
        keys, values = (np.stack([row[part].transpose(1, 0, 2) for row in rows]) for part in (0, 1))
        return keys, values

    def __iter__(self) -> Iterator[tuple[Float32Array, Float32Array]]:
        return (self[layer] for layer in range(len(self)))

    def _slots(self, table: BlockTable) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        block_size = self._executor.layout.block_size
        positions = np.arange(self.num_tokens, dtype=np.int32)
        block_ids = np.array([block.id for block in table], dtype=np.int32)
        return block_ids[positions // block_size] * block_size + positions % block_size


@dataclass(slots=True)
class _Growth:
    """Blocks being gathered for one extension; given back together if it fails."""

    tables: list[BlockTable]
    copies: list[tuple[Block, Block]]


class PastStore:
    """Owns the blocks behind all handles of one model. Dropped handles are released before the next extension.

    Callers hold `lock` around everything they do with the store and its executor.
    """

    def __init__(self, executor: Executor, bound: PoolBound = PoolBound.KV_MEMORY) -> None:
        self._lock = ProcessLock("the model")
        self._executor = executor
        self._bound = bound
        self._pool = BlockPool(executor.num_blocks, executor.layout.block_size)
        self._num_written: dict[int, int] = {}  # block id -> the most tokens that a handle has written
        self._dropped: deque[BlockTable] = deque()  # appended to by finalizers, which may run at any moment

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
        return self._pool.num_free

    def extend(self, past: PastKVs | None, batch_size: int, num_new: int) -> tuple[BlockTable, ...]:
        """Returns tables for `num_new` more tokens in each row; raises CapacityError, and holds nothing, when memory is out."""
        self._release_dropped()
        num_past = past.num_tokens if past is not None else 0
        rows = past.tables if past is not None else ((),) * batch_size
        growth = _Growth(tables=[], copies=[])
        for table in rows:
            if not self._grow(growth, table, num_past, num_past + num_new):
                self.release(growth.tables)
                raise self._out_of_memory(batch_size, num_past + num_new)
        for source, target in growth.copies:
            self._executor.copy_block(source.id, target.id)
        return tuple(growth.tables)

    def handle(self, tables: tuple[BlockTable, ...], num_tokens: int) -> PastKVs:
        """Returns the handle that owns `tables`, all of whose `num_tokens` tokens are written."""
        block_size = self._pool.block_size
        for block in (table[-1] for table in tables):
            self._num_written[block.id] = num_tokens - (num_tokens - 1) // block_size * block_size
        past = PastKVs(self._executor, self._lock, tables, num_tokens)
        for table in tables:
            weakref.finalize(past, self._dropped.append, table).atexit = False
        return past

    def release(self, tables: Sequence[BlockTable]) -> None:
        """Gives up one hold on every block of `tables`."""
        for table in tables:
            for block in reversed(table):
                self._pool.release(block, _HOLDER)
                if block.ref_count == 0:
                    self._num_written.pop(block.id, None)

    def check(self) -> None:
        """Raises IntegrityError unless the pool's bookkeeping agrees with itself."""
        self._release_dropped()
        self._pool.check()

    def _grow(self, growth: _Growth, table: BlockTable, num_past: int, num_tokens: int) -> bool:
        block_size = self._pool.block_size
        kept, tail_tokens = table, num_past % block_size
        is_tail_taken = bool(tail_tokens) and self._num_written[table[-1].id] != tail_tokens
        if is_tail_taken:
            kept = table[:-1]
        fresh = self._pool.allocate(self._executor.layout.blocks_for_tokens(num_tokens) - len(kept), _HOLDER)
        if fresh is None:
            return False
        for block in kept:
            self._pool.share(block, _HOLDER)
        growth.tables.append((*kept, *fresh))
        if is_tail_taken:
            growth.copies.append((table[-1], fresh[0]))
        elif tail_tokens:
            self._num_written[table[-1].id] = min(num_tokens, num_past - tail_tokens + block_size) - (num_past - tail_tokens)
        return True

    def _release_dropped(self) -> None:
        while self._dropped:
            self.release([self._dropped.popleft()])

    def _out_of_memory(self, batch_size: int, num_tokens: int) -> CapacityError:
        block_size = self._pool.block_size
        return CapacityError(
            "the KV memory has no room for these tokens, because caches are still held",
            given=f"{batch_size} rows of {num_tokens} tokens",
            limit=f"{self._pool.num_blocks} blocks of {block_size} tokens, {self._pool.num_free} of them free",
            next_step=f"Drop past_kvs that are no longer needed, or load the model with more {self._bound.value}.",
        )
