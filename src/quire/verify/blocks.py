"""One prompt, computed by one executor and finished by another: its blocks travel between them as bytes.

one      computes and exports    [ .............. )        all tokens but the last; with own tiles whole blocks
another  imports and computes                     [ .. ]
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from quire.executors.protocol import Executor, Float32Array, StepBatch


def export_prompt(executor: Executor, prompt: Sequence[int]) -> list[bytes]:
    """Computes the first tokens of `prompt`, and returns the blocks that hold them, in order."""
    stop = _num_exported(executor, prompt)
    block_ids = list(range(executor.layout.blocks_for_tokens(stop)))
    executor.run(_step(executor, prompt[:stop], 0, block_ids))
    return [executor.export_block(block) for block in block_ids]


def finish_prompt(executor: Executor, prompt: Sequence[int], blocks: Sequence[bytes]) -> Float32Array:
    """Returns the logits [V] after `prompt`: its blocks are imported, into other places, and the rest is computed."""
    block_ids = list(range(executor.num_blocks))[: -executor.layout.blocks_for_tokens(len(prompt)) - 1 : -1]
    for block, data in zip(block_ids, blocks, strict=False):
        executor.import_block(block, data)
    start = _num_exported(executor, prompt)
    logits: Float32Array = executor.run(_step(executor, prompt[start:], start, block_ids))[0]
    return logits


def _num_exported(executor: Executor, prompt: Sequence[int]) -> int:
    """Returns how many tokens lie in the exported blocks; with own tiles whole blocks, as an own tile is in none."""
    layout, num_tokens = executor.layout, len(prompt) - 1
    return num_tokens // layout.block_size * layout.block_size if layout.has_own_tiles else num_tokens


def _step(executor: Executor, token_ids: Sequence[int], start: int, block_ids: Sequence[int]) -> StepBatch:
    """Returns a step of one request that computes `token_ids` from position `start` on and samples the last one."""
    size, stop = executor.layout.block_size, start + len(token_ids)
    positions, table = np.arange(start, stop, dtype=np.int32), np.array(block_ids, dtype=np.int32)
    return StepBatch(
        token_ids=np.array(token_ids, dtype=np.int32),
        positions=positions,
        query_start=np.array([0, len(token_ids)], dtype=np.int32),
        context_lens=np.array([stop], dtype=np.int32),
        block_tables=table[None],
        slot_mapping=table[positions // size] * size + positions % size,
        sample_rows=np.array([len(token_ids) - 1], dtype=np.int32),
        own_tiles=np.zeros(1, dtype=np.int32) if executor.layout.has_own_tiles else None,
    )
