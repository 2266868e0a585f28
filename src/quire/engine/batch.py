"""From a step's chunks to its arrays: the only place that turns lists into arrays.

chunks   a: tokens [4, 7)     b: token [9, 10)
rows     0  1  2              3                     token_ids, positions, slot_mapping   [T]
         ^-- query_start[0]   ^-- query_start[1]    query_start ends with T              [B+1]
               sampled: 2           3               sample_rows: where a logit row is wanted

And from its arrays to its logits, a slice of rows at a time: a text of a thousand tokens never meets a thousand rows of a
vocabulary.

    body    T tokens through all layers, once                        run  ->  hidden rows stay in the executor
    head    [0, R)  [R, 2R)  [2R, S)    rows whose logits are wanted   run, head, head; each slice is consumed, then dropped

A row of the head does not depend on its neighbors, so on the native executor no slice changes a bit. The reference and the
torch executor never promised that: their matrix products may order sums by shape.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Protocol

import numpy as np

from quire.executors.protocol import ArgmaxTokens, Executor, Float32Array, Int32Array, StepBatch
from quire.kv.layout import KVLayout
from quire.sched.plan import ScheduledChunk
from quire.units import MIB

MAX_LOGIT_BYTES = 32 * MIB
"""Logits that exist at once: 55 rows of a 152k vocabulary, where products are long past being bound by reading the head."""

_BYTES_PER_LOGIT = 4


class TokenSource(Protocol):
    """Whatever knows a request's tokens by position; `Request` does."""

    def token_ids(self, start: int, stop: int) -> Sequence[int]:
        """Returns tokens [start, stop)."""
        ...

    def token_at(self, position: int) -> int:
        """Returns one token."""
        ...


class PaddedTables:
    """Block tables of a step [B, M], padded with 0, kept from step to step: a row is written again only where its blocks changed.

    A scheduler gives the same tuple of block ids until a request gets another block, so in decode nearly nothing is written.
    """

    __slots__ = ("_block_ids", "_table")

    def __init__(self) -> None:
        self._block_ids: list[tuple[int, ...]] = []
        self._table: Int32Array = np.zeros((0, 0), dtype=np.int32)

    def of(self, chunks: Sequence[ScheduledChunk]) -> Int32Array:
        """Returns the tables of the chunks' requests; the array is the caller's."""
        block_ids = [chunk.block_ids for chunk in chunks]
        if block_ids != self._block_ids:  # compares identities first: nearly free while nothing changes
            self._write(block_ids)
        return self._table.copy()

    def _write(self, block_ids: list[tuple[int, ...]]) -> None:
        shape = len(block_ids), max(map(len, block_ids))
        if self._table.shape != shape:
            self._table = np.zeros(shape, dtype=np.int32)
            self._block_ids = [()] * len(block_ids)
        for row_idx, (ids, known) in enumerate(zip(block_ids, self._block_ids, strict=True)):
            if ids is not known:
                self._table[row_idx, : len(ids)] = ids
                self._table[row_idx, len(ids) :] = 0
        self._block_ids = block_ids


def build_batch(
    chunks: Sequence[ScheduledChunk], sources: Mapping[str, TokenSource], layout: KVLayout, tables: PaddedTables | None = None
) -> StepBatch:
    """Returns the arrays of one step; logit rows come in the order of `chunks`, `num_logit_rows` of each.

    `tables` of the step before save writing all block tables again.
    """
    block_tables = (tables or PaddedTables()).of(chunks)
    if all(chunk.num_tokens == chunk.num_sample_rows == 1 for chunk in chunks):
        return _decode_batch(chunks, sources, layout, block_tables)
    counts = [chunk.num_tokens for chunk in chunks]
    query_start = np.array([0, *accumulate(counts)], dtype=np.int32)
    tokens: list[int] = []
    for chunk in chunks:
        tokens += sources[chunk.request_id].token_ids(chunk.start, chunk.start + chunk.num_tokens)
    positions, slot_mapping = _place(chunks, counts, query_start, block_tables, layout.block_size)
    return StepBatch(
        token_ids=np.array(tokens, dtype=np.int32),
        positions=positions,
        query_start=query_start,
        context_lens=np.array([chunk.start + chunk.num_tokens for chunk in chunks], dtype=np.int32),
        block_tables=block_tables,
        slot_mapping=slot_mapping,
        sample_rows=_sample_rows(chunks),
        own_tiles=_own_tiles(chunks, layout),
    )


