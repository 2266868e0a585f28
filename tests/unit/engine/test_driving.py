"""A core driven alone, without text: the tokens of the engine, and an error where one of its requests fails."""

from __future__ import annotations

import pytest

from quire.engine import driving
from quire.engine.core import EngineCore
from quire.errors import ExecutorError, RequestError
from quire.request import RequestOutput
from quire.text.tokenizer import Tokenizer
from support.fake_engine import EOS, FakeExecutor, make_core, run_all, submission

PROMPTS = {"a": range(20), "b": range(3, 29), "c": range(7)}


def _scheduled(executor: FakeExecutor, tokenizer: Tokenizer) -> EngineCore:
    return make_core(executor, tokenizer, max_num_batched_tokens=32)


def _core(executor: FakeExecutor, tokenizer: Tokenizer) -> EngineCore:
    return EngineCore(executor, None, lambda: _scheduled(executor, tokenizer).scheduler, lambda: 0.0)


def test_tokens_are_those_of_the_engine_with_text(tokenizer: Tokenizer) -> None:
    work = [submission(name, tuple(prompt), max_tokens=40) for name, prompt in PROMPTS.items()]
    expected = run_all(_scheduled(FakeExecutor(), tokenizer), *work)
    core = _core(FakeExecutor(), tokenizer)
    kept = {name: driving.begin(core, driving.greedy(name, prompt, 40)) for name, prompt in PROMPTS.items()}
    driving.run(core)
    driving.close(core)
    for name, output in expected.items():
        assert tuple(kept[name].output_token_ids) == output.outputs[0].token_ids


def test_logits_that_are_not_finite_are_an_error(tokenizer: Tokenizer) -> None:
    core = _core(FakeExecutor(nan=EOS), tokenizer)
    core.submit(driving.greedy("a", [1, EOS], 2))
    with pytest.raises(ExecutorError, match="NaN"):
        driving.step(core)
    with pytest.raises(ExecutorError, match="nothing to compute"):
        driving.step(core)


def test_a_core_without_a_tokenizer_gives_tokens_and_no_text(tokenizer: Tokenizer) -> None:
    wants = submission("a", (1, 2, 3), logprobs=1, prompt_logprobs=0)
    expected = run_all(_scheduled(FakeExecutor(), tokenizer), wants)["a"]
    core = _core(FakeExecutor(), tokenizer)
    found = run_all(core, wants)["a"]
    assert isinstance(found, RequestOutput)
    assert (found.outputs[0].token_ids, found.outputs[0].text) == (expected.outputs[0].token_ids, "")
    assert found.outputs[0].cumulative_logprob == expected.outputs[0].cumulative_logprob
    with pytest.raises(RequestError, match="need a tokenizer"):
        core.submit(submission("b", (1, 2, 3), stop="x"))
