"""Steps written by hand, for executors without an engine around them."""

from __future__ import annotations

import numpy as np

from quire.executors.protocol import StepBatch

BLOCK_SIZE = 4


def step(*chunks: tuple[list[int], int, list[int]], rows: list[int] | None = None, block_size: int = BLOCK_SIZE) -> StepBatch:
    """Returns a step of chunks (tokens, start, block ids); by default every row is sampled."""
    lengths = [len(tokens) for tokens, _, _ in chunks]
    positions = np.concatenate([np.arange(start, start + len(tokens)) for tokens, start, _ in chunks]).astype(np.int32)
    tables = np.zeros((len(chunks), max(len(blocks) for _, _, blocks in chunks)), dtype=np.int32)
    for row, (_, _, blocks) in enumerate(chunks):
        tables[row, : len(blocks)] = blocks
    request = np.repeat(np.arange(len(chunks)), lengths)
    return StepBatch(
        token_ids=np.array([token for tokens, _, _ in chunks for token in tokens], dtype=np.int32),
        positions=positions,
        query_start=np.cumsum([0, *lengths], dtype=np.int32),
        context_lens=np.array([start + len(tokens) for tokens, start, _ in chunks], dtype=np.int32),
        block_tables=tables,
        slot_mapping=(tables[request, positions // block_size] * block_size + positions % block_size).astype(np.int32),
        sample_rows=np.arange(sum(lengths), dtype=np.int32) if rows is None else np.array(rows, dtype=np.int32),
    )
