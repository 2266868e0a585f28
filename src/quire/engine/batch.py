"""From a step's chunks to its arrays: the only place that turns lists into arrays.

chunks   a: tokens [4, 7)     b: token [9, 10)
rows     0  1  2              3                     token_ids, positions, slot_mapping   [T]
         ^-- query_start[0]   ^-- query_start[1]    query_start ends with T              [B+1]
               sampled: 2           3               sample_rows: where a logit row is wanted
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Protocol

import numpy as np

from quire.executors.protocol import Int32Array, StepBatch
from quire.sched.plan import ScheduledChunk


class TokenSource(Protocol):
    """Whatever knows a request's tokens by position; `Request` does."""

    def token_ids(self, start: int, stop: int) -> Sequence[int]:
        """Returns tokens [start, stop)."""
        ...


def num_logit_rows(chunk: ScheduledChunk) -> int:
    """Returns how many rows of logits the executor returns for a chunk."""
    return chunk.num_tokens - chunk.num_given_rows if chunk.wants_all_rows else int(chunk.samples)


def build_batch(chunks: Sequence[ScheduledChunk], sources: Mapping[str, TokenSource], block_size: int) -> StepBatch:
    """Returns the arrays of one step; logit rows come in the order of `chunks`, `num_logit_rows` each."""
    counts = [chunk.num_tokens for chunk in chunks]
    query_start = np.array([0, *accumulate(counts)], dtype=np.int32)
    tokens: list[int] = []
    for chunk in chunks:
        tokens.extend(sources[chunk.request_id].token_ids(chunk.start, chunk.stop))
    block_tables = _pad_tables(chunks)
    positions, slot_mapping = _place(chunks, counts, query_start, block_tables, block_size)
    return StepBatch(
        token_ids=np.array(tokens, dtype=np.int32),
        positions=positions,
        query_start=query_start,
        context_lens=np.array([chunk.stop for chunk in chunks], dtype=np.int32),
        block_tables=block_tables,
        slot_mapping=slot_mapping,
        sample_rows=_sample_rows(chunks),
    )


def _pad_tables(chunks: Sequence[ScheduledChunk]) -> Int32Array:
    if len(chunks) == 1:
        return np.array([chunks[0].block_ids], dtype=np.int32)
    tables = np.zeros((len(chunks), max(len(chunk.block_ids) for chunk in chunks)), dtype=np.int32)
    for row, chunk in zip(tables, chunks, strict=True):
        row[: len(chunk.block_ids)] = chunk.block_ids
    return tables


def _place(
    chunks: Sequence[ScheduledChunk], counts: list[int], query_start: Int32Array, block_tables: Int32Array, block_size: int
) -> tuple[Int32Array, Int32Array]:
    """Returns the position of every token and the slot its K/V go to, both [T]."""
    if len(chunks) == 1 and counts[0] == 1:
        start = chunks[0].start
        block_idx, offset = divmod(start, block_size)
        slot = chunks[0].block_ids[block_idx] * block_size + offset
        return np.array([start], dtype=np.int32), np.array([slot], dtype=np.int32)
    starts = np.array([chunk.start for chunk in chunks], dtype=np.int32)
    num_tokens = int(query_start[-1])
    positions = np.arange(num_tokens, dtype=np.int32) + np.repeat(starts - query_start[:-1], counts)
    owners = np.repeat(np.arange(len(chunks)), counts)
    slots = block_tables[owners, positions // block_size] * block_size + positions % block_size
    return positions, slots


def _sample_rows(chunks: Sequence[ScheduledChunk]) -> Int32Array:
    rows: list[int] = []
    first = 0
    for chunk in chunks:
        rows.extend(range(first + chunk.num_tokens - num_logit_rows(chunk), first + chunk.num_tokens))
        first += chunk.num_tokens
    return np.array(rows, dtype=np.int32)
