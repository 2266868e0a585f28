"""From chunks to arrays, against a naive twin that places token by token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.config import KVFormat
from quire.engine.batch import build_batch
from quire.kv.layout import KVLayout
from quire.request import Request, SamplingParams
from quire.sched.plan import ScheduledChunk
from quire.units import cdiv

BLOCK_SIZE = 4
LAYOUT = KVLayout(num_layers=1, num_kv_heads=1, head_dim=8, block_size=BLOCK_SIZE, format=KVFormat.FLOAT32)


@st.composite
def chunks(draw: st.DrawFn) -> list[ScheduledChunk]:
    made = []
    for index in range(draw(st.integers(1, 4))):
        start, num_tokens = draw(st.integers(0, 20)), draw(st.integers(1, 9))
        num_blocks = cdiv(start + num_tokens, BLOCK_SIZE) + draw(st.integers(0, 2))
        num_sample_rows = draw(st.integers(0, num_tokens))
        made.append(
            ScheduledChunk(
                request_id=str(index),
                start=start,
                num_tokens=num_tokens,
                block_ids=tuple(draw(st.permutations(range(30)))[:num_blocks]),
                num_sample_rows=num_sample_rows,
                num_scored_rows=draw(st.integers(0, num_tokens - num_sample_rows)),
            )
        )
    return made


def _requests(planned: Sequence[ScheduledChunk]) -> dict[str, Request]:
    params = SamplingParams()
    return {
        chunk.request_id: Request(
            request_id=chunk.request_id,
            prompt_token_ids=tuple(range(100 * index, 100 * index + chunk.stop - 1)),
            output_token_ids=[100 * index + chunk.stop - 1],
            sampling=params,
        )
        for index, chunk in enumerate(planned)
    }


@settings(max_examples=200, deadline=None)
@given(chunks())
def test_every_token_has_its_place(planned: list[ScheduledChunk]) -> None:
    batch = build_batch(planned, _requests(planned), LAYOUT)
    row = 0
    sampled = []
    for index, chunk in enumerate(planned):
        assert (batch.query_start[index], batch.context_lens[index]) == (row, chunk.stop)
        table = batch.block_tables[index]
        assert tuple(table[: len(chunk.block_ids)]) == chunk.block_ids
        assert not table[len(chunk.block_ids) :].any()
        for position in range(chunk.start, chunk.stop):
            slot = chunk.block_ids[position // BLOCK_SIZE] * BLOCK_SIZE + position % BLOCK_SIZE
            placed = (batch.token_ids[row], batch.positions[row], batch.slot_mapping[row])
            assert placed == (100 * index + position, position, slot)
            if position >= chunk.stop - chunk.num_scored_rows - chunk.num_sample_rows:
                sampled.append(row)
            row += 1
    assert batch.query_start[-1] == row == len(batch.token_ids)
    assert batch.sample_rows.tolist() == sampled
    assert batch.own_tiles is None
    for name in batch.__dataclass_fields__.keys() - {"own_tiles"}:
        assert getattr(batch, name).dtype == np.int32, name
