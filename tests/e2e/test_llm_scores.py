"""`LLM.score`: the log-probability of every token of a text, also after text that is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire import LLM
from quire.errors import EmptyPromptError, RequestError


def test_score_is_the_log_probability_of_every_token(llm: LLM, tiny_model: Path) -> None:
    import torch
    import transformers

    text = "the quick brown fox jumps over the lazy dog and then some more of it a"
    score = llm.score(text, num_candidates=3)
    model = transformers.LlamaForCausalLM.from_pretrained(tiny_model)
    with torch.no_grad():
        expected = torch.log_softmax(model(torch.tensor([score.token_ids])).logits[0], dim=-1)
    assert score.logprobs[0] is None
    assert len(score.logprobs) == len(score.token_ids) == len(text)
    wanted = [float(expected[i, token]) for i, token in enumerate(score.token_ids[1:])]
    np.testing.assert_allclose(np.array(score.logprobs[1:], dtype=np.float64), wanted, rtol=1e-4, atol=1e-4)
    assert score.total == pytest.approx(sum(wanted), rel=1e-4)
    assert all(entry is not None and 3 <= len(entry) <= 4 for entry in score.candidates[1:])


def test_a_score_after_given_text_is_that_of_the_whole_text(llm: LLM) -> None:
    context, texts = "a context that is long enough to fill two blocks of the cache and one token more", (" and so", " or not")
    for index, text in enumerate(texts):
        whole, score = llm.score(context + text), llm.score(text, given=context)
        assert score.token_ids == whole.token_ids
        assert score.num_given_tokens == len(context)
        assert (whole.num_cached_tokens, score.num_cached_tokens) == (0, len(context) - 1), index
        assert score.logprobs[: len(context)] == (None,) * len(context)
        np.testing.assert_allclose(score.logprobs[len(context) :], whole.logprobs[len(context) :], rtol=0, atol=1e-4)
        assert score.loss == pytest.approx(-score.total / len(text))
        assert score.perplexity == pytest.approx(np.exp(-score.total / len(text)))


def test_given_tokens_before_tokens_and_salts_keep_apart(llm: LLM) -> None:
    context = llm.tokenizer.encode("Yet another context which nobody else scores and which fills a block at least")
    text = llm.tokenizer.encode(" and so")
    first = llm.score(text, given=context)
    again = llm.score({"prompt_token_ids": text}, given=np.array(context))
    salted = llm.score({"prompt_token_ids": text, "cache_salt": "mine"}, given=context)
    assert (first.num_cached_tokens, again.num_cached_tokens, salted.num_cached_tokens) == (0, len(context) - 1, 0)
    assert first.token_ids == again.token_ids == salted.token_ids == (*context, *text)
    np.testing.assert_allclose(again.logprobs[len(context) :], first.logprobs[len(context) :], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("text", "context", "error", "words"),
    [
        ("text", [1, 2], RequestError, "different forms"),
        ([1, 2], "text", RequestError, "different forms"),
        ("text", {"prompt": "x", "cache_salt": "y"}, RequestError, "given is a text or token ids"),
        ("text", 7, RequestError, "a prompt is a text"),
        ([], [1, 2], EmptyPromptError, "nothing to score"),
        ("", "text", EmptyPromptError, "nothing to score"),
    ],
)
def test_what_cannot_be_scored_is_refused(llm: LLM, text: Any, context: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        llm.score(text, given=context)
