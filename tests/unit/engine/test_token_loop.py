"""The loop without text: the same tokens whether logits are asked for or not."""

from __future__ import annotations

import pytest

from quire.engine.token_loop import TokenLoop
from quire.errors import ExecutorError
from quire.text.tokenizer import Tokenizer
from support.fake_engine import EOS, FakeExecutor, make_core

PROMPTS = {"a": range(20), "b": range(3, 50), "c": range(7)}


def _loop(executor: FakeExecutor, tokenizer: Tokenizer) -> TokenLoop:
    return TokenLoop(executor, make_core(executor, tokenizer, max_num_batched_tokens=32).scheduler)


def test_tokens_are_the_same_with_and_without_logits(tokenizer: Tokenizer) -> None:
    plain, shown = (_loop(FakeExecutor(), tokenizer) for _ in range(2))
    kept = [[loop.submit(name, prompt, 40) for name, prompt in PROMPTS.items()] for loop in (plain, shown)]
    while shown.requests:
        step = shown.step_with_logits()
        assert plain.step() == step.plan
        assert set(step.rows) == {chunk.request_id for chunk in step.plan.scheduled if chunk.num_sample_rows}
    assert not plain.requests
    assert [each.output_token_ids for each in kept[0]] == [each.output_token_ids for each in kept[1]]


def test_logits_that_are_not_finite_end_the_loop(tokenizer: Tokenizer) -> None:
    for step in (TokenLoop.step, TokenLoop.step_with_logits):
        loop = _loop(FakeExecutor(nan=EOS), tokenizer)
        loop.submit("a", [1, EOS], 2)
        with pytest.raises(ExecutorError, match="not finite"):
            step(loop)
        with pytest.raises(ExecutorError, match="nothing to compute"):
            _loop(FakeExecutor(), tokenizer).step()
