"""Banned words from `LLM` down to every executor: whatever chooses the tokens, the text never holds one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quire import LLM, SamplingParams
from quire.executors.native import available_isas

PROMPTS = ["the quick brown fox", "jumps over the lazy dog and then some more of it", "a"]


@pytest.mark.parametrize("executor", ["reference", "native"])
@pytest.mark.parametrize("params", [{"temperature": 0}, {"seed": 3, "n": 2}, {"seed": 4, "logprobs": 2, "min_tokens": 20}])
def test_no_text_holds_a_banned_word(tiny_model: Path, executor: str, params: dict[str, Any]) -> None:
    """The words are what each request writes first without a ban."""
    if executor == "native" and not available_isas():
        pytest.skip("the native core is not compiled here")
    with LLM(tiny_model, executor=executor, kv_memory="8MiB") as llm:
        free = llm.generate(PROMPTS, SamplingParams(max_tokens=24, **params))
        words = [output.outputs[0].text.strip()[:2] for output in free]
        assert all(words)
        banned = llm.generate(PROMPTS, SamplingParams(max_tokens=24, bad_words=words, **params))
    texts = [completion.text for output in banned for completion in output.outputs]
    assert not [(word, text) for word in words for text in texts if word in text]
