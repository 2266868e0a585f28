"""What a step may say about own tiles, whatever executor runs it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from quire.config import KVFormat
from quire.errors import ExecutorError
from quire.executors.checks import check_step
from quire.executors.protocol import StepBatch, kv_layout
from support.configs import spec_of
from support.steps import step

SPEC = spec_of("llama", max_position_embeddings=128)
BLOCK = 32
LAYOUT = kv_layout(SPEC, BLOCK, KVFormat.INT4)


def rows(start: int, stop: int, blocks: list[int]) -> tuple[list[int], int, list[int]]:
    return [1] * (stop - start), start, blocks


def batch_of(*chunks: tuple[list[int], int, list[int]], own_tiles: list[int] | None) -> StepBatch:
    made = step(*chunks, block_size=BLOCK)
    return replace(made, own_tiles=None if own_tiles is None else np.array(own_tiles, dtype=np.int32))


def check(batch: StepBatch, kv_format: KVFormat = KVFormat.INT4) -> None:
    check_step(batch, SPEC, kv_layout(SPEC, BLOCK, kv_format), num_blocks=8, num_own_tiles=3)


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 1), (0, 32), (0, 33), (0, 100), (32, 70), (5, 6), (5, 32), (31, 32), (64, 96), (40, 64)]
)
def test_rows_from_a_tiles_border_go_anywhere_and_others_to_the_tiles_end(start: int, stop: int) -> None:
    check(batch_of(rows(start, stop, [0, 1, 2, 3]), own_tiles=[2]))


@pytest.mark.parametrize(("start", "stop"), [(5, 33), (31, 33), (1, 65), (40, 65)])
def test_rows_that_begin_inside_a_tile_do_not_go_beyond_it(start: int, stop: int) -> None:
    batch = batch_of(rows(start, stop, [0, 1, 2, 3]), own_tiles=[0])
    with pytest.raises(ExecutorError, match="begin inside a tile go beyond it"):
        check(batch)
    check(replace(batch, own_tiles=None), KVFormat.INT8)


@pytest.mark.parametrize(
    ("own_tiles", "problem"),
    [
        (None, "or are missing"),
        ([0], "not every request has an own tile"),
        ([1, 1], "not every request has an own tile"),
        ([0, 3], "own tile of the step lies outside"),
        ([-1, 0], "own tile of the step lies outside"),
    ],
)
def test_every_request_of_a_step_has_an_own_tile_to_itself(own_tiles: list[int] | None, problem: str) -> None:
    chunks = rows(0, 3, [0]), rows(3, 5, [1])
    check(batch_of(*chunks, own_tiles=[2, 0]))
    with pytest.raises(ExecutorError, match=problem):
        check(batch_of(*chunks, own_tiles=own_tiles))


@pytest.mark.parametrize("kv_format", [KVFormat.FLOAT32, KVFormat.BFLOAT16, KVFormat.INT8])
def test_own_tiles_are_refused_where_the_format_has_none(kv_format: KVFormat) -> None:
    with pytest.raises(ExecutorError, match="where the KV format has none"):
        check(batch_of(rows(0, 3, [0]), own_tiles=[0]), kv_format)
