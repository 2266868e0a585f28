"""The loop without text: the tokens of the engine, and an error where one of its requests fails."""

from __future__ import annotations

import pytest

from quire.engine.core import EngineCore
from quire.engine.token_loop import TokenLoop
from quire.errors import ExecutorError, RequestError
from quire.request import RequestOutput
from quire.text.tokenizer import Tokenizer
from support.fake_engine import EOS, FakeExecutor, make_core, run_all, submission

PROMPTS = {"a": range(20), "b": range(3, 29), "c": range(7)}


def _scheduled(executor: FakeExecutor, tokenizer: Tokenizer) -> EngineCore:
    return make_core(executor, tokenizer, max_num_batched_tokens=32)


def _loop(executor: FakeExecutor, tokenizer: Tokenizer) -> TokenLoop:
    return TokenLoop(executor, _scheduled(executor, tokenizer).scheduler)


def test_tokens_are_those_of_the_engine_with_text(tokenizer: Tokenizer) -> None:
    work = [submission(name, tuple(prompt), max_tokens=40) for name, prompt in PROMPTS.items()]
    expected = run_all(_scheduled(FakeExecutor(), tokenizer), *work)
    loop = _loop(FakeExecutor(), tokenizer)
    kept = {name: loop.submit(name, prompt, 40) for name, prompt in PROMPTS.items()}
    loop.run()
    loop.abort_all()
    for name, output in expected.items():
        assert tuple(kept[name].output_token_ids) == output.outputs[0].token_ids


def test_logits_that_are_not_finite_end_the_loop(tokenizer: Tokenizer) -> None:
    loop = _loop(FakeExecutor(nan=EOS), tokenizer)
    loop.submit("a", [1, EOS], 2)
    with pytest.raises(ExecutorError, match="NaN"):
        loop.step()
    with pytest.raises(ExecutorError, match="nothing to compute"):
        loop.step()


def test_a_core_without_a_tokenizer_gives_tokens_and_no_text(tokenizer: Tokenizer) -> None:
    wants = submission("a", (1, 2, 3), logprobs=1, prompt_logprobs=0)
    expected = run_all(_scheduled(FakeExecutor(), tokenizer), wants)["a"]
    core = EngineCore(FakeExecutor(), None, lambda: _scheduled(FakeExecutor(), tokenizer).scheduler, lambda: 0.0)
    found = run_all(core, wants)["a"]
    assert isinstance(found, RequestOutput)
    assert (found.outputs[0].token_ids, found.outputs[0].text) == (expected.outputs[0].token_ids, "")
    assert found.outputs[0].cumulative_logprob == expected.outputs[0].cumulative_logprob
    with pytest.raises(RequestError, match="need a tokenizer"):
        core.submit(submission("b", (1, 2, 3), stop="x"))
