"""Equal prompts, completions of one prompt and turns of a chat compute no token twice, and change no bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.config import PrefixCache
from quire.engine.prompts import ParsedPrompt
from quire.engine.scores import score_on
from quire.executors.protocol import Float32Array, StepBatch
from quire.request import FinishReason, RequestOutput
from quire.text.tokenizer import Tokenizer
from support.fake_engine import MAX_CONTEXT, FakeExecutor, make_core, run_all, submission, write_tokenizer

PROMPT = tuple((7 * place + place // 5) % 26 for place in range(287))  # eight blocks of 32 and 31 tokens more


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    write_tokenizer(tmp_path)
    return Tokenizer.from_directory(tmp_path)


class CountingExecutor(FakeExecutor):
    """Counts rows of the first `num_prompt` positions."""

    def __init__(self, num_prompt: int, **options: Any) -> None:
        super().__init__(**options)
        self.num_prompt = num_prompt
        self.num_prompt_rows = 0

    def run(self, batch: StepBatch) -> Float32Array:
        self.num_prompt_rows += int(np.count_nonzero(batch.positions < self.num_prompt))
        return super().run(batch)


def alone(tokenizer: Tokenizer, name: str, prompt: Sequence[int], **params: Any) -> RequestOutput:
    return run_all(make_core(FakeExecutor(), tokenizer), submission(name, tuple(prompt), **params))[name]


@pytest.mark.parametrize("budget", [64, 512])
@pytest.mark.parametrize("num_prompt", [287, 286, 256, 257, 33])
def test_equal_prompts_compute_one_of_them_and_the_last_token_of_the_others(
    tokenizer: Tokenizer, num_prompt: int, budget: int
) -> None:
    executor = CountingExecutor(num_prompt, num_blocks=200)
    core = make_core(executor, tokenizer, max_num_batched_tokens=budget)
    prompt = PROMPT[:num_prompt]
    work = [submission(f"r{index}", prompt, temperature=1.0, seed=index, max_tokens=6) for index in range(8)]
    outputs = run_all(core, *work)
    assert executor.num_prompt_rows == num_prompt + 7
    for index in range(8):
        expected = alone(tokenizer, f"r{index}", prompt, temperature=1.0, seed=index, max_tokens=6)
        assert outputs[f"r{index}"].outputs == expected.outputs


@pytest.mark.parametrize("num_prompt", [287, 256, 2])
@pytest.mark.parametrize(
    "params", [{"temperature": 1.0, "logprobs": 2}, {"temperature": 0.7, "top_k": 1}, {"temperature": 1.0, "max_tokens": 1}]
)
def test_completions_of_one_prompt_compute_it_once(tokenizer: Tokenizer, num_prompt: int, params: dict[str, Any]) -> None:
    executor = CountingExecutor(num_prompt)
    params = {"max_tokens": 6, "seed": 5, **params}
    core = make_core(executor, tokenizer, max_num_batched_tokens=100)
    outputs = run_all(core, submission("r", PROMPT[:num_prompt], n=8, **params))["r"].outputs
    assert executor.num_prompt_rows == num_prompt
    off = make_core(FakeExecutor(), tokenizer, prefix_cache=PrefixCache.OFF)
    assert outputs == run_all(off, submission("r", PROMPT[:num_prompt], n=8, **params))["r"].outputs


def test_completions_of_a_prompt_that_is_scored_compute_it_once(tokenizer: Tokenizer) -> None:
    executor = CountingExecutor(len(PROMPT))
    core = make_core(executor, tokenizer, max_num_batched_tokens=100)
    params: dict[str, Any] = {"temperature": 1.0, "seed": 1, "max_tokens": 4, "prompt_logprobs": 1}
    found = run_all(core, submission("r", PROMPT, n=4, **params))["r"]
    assert executor.num_prompt_rows == len(PROMPT)
    expected = run_all(
        make_core(FakeExecutor(), tokenizer, prefix_cache=PrefixCache.OFF), submission("r", PROMPT, n=4, **params)
    )["r"]
    assert (found.outputs, found.prompt_logprobs) == (expected.outputs, expected.prompt_logprobs)


def test_completions_whose_forward_pass_fails_all_fail(tokenizer: Tokenizer) -> None:
    core = make_core(FakeExecutor(poison=27), tokenizer)
    output = run_all(core, submission("r", (*PROMPT[:40], 27), n=3, temperature=1.0))["r"]
    assert [each.finish_reason for each in output.outputs] == [FinishReason.ERROR] * 3
    assert not core.has_work


def test_completions_of_logits_that_are_not_finite_all_fail_and_no_neighbor_does(tokenizer: Tokenizer) -> None:
    core = make_core(FakeExecutor(nan=27), tokenizer)
    outputs = run_all(
        core, submission("r", (*PROMPT[:40], 27), n=3, temperature=1.0), submission("good", PROMPT[:40], max_tokens=3, seed=1)
    )
    assert [each.finish_reason for each in outputs["r"].outputs] == [FinishReason.ERROR] * 3
    assert outputs["good"].outputs == alone(tokenizer, "good", PROMPT[:40], max_tokens=3, seed=1).outputs


def test_an_abort_while_completions_wait_ends_them_all(tokenizer: Tokenizer) -> None:
    core = make_core(FakeExecutor(), tokenizer, max_num_batched_tokens=64)
    core.submit(submission("r", PROMPT, n=4, temperature=1.0))
    core.step()
    output = core.abort("r")
    assert output is not None
    assert [each.finish_reason for each in output.outputs] == [FinishReason.ABORT] * 4
    assert core.scheduler.manager.pool.num_free == core.scheduler.manager.pool.num_blocks


def test_completions_in_a_pool_that_is_always_full_are_those_of_one_that_is_not(tokenizer: Tokenizer) -> None:
    params: dict[str, Any] = {"temperature": 1.0, "seed": 3, "max_tokens": 40, "ignore_eos": True}
    work = [submission(f"r{index}", PROMPT[: 100 + index], n=4, **params) for index in range(3)]
    tight = run_all(make_core(FakeExecutor(12), tokenizer, max_num_batched_tokens=48), *work)
    roomy = run_all(make_core(FakeExecutor(), tokenizer), *work)
    assert sum(output.metrics.num_preemptions for output in tight.values()) > 0
    assert {name: output.outputs for name, output in tight.items()} == {name: output.outputs for name, output in roomy.items()}


def test_the_next_turn_of_a_chat_computes_its_new_tokens_and_the_last_one_drawn(tokenizer: Tokenizer) -> None:
    executor = FakeExecutor()
    core = make_core(executor, tokenizer)
    history = PROMPT[:50]
    for turn in range(5):
        output = run_all(core, submission(f"turn-{turn}", history, max_tokens=9, ignore_eos=True))[f"turn-{turn}"]
        answer = output.outputs[0].token_ids
        if turn:
            num_new = len(history) - output.num_cached_tokens
            assert num_new == 1 + 11, "the last token drawn was never computed"
        history = (*history, *answer, *PROMPT[turn : turn + 11])
    assert len(history) < MAX_CONTEXT


def test_scored_texts_after_the_same_given_tokens_share_these_to_the_token(tokenizer: Tokenizer) -> None:
    executor = CountingExecutor(287)
    core = make_core(executor, tokenizer)
    texts = [(*PROMPT, index, 3) for index in range(8)]
    for index, text in enumerate(texts):
        scored = ParsedPrompt(token_ids=text, num_context_tokens=len(PROMPT))
        found = score_on(core, scored, str(index))
        assert found.logprobs == score_on(make_core(FakeExecutor(), tokenizer), scored, "alone").logprobs
    assert executor.num_prompt_rows == len(PROMPT) + 7


def test_scored_texts_that_come_together_wait_for_the_given_tokens(tokenizer: Tokenizer) -> None:
    executor = CountingExecutor(287)
    core = make_core(executor, tokenizer)
    work = [submission(f"r{index}", (*PROMPT, index, 3), num_context=len(PROMPT), prompt_logprobs=0) for index in range(8)]
    run_all(core, *(replace(each) for each in work))
    assert executor.num_prompt_rows == len(PROMPT) + 7
