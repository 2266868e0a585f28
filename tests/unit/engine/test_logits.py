"""Logits exist a slice at a time: the same results, a bounded memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from quire.config import CacheConfig, DType, EngineConfig, KVFormat, SchedulerConfig
from quire.engine import batch
from quire.engine.batch import MAX_LOGIT_BYTES, rows_per_slice
from quire.engine.core import EngineCore
from quire.engine.loading import Origin, build_core
from quire.engine.prompts import ParsedPrompt
from quire.engine.resolve import is_native_built
from quire.engine.scores import Score, score_on
from quire.errors import ExecutorError
from quire.executors.native import NativeExecutor
from quire.executors.options import ExecutorOptions
from quire.executors.protocol import Executor, Float32Array, Int32Array, kv_layout
from quire.executors.reference import ReferenceExecutor
from quire.executors.torch_executor import TorchExecutor
from quire.request import FinishReason
from quire.text.tokenizer import Tokenizer
from quire.units import MIB
from support.configs import spec_of
from support.fake_engine import EOS, VOCAB_SIZE, FakeExecutor, make_core, run_all, submission
from support.weights import random_weights

NEEDS_NATIVE = pytest.mark.skipif(not is_native_built(), reason="the native core is not compiled here")
LARGE_VOCAB = 152_000
NUM_TOKENS = 200
PROMPT = tuple(range(20)) * 3


def of_rows(num_rows: int, vocab_size: int) -> int:
    """Returns the budget under which a slice holds so many rows."""
    return num_rows * vocab_size * 4


@pytest.mark.parametrize("num_rows", [1, 2, 7, 59, 60, 61])
def test_slices_change_no_score_and_no_token(tokenizer: Tokenizer, num_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    work = [
        submission("scored", PROMPT, prompt_logprobs=2, max_tokens=5),
        submission("plain", PROMPT[5:], max_tokens=5),
        submission("continued", PROMPT[3:], num_context=30, prompt_logprobs=0, max_tokens=5),
        submission("drawn", PROMPT[7:], max_tokens=5, temperature=1.0, seed=3),
    ]
    expected = run_all(make_core(FakeExecutor(), tokenizer, max_num_batched_tokens=512), *work)
    monkeypatch.setattr(batch, "MAX_LOGIT_BYTES", of_rows(num_rows, VOCAB_SIZE))
    found = run_all(make_core(FakeExecutor(), tokenizer, max_num_batched_tokens=512), *work)
    for name, output in expected.items():
        assert found[name].prompt_logprobs == output.prompt_logprobs
        assert [each.token_ids for each in found[name].outputs] == [each.token_ids for each in output.outputs]


class _NarrowExecutor(FakeExecutor):
    """Counts rows, and fails in the head of a step with several requests, after the first slice was read."""

    def head(self, rows: Int32Array) -> Float32Array:
        self.widest = max(getattr(self, "widest", 0), len(rows))
        if self._latest is not None and len(self._latest.context_lens) > 1 and rows[0] > 0:
            raise ExecutorError("no more heads", next_step="Ask for fewer.")
        return super().head(rows)


def test_failure_between_slices_costs_nobody_anything(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    work = [submission(name, (index, *PROMPT), prompt_logprobs=0) for index, name in enumerate("abc")]
    expected = run_all(make_core(FakeExecutor(), tokenizer, max_num_batched_tokens=512), *work)
    monkeypatch.setattr(batch, "MAX_LOGIT_BYTES", of_rows(8, VOCAB_SIZE))
    executor = _NarrowExecutor()
    found = run_all(make_core(executor, tokenizer, max_num_batched_tokens=512), *work)
    assert executor.widest == 8
    for name, output in expected.items():
        assert found[name].prompt_logprobs == output.prompt_logprobs
        assert found[name].outputs[0].token_ids == output.outputs[0].token_ids


def test_nan_in_a_later_slice_fails_its_request_only(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "MAX_LOGIT_BYTES", of_rows(4, VOCAB_SIZE))
    core = make_core(FakeExecutor(nan=EOS), tokenizer, max_num_batched_tokens=512)
    bad = submission("bad", (*PROMPT[:30], EOS, 1), prompt_logprobs=0)
    outputs = run_all(core, bad, submission("good", PROMPT, prompt_logprobs=0, max_tokens=1))
    assert outputs["bad"].outputs[0].finish_reason is FinishReason.ERROR
    assert "NaN" in (outputs["bad"].outputs[0].error or "")
    assert outputs["good"].outputs[0].finish_reason is FinishReason.LENGTH


def test_a_vocabulary_beyond_the_budget_still_gets_a_row() -> None:
    assert rows_per_slice(MAX_LOGIT_BYTES) == 1
    assert rows_per_slice(LARGE_VOCAB) * LARGE_VOCAB * 4 <= MAX_LOGIT_BYTES < (rows_per_slice(LARGE_VOCAB) + 1) * LARGE_VOCAB * 4


def core_of(make_executor: Callable[..., Executor], tokenizer: Tokenizer, vocab_size: int) -> EngineCore:
    """Returns a core that computes any prompt in one step."""
    spec = replace(spec_of("llama", num_hidden_layers=1), vocab_size=vocab_size)
    options = ExecutorOptions(layout=kv_layout(spec, 32, KVFormat.FLOAT32), num_blocks=16, dtype=DType.FLOAT32)
    config = EngineConfig(
        cache=CacheConfig(format=KVFormat.FLOAT32), scheduler=SchedulerConfig(max_num_batched_tokens=512), max_context=512
    )
    executor = make_executor(spec, random_weights(spec), options)
    return build_core(executor, tokenizer, config, Origin(weights_fingerprint=b"", model_context=512))


def peak_of_scoring(core: EngineCore, name: str) -> int:
    """Returns the most bytes that NumPy and Python held beyond what they held before."""
    token_ids = tuple(np.random.default_rng(0).integers(0, LARGE_VOCAB, NUM_TOKENS).tolist())
    tracemalloc.start()
    try:
        score_on(core, ParsedPrompt(token_ids=token_ids), name)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("make_executor", [pytest.param(NativeExecutor, marks=NEEDS_NATIVE), ReferenceExecutor])
def test_scoring_over_a_large_vocabulary_holds_one_slice_of_logits(
    make_executor: Callable[..., Executor], tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """200 rows of 152,000 logits are 116 MiB; beside a slice there are rows in float64 and the activations of the step."""
    core = core_of(make_executor, tokenizer, LARGE_VOCAB)
    assert peak_of_scoring(core, "sliced") < MAX_LOGIT_BYTES + 10 * MIB
    monkeypatch.setattr(batch, "MAX_LOGIT_BYTES", 512 * MIB)
    assert peak_of_scoring(core, "whole") > NUM_TOKENS * LARGE_VOCAB * 4


@pytest.mark.parametrize("make_executor", [pytest.param(NativeExecutor, marks=NEEDS_NATIVE), ReferenceExecutor, TorchExecutor])
def test_slices_change_no_bit_natively_and_nothing_that_counts_elsewhere(
    make_executor: Callable[..., Executor], tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    token_ids = tuple(int(token) for token in np.random.default_rng(1).integers(0, 251, 90))

    def score(max_bytes: int) -> Score:
        monkeypatch.setattr(batch, "MAX_LOGIT_BYTES", max_bytes)
        return score_on(core_of(make_executor, tokenizer, 251), ParsedPrompt(token_ids=token_ids), "scored")

    whole = score(MAX_LOGIT_BYTES)
    for num_rows in (1, 7, 89):
        sliced = score(of_rows(num_rows, 251))
        if make_executor is NativeExecutor:
            assert sliced.logprobs == whole.logprobs
        np.testing.assert_allclose(sliced.logprobs[1:], whole.logprobs[1:], rtol=0, atol=1e-5)
