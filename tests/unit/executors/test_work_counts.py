"""Executors count exactly what the formulas say, whatever the chunks, the batch and the family; and counting changes no bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from quire.bench.cost import chunk_work
from quire.config import DType, ExecutorKind, KVFormat, Quantize
from quire.executors.native import NativeExecutor, available_isas
from quire.executors.options import ExecutorOptions
from quire.executors.protocol import StepBatch, kv_layout
from quire.executors.reference import ReferenceExecutor
from quire.executors.work_counts import WorkCounts
from quire.models.spec import ModelSpec
from support.configs import CONFIGS, spec_of, unusual_specs
from support.weights import random_weights

BLOCK = 32
Kind = Callable[..., NativeExecutor | ReferenceExecutor]
Chunk = tuple[int, int, int]
"""Of a request, tokens [start, stop)."""

native = pytest.param(NativeExecutor, marks=pytest.mark.skipif(not available_isas(), reason="the native core is not compiled"))


def build(kind: Kind, spec: ModelSpec, quantize: Quantize = Quantize.NONE, kv: KVFormat = KVFormat.FLOAT32) -> Any:
    layout = kv_layout(spec, BLOCK, kv)
    dtype = DType.FLOAT32 if quantize is Quantize.NONE else DType.BFLOAT16
    num_own_tiles = 3 if layout.has_own_tiles else 0
    options = ExecutorOptions(
        layout=layout, num_blocks=96, num_own_tiles=num_own_tiles, dtype=dtype, quantize=quantize, threads=2
    )
    return kind(spec, random_weights(spec), options)


def batch_of(chunks: Sequence[Chunk], sample_rows: Sequence[int]) -> StepBatch:
    """Returns a step of chunks; request r owns blocks [32 r, 32 r + 32)."""
    tables = np.array([[32 * request + block for block in range(32)] for request, _, _ in chunks], np.int32)
    positions = np.concatenate([np.arange(start, stop) for _, start, stop in chunks]).astype(np.int32)
    owners = np.concatenate([np.full(stop - start, request) for request, start, stop in chunks])
    return StepBatch(
        token_ids=positions % 7,
        positions=positions,
        query_start=np.cumsum([0, *(stop - start for _, start, stop in chunks)], dtype=np.int32),
        context_lens=np.array([stop for _, _, stop in chunks], np.int32),
        block_tables=tables,
        slot_mapping=(owners * 32 * BLOCK + positions).astype(np.int32),
        sample_rows=np.array(sample_rows, np.int32),
    )


def expected(spec: ModelSpec, chunks: Sequence[Chunk], num_sampled: int) -> WorkCounts:
    return sum((chunk_work(spec, start, stop, 0) for _, start, stop in chunks), chunk_work(spec, 0, 0, num_sampled))


SPECS = {name: spec_of(name) for name in CONFIGS} | unusual_specs()


@pytest.mark.parametrize("kind", [native, ReferenceExecutor])
@pytest.mark.parametrize("name", SPECS)
def test_counts_equal_the_formulas(name: str, kind: Kind) -> None:
    spec = SPECS[name]
    executor = build(kind, spec)
    executor.run(batch_of([(0, 0, 90)], []))
    for chunks, sampled in (
        ([(0, 90, 91)], [0]),
        ([(0, 91, 140), (1, 0, 33), (2, 0, 1)], [48, 82]),
        ([(0, 140, 141), (1, 33, 34), (2, 1, 2)], [0, 1, 2]),
    ):
        executor.start_counting()
        executor.run(batch_of(chunks, sampled))
        assert executor.stop_counting() == expected(spec, chunks, len(sampled))


@pytest.mark.parametrize("kind", [native, ReferenceExecutor])
def test_logits_asked_for_later_count_as_the_head(kind: Kind) -> None:
    spec = spec_of("qwen3")
    executor = build(kind, spec)
    executor.run(batch_of([(0, 0, 40)], []))
    executor.start_counting()
    executor.head(np.array([3, 39], np.int32))
    executor.argmax(np.array([7], np.int32))
    assert executor.stop_counting() == chunk_work(spec, 0, 0, 3)


@pytest.mark.skipif(not available_isas(), reason="the native core is not compiled")
@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3_text"])
def test_splits_and_shared_splits_count_once_for_every_row(family: str) -> None:
    """Contexts of several splits of 512 keys, which threads share, and whose blocks two requests share."""
    spec = spec_of(family, max_position_embeddings=2048)
    executor = build(NativeExecutor, spec)
    for start in range(0, 1020, 255):
        executor.run(batch_of([(0, start, start + 255)], []))
    batch = batch_of([(0, 1020, 1021), (1, 1021, 1022)], [0, 1])
    batch.block_tables[1, :31] = batch.block_tables[0, :31]  # slot 1021 of request 1 lies in its own last block
    executor.start_counting()
    executor.run(batch)
    assert executor.stop_counting() == expected(spec, [(0, 1020, 1021), (1, 1021, 1022)], 2)


@pytest.mark.parametrize("kind", [native, ReferenceExecutor])
@pytest.mark.parametrize("quantize", [Quantize.INT8, Quantize.INT4])
def test_quantized_weights_count_alike(quantize: Quantize, kind: Kind) -> None:
    spec = spec_of("llama")
    executor = build(kind, spec, quantize)
    executor.start_counting()
    executor.run(batch_of([(0, 0, 50)], [49]))
    assert executor.stop_counting() == expected(spec, [(0, 0, 50)], 1)


IN_FORMATS = [
    pytest.param(kind, kv, id=f"{kind.__name__}-{kv.value}", marks=marks)
    for kind, choice, marks in (
        (NativeExecutor, ExecutorKind.NATIVE, native.marks),
        (ReferenceExecutor, ExecutorKind.REFERENCE, ()),
    )
    for kv in choice.kv_formats
]


@pytest.mark.parametrize(("kind", "kv"), IN_FORMATS)
def test_every_kv_format_counts_alike(kind: Kind, kv: KVFormat) -> None:
    """In formats with own tiles, rows of the tile in progress and of all tiles before it are counted once each."""
    spec = spec_of("qwen3")
    executor = build(kind, spec, kv=kv)
    executor.start_counting()
    steps: list[list[Chunk]] = [[(0, 0, 100), (1, 0, 32)], [(0, 100, 101), (1, 32, 70), (2, 0, 1)]]
    for chunks in steps:
        batch = batch_of(chunks, [0])
        batch.own_tiles = np.array([request for request, _, _ in chunks], np.int32) if executor.layout.has_own_tiles else None
        executor.run(batch)
    assert executor.stop_counting() == expected(spec, [chunk for chunks in steps for chunk in chunks], 2)


@pytest.mark.parametrize("kind", [native, ReferenceExecutor])
def test_counting_changes_no_bit_and_ends(kind: Kind) -> None:
    executor = build(kind, spec_of("gemma3_text"))
    batch = batch_of([(0, 0, 70)], [5, 69])
    silent = executor.run(batch)
    executor.start_counting()
    assert executor.run(batch).tobytes() == silent.tobytes()
    assert executor.stop_counting().total > 0
    executor.run(batch)
    assert executor.stop_counting() == WorkCounts()
