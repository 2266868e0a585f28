"""The best token of a row, found inside the product with the head: what the row's logits say, on every path to them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from quire.config import DType, KVFormat
from quire.errors import ExecutorError
from quire.executors.host import argmax_of
from quire.executors.native import NativeExecutor, available_isas
from quire.executors.options import ExecutorOptions
from quire.executors.protocol import StepBatch, kv_layout
from quire.models.spec import ModelSpec
from quire.models.weights import SourceDType, SourceTensor, Weights
from support.configs import spec_of
from support.weights import random_weights

pytestmark = pytest.mark.skipif(not available_isas(), reason="the native core is not compiled here")
NUM_ROWS = 23


def executor_of(spec: ModelSpec, weights: Weights, dtype: DType = DType.FLOAT32, threads: int = 1) -> NativeExecutor:
    layout = kv_layout(spec, 32, KVFormat(dtype.value))
    return NativeExecutor(spec, weights, ExecutorOptions(layout=layout, num_blocks=4, dtype=dtype, threads=threads))


def run_rows(executor: NativeExecutor) -> None:
    rows = np.arange(NUM_ROWS, dtype=np.int32)
    executor.run(
        StepBatch(
            token_ids=rows * 5 % executor.spec.vocab_size,
            positions=rows,
            query_start=np.array([0, NUM_ROWS], np.int32),
            context_lens=np.array([NUM_ROWS], np.int32),
            block_tables=np.array([[2]], np.int32),
            slot_mapping=rows + 64,
            sample_rows=rows[:0],
        )
    )


def assert_agree(executor: NativeExecutor) -> None:
    run_rows(executor)
    for rows in ([0], [3, 22], [5, 5, 1], list(range(NUM_ROWS)), []):
        wanted = np.array(rows, np.int32)
        found, expected = executor.argmax(wanted), argmax_of(executor.head(wanted))
        assert found.num_not_finite.tolist() == expected.num_not_finite.tolist()
        finite = expected.num_not_finite == 0
        assert found.token_ids[finite].tolist() == expected.token_ids[finite].tolist()


def with_rows(weights: Weights, values: dict[int, float]) -> Weights:
    """Returns weights in which rows of the untied head are filled with one value each."""
    head = weights["head.weight"].to_float32().copy()
    for row, value in values.items():
        head[row] = value
    return Weights({**dict(weights), "head.weight": SourceTensor(dtype=SourceDType.FLOAT32, bits=head)}, weights.fingerprint)


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", list(DType), ids=lambda dtype: dtype.value)
@pytest.mark.parametrize("vocab_size", [63, 64, 65, 1000])
def test_the_best_token_is_that_of_the_logits(
    isa: str, threads: int, dtype: DType, vocab_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUIRE_ISA", isa)
    spec = replace(spec_of("llama"), vocab_size=vocab_size)
    assert_agree(executor_of(spec, random_weights(spec), dtype, threads))


def test_capped_logits_are_capped_before_they_are_compared() -> None:
    """A cap of 1e-30 makes all positive logits equal, so the smallest id wins."""
    spec = replace(spec_of("llama"), vocab_size=300, logit_softcap=1e-30)
    assert_agree(executor_of(spec, random_weights(spec), threads=2))


def test_equal_logits_in_several_panels_give_the_smallest_id() -> None:
    spec = replace(spec_of("llama"), vocab_size=1000, is_head_tied=False)
    weights = with_rows(random_weights(spec), dict.fromkeys(range(1000), 0.0))
    for threads in (1, 2):
        executor = executor_of(spec, weights, threads=threads)
        run_rows(executor)
        assert executor.argmax(np.array([0, 4], np.int32)).token_ids.tolist() == [0, 0]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_counted(value: float) -> None:
    spec = replace(spec_of("llama"), vocab_size=1000, is_head_tied=False)
    executor = executor_of(spec, with_rows(random_weights(spec), {0: value, 500: value, 999: value}), threads=2)
    assert_agree(executor)
    assert executor.argmax(np.array([7], np.int32)).num_not_finite.tolist() == [3]


def test_rows_that_the_latest_step_had_not_are_refused() -> None:
    spec = spec_of("llama")
    executor = executor_of(spec, random_weights(spec))
    with pytest.raises(ExecutorError, match="latest step"):
        executor.argmax(np.array([0], np.int32))
    run_rows(executor)
    with pytest.raises(ExecutorError, match="latest step"):
        executor.argmax(np.array([NUM_ROWS], np.int32))
