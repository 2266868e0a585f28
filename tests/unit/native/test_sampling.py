"""Sampling by the native executor: the tokens of the definition, on the executor's own threads."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from quire.config import DType, KVFormat
from quire.errors import ExecutorError, ExecutorUnavailableError
from quire.executors.native import NativeExecutor, available_isas, native_sampler
from quire.executors.options import ExecutorOptions
from quire.executors.protocol import kv_layout
from quire.request import SamplingParams
from quire.sample.definition import NumPySampler
from quire.sample.filters import SampleRow
from support.configs import spec_of
from support.weights import random_weights

pytestmark = pytest.mark.skipif(not available_isas(), reason="the native core is not compiled here")

SPEC = spec_of("llama")
VOCAB = 5000
WAYS = (
    {"temperature": 0},
    {"top_p": 0.9},
    {"top_k": 40, "logprobs": 2},
    {"min_p": 0.05, "temperature": 0.7},
    {"repetition_penalty": 1.2, "logit_bias": {3: 4.0}},
)


def executor_of(threads: int = 1) -> NativeExecutor:
    layout = kv_layout(SPEC, 32, KVFormat.FLOAT32)
    options = ExecutorOptions(layout=layout, num_blocks=1, dtype=DType.FLOAT32, threads=threads)
    return NativeExecutor(SPEC, random_weights(SPEC), options)


def rows_of(num_rows: int) -> list[SampleRow]:
    return [
        SampleRow(
            params=SamplingParams(**WAYS[index % len(WAYS)]),  # type: ignore[arg-type]
            seed=index,
            prompt_token_ids=(1, 2),
            output_token_ids=(3, 4),
            eos_token_ids=frozenset({0}),
        )
        for index in range(num_rows)
    ]


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("threads", [1, 3])
def test_tokens_and_scores_are_those_of_the_definition(isa: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUIRE_ISA", isa)
    logits = (3 * np.random.default_rng(2).normal(size=(40, VOCAB))).astype(np.float32)
    executor, definition, rows = executor_of(threads), NumPySampler(), rows_of(40)
    assert executor.sample(logits, rows) == definition.sample(logits, rows)
    assert executor.score(logits, range(40), 3) == definition.score(logits, range(40), 3)


def test_an_instruction_set_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUIRE_ISA", "mmx")
    with pytest.raises(ExecutorUnavailableError, match="QUIRE_ISA"):
        native_sampler(1)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts the threads that Linux lists")
def test_a_batch_is_sampled_on_the_threads_of_the_executor() -> None:
    executor = executor_of(threads=3)
    num_threads = len(list(Path("/proc/self/task").iterdir()))
    logits = np.zeros((64, VOCAB), np.float32)
    executor.sample(logits, rows_of(64))
    assert len(list(Path("/proc/self/task").iterdir())) == num_threads


def test_what_the_core_refuses_is_an_error_of_the_executor() -> None:
    with pytest.raises(ExecutorError, match="outside the row"):
        executor_of().score(np.zeros((1, 5), np.float32), [5], 0)
