"""Executors of every KV format and steps for them, whose requests have own tiles where the format does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from quire.arrays import Int32Array
from quire.config import DType, KVFormat
from quire.executors.kv_shape import kv_layout
from quire.executors.native import NativeExecutor
from quire.executors.options import ExecutorOptions
from quire.executors.protocol import Executor, StepBatch
from quire.models.spec import ModelSpec
from quire.models.weights import Weights
from support.weights import random_weights

QUANTIZED = (KVFormat.INT8, KVFormat.INT8_INT4, KVFormat.INT4)
WITH_OWN_TILES = (KVFormat.INT8_INT4, KVFormat.INT4)
BLOCK_SIZE, NUM_BLOCKS, NUM_OWN_TILES = 64, 12, 4


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens [start, stop) of a request: token t of text `text` is the same wherever it is computed."""

    start: int
    stop: int
    blocks: Sequence[int]
    own_tile: int = 0
    text: int = 0


def kv_executor(
    spec: ModelSpec,
    kv_format: KVFormat,
    *,
    exact_key_layers: tuple[int, ...] = (),
    weights: Weights | None = None,
    **changes: Any,
) -> NativeExecutor:
    layout = kv_layout(spec, BLOCK_SIZE, kv_format, exact_key_layers)
    num_own_tiles = NUM_OWN_TILES if kv_format.has_own_tiles else 0
    settings: dict[str, Any] = {
        "layout": layout,
        "num_blocks": NUM_BLOCKS,
        "num_own_tiles": num_own_tiles,
        "dtype": DType.FLOAT32,
    } | changes
    return NativeExecutor(spec, weights or random_weights(spec), ExecutorOptions(**settings))


def kv_step(executor: Executor, *chunks: Chunk) -> StepBatch:
    """Returns a step of these chunks that samples all of its rows."""
    lengths = [chunk.stop - chunk.start for chunk in chunks]
    tables = np.zeros((len(chunks), max(len(chunk.blocks) for chunk in chunks)), np.int32)
    for row, chunk in enumerate(chunks):
        tables[row, : len(chunk.blocks)] = chunk.blocks
    vocab_size = executor.spec.vocab_size
    tokens = [_text(chunk.text, vocab_size)[chunk.start : chunk.stop] for chunk in chunks]
    return StepBatch(
        token_ids=np.concatenate(tokens),
        positions=np.concatenate([np.arange(chunk.start, chunk.stop, dtype=np.int32) for chunk in chunks]),
        query_start=np.cumsum([0, *lengths], dtype=np.int32),
        context_lens=np.array([chunk.stop for chunk in chunks], np.int32),
        block_tables=tables,
        slot_mapping=np.concatenate([slots_of(chunk.blocks, chunk.start, chunk.stop) for chunk in chunks]),
        sample_rows=np.arange(sum(lengths), dtype=np.int32),
        own_tiles=np.array([chunk.own_tile for chunk in chunks], np.int32) if executor.layout.has_own_tiles else None,
    )


def slots_of(blocks: Sequence[int], start: int, stop: int) -> Int32Array:
    """Returns the slots of positions [start, stop)."""
    positions = np.arange(start, stop)
    return (np.array(blocks)[positions // BLOCK_SIZE] * BLOCK_SIZE + positions % BLOCK_SIZE).astype(np.int32)


def own_slots(own_tile: int) -> Int32Array:
    """Returns the slots of an own tile, which follow those of all blocks."""
    return np.arange(32, dtype=np.int32) + NUM_BLOCKS * BLOCK_SIZE + own_tile * 32


def _text(number: int, vocab_size: int) -> Int32Array:
    return np.random.default_rng(number).integers(0, vocab_size, NUM_BLOCKS * BLOCK_SIZE).astype(np.int32)
