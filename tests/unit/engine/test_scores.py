"""Scores of text after given context, on a fake model whose logits betray any misplaced token."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
from tokenizers import models

from quire.engine.prompts import ParsedPrompt
from quire.engine.scores import read_scored_prompt, score_on
from quire.text.tokenizer import Tokenizer
from support.fake_engine import FakeExecutor, make_core, run_all, submission

CONTEXT = tuple(range(20)) * 4
TEXTS = ((3, 1, 4), (1, 5, 9, 2, 6), (5,))


@pytest.mark.parametrize("budget", [1, 7, 33, 512])
def test_scores_after_given_context_equal_those_of_the_whole_text(tokenizer: Tokenizer, budget: int) -> None:
    for text in TEXTS:
        token_ids = (*CONTEXT, *text)
        whole = score_on(make_core(FakeExecutor(), tokenizer), ParsedPrompt(token_ids=token_ids), "whole")
        for num_context in (1, 31, 32, 33, 64, 65, len(CONTEXT)):
            core = make_core(FakeExecutor(), tokenizer, max_num_batched_tokens=budget)
            scored = ParsedPrompt(token_ids=token_ids, num_context_tokens=num_context)
            cold, warm = score_on(core, scored, "cold"), score_on(core, scored, "warm")
            assert cold.logprobs == warm.logprobs == (None,) * num_context + whole.logprobs[num_context:]
            assert (cold.num_cached_tokens, warm.num_cached_tokens) == (0, num_context - 1)
            assert cold.candidates == warm.candidates


def test_continuations_compute_their_context_once_and_its_head_never(tokenizer: Tokenizer) -> None:
    executor = FakeExecutor()
    core = make_core(executor, tokenizer, max_num_batched_tokens=512)
    for index, text in enumerate(TEXTS):
        score_on(core, ParsedPrompt(token_ids=(*CONTEXT, *text), num_context_tokens=len(CONTEXT)), str(index))
    num_last_of_context = len(TEXTS) - 1  # it predicts the first token of the text, so each computes it again
    assert executor.num_tokens == len(CONTEXT) + num_last_of_context + sum(len(text) for text in TEXTS)
    assert executor.max_rows == max(len(text) for text in TEXTS) + 1


def test_a_given_context_is_found_where_a_scored_text_left_it(tokenizer: Tokenizer) -> None:
    core = make_core(FakeExecutor(), tokenizer)
    score_on(core, ParsedPrompt(token_ids=CONTEXT), "whole")
    assert run_all(core, submission("answer", CONTEXT))["answer"].num_cached_tokens == len(CONTEXT) - 1


def test_given_scores_survive_preemption_in_the_middle_of_the_prompt(tokenizer: Tokenizer) -> None:
    """The older request decodes into a third block while the prompt of the younger, a token a step, fills its second."""
    decoding = submission("a", CONTEXT[:25], max_tokens=70)
    scored = submission("b", CONTEXT[:64], num_context=20, prompt_logprobs=1)
    roomy = run_all(make_core(FakeExecutor(), tokenizer, max_num_batched_tokens=2), decoding, scored)
    core = make_core(FakeExecutor(4), tokenizer, max_num_batched_tokens=2)
    tight = run_all(core, decoding, scored)
    assert tight["b"].metrics.num_preemptions > 0
    assert tight["b"].prompt_logprobs == roomy["b"].prompt_logprobs
    assert [entry is None for entry in tight["b"].prompt_logprobs or ()] == [True] * 20 + [False] * 44


def test_a_token_across_the_seam_is_scored(tmp_path: Path) -> None:
    """`ab` is one token: after `a`, the text `b` is not what the model would read, so the whole token is scored."""
    backend = tokenizers.Tokenizer(models.BPE(vocab={"a": 0, "b": 1, "c": 2, "ab": 3}, merges=[("a", "b")]))
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({}))
    tokenizer = Tokenizer.from_directory(tmp_path)
    merged = read_scored_prompt("bc", "ca", tokenizer)
    assert (merged.token_ids, merged.num_context_tokens, merged.text) == ((2, 3, 2), 1, "cabc")
    apart = read_scored_prompt("cc", "ca", tokenizer)
    assert (apart.token_ids, apart.num_context_tokens) == ((2, 0, 2, 2), 2)