def _decode_batch(
    chunks: Sequence[ScheduledChunk], sources: Mapping[str, TokenSource], layout: KVLayout, block_tables: Int32Array
) -> StepBatch:
    """Returns the arrays of a step in which every request computes its last token: one row each, and all of them sampled."""
    tokens: list[int] = []
    starts: list[int] = []
    slots: list[int] = []
    block_size = layout.block_size
    for request_id, start, _, block_ids, _, _, _ in chunks:
        tokens.append(sources[request_id].token_at(start))
        starts.append(start)
        slots.append(block_ids[start // block_size] * block_size + start % block_size)
    token_ids, positions, slot_mapping = np.array((tokens, starts, slots), dtype=np.int32)
    query_start = np.arange(len(chunks) + 1, dtype=np.int32)
    return StepBatch(
        token_ids=token_ids,
        positions=positions,
        query_start=query_start,
        context_lens=positions + 1,
        block_tables=block_tables,
        slot_mapping=slot_mapping,
        sample_rows=query_start[:-1],
        own_tiles=_own_tiles(chunks, layout),
    )


def _own_tiles(chunks: Sequence[ScheduledChunk], layout: KVLayout) -> Int32Array | None:
    return np.array([chunk.own_tile for chunk in chunks], dtype=np.int32) if layout.has_own_tiles else None


def _place(
    chunks: Sequence[ScheduledChunk], counts: list[int], query_start: Int32Array, block_tables: Int32Array, block_size: int
) -> tuple[Int32Array, Int32Array]:
    """Returns the position of every token and the slot its K/V go to, both [T]."""
    starts = np.array([chunk.start for chunk in chunks], dtype=np.int32)
    num_tokens = int(query_start[-1])
    positions_of_all = np.arange(num_tokens, dtype=np.int32) + np.repeat(starts - query_start[:-1], counts)
    owners = np.repeat(np.arange(len(chunks)), counts)
    blocks = block_tables[owners, positions_of_all // block_size]
    return positions_of_all, blocks * block_size + positions_of_all % block_size


def _sample_rows(chunks: Sequence[ScheduledChunk]) -> Int32Array:
    rows: list[int] = []
    stop = 0
    for chunk in chunks:
        stop += chunk.num_tokens
        rows.extend(range(stop - chunk.num_logit_rows, stop))
    return np.array(rows, dtype=np.int32)


def logit_slices(executor: Executor, batch: StepBatch) -> Iterator[Float32Array]:
    """Runs a step and yields the logits [R, V] of its sample rows, in order, at most `MAX_LOGIT_BYTES` at a time.

    A vocabulary of more than 8M tokens still gets one row per slice. Raises what the executor raises, between two slices too.
    """
    rows = batch.sample_rows
    size = rows_per_slice(executor.spec.vocab_size)
    if len(rows) <= size:
        yield executor.submit(batch).result()
        return
    yield executor.submit(replace(batch, sample_rows=rows[:size])).result()
    for start in range(size, len(rows), size):
        yield executor.head(rows[start : start + size])


def argmax_slices(executor: Executor, batch: StepBatch) -> Iterator[ArgmaxTokens]:
    """Runs a step and yields the argmax of its sample rows, in order. Otherwise as `logit_slices`."""
    rows = batch.sample_rows
    executor.submit(batch.without_samples()).result()
    size = rows_per_slice(executor.spec.vocab_size)
    for start in range(0, len(rows), size):
        yield executor.argmax(rows[start : start + size])


def rows_per_slice(vocab_size: int) -> int:
    """Returns how many rows of logits fit `MAX_LOGIT_BYTES`; at least one."""
    return max(1, MAX_LOGIT_BYTES // (_BYTES_PER_LOGIT * vocab_size))
