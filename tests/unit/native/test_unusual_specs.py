"""Specs that no family of today makes, on the native core: the definition's logits, whatever the layers combine."""

from __future__ import annotations

import numpy as np
import pytest

from quire.config import DType, KVFormat, Quantize
from quire.executors.native import NativeExecutor, available_isas, int_layout
from quire.executors.options import ExecutorOptions
from quire.executors.packing import PackLayout
from quire.executors.protocol import Float32Array, StepBatch, kv_layout
from quire.executors.reference import Float64ReferenceExecutor, ReferenceExecutor
from quire.models.spec import ModelSpec
from support.configs import unusual_specs
from support.weights import random_weights

pytestmark = pytest.mark.skipif(not available_isas(), reason="the native core is not compiled here")
NUM_BLOCKS = 4


def prompt_step(start: int, end: int) -> StepBatch:
    """Returns the step of positions [start, end) of one request whose blocks lie in reverse."""
    positions = np.arange(start, end, dtype=np.int32)
    blocks = np.arange(NUM_BLOCKS, dtype=np.int32)[::-1].copy()
    return StepBatch(
        token_ids=(positions * 7 % 250).astype(np.int32),
        positions=positions,
        query_start=np.array([0, end - start], np.int32),
        context_lens=np.array([end], np.int32),
        block_tables=blocks[None],
        slot_mapping=blocks[positions // 32] * 32 + positions % 32,
        sample_rows=np.arange(end - start, dtype=np.int32),
    )


def logits_of(executor: NativeExecutor | ReferenceExecutor) -> Float32Array:
    """Returns logits of a prompt in three chunks; the second is decode, the third is longer than those before."""
    return np.concatenate([executor.run(prompt_step(*chunk)) for chunk in ((0, 40), (40, 41), (41, 100))])


def native_logits(spec: ModelSpec, quantize: Quantize) -> Float32Array:
    return logits_of(
        NativeExecutor(
            spec,
            random_weights(spec),
            ExecutorOptions(
                layout=kv_layout(spec, 32, KVFormat.FLOAT32), num_blocks=NUM_BLOCKS, dtype=DType.FLOAT32, quantize=quantize
            ),
        )
    )


def expected_logits(spec: ModelSpec, quantize: Quantize, layout: PackLayout) -> Float32Array:
    return logits_of(
        Float64ReferenceExecutor(
            spec,
            random_weights(spec),
            ExecutorOptions(
                layout=kv_layout(spec, 32, KVFormat.FLOAT32),
                num_blocks=NUM_BLOCKS,
                dtype=DType.FLOAT32,
                quantize=quantize,
                int_layout=layout,
            ),
        )
    )


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("name", unusual_specs())
def test_logits_are_those_of_the_definition(name: str, isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUIRE_ISA", isa)
    spec = unusual_specs()[name]
    expected = expected_logits(spec, Quantize.NONE, PackLayout.VNNI)
    np.testing.assert_allclose(native_logits(spec, Quantize.NONE), expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("quantize", [Quantize.INT8, Quantize.INT4], ids=lambda each: each.value)
def test_integer_feed_forwards_of_several_sizes_lose_what_the_format_loses(
    quantize: Quantize, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUIRE_ISA", isa)
    spec = unusual_specs()["feed-forwards differ"]
    exact = expected_logits(spec, Quantize.NONE, int_layout())
    expected = expected_logits(spec, quantize, int_layout())
    native = native_logits(spec, quantize)
    assert np.linalg.norm(native - expected) <= 0.75 * np.linalg.norm(expected - exact)
