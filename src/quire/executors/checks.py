"""What every executor refuses before it computes: weights of another model, a step outside its memory."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from quire.arrays import Int32Array
from quire.config import KERNEL_TILE_TOKENS
from quire.errors import ExecutorError
from quire.executors.protocol import StepBatch
from quire.kv.layout import KVLayout
from quire.models.spec import ModelSpec
from quire.models.weights import SourceTensor


def check_weights(spec: ModelSpec, weights: Mapping[str, SourceTensor]) -> None:
    """Raises ExecutorError unless `weights` are exactly the tensors of `spec`, by name and shape."""
    found = {name: tensor.shape for name, tensor in weights.items()}
    expected = spec.tensor_shapes()
    wrong = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    if wrong:
        raise ExecutorError(
            "the weights are not this model's", given=", ".join(wrong[:5]), next_step="Load the checkpoint again."
        )


def check_step(batch: StepBatch, spec: ModelSpec, layout: KVLayout, num_blocks: int, num_own_tiles: int = 0) -> None:
    """Raises ExecutorError for a token, position, slot, block, row, context length or own tile out of range or against another.

    Where the KV format has own tiles, rows of a request that begin inside a tile must end in it.
    """
    _check_range("token id", batch.token_ids, spec.vocab_size)
    _check_range("position", batch.positions, spec.max_context)
    _check_range("slot", batch.slot_mapping, num_blocks * layout.block_size)
    _check_range("block id", batch.block_tables, num_blocks)
    _check_range("sampled row", batch.sample_rows, len(batch.token_ids))
    _check_range("context length", batch.context_lens - 1, batch.block_tables.shape[1] * layout.block_size)
    _require(_has_rows_for_all(batch), "query_start does not give every request some of the rows")
    owners = np.repeat(np.arange(len(batch.context_lens)), np.diff(batch.query_start))
    ends = batch.query_start[owners + 1]
    positions = batch.context_lens[owners] - (ends - np.arange(len(owners)))
    _require(np.array_equal(batch.positions, positions), "positions and context_lens do not agree")
    blocks = batch.block_tables[owners, positions // layout.block_size]
    slots = blocks * layout.block_size + positions % layout.block_size
    _require(np.array_equal(batch.slot_mapping, slots), "a slot is not where the block table has its position")
    _check_own_tiles(batch, layout, num_own_tiles)


def check_rows(rows: Int32Array, num_rows: int) -> None:
    """Raises ExecutorError for a row outside the latest step, which had `num_rows`; 0 when none has run."""
    if rows.size and (rows.min() < 0 or rows.max() >= num_rows):
        raise ExecutorError(
            "A row lies outside the latest step",
            given=f"{rows.min()} to {rows.max()}",
            limit=f"a step of {num_rows} rows",
            next_step="Report this: the engine asked for logits that its executor does not have.",
        )


def check_block(block: int, num_blocks: int) -> None:
    """Raises ExecutorError for a block outside the KV memory."""
    if not 0 <= block < num_blocks:
        raise ExecutorError(
            "A block lies outside the KV memory",
            given=block,
            limit=f"0 to {num_blocks - 1}",
            next_step="Report this: the engine named a block that its executor does not have.",
        )


def check_own_tile(own_tile: int, num_own_tiles: int) -> None:
    """Raises ExecutorError for an own tile that does not exist."""
    if not 0 <= own_tile < num_own_tiles:
        raise ExecutorError(
            "An own tile lies outside the KV memory",
            given=own_tile,
            limit=f"0 to {num_own_tiles - 1}" if num_own_tiles else "a KV format with own tiles",
            next_step="Report this: the engine named an own tile that its executor does not have.",
        )


def _check_own_tiles(batch: StepBatch, layout: KVLayout, num_own_tiles: int) -> None:
    own_tiles = batch.own_tiles
    _require((own_tiles is not None) == layout.has_own_tiles, "own tiles are named where the KV format has none, or are missing")
    if own_tiles is None:
        return
    _check_range("own tile", own_tiles, num_own_tiles)
    has_one_each = len(own_tiles) == len(batch.context_lens) == len(np.unique(own_tiles))
    _require(has_one_each, "not every request has an own tile to itself")
    first, last = batch.positions[batch.query_start[:-1]], batch.context_lens - 1
    is_whole = (first % KERNEL_TILE_TOKENS == 0) | (first // KERNEL_TILE_TOKENS == last // KERNEL_TILE_TOKENS)
    _require(bool(is_whole.all()), "rows that begin inside a tile go beyond it")


def _has_rows_for_all(batch: StepBatch) -> bool:
    starts, num_requests = batch.query_start, len(batch.context_lens)
    has_sizes = len(starts) == num_requests + 1 and len(batch.block_tables) == num_requests > 0
    return bool(has_sizes and starts[0] == 0 and starts[-1] == len(batch.token_ids) and (np.diff(starts) > 0).all())


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise ExecutorError(
            f"A step contradicts itself: {problem}",
            next_step="Report this: the engine built a step that its executor cannot run.",
        )


def _check_range(what: str, values: Int32Array, stop: int) -> None:
    if values.size and (values.min() < 0 or values.max() >= stop):
        raise ExecutorError(
            f"A {what} of the step lies outside its range",
            given=f"{values.min()} to {values.max()}",
            limit=f"0 to {stop - 1}",
            next_step="Report this: the engine built a step that its executor cannot run.",
        )
